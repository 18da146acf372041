"""Convert staged data to the disk format that the operator wants all imported images to have."""

import functools
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection

from ikon.db import images
from ikon.db.copies import Copy
from ikon.formats.inspector import PLAIN, Inspector, Verdict
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.job import Job, converting_queue
from ikon.model.signature import is_signed
from ikon.problems import SignedAsItIs
from ikon.steps import staging
from ikon.steps.base import NotNow, Work
from ikon.transfer.attempts import Attempt
from ikon.transfer.convert import READ, Disk, convert
from ikon.transfer.intake import Facts, lost
from ikon.transfer.turns import Turns


class Convert:
    """Disks of another format are converted; what is no disk, or one of no bytes, or in a container, stays as it is.

    The format converted from is the one found by our own inspection, which has to pass first. Where that is the wanted one already, but not
    the one on record, the record is put right.
    """

    name = "convert"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step. Raises NotNow when this node has no turn left, and SignedAsItIs."""
        waiting = converting_queue(work.job.queue)
        has_turn = False
        try:
            with turns(kit).take() as has_turn:
                if not has_turn:
                    raise NotNow(waiting)
                await self._run(kit, work)
        finally:
            if has_turn:
                kit.queue.ring(waiting)

    async def _run(self, kit: Kit, work: Work) -> None:
        wanted = work.job.input.get("output_format") or kit.settings.conversion.output_format  # jobs of before have none of their own
        image, staged = await kit.db.read(staging.find, work.job)
        verdict = await self._inspected(kit, image, staged)
        found = "raw" if verdict.format in PLAIN else verdict.format
        is_bare = image.container_format == "bare"
        if not wanted or not is_bare or found not in READ or verdict.virtual_size is None or not verdict.disk_bytes:
            await work.end(lambda conn, job: {})
            return
        if found != wanted and is_signed(work.job.input):
            raise SignedAsItIs(f"A signed image is not converted from {found} to {wanted}: its signature is of the data as it came")
        if found == wanted:
            await work.end(functools.partial(_put_right, disk_format=wanted))
            return
        disk = Disk(Path(urlsplit(staged.url).path), found, verdict.disk_bytes)

        async def fill(attempt: Attempt) -> Facts:
            async def make(target: Path) -> None:
                await convert(
                    disk,
                    target,
                    wanted,
                    rules=kit.settings.conversion,
                    most=kit.settings.limits.image_bytes,
                    pool=kit.intake.pool,
                    progress=lambda done: work.moved(done, disk.virtual_size),
                    reserve=lambda size: kit.intake.reserve(attempt, size),
                    certain=lambda: work.certain,
                )

            return await kit.intake.take_made(attempt, make)

        await staging.anew(kit, work, fill, lambda image: {"disk_format": wanted})

    async def _inspected(self, kit: Kit, image: Image, staged: Copy) -> Verdict:
        inspector = Inspector(image.disk_format or "", image.container_format or "", kit.settings.formats)
        async with kit.outflow.reading_staged(image, staged) as reader:
            async for block in reader.blocks():
                await kit.intake.pool.run(inspector.update, [block])
        return await kit.intake.pool.run(inspector.end)


def _put_right(conn: Connection, job: Job, disk_format: str) -> dict[str, Any]:
    image = images.lock(conn, job.image_id or "")
    if image is None:
        raise lost(conn, job.image_id or "")
    if image.disk_format != disk_format:
        images.save(conn, image, msgspec.structs.replace(image, disk_format=disk_format))
    return {}


def turns(kit: Kit) -> Turns:
    """Turns to convert, on this node."""
    return Turns(kit.settings.run, "convert", kit.settings.conversion.at_once)
