#!/usr/bin/env python3
"""Turn the records of a run into the tables: report.py FILE.jsonl

A line gives the median of each side's rounds; x is the median of the ratios of paired rounds (in brackets the lowest and the highest),
above 1 where Ikon is better. `~` marks lines during which others used over 15 % of the machine: there only CPU figures tell something.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from workloads import WORKLOADS

Record = dict[str, Any]
BUSY = 0.15
UNIT = {"request": ("req/s", "ms"), "transfer": ("MB/s", "s/GiB")}
SIDES = ("Glance", "Ikon")


class Run:
    """The records of one run, by kind, workload and side."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.about: Record = {}
        self.limits: list[Record] = []
        self.measured: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self.starts: dict[str, list[Record]] = defaultdict(list)
        self.memory: dict[tuple[str, str], Record] = {}
        self.failed: list[Record] = []
        for record in records:
            kind = record["kind"]
            if "error" in record:
                self.failed.append(record)
            elif kind == "about":
                self.about |= record
            elif kind == "limit":
                self.limits.append(record)
            elif kind == "start":
                self.starts[record["side"]].append(record)
            elif kind == "memory":
                self.memory[record["side"], record["moment"]] = record
            else:
                self.measured[record["workload"], record["side"]].append(record)

    def values(self, workload: str, side: str, field: str) -> dict[int, float]:
        return {r["round"]: r[field] for r in self.measured[workload, side] if r.get(field) is not None}

    def ratios(self, workload: str, field: str) -> list[float]:
        """Per round, how many times better Ikon is: more of a rate, less of anything else."""
        glance, ikon = (self.values(workload, side, field) for side in SIDES)
        pairs = [(glance[n], ikon[n]) for n in glance if n in ikon]
        return [better / worse for better, worse in (((i, g) if field == "rate" else (g, i)) for g, i in pairs) if worse]

    def resting(self, side: str, moment: str, what: str, tree: str = "server") -> float | None:
        return self.memory.get((side, moment), {}).get(f"{what}_mib", {}).get(tree)

    def peak(self, side: str, what: str) -> float | None:
        """The highest memory of the server's processes, without a database server's, over all that was measured."""
        seen = [r[f"peak_{what}_mib"]["server"] for (_, s), rs in self.measured.items() if s == side for r in rs]
        return max(seen, default=None)


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def times(ratios: list[float]) -> str:
    if not ratios:
        return "-"
    spread = f" ({number(min(ratios))}-{number(max(ratios))})" if len(ratios) > 1 else ""
    return f"x{number(median(ratios))}{spread}"


def middle(values: dict[int, float]) -> float | None:
    return median(values.values()) if values else None


def table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]

    def laid_out(line: list[str]) -> str:
        first, *rest = zip(line, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()

    return "\n".join([laid_out(head), "  ".join("-" * w for w in widths), *map(laid_out, rows)])


def measured(run: Run, kind: str) -> str:
    rate, cpu = UNIT[kind]
    delays = ["p50 ms Glance", "Ikon", "p99 ms Glance", "Ikon"] if kind == "request" else []
    rows = []
    for w in (w for w in WORKLOADS if w.kind == kind):
        if not any(run.measured[w.name, side] for side in SIDES):
            continue
        busy = any(median(r["foreign"] for r in run.measured[w.name, side]) > BUSY for side in SIDES if run.measured[w.name, side])
        fields = ["rate", *(["p50_ms", "p99_ms"] if delays else []), "cpu"]
        cells = {f: [number(middle(run.values(w.name, side, f))) for side in SIDES] for f in fields}
        rows.append(
            [
                w.title,
                *cells["rate"],
                times(run.ratios(w.name, "rate")) + ("~" if busy else " "),
                *(cells["p50_ms"] + cells["p99_ms"] if delays else []),
                *cells["cpu"],
                times(run.ratios(w.name, "cpu")),
            ]
        )
    title = "requests" if kind == "request" else f"bytes, {run.about.get('image_mib')} MiB"
    return table([title, f"{rate} Glance", "Ikon", "x", *delays, f"CPU {cpu} Glance", "Ikon", "x"], rows) if rows else ""


def memory(run: Run) -> str:
    rows = []
    for title, moment in (("started, idle", "idle"), ("highest while measured", "peak"), ("afterwards, idle", "after")):
        found = {}
        for side in SIDES:
            for what in ("rss", "pss"):
                found[side, what] = run.peak(side, what) if moment == "peak" else run.resting(side, moment, what)
        databases = [run.resting(side, moment, "pss", "db") for side in SIDES]
        pss = [found[side, "pss"] for side in SIDES]
        rows.append(
            [
                title,
                *(number(found[side, what]) for what in ("rss", "pss") for side in SIDES),
                f"x{number(pss[0] / pss[1])}" if all(pss) else "-",
                *map(number, databases),
            ]
        )
    return table(["memory, MiB", "RSS Glance", "Ikon", "PSS Glance", "Ikon", "x", "database PSS Glance", "Ikon"], rows)


def starts(run: Run) -> str:
    rows = []
    for title, field in (("from exec to the first answer, s", "seconds"), ("CPU until then, s", "cpu_s")):
        sides = [[r[field] for r in run.starts[side]] for side in SIDES]
        rows.append([title, *(number(median(s)) if s else "-" for s in sides), times([g / i for g, i in zip(*sides, strict=False) if i])])
    return table(["start", "Glance", "Ikon", "x"], rows)


def limits(run: Run) -> str:
    fields = ["MBps", "cpu_s_per_GiB", "per_s", "p50_ms", "p99_ms", "cpu_ms"]
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in run.limits:
        for name in fields:
            if name in record:
                found[record["limit"]][name].append(record[name])
    rows = [[limit, *(" / ".join(map(number, values[name])) for name in fields)] for limit, values in found.items()]
    return table(["limits (before / after)", "MB/s", "CPU s/GiB", "per s", "p50 ms", "p99 ms", "CPU ms"], rows) if rows else ""


def goals(run: Run) -> str:
    """What was promised, beside what was found; a goal is judged by the median."""
    rows = []

    def ratio(title: str, workload: str, field: str, wanted: float) -> None:
        if found := run.ratios(workload, field):
            rows.append([title, f"x{wanted:g}", times(found), "met" if median(found) >= wanted else "missed"])

    def most(title: str, workload: str, wanted: float) -> None:
        if found := list(run.values(workload, "Ikon", "cpu").values()):
            best = f"{number(median(found))} (best {number(min(found))})"
            rows.append([title, f"<= {wanted:g} s/GiB", best, "met" if median(found) <= wanted else "missed"])

    def share(title: str, glance: float | None, ikon: float | None) -> None:
        if glance and ikon:
            rows.append([title, "x6", f"x{number(glance / ikon)}", "met" if glance / ikon >= 6 else "missed"])

    for workload, title in (("upload", "upload, chunked"), ("upload_length", "upload, with length")):
        most(f"{title}: CPU", workload, 3.9)
        ratio(f"{title}: rate", workload, "rate", 2.5)
    most("download: CPU", "download", 0.45)
    ratio("download: rate", "download", "rate", 3.5)
    ratio("4 downloads: rate", "download4", "rate", 5)
    ratio("show, 1 client: rate", "show", "rate", 20)
    ratio("show, 16 clients: rate", "show16", "rate", 20)
    ratio("create, 1 client: rate", "create", "rate", 6)
    ratio("create, 16 clients: rate", "create16", "rate", 12)
    for workload in ("patch", "patch16", "delete", "delete4"):
        ratio(f"{next(w.title for w in WORKLOADS if w.name == workload)}: CPU", workload, "cpu", 20)
    share("memory idle: PSS", *(run.resting(side, "idle", "pss") for side in SIDES))
    share("memory highest: PSS", *(run.peak(side, "pss") for side in SIDES))
    return table(["goal", "wanted", "found", ""], rows) if rows else ""


def whose(about: Record) -> str:
    """How requests show whose they are."""
    return "Keystone tokens" if about.get("identity") == "keystone" else "identity headers"


def text(records: Iterable[Record]) -> str:
    run = Run(records)
    a = run.about
    head = [
        f"Ikon {a.get('ikon')} on {a.get('ikon_db')} beside Glance {a.get('glance')} (uWSGI, 4 workers, MariaDB)",
        f"{a.get('cores')} cores, {a.get('rounds')} rounds, {a.get('images')} images in each, {whose(a)}, {a.get('date')}",
        "CPU: server and database together. x: median of paired rounds (lowest-highest), over 1 = Ikon better. ~: machine busy otherwise.",
    ]
    failures = [f"FAILED  {r['side']}: {r.get('workload', r['kind'])}, round {r['round'] + 1}: {r['error']}" for r in run.failed]
    parts = ["\n".join(head), measured(run, "transfer"), measured(run, "request"), memory(run), starts(run), limits(run), goals(run)]
    return "\n\n".join(part for part in [*parts, "\n".join(failures)] if part)


if __name__ == "__main__":
    print(text(json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()))
