"""Keeps this process's lease, and looks after what the process itself has at work."""

from ikon.db import copies
from ikon.kit import Kit
from ikon.periodic.base import Found

#: Seconds between two heartbeats.
EVERY_S = 5.0


async def run_once(kit: Kit) -> Found:
    """Renew the lease; stop uploads whose image was deleted through another process; undo attempts that nobody here runs any more."""
    await kit.lease.renew()
    recorded = await kit.db.read(copies.mine, kit.lease.id)
    mended = 0
    for copy in recorded:
        if copy.id in kit.intake.attempts:
            if copy.state == "deleting":
                kit.intake.attempts.stop(copy.id)
                mended += 1
        elif await kit.db.read(copies.get, copy.id) == copy:  # still so, and not one that began or ended since it was read
            await kit.intake.undo_forgotten(copy)
            mended += 1
    return Found(len(recorded), mended)
