#!/usr/bin/env python3
"""Turn the records of a run of `lists` into its tables: report_lists.py FILE.jsonl

Figures are medians of rounds, but the p99 of Ikon alone, which is that of the best round. x is Ikon's advantage, the median of the ratios
of paired rounds. `~` marks lines during which others used over 15 % of the machine: there only CPU figures tell something.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from questions import QUESTIONS, WRITES
from report import BUSY, number, table, whose

Record = dict[str, Any]
#: How many times more lists of 25 a second than upstream, by images.
FIRST = {1_000: 40, 10_000: 100, 100_000: 1_000}
#: The same for deep pages and filters, from so many images on.
DEEP_AT, DEEP = 100_000, 500
#: For one equality in the default order, from so many images on.
SLOW_AT, SLOW_MS = 1_000_000, 10


class Run:
    """The records of one run: of each thing asked, size of the set and side, one for each round."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.about: Record = {}
        self.loaded: list[Record] = []
        self.memory: list[Record] = []
        self.failed: list[Record] = []
        self.found: dict[tuple[str, int, str], list[Record]] = defaultdict(list)
        for record in records:
            if "error" in record:
                self.failed.append(record)
            elif record["kind"] in ("list", "write"):
                self.found[f"{record['name']}/{record['clients'] or ''}", record["images"], record["side"]].append(record)
            elif record["kind"] == "loaded":
                self.loaded.append(record)
            elif record["kind"] == "memory":
                self.memory.append(record)
            else:
                self.about |= record

    def sizes(self, *sides: str) -> list[int]:
        return sorted({images for _, images, side in self.found if side in sides})

    def value(self, key: str, images: int, side: str, field: str) -> float | None:
        return median(r[field] for r in found) if (found := self.found.get((key, images, side))) else None

    def best(self, key: str, images: int, side: str, field: str) -> float | None:
        """The lowest of all rounds: what others on the machine do can only add to a delay."""
        return min((r[field] for r in self.found.get((key, images, side), [])), default=None)

    def ratio(self, key: str, images: int, field: str) -> float | None:
        """How many times better Ikon is: more of a rate, less of anything else."""
        both = [{r["round"]: r[field] for r in self.found.get((key, images, side), [])} for side in ("Glance", "Ikon")]
        pairs = [(both[0][n], both[1][n]) for n in both[0] if n in both[1] and both[0][n] and both[1][n]]
        return median(i / g if field == "rate" else g / i for g, i in pairs) if pairs else None

    def busy(self, key: str, images: int, *sides: str) -> str:
        return "~" if any((self.value(key, images, side, "foreign") or 0) > BUSY for side in sides) else ""


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"x{number(ratio)}"


def lines() -> list[tuple[str, str, list[str]]]:
    """Key, title and goals of all that is measured, in order."""
    writes = [(f"{w.name}/{n}", f"{w.title}, {n} client{'s'[: n > 1]}", []) for w in WRITES for n in (1, 16)]
    return [(f"{q.name}/", q.title, sorted(q.goals)) for q in QUESTIONS] + writes


def beside(run: Run, images: int) -> str:
    rows = []
    for key, title, goals in lines():
        if not any((key, images, side) in run.found for side in ("Glance", "Ikon")):
            continue
        cells = [
            number(run.value(key, images, side, field)) for field in ("rate", "p50_ms", "p99_ms", "cpu") for side in ("Glance", "Ikon")
        ]
        rate, cpu = (run.ratio(key, images, field) for field in ("rate", "cpu"))
        wanted = FIRST.get(images) if "first" in goals else DEEP if "x500" in goals and images >= DEEP_AT else None
        verdict = [f"x{wanted}", "met" if rate and rate >= wanted else "missed"] if wanted else ["", ""]
        busy = run.busy(key, images, "Glance", "Ikon")
        rows.append([title, *cells[:2], times(rate) + (busy or " "), *cells[2:6], *cells[6:], times(cpu), *verdict])
    head = [
        f"{images:,} images",
        "req/s Glance",
        "Ikon",
        "x ",
        "p50 ms Glance",
        "Ikon",
        "p99 ms Glance",
        "Ikon",
        "CPU ms Glance",
        "Ikon",
        "x",
        "goal",
        "",
    ]
    return table(head, rows)


def alone(run: Run, images: int, sides: list[str]) -> str:
    rows = []
    for key, title, goals in lines():
        slowest = [run.best(key, images, side, "p99_ms") for side in sides]
        if not any(slowest):
            continue
        cells = []
        for side, p99 in zip(sides, slowest, strict=True):
            cells += [number(run.value(key, images, side, field)) for field in ("rate", "p50_ms")]
            cells.append(number(p99) + (run.busy(key, images, side) or " "))
            cells.append(number(run.value(key, images, side, "cpu")))
        missed = [side for side, p99 in zip(sides, slowest, strict=True) if p99 is None or p99 >= SLOW_MS]
        verdict = "" if "equal" not in goals or images < SLOW_AT else f"missed: {', '.join(missed)}" if missed else "met"
        rows.append([title, *cells, verdict])
    head = [f"{images:,} images"]
    for side in sides:
        head += [f"{side} req/s", "p50", "p99 ", "CPU ms"]
    return table([*head, f"p99 < {SLOW_MS}"], rows)


def sizes(run: Run) -> str:
    rows = [[r["database"], f"{r['images']:,}", str(r["took_s"]), str(r["mib"])] for r in run.loaded]
    found = table(["Ikon's database", "images", "loaded in s", "MiB"], rows) if rows else ""
    pss = ", ".join(f"{r['side']} {number(r['pss_mib'])}" for r in run.memory)
    return f"{found}\nPSS of the server after all lists and writes, MiB: {pss}" if pss else found


def differences(run: Run) -> str:
    """Lists that did not find the same images in the same order everywhere."""
    wrong = []
    for question in QUESTIONS:
        answers: dict[int, dict[str, Record]] = defaultdict(dict)
        for (key, images, side), found in run.found.items():
            if key == f"{question.name}/":
                answers[images][side] = found[0]
        for images, sides in answers.items():
            if len({r["answer"] for r in sides.values()}) > 1:
                wrong.append(
                    f"{images:,} images, {question.title}: "
                    + ", ".join(f"{side} {r['found']} {r['answer'][:6]}" for side, r in sides.items())
                )
    compared = sum(
        1 for key in {(k, n) for k, n, _ in run.found} if len([1 for k, n, _ in run.found if (k, n) == key]) > 1 and key[0].endswith("/")
    )
    return f"First answers compared by their ids in order: {compared}, different: {len(wrong)}" + "".join(f"\n  {line}" for line in wrong)


def text(records: Iterable[Record]) -> str:
    run = Run(records)
    a = run.about
    head = [
        f"Ikon {a.get('ikon')} beside Glance {a.get('glance')} (uWSGI, 4 workers, MariaDB)",
        f"{a.get('cores')} cores, {whose(a)}, {a.get('date')}",
        "MariaDB has a pool of 1 GiB, PostgreSQL buffers of 1 GiB; both, and SQLite, sync every commit.",
        "CPU: server and database together, of one request. x: over 1 = Ikon better. ~: machine busy otherwise.",
    ]
    parts = ["\n".join(head), *(beside(run, images) for images in run.sizes("Glance", "Ikon"))]
    single = [side for side in ("sqlite", "mariadb", "postgresql") if run.sizes(side)]
    parts += [alone(run, images, single) for images in run.sizes(*single)]
    failures = sorted({f"FAILED  {r['side']}, {r['images']:,} images: {r['name']}: {r['error'][:200]}" for r in run.failed})
    return "\n\n".join(part for part in [*parts, sizes(run), differences(run), "\n".join(failures)] if part)


if __name__ == "__main__":
    print(text(json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()))
