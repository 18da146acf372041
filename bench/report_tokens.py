#!/usr/bin/env python3
"""Turn the records of bench/tokens into a table: report_tokens.py FILE.jsonl

x is the median of the ratios of paired rounds (in brackets the lowest and the highest), above 1 where Ikon is better.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from report import BUSY, SIDES, Record, Run, middle, number, table, times

CLIENTS = (1, 16)
HEADERS, PROCESS, MEMCACHED, KEYSTONE = "headers", "process", "memcached", "keystone"


class Way(NamedTuple):
    """How a server learns whose a request is."""

    name: str
    title: str


WAYS = [
    Way(HEADERS, "no token, identity headers"),
    Way(PROCESS, "token known to the process"),
    Way(MEMCACHED, "known to memcached"),
    Way(KEYSTONE, "in no cache"),
]


def measured(run: Run) -> str:
    rows = []
    for way in WAYS:
        for clients in CLIENTS:
            name = f"{way.name}{clients}"
            found = [run.measured[name, side] for side in SIDES]
            busy = "~" if any(records and median(r["foreign"] for r in records) > BUSY for records in found) else " "
            cells = []
            for field in ("rate", "p50_ms", "p99_ms", "cpu"):
                cells += [*(number(middle(run.values(name, side, field))) for side in SIDES), times(run.ratios(name, field))]
            keystone = [number(middle(run.values(name, side, "cpu_keystone_ms"))) for side in SIDES]
            rows.append([f"{way.title}, {clients}", *cells[:2], cells[2] + busy, *cells[3:], *keystone])
    head = ["show an image; clients"]
    for what in ("req/s", "p50 ms", "p99 ms", "CPU ms"):
        head += [f"{what} Glance", "Ikon", "x "]
    return table([*head, "Keystone's CPU ms Glance", "Ikon"], rows)


def costs(run: Run) -> str:
    """CPU beyond that of the same request with identity headers."""
    rows = []
    for way in WAYS[1:]:
        for clients in CLIENTS:
            extra = []
            for side in SIDES:
                base, all_of_it = (run.values(f"{name}{clients}", side, "cpu") for name in (HEADERS, way.name))
                extra.append(middle({n: 1000 * (all_of_it[n] - base[n]) for n in base if n in all_of_it}))
            rows.append([f"{way.title}, {clients}", *("-" if cost is None else f"{cost:.0f}" for cost in extra)])
    return table(["what a token adds; clients", "CPU us Glance", "Ikon"], rows)


def text(records: Iterable[Record]) -> str:
    run = Run(records)
    a = run.about
    head = [
        f"Ikon {a.get('ikon')} on its SQLite beside Glance {a.get('glance')} (uWSGI, 4 workers, MariaDB), the same Keystone",
        f"{a.get('cores')} cores, {a.get('rounds')} rounds, {a.get('tokens')} tokens, {a.get('date')}",
        "CPU: server and database together, Keystone's apart. x: over 1 = Ikon better. ~: machine busy otherwise.",
    ]
    return "\n\n".join(["\n".join(head), measured(run), costs(run)])


if __name__ == "__main__":
    print(text(json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()))
