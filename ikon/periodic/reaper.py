"""Finishes what a crash interrupted: takes over what dead processes were writing, and deletes bytes that nobody wants."""

import asyncio

from ikon import log, metrics
from ikon.context import Context
from ikon.db import copies, instances
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.periodic.base import Found
from ikon.transfer.intake import take_over

#: Seconds between two runs.
EVERY_S = 5.0
#: Copies looked at in one go.
BATCH = 100


async def run_once(kit: Kit) -> Found:
    """Undo the uploads of dead processes and delete the bytes that are due. Goes on until nothing is left that it can do now."""
    looked = mended = 0
    while True:
        lost = await take_over_lost(kit)
        due = await kit.db.read(copies.to_delete, kit.lease.id, kit.lease.node, BATCH)
        removed = 0
        for copy in due:
            removed += await _remove(kit, copy)
        looked, mended = looked + lost.looked + len(due), mended + lost.mended + removed
        if not lost.mended and not removed:
            return Found(looked, mended)


async def take_over_lost(kit: Kit) -> Found:
    """Queue the images again whose uploads died with their process. Touches no store, so that a server may do it before it serves."""
    await _bury(kit)
    looked = mended = 0
    while True:
        lost = await kit.db.read(copies.ownerless, BATCH, proven=not kit.lease.may_sweep())
        taken = sum(await asyncio.gather(*(kit.db.write(take_over, _nobody(), copy) for copy in lost)))
        looked, mended = looked + len(lost), mended + taken
        if not taken:
            return Found(looked, mended)


def _nobody() -> Context:
    return Context(user="reaper")


async def _bury(kit: Kit) -> None:
    """End the leases of processes of this node that are proven dead, so that nobody waits for them to run out."""
    for dead in kit.lease.dead_on_this_node(await kit.db.read(instances.on_node, kit.lease.node)):
        await kit.db.write(instances.retire, dead)
        kit.lease.drop_file(dead)
        log.get().info("dead process buried", instance=dead)


async def _remove(kit: Kit, copy: Copy) -> bool:
    """Delete one copy's bytes. The name of a process that may only be paused is looked at a second time before it is forgotten."""
    if copy.instance is not None and not await kit.db.read(instances.is_gone, copy.instance):
        await kit.intake.remove_of_unproven(copy)
        return False
    gone = await kit.intake.remove(copy)
    if gone:
        metrics.REAPED.labels("ownerless" if copy.instance else "deleted").inc()
    return gone
