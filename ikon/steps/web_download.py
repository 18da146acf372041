"""Fetch an image's data from an http(s) URL into the staging store."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from ikon.kit import Kit
from ikon.problems import DigestMismatch
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts


class WebDownload:
    """Fetches the URL that the request names, and compares the digest if it names one."""

    name = "web-download"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        asked, most = work.job.input["request"], kit.settings.limits.image_bytes

        async def fill(attempt: Attempt) -> Facts:
            async with kit.fetcher.open(asked["uri"], limit=most) as source:
                blocks = staging.watched(compared(source, asked.get("digest")), work, source.size)
                return await kit.intake.take_in(attempt, blocks, Bounds(source.size, most))

        await staging.anew(kit, work, fill)

    async def undo(self, kit: Kit, work: Work) -> None:
        """Nothing is left: the attempt is undone where it ran, or by the reaper where its process is gone."""


async def compared(blocks: AsyncIterable[bytes], wanted: str | None) -> AsyncIterator[bytes]:
    """The data as it is, ended by DigestMismatch when it is not what `ALGORITHM:HEX` says."""
    name, _, value = (wanted or "").partition(":")
    digest = hashlib.new(name) if wanted else None
    async for block in blocks:
        if digest:
            digest.update(block)
        yield block
    if digest and digest.hexdigest() != value.lower():
        raise DigestMismatch(f"The data that came has the {name} digest {digest.hexdigest()}, and not the {value.lower()} that was given")
