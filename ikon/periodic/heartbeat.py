"""Keeps this process's lease, and looks after what the process itself has at work."""

from sqlalchemy import Connection

from ikon.db import copies
from ikon.kit import Kit
from ikon.model.periodic import Found
from ikon.problems import Problem
from ikon.transfer.intake import lost

#: Seconds between two heartbeats.
EVERY_S = 5.0


async def run_once(kit: Kit) -> Found:
    """Renew the lease; stop uploads that another process has taken away; undo attempts that nobody here runs any more."""
    await kit.lease.renew()
    recorded = await kit.db.read(copies.mine, kit.lease.id)
    mended = 0
    for attempt in kit.intake.attempts.writing():
        if why := await kit.db.read(_taken_away, attempt.image_id, attempt.copy_id):
            attempt.stop(why)
            mended += 1
    for copy in recorded:
        if copy.id in kit.intake.attempts:
            continue
        if await kit.db.read(copies.get, copy.id) == copy:  # still so, and not one that began or ended since it was read
            await kit.intake.undo_forgotten(copy)
            mended += 1
    return Found(len(recorded), mended)


def _taken_away(conn: Connection, image_id: str, copy_id: str) -> Problem | None:
    """Why a copy is this process's no more, if so."""
    copy = copies.get(conn, copy_id)
    return lost(conn, image_id) if copy is None or copy.state == "deleting" else None
