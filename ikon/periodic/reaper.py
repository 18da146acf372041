"""Finishes what a crash interrupted, deletes bytes that nobody wants, and ends what has had its time: trash, staged data, jobs."""

import asyncio
import time

from ikon import log, metrics
from ikon.context import Context
from ikon.db import copies, instances, jobs, runs
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.periodic import Found, Parts
from ikon.periodic import staging
from ikon.service import trash
from ikon.stores.registry import STAGING
from ikon.transfer.intake import take_over

#: Seconds between two runs, and seconds after which a run leaves the rest to the next one.
EVERY_S, RUN_S = 5.0, 60.0
#: Things of one kind looked at in one go.
BATCH = 100
#: Instances that went without a word, and reports of nodes that are gone, are remembered for so long, in ms.
SILENT_MS, REPORT_MS = 3 * 86_400_000, 30 * 86_400_000


async def run_once(kit: Kit) -> Parts:
    """One round of all that the reaper does, of each kind a bounded part; bytes until nothing is left that can be deleted now."""
    until = time.monotonic() + RUN_S
    uploads = await take_over_lost(kit)
    purged = await trash.purge_due(kit, nobody())
    left_over, strays = await staging.let_go(kit, nobody()), await staging.find_strays(kit)
    ended = await kit.db.write(jobs.expire, 1000 * kit.settings.jobs.keep_s, BATCH)
    silent = await kit.db.write(instances.forget, SILENT_MS, BATCH) + await kit.db.write(runs.forget, REPORT_MS)
    return {
        "uploads": uploads,
        "trash": Found(purged, purged),
        "staging": left_over,
        "strays": strays,
        "jobs": Found(ended, ended),
        "instances": Found(silent, silent),
        "bytes": await _delete_bytes(kit, until),
    }


async def take_over_lost(kit: Kit) -> Found:
    """Queue the images again whose uploads died with their process. Touches no store, so that a server may do it before it serves."""
    await _bury(kit)
    looked = mended = 0
    while True:
        lost = await kit.db.read(copies.ownerless, BATCH, proven=not kit.lease.may_sweep())
        taken = sum(await asyncio.gather(*(kit.db.write(take_over, nobody(), copy) for copy in lost)))
        looked, mended = looked + len(lost), mended + taken
        if not taken:
            return Found(looked, mended)


def nobody() -> Context:
    """Who does what nobody asked for."""
    return Context(user="reaper")


async def _bury(kit: Kit) -> None:
    """End the leases of processes of this node that are proven dead, so that nobody waits for them to run out."""
    for dead in kit.lease.dead_on_this_node(await kit.db.read(instances.on_node, kit.lease.node)):
        await kit.db.write(instances.retire, dead)
        kit.lease.drop_file(dead)
        log.get().info("dead process buried", instance=dead)


async def _delete_bytes(kit: Kit, until: float) -> Found:
    """Delete the bytes that are due, in all stores at once: none waits for one that is slow, or down."""
    each = await asyncio.gather(*(_empty(kit, store, until) for store in (*kit.stores.all, STAGING)), return_exceptions=True)
    for failure in each:
        if isinstance(failure, BaseException):
            raise failure
    found = [part for part in each if isinstance(part, Found)]
    return Found(sum(part.looked for part in found), sum(part.mended for part in found))


async def _empty(kit: Kit, store: str, until: float) -> Found:
    looked = mended = 0
    while time.monotonic() < until:
        removed = 0
        for copy in await kit.db.read(copies.to_delete, kit.lease.id, kit.lease.node, store, BATCH):
            if kit.intake.rests.resting(store):
                return Found(looked, mended + removed)
            looked += 1
            removed += await _remove(kit, copy)
        mended += removed
        if not removed:
            break
    return Found(looked, mended)


async def _remove(kit: Kit, copy: Copy) -> bool:
    """Delete one copy's bytes. The name of a process that may only be paused is looked at a second time before it is forgotten."""
    if copy.instance is not None and not await kit.db.read(instances.is_gone, copy.instance):
        await kit.intake.remove_of_unproven(copy)
        return False
    gone = await kit.intake.remove(copy)
    if gone:
        metrics.REAPED.labels("ownerless" if copy.instance else "deleted").inc()
    return gone
