"""Brings up to date what is kept beside the truth for speed: what projects are charged with."""

import asyncio

import msgspec

from ikon import log, metrics
from ikon.db import usage
from ikon.kit import Kit
from ikon.model.periodic import Found, Parts
from ikon.model.quota import Usage

#: Seconds between two runs, projects read in one go, and seconds between two of them: a sum over many copies holds its project up.
EVERY_S, BATCH, PAUSE_S = 3600.0, 500, 0.01


async def run_once(kit: Kit) -> Parts:
    """One round of all that the updater does."""
    return {"usage": await recount(kit)}


async def recount(kit: Kit) -> Found:
    """Compare every project's usage with its images and copies, and mend it. Where no quotas are kept there is none."""
    looked, mended, after = 0, 0, ""
    while kit.quotas.kept and (projects := await kit.db.read(usage.projects, after, BATCH)):
        for project in projects:
            _, drift = await kit.db.write(usage.mend, project)
            if drift != Usage():
                metrics.USAGE_DRIFT.inc(abs(drift.bytes) + abs(drift.staged_bytes))
                log.get().warning("usage was wrong", project=project, by=str(msgspec.structs.asdict(drift)))
                mended += 1
            await asyncio.sleep(PAUSE_S)
        looked, after = looked + len(projects), projects[-1]
    return Found(looked, mended)
