"""The statements that read the index of lists: the same words for every database, each bounded in the rows that it reads.

A probe is written so that no planner turns it into a join; LIMITs are part of the text, so that none has to guess them.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ikon.db.branches import Branch, Source
from ikon.db.terms import mark


class ByK(NamedTuple):
    """Keys in order. end: where they were cut, None when that was all; unfinished: branches that have more."""

    found: list[int]
    end: int | None
    unfinished: list[Branch]


class ByValue(NamedTuple):
    """(value, key) in order. end: a value of which there may be more than these, None when that was all."""

    found: list[tuple[bytes, int]]
    end: bytes | None


def count(conn: Connection, sources: Collection[Source], most: int) -> dict[Source, int]:
    """How many images are in each source, counted up to `most`."""
    asked = list(sources)
    parts = [
        f"SELECT {n} AS b, COUNT(*) FROM (SELECT 1 AS one FROM {each.table} WHERE {_equal(conn, each)} LIMIT {most}) q{n}"
        for n, each in enumerate(asked)
    ]
    found = _run(conn, " UNION ALL ".join(parts), [value for each in asked for value in each.values]) if asked else []
    return {asked[n]: number for n, number in found}


def by_k(conn: Connection, branches: Sequence[Branch], after: int, ascending: bool, wanted: int, length: int) -> ByK:
    """The next keys of all branches behind `after`: `wanted` of each, found among `length` rows of its first source at most."""
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    texts, params = [], []
    for n, branch in enumerate(branches):
        first, *probes = branch.sources
        walk = f"SELECT k FROM {first.table} WHERE {_equal(conn, first)} AND k {beyond} {mark(conn)} ORDER BY k {way} LIMIT "
        params += [*first.values, after]
        if probes:
            walk = f"SELECT k FROM ({walk}{length}) d WHERE {_probes(conn, probes)} ORDER BY k {way} LIMIT "
            params += [value for probe in probes for value in probe.values]
        texts.append(f"SELECT {n} AS b, k FROM ({walk}{wanted}) q{n}")
    found: list[list[int]] = [[] for _ in branches]
    for n, k in _run(conn, " UNION ALL ".join(texts), params):
        found[n].append(k)
    ends: dict[int, int] = {n: (max if ascending else min)(ks) for n, ks in enumerate(found) if len(ks) == wanted}
    short = [n for n, branch in enumerate(branches) if n not in ends and len(branch.sources) > 1]
    ends |= _ends_by_k(conn, branches, short, after, ascending, length)
    merged = sorted({k for ks in found for k in ks}, reverse=not ascending)
    if not ends:
        return ByK(merged, None, [])
    end = (min if ascending else max)(ends.values())  # behind it, a branch may have keys that were not read
    kept = [k for k in merged if (k <= end if ascending else k >= end)]
    unfinished = [branch for n, branch in enumerate(branches) if n in ends or not set(found[n]) <= set(kept)]
    return ByK(kept, end, unfinished)


def _ends_by_k(conn: Connection, branches: Sequence[Branch], short: list[int], after: int, ascending: bool, length: int) -> dict[int, int]:
    """Where the slices ended in which too few keys were found; nothing for a source that ended before."""
    way, beyond = ("ASC", ">") if ascending else ("DESC", "<")
    texts, params = [], []
    for n in short:
        first = branches[n].sources[0]
        walk = f"SELECT k FROM {first.table} WHERE {_equal(conn, first)} AND k {beyond} {mark(conn)} ORDER BY k {way}"
        texts.append(f"SELECT {n} AS b, k FROM ({walk} LIMIT 1 OFFSET {length - 1}) q{n}")
        params += [*first.values, after]
    return dict(_run(conn, " UNION ALL ".join(texts), params)) if texts else {}


def by_value(
    conn: Connection,
    orders: Sequence[int],
    probes: Sequence[Sequence[Source]],
    after: bytes | None,
    ascending: bool,
    wanted: int,
    length: int,
) -> ByValue:
    """The next rows of all branches whose value is behind `after`, each branch given by its `t` in sorts and by what is probed."""
    texts, params = [], []
    for n, (t, asked) in enumerate(zip(orders, probes, strict=True)):
        walk, values = _walk_by_value(conn, t, after, ascending)
        params += values
        if asked:
            walk = (
                f"SELECT v, k FROM ({walk} LIMIT {length}) d WHERE {_probes(conn, asked)} ORDER BY v {_way(ascending)}, k {_way(ascending)}"
            )
            params += [value for probe in asked for value in probe.values]
        texts.append(f"SELECT {n} AS b, v, k FROM ({walk} LIMIT {wanted}) q{n}")
    found: list[list[tuple[bytes, int]]] = [[] for _ in orders]
    for n, v, k in _run(conn, " UNION ALL ".join(texts), params) if texts else []:
        found[n].append((bytes(v), k))
    ends = {n: (max if ascending else min)(rows)[0] for n, rows in enumerate(found) if len(rows) == wanted}
    short = [n for n in range(len(orders)) if n not in ends and probes[n]]
    ends |= _ends_by_value(conn, orders, short, after, ascending, length)
    merged = sorted({row for rows in found for row in rows}, reverse=not ascending)
    if not ends:
        return ByValue(merged, None)
    end = (min if ascending else max)(ends.values())
    return ByValue([row for row in merged if (row[0] <= end if ascending else row[0] >= end)], end)


def _ends_by_value(
    conn: Connection, orders: Sequence[int], short: list[int], after: bytes | None, ascending: bool, length: int
) -> dict[int, bytes]:
    texts, params = [], []
    for n in short:
        walk, values = _walk_by_value(conn, orders[n], after, ascending)
        texts.append(f"SELECT {n} AS b, v FROM ({walk} LIMIT 1 OFFSET {length - 1}) q{n}")
        params += values
    return {n: bytes(v) for n, v in _run(conn, " UNION ALL ".join(texts), params)} if texts else {}


def within(conn: Connection, orders: Sequence[int], least: bytes, most: bytes, limit: int) -> set[int] | None:
    """The keys of all branches whose value lies between two others, or None when one has `limit` of them or more."""
    texts = [
        f"SELECT {n} AS b, k FROM (SELECT k FROM sorts WHERE t = ? AND v >= ? AND v <= ? LIMIT {limit}) q{n}" for n in range(len(orders))
    ]
    statement = " UNION ALL ".join(texts).replace("?", mark(conn))
    found = _run(conn, statement, [value for t in orders for value in (t, least, most)]) if texts else []
    many = Counter(n for n, _ in found)
    return None if any(count == limit for count in many.values()) else {k for _, k in found}


def _walk_by_value(conn: Connection, t: int, after: bytes | None, ascending: bool) -> tuple[str, list[Any]]:
    behind = "" if after is None else f" AND v {'>' if ascending else '<'} {mark(conn)}"
    way = _way(ascending)
    return f"SELECT v, k FROM sorts WHERE t = {mark(conn)}{behind} ORDER BY v {way}, k {way}", [t, *([] if after is None else [after])]


def _way(ascending: bool) -> str:
    return "ASC" if ascending else "DESC"


def _equal(conn: Connection, source: Source) -> str:
    return " AND ".join(f"{column} = {mark(conn)}" for column in source.columns)


def _probes(conn: Connection, sources: Sequence[Source]) -> str:
    """The condition that the row of `d` at hand is in all of these."""
    return " AND ".join(
        f"(SELECT 1 FROM {each.table} x{n} WHERE {' AND '.join(f'x{n}.{column} = {mark(conn)}' for column in each.columns)} "
        f"AND x{n}.k = d.k LIMIT 1) IS NOT NULL"
        for n, each in enumerate(sources)
    )


def _run(conn: Connection, statement: str, params: Sequence[Any]) -> Sequence[Any]:
    return conn.exec_driver_sql(statement, tuple(params)).all()
