"""Fetch an image's data from an http(s) URL into the staging store, going on from what an earlier try has brought."""

import contextlib
import functools
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from ikon import log
from ikon.db import copies, images, jobs
from ikon.db.copies import Copy
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.job import ANY, Job, node_queue
from ikon.problems import (
    DataUnavailable,
    DigestMismatch,
    RoomPromised,
    SourceBroken,
    SourceChanged,
    SourceDenied,
    SourceProblem,
    SourceTooSlow,
    SourceUnreachable,
    StoreFull,
)
from ikon.service.data import drop_staged
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.stores.registry import STAGING
from ikon.threads import Pool
from ikon.transfer.attempts import Attempt
from ikon.transfer.fetch import Source
from ikon.transfer.intake import Bounds, Facts, lost

#: Ends of a source after which another try may have the rest, and least bytes of it that are worth keeping for that.
BREAKS = (SourceBroken, SourceTooSlow, SourceUnreachable, SourceDenied)
WORTH_BYTES = 1 << 20


class Before(NamedTuple):
    """Staged data that an earlier try has fetched: whole, or a part. validator: by which the source shows that it is still the same."""

    image: Image
    copy: Copy
    validator: str

    @property
    def ends(self) -> int:
        """Where the source is to go on. Of what is there whole its last byte is asked for once more, as a proof."""
        assert self.copy.size is not None
        return self.copy.size - (self.copy.state == "ready")


class Where(NamedTuple):
    """What is fetched. digest: `ALGORITHM:HEX` of the data, None where nobody knows it. size: bytes that it must have, None: as it says.

    headers, chosen: see Fetcher.open.
    """

    url: str
    digest: str | None = None
    size: int | None = None
    headers: Mapping[str, str] = MappingProxyType({})
    chosen: bool = False


class _NoRoomBeside(Exception):
    """There may be room for the whole, but not beside what is kept of it."""


class WebDownload:
    """Fetches the URL that the request names, and compares the digest if it names one. What comes of a source that breaks off is kept."""

    name = "web-download"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        asked = work.job.input["request"]
        await bring(kit, work, Where(asked["uri"], asked.get("digest")))


async def bring(kit: Kit, work: Work, where: Where, changes: staging.Changes = lambda image: {}) -> None:
    """End a step with data that was fetched, going on from what an earlier try has left if the source has the same still.

    Raises any SourceProblem, and what staging does.
    """
    if before := await kit.db.read(_before, work.job, kit.lease.node):
        try:
            await _bring(kit, work, where, before, changes)
            return
        except (SourceChanged, DataUnavailable, DigestMismatch, _NoRoomBeside) as problem:
            log.get().info("fetched from the beginning", job=work.job.id, image=work.job.image_id, because=str(problem))
            if await kit.db.write(copies.condemn, before.copy):
                await kit.intake.remove(msgspec.structs.replace(before.copy, state="deleting"))
    await _bring(kit, work, where, None, changes)


async def _bring(kit: Kit, work: Work, where: Where, before: Before | None, changes: staging.Changes) -> None:
    notes: dict[str, Any] = {}
    fill = functools.partial(_fill, kit, work, where, before, notes)
    await staging.anew(kit, work, fill, changes, notes)


async def _fill(kit: Kit, work: Work, where: Where, before: Before | None, notes: dict[str, Any], attempt: Attempt) -> Facts:
    """Fetch into an attempt. notes: filled with what a later import must know to go on from this data."""
    most, known = kit.settings.limits.image_bytes, where.digest is not None
    offset, validator = (before.ends, before.validator) if before else (0, None)
    async with kit.fetcher.open(
        where.url, offset=offset, validator=validator, limit=most, headers=where.headers, chosen=where.chosen, compared=known
    ) as source:
        size = source.size if where.size is None else where.size
        if source.size not in (None, size):
            raise DigestMismatch(f"The source gives {source.size} bytes of an image of {size}")
        if size is not None:
            await _reserve(kit, attempt, size, before)
            await staging.admit(kit, work, size)
            notes["promised"] = size
        came = _Came(source, _sized(_data(kit, before, source), where.size))
        blocks = staging.watched(compared(kit.intake.pool, came, where.digest, came.is_whole), work, size)
        facts = await kit.intake.take_in(attempt, blocks, Bounds(None, most))
    if source.validator is not None and facts.size >= WORTH_BYTES:
        notes["fetched"] = {"copy": attempt.copy_id, "validator": source.validator}
    if came.broken is not None:
        queue = node_queue(kit.lease.node) if kit.stores[STAGING].local else ANY
        await kit.db.write(_keep, work.job, attempt, kit.lease.id, facts.size, queue, notes)
        raise came.broken
    return facts


async def _reserve(kit: Kit, attempt: Attempt, size: int, before: Before | None) -> None:
    try:
        await kit.intake.reserve(attempt, size)
    except StoreFull as problem:
        if before is None or isinstance(problem, RoomPromised):
            raise
        raise _NoRoomBeside(str(problem)) from None


async def _data(kit: Kit, before: Before | None, source: Source) -> AsyncIterator[bytes]:
    """What is there already, checked, and what the source has behind it."""
    if before is not None:
        async with contextlib.aclosing(_read(kit, before)) as there:
            async for block in there:
                yield block
        if before.copy.state == "ready":
            if source.size != before.copy.size:
                raise SourceChanged(because=f"it had {before.copy.size} bytes, and has {source.size}")
            return
    async for block in source:
        yield block


async def _sized(blocks: AsyncIterable[bytes], size: int | None) -> AsyncIterator[bytes]:
    """The data, which has to have so many bytes where anybody knows. Raises DigestMismatch."""
    done = 0
    async for block in blocks:
        done += len(block)
        if size is not None and done > size:
            raise DigestMismatch(f"The source gives more than the {size} bytes of the image")
        yield block
    if size is not None and done < size:
        raise DigestMismatch(f"The source gives {done} bytes of an image of {size}")


class _Came:
    """Data of a source. Where it breaks off in a way that leaves its beginning of use, it ends; `broken` is why."""

    def __init__(self, source: Source, data: AsyncIterator[bytes]) -> None:
        self.broken: SourceProblem | None = None
        self._source, self._data = source, data

    def is_whole(self) -> bool:
        """Whether it has come to its own end."""
        return self.broken is None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for block in self._data:
                yield block
        except BREAKS as problem:
            if self._source.validator is None or self._source.at < WORTH_BYTES:
                raise
            self.broken = problem


async def _read(kit: Kit, before: Before) -> AsyncGenerator[bytes, None]:
    async with kit.outflow.reading_staged(before.image, before.copy) as reader:
        async for block in reader.blocks():
            yield block


def _before(conn: Connection, job: Job, node: str) -> Before | None:
    """What an earlier try has fetched for this job, or for one before it, as far as it is there and within reach."""
    noted = job.checkpoint.get("fetched") or job.input.get("fetched")
    image, copy = images.get(conn, job.image_id or ""), copies.get(conn, noted["copy"]) if noted else None
    if noted is None or image is None or copy is None or copy.state not in copies.STAGED or copy.node not in (None, node):
        return None
    return Before(image, copy, noted["validator"])


def _keep(conn: Connection, job: Job, attempt: Attempt, me: str, size: int, queue: str, notes: dict[str, Any]) -> None:
    """Keep what has come of a source that broke off, in place of any before, for another try."""
    image = images.lock(conn, attempt.image_id)
    held = jobs.lock(conn, job)
    if image is None or held is None or not copies.keep_part(conn, attempt.copy_id, me, size):
        raise lost(conn, attempt.image_id)
    drop_staged(conn, image.id, keep=attempt.copy_id)
    jobs.end_step(conn, held, held.step, held.checkpoint | notes)
    jobs.route(conn, held, queue)


async def compared(pool: Pool, blocks: AsyncIterable[bytes], wanted: str | None, whole: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The data as it is, ended by DigestMismatch when it is not what `ALGORITHM:HEX` says. whole: asked at the end whether all has come."""
    name, _, value = (wanted or "").partition(":")
    digest = hashlib.new(name) if wanted else None
    async for block in blocks:
        if digest:
            await pool.run(digest.update, block)
        yield block
    if digest and whole() and digest.hexdigest() != value.lower():
        raise DigestMismatch(f"The data that came has the {name} digest {digest.hexdigest()}, and not the {value.lower()} that was given")
