"""Room for bytes that are still to come: each attempt is promised its own before its first byte, or is refused.

What is promised must fit into what is free. Both are looked at in the transaction that records the promise, one at a time for each disk. A
promise is the row of a copy being written, so that it ends with the attempt, or with whoever undoes it.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec
from sqlalchemy import Connection

from ikon import log
from ikon.db import room as rows
from ikon.db.engine import Database
from ikon.problems import Problem, RoomPromised, StoreFull
from ikon.stores.registry import STAGING, Stores

#: Seconds that measuring a store may take.
MEASURE_S = 2.0


class Room(msgspec.Struct, frozen=True):
    """What was measured of a store before a transaction.

    stores: those on the same disk. local: which of them are this node's own. places: what is locked for it. free: bytes, None where the
    store cannot tell. written: bytes that attempts had on the disk by then, by copy id. left: bytes that they had still to write of what
    they were promised.
    """

    store: str
    stores: list[str]
    local: list[str]
    node: str
    places: list[str]
    free: int | None
    written: Mapping[str, int]
    left: Mapping[str, int]


class Rooms:
    """Measures the room in stores, as this node sees them."""

    def __init__(self, db: Database, stores: Stores, node: str) -> None:
        self._db, self._stores, self._node = db, stores, node

    async def measure(self, store: str) -> Room:
        """What `require` has to know of a store. One that does not answer tells when it is written to."""
        disk = self._stores[store].disk
        stores = [name for name in (*self._stores.all, STAGING) if name == store or (disk is not None and self._stores[name].disk == disk)]
        promises = await self._db.read(rows.promises, stores, self._node)
        written: dict[str, int] = {}
        free: int | None = None
        try:
            async with asyncio.timeout(MEASURE_S):
                for name in stores:
                    if found := [promise for promise in promises if promise.store == name]:
                        sizes = await self._stores[name].written([promise.url for promise in found])
                        written |= {promise.id: size for promise, size in zip(found, sizes, strict=True)}
                free = (await self._stores[store].usage()).free  # last: what came since it was written counts twice, never not at all
        except (Problem, TimeoutError) as problem:
            log.get().warning("room not known", store=store, because=str(problem) or "timed out")
        left = {promise.id: max(0, promise.reserved - written.get(promise.id, 0)) for promise in promises}
        local = [name for name in stores if self._stores[name].local]
        return Room(store, stores, local, self._node, [self._place(name) for name in stores], free, written, left)

    def _place(self, store: str) -> str:
        return f"r:{store}@{self._node}"[:300] if self._stores[store].local else f"r:{store}"


def lock(conn: Connection, rooms: Iterable[Room]) -> None:
    """To be called before `require` for several rooms: so two who name them in different orders do not wait for each other."""
    rows.lock(conn, list({place for room in rooms if room.free is not None for place in room.places}))


def require(conn: Connection, room: Room, by: int, image_id: str) -> None:
    """Make sure that so many bytes more of an image fit, before their promise is recorded in the same transaction.

    The image is locked already, usage is not. Raises StoreFull, and RoomPromised where they would fit if others did not write.
    """
    if room.free is None or by <= 0:
        return
    rows.lock(conn, room.places)
    left = dict(room.left)  # of attempts that have ended since, too: their bytes may have come after the disk was looked at
    for promise in rows.promises(conn, room.stores, room.node):
        rest = max(0, promise.reserved - room.written.get(promise.id, 0))
        left[promise.id] = 0 if promise.image_id == image_id else rest
        by += rest if promise.image_id == image_id else 0
    promised = sum(left.values()) + sum(each.size for each in rows.ahead(conn) if each.image_id != image_id and _is_here(each, room))
    if by + promised <= room.free:
        return
    what, where = ("The staging area", "[staging] path") if room.store == STAGING else (f"Store {room.store}", f"[stores.{room.store}]")
    kind = StoreFull if by > room.free else RoomPromised
    others = f", of which {promised} are promised to others" if promised else ""
    because = f"{room.free} bytes are free{others}; its setting is {where}"
    raise kind(f"{what} has no room for the {by} bytes that are asked for", because=because)


def _is_here(ahead: rows.Ahead, room: Room) -> bool:
    return ahead.store in room.stores and (ahead.store not in room.local or ahead.node == room.node)
