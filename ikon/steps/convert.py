"""Convert staged data to the disk format that the operator wants all imported images to have."""

from pathlib import Path
from urllib.parse import urlsplit

from ikon.db.copies import Copy
from ikon.formats.inspector import PLAIN, Inspector, Verdict
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.job import converting_queue
from ikon.steps import staging
from ikon.steps.base import NotNow, Work
from ikon.transfer.attempts import Attempt
from ikon.transfer.convert import READ, Disk, convert
from ikon.transfer.intake import Facts
from ikon.transfer.turns import Turns


class Convert:
    """Disks of another format are converted; what is no disk, or in a container, stays as it is. The format converted from is the one found
    by our own inspection, which has to pass first."""

    name = "convert"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step. Raises NotNow when this node has no turn left."""
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
        wanted = kit.settings.conversion.output_format
        image, staged = await kit.db.read(staging.find, work.job)
        verdict = await self._inspected(kit, image, staged)
        found = "raw" if verdict.format in PLAIN else verdict.format
        if image.container_format != "bare" or found not in READ or found == wanted or verdict.virtual_size is None:
            await work.end(lambda conn, job: {})
            return
        disk = Disk(Path(urlsplit(staged.url).path), found, verdict.virtual_size)

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
                )

            return await kit.intake.take_made(attempt, make)

        await staging.anew(kit, work, fill, lambda image: {"disk_format": wanted})

    async def _inspected(self, kit: Kit, image: Image, staged: Copy) -> Verdict:
        inspector = Inspector(image.disk_format or "", image.container_format or "", kit.settings.formats)
        async with kit.outflow.reading_staged(image, staged) as reader:
            async for block in reader.blocks():
                await kit.intake.pool.run(inspector.update, [block])
        return await kit.intake.pool.run(inspector.end)

    async def undo(self, kit: Kit, work: Work) -> None:
        """See WebDownload: nothing is left."""


def turns(kit: Kit) -> Turns:
    """Turns to convert, on this node."""
    return Turns(kit.settings.run, "convert", kit.settings.conversion.at_once)
