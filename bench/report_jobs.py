#!/usr/bin/env python3
"""Turn the records of bench/jobs into tables: report_jobs.py FILE.jsonl

x is the median of the ratios of paired rounds (in brackets the lowest and the highest), above 1 where Ikon is better.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from report import BUSY, middle, number, table, times
from transfers import TRANSFERS

Record = dict[str, Any]
SIDES = ("plain", "Glance", "Ikon")


def transfers(records: list[Record], about: Record) -> str:
    found: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for r in records:
        for field in ("rate", "cpu", "foreign"):
            found[r["workload"], r["side"], field][r["round"]] = r[field]

    def ratio(name: str, other: str, field: str) -> str:
        theirs, ours = found[name, other, field], found[name, "Ikon", field]
        pairs = [(ours[n], theirs[n]) for n in ours if n in theirs]
        return times([i / g if field == "rate" else g / i for i, g in pairs if i and g])

    rows = []
    for t in TRANSFERS:
        if any(found[t.name, side, "rate"] for side in SIDES):
            busy = any(median(found[t.name, side, "foreign"].values()) > BUSY for side in SIDES if found[t.name, side, "foreign"])
            cells = [
                [
                    *(number(middle(found[t.name, side, field])) for side in SIDES),
                    ratio(t.name, "plain", field),
                    ratio(t.name, "Glance", field),
                ]
                for field in ("rate", "cpu")
            ]
            rows.append([t.title + "~" * busy, t.plain, *cells[0], *cells[1]])
    head = [f"{about.get('mib')} MiB", "plain is", "MB/s plain", "Glance", "Ikon", "x plain", "x Glance"]
    return table([*head, "CPU s/GB plain", "Glance", "Ikon", "x plain", "x Glance"], rows) if rows else ""


def waits(records: list[Record]) -> str:
    rows = [
        [r["shape"], f"{r['queued']:,}", str(r["jobs"]), number(r["p50_ms"]), number(r["p99_ms"]), number(r["worked_off_per_s"])]
        for r in records
    ]
    return table(["from enqueue to start", "queued", "measured", "p50 ms", "p99 ms", "others done per s"], rows) if rows else ""


def text(records: Iterable[Record]) -> str:
    kinds: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        kinds["failed" if "error" in record else record["kind"]].append(record)
    about = kinds["about"][0] if kinds["about"] else {}
    head = [
        f"Ikon {about.get('ikon')} beside Glance {about.get('glance')} (uWSGI, 4 workers, MariaDB)",
        f"{about.get('cores')} cores, {about.get('rounds')} rounds, {about.get('date')}. ~: machine busy otherwise.",
        "Rates are of the disk's bytes, from the request to the active image; CPU of server and database together.",
        *(f"md5 and sha512 of the disk alone: {r['rate']} MB/s, CPU {r['cpu']} s/GB" for r in kinds["floor"]),
    ]
    failures = [f"FAILED  {r['side']}: {r['workload']}, round {r['round'] + 1}: {r['error']}" for r in kinds["failed"]]
    parts = ["\n".join(head), transfers(kinds["transfer"], about), waits(kinds["wait"]), "\n".join(failures)]
    return "\n\n".join(part for part in parts if part)


if __name__ == "__main__":
    print(text(json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()))
