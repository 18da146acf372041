"""Deliveries: events that somebody outside is still to hear of, one row for each of them, written in the transaction of the event.

Events of one image are told in their order, as its row is locked while each is written. Rows are found by what is due and never by a
cursor, for numbers are not committed in order. What cannot be told for a day is parked, and stands in nobody's way.
"""

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import tables
from ikon.db.engine import now_ms, now_ms_sql

t = tables.deliveries
INSERT = sa.insert(t).values(at=now_ms_sql())
COLUMNS = [t.c.n, t.c.sink, t.c.image_id, t.c.version, t.c.kind, t.c.body, t.c.at, t.c.tries]
#: Ms after which an event is parked; ms until a failed one is tried again, doubled each time, up to the second number.
PARKED_MS, AGAIN_MS = 86_400_000, (2_000, 600_000)


class Delivery(msgspec.Struct, frozen=True):
    """One event for one sink. at: when it happened, ms since 1970 by the database's clock. tries: how often it could not be told."""

    n: int
    sink: str
    image_id: str
    version: int
    kind: str
    body: str
    at: int
    tries: int


def add(conn: Connection, sink: str, image_id: str, version: int, *told: tuple[str, str]) -> None:
    """Have a sink told of events in this order, each a kind and a body, in the transaction of the events."""
    row = {"sink": sink, "image_id": image_id, "version": version, "tries": 0, "not_before": 0, "parked": False}
    conn.execute(INSERT, [row | {"kind": kind, "body": body} for kind, body in told])


def due(conn: Connection, sink: str, limit: int) -> list[Delivery]:
    """The oldest event of each image that a sink has not heard of, where it is due: those that were never tried come first.

    In the order of its index, and with a plain number for now, by which all databases find their place in it: 100,000 that wait for their
    next try cost nothing.
    """
    earlier = t.alias()
    first = ~sa.exists().where(
        earlier.c.sink == t.c.sink, earlier.c.image_id == t.c.image_id, earlier.c.n < t.c.n, earlier.c.parked == sa.false()
    )
    query = sa.select(*COLUMNS).where(t.c.sink == sink, t.c.parked == sa.false(), t.c.not_before <= now_ms(conn), first)
    return [Delivery(*row) for row in conn.execute(query.order_by(t.c.not_before, t.c.n).limit(limit))]


def is_left(conn: Connection, n: int) -> bool:
    """Whether nobody else has told it meanwhile."""
    return conn.execute(sa.select(t.c.n).where(t.c.n == n)).first() is not None


def told(conn: Connection, n: int) -> None:
    """The sink has heard of it."""
    conn.execute(sa.delete(t).where(t.c.n == n))


def put_off(conn: Connection, delivery: Delivery) -> bool:
    """Have an event told later that could not be told now. True when it is parked instead."""
    now, first, longest = now_ms_sql(), *AGAIN_MS
    too_old = t.c.at < now - PARKED_MS
    later = now + min(first << min(delivery.tries, 16), longest)
    conn.execute(sa.update(t).where(t.c.n == delivery.n).values(tries=t.c.tries + 1, not_before=later, parked=too_old))
    return bool(conn.execute(sa.select(t.c.parked).where(t.c.n == delivery.n)).scalar())


def unpark(conn: Connection) -> int:
    """Have everything that was parked tried once more."""
    return conn.execute(sa.update(t).where(t.c.parked == sa.true()).values(parked=False, not_before=0)).rowcount


class Backlog(msgspec.Struct, frozen=True):
    """What a sink is still to be told: how many events, how many of them parked or refused at least once, and ms since the oldest."""

    sink: str
    count: int
    parked: int
    refused: int
    oldest_ms: int


def backlog(conn: Connection) -> list[Backlog]:
    """The sinks with events untold."""
    parked, refused = (sa.func.sum(sa.case((condition, 1), else_=0)) for condition in (t.c.parked == sa.true(), t.c.tries > 0))
    query = sa.select(t.c.sink, sa.func.count(), parked, refused, sa.func.min(t.c.at)).group_by(t.c.sink).order_by(t.c.sink)
    now = now_ms(conn)
    rows = conn.execute(query)
    return [Backlog(sink, int(count), int(stuck), int(failed), now - int(oldest)) for sink, count, stuck, failed, oldest in rows]
