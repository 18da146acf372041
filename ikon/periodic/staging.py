"""Staged data that no import will use, and files in the staging directory that no row names."""

import asyncio

from sqlalchemy import Connection

from ikon import log
from ikon.context import Context
from ikon.db import copies, images
from ikon.db.copies import Copy
from ikon.db.engine import now_ms
from ikon.kit import Kit
from ikon.model.periodic import Found
from ikon.problems import Problem, StagedTooLong
from ikon.stores.registry import STAGING
from ikon.transfer.intake import queue_again

#: Things of one kind looked at in one go, files looked up together, and seconds that listing them may take.
BATCH, NAMES, LIST_S = 100, 500, 30.0
#: Bytes without a row are deleted when so many ms later there still is none.
STRAY_MS = 86_400_000


async def let_go(kit: Kit, ctx: Context) -> Found:
    """Delete staged data that no import will use. An image that waited too long for its import is queued again."""
    found = await kit.db.read(_left_over, 1000 * kit.settings.staging.keep_s)
    return Found(len(found), sum([await kit.db.write(_let_go, ctx, copy) for copy in found]))


def _left_over(conn: Connection, keep_ms: int) -> list[Copy]:
    return copies.left_over(conn, STAGING, now_ms(conn) - keep_ms, BATCH)


def _let_go(conn: Connection, ctx: Context, copy: Copy) -> bool:
    image = images.lock(conn, copy.image_id)
    if image is not None and (image.status == "importing" or image.importing.job is not None):
        return False  # an import has begun meanwhile
    if image is not None and image.status == "uploading":
        queue_again(conn, ctx, image, StagedTooLong())
    return copies.condemn(conn, copy)


async def find_strays(kit: Kit) -> Found:
    """Give files that no row names one, so that they are found again a day later; and condemn those of which that is true by now.

    A row is committed before its file is there, and outlives it: a file that was listed, had no row then and is there after that has none.
    """
    condemned = await kit.db.write(copies.condemn_strays, BATCH)
    if kit.intake.rests.resting(STAGING):
        return Found(0, condemned)
    try:
        async with asyncio.timeout(LIST_S):
            looked, nameless = await _nameless(kit)
            if nameless:
                nameless &= {found.url async for found in kit.stores[STAGING].list()}
    except (Problem, TimeoutError) as problem:
        kit.intake.rests.failed(STAGING)
        log.get().warning("staging not looked through", because=str(problem) or "timed out")
        return Found(0, condemned)
    for url in nameless:
        if await kit.db.write(copies.adopt, _stray(kit, url), STRAY_MS):
            log.get().warning("stray file found", store=STAGING, url=url, deleted_in_s=STRAY_MS // 1000)
    return Found(looked, condemned)


async def _nameless(kit: Kit) -> tuple[int, set[str]]:
    """How many files are there, and URLs of some that no row names."""
    looked, nameless, urls = 0, set[str](), list[str]()
    async for found in kit.stores[STAGING].list():
        looked += 1
        urls.append(found.url)
        if len(urls) == NAMES:
            nameless |= await kit.db.read(copies.without_row, STAGING, urls)
            urls.clear()
            if len(nameless) >= BATCH:
                break
    return looked, nameless | await kit.db.read(copies.without_row, STAGING, urls)


def _stray(kit: Kit, url: str) -> Copy:
    """A row for bytes that have none; the ids are in their name."""
    image_id, _, copy_id = url.rpartition("/")[2].rpartition(".")
    node = kit.lease.node if kit.stores[STAGING].local else None
    return Copy(copy_id, image_id[:36], STAGING, node, url, "stray", None, None, 0, None, images.now_us() // 1000, None, 0, 0)
