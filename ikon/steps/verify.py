"""Read what is at a location, from its first byte to its last: its digests, and whether it is what it should be."""

import contextlib
import functools
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from ikon import log
from ikon.context import Context
from ikon.db import copies, events, images, jobs
from ikon.db.copies import Copy
from ikon.formats.inspector import Inspector
from ikon.kit import Kit
from ikon.model.image import FORMATS, Image, Importing
from ikon.model.job import Job
from ikon.model.signature import proof_of, require_same
from ikon.problems import Cancelled, Conflict, DigestMismatch, SourceBroken, SourceProblem, SourceTooLarge, StoreDown
from ikon.signatures import verifier
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.steps.web_download import compared
from ikon.stores.base import Buffer, CopyMissing, LocalFile, Remote
from ikon.transfer.attempts import Attempt
from ikon.transfer.digests import BLOCK
from ikon.transfer.intake import Bounds, Facts, lost


class Verify:
    """Makes an unchecked location one that is read from, and its image active where it waits for that."""

    name = "verify"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        image, copy = await kit.db.write(_begin, work.job)
        attempt = Attempt(copy.image_id, copy.id, copy.store, copy.url)
        attempt.writer, attempt.reserved = _Nowhere(), 1 << 62
        wanted = work.job.input["request"].get("validation_data", {})
        digest = f"{wanted['os_hash_algo']}:{wanted['os_hash_value']}" if wanted else None
        inspector = Inspector(image.disk_format or "", image.container_format or "", kit.settings.formats)
        async with _opened(kit, copy) as file:
            blocks = staging.watched(compared(kit.intake.pool, _blocks(file), digest, lambda: True), work, file.size)
            with kit.intake.attempts.running(attempt):
                bounds, witness = Bounds(None, kit.settings.limits.image_bytes), verifier(proof_of(work.job.input), image.id)
                facts = await kit.intake.take_in(attempt, blocks, bounds, inspector, witness=witness)
            if facts.size != file.size:
                raise SourceBroken(f"The location gave {facts.size} bytes of {file.size}")
            if isinstance(file, LocalFile):
                await file.run(os.fsync)  # whoever wrote it may not have
        await work.end(functools.partial(_finish, ctx=staging.context(work.job), inspected=image, copy=copy, facts=facts))
        log.get().info("location verified", image=image.id, store=copy.store, size_bytes=facts.size, job=work.job.id)


@contextlib.asynccontextmanager
async def _opened(kit: Kit, copy: Copy) -> AsyncIterator[LocalFile | Remote]:
    """What is at the location. What is wrong with a source is said as of one that is fetched."""
    most, file = kit.settings.limits.image_bytes, None
    store = kit.stores.find(copy.store)
    if store is None:
        raise StoreDown(f"Store {copy.store} is configured no more")
    try:
        file = await store.open(copy.url)
        if file.size > most:
            raise SourceTooLarge(f"The location has {file.size} bytes, {most} are allowed", because="as it announced")
        if copy.size not in (None, file.size):
            raise DigestMismatch(f"The location has {file.size} bytes, and had {copy.size} when it was added")
        yield file
    except (CopyMissing, StoreDown) as problem:
        if isinstance(problem.__cause__, SourceProblem):
            raise problem.__cause__ from None
        raise (SourceBroken("There is no file at the location") if isinstance(problem, CopyMissing) else problem) from None
    finally:
        if file is not None:
            file.close()


class _Nowhere:
    """A writer of bytes that are where they belong."""

    async def write(self, blocks: Sequence[Buffer]) -> None:
        """See Writer."""

    async def commit(self) -> None:
        """See Writer."""

    async def abort(self) -> None:
        """See Writer."""


async def _blocks(file: LocalFile | Remote) -> AsyncIterator[bytes]:
    for at in range(0, file.size, BLOCK):
        block = await (file.run(os.pread, BLOCK, at) if isinstance(file, LocalFile) else file.read(at, BLOCK))
        if not block:
            return
        yield block


def _begin(conn: Connection, job: Job) -> tuple[Image, Copy]:
    """The image and the place, without what an earlier attempt has noted of it; it is left alone where the job is a later one's."""
    image, held, copy = images.lock(conn, job.image_id or ""), jobs.lock(conn, job), copies.get(conn, job.input["copy"])
    if image is None or held is None:
        raise lost(conn, job.image_id or "")
    if copy is None or copy.state != "unchecked":
        raise Cancelled("The location was removed")
    copies.drop_digests(conn, image.id, copy.id)
    return image, copy


def _finish(conn: Connection, job: Job, *, ctx: Context, inspected: Image, copy: Copy, facts: Facts) -> dict[str, Any]:
    image = images.lock(conn, copy.image_id)
    if image is None:
        raise lost(conn, copy.image_id)
    ours = 0 if job.input["foreign"] else facts.size  # what somebody has put into a store of ours is ours from now on
    if not copies.checked(conn, copy.id, facts.size, ours):
        raise Cancelled("The location was removed")
    if any(getattr(image, name) != getattr(inspected, name) for name in FORMATS):
        raise Conflict("The image's formats were changed while its data was looked at. Add the location again")
    require_same(image.properties, proof_of(job.input))
    changes: dict[str, Any] = {}
    if image.digests is None:
        assert facts.verdict is not None
        _require_as_said(image, facts)
        changes = {"digests": copy.id, "size": facts.size, "virtual_size": facts.verdict.virtual_size, "reason": None}
    elif copies.are_same(conn, image.id, image.digests, copy.id):
        copies.drop_digests(conn, image.id, copy.id)
    else:
        raise DigestMismatch("What is at the location is not the image's data")
    if image.importing.job == job.id:
        changes |= _activated(job, facts) | {"stores": [copy.store], "importing": Importing()}
    image = images.save(conn, image, msgspec.structs.replace(image, **changes))
    kind = "image.activate" if inspected.status == "importing" else "image.update"
    events.add(conn, ctx, kind, image, f"verified in store {copy.store}")
    return {}


def _activated(job: Job, facts: Facts) -> dict[str, Any]:
    """What an image is shown with that a location makes active: the digest that it was added with, else ours."""
    wanted = job.input["request"].get("validation_data", {})
    algo, value = wanted.get("os_hash_algo", facts.os_hash_algo), wanted.get("os_hash_value", facts.os_hash_value)
    return {"status": "active", "checksum": facts.checksum, "os_hash_algo": algo, "os_hash_value": value}


def _require_as_said(image: Image, facts: Facts) -> None:
    """Raises DigestMismatch unless data is what a patch has said of it."""
    said = (image.size, image.checksum, image.os_hash_value)
    for name, given, found in zip(
        ("size", "checksum", "os_hash_value"), said, (facts.size, facts.checksum, facts.os_hash_value), strict=True
    ):
        if given is not None and given != found:
            raise DigestMismatch(f"The {name} of what is at the location is {found}, and not the {given} that the image says")
