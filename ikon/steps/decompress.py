"""Unpack staged data that is compressed, unless it is meant to be."""

from ikon.formats.packed import MAGICS
from ikon.kit import Kit
from ikon.model.signature import is_signed
from ikon.problems import SignedAsItIs
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts
from ikon.transfer.unpack import FORMS, unpack


class Decompress:
    """Data that begins like gzip, xz, zstd or zip is replaced by what is in it; any other stays as it is."""

    name = "decompress"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step. Raises SignedAsItIs."""
        image, staged = await kit.db.read(staging.find, work.job)
        async with kit.outflow.reading_staged(image, staged) as reader:
            head = b""
            async for block in reader.blocks():
                head = block[:16]
                break
            if image.container_format == "compressed" or not any(head.startswith(MAGICS[form]) for form in FORMS):
                await work.end(lambda conn, job: {})
                return
            if is_signed(work.job.input):
                raise SignedAsItIs("A signed image is not unpacked: its signature is of the data as it came")
            most = kit.settings.limits.image_bytes

            async def fill(attempt: Attempt) -> Facts:
                blocks = unpack(staging.watched(reader.blocks(), work, staged.size), kit.intake.pool, most)
                return await kit.intake.take_in(attempt, blocks, Bounds(None, most))

            await staging.anew(kit, work, fill)
