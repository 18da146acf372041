"""Bring an image's data into stores: staged data into its first ones, or an active image's into more. It is read once, for all of them."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from ikon import log
from ikon.context import Context
from ikon.db import copies, events, images
from ikon.db.copies import Copy
from ikon.formats.inspector import Inspector
from ikon.kit import Kit
from ikon.model.image import FORMATS, Image, Importing
from ikon.model.job import Job
from ikon.model.signature import proof_of, require_same
from ikon.problems import Conflict, DataUnavailable, Problem, StoreFull
from ikon.service.data import drop_staged, new_attempt, record
from ikon.signatures import verifier
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.transfer.attempts import Attempt
from ikon.transfer.intake import Bounds, Facts, lost
from ikon.transfer.outflow import Reader
from ikon.transfer.room import Room, lock, require


class Store:
    """The last step of every import. staged: the data is staged, and makes the image active; otherwise the image has data already."""

    name = "store"

    def __init__(self, *, staged: bool) -> None:
        self._staged = staged

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        job, ctx = work.job, staging.context(work.job)
        assert job.image_id is not None
        attempts = [new_attempt(kit, job.image_id, store) for store in job.input["stores"]]
        tolerant = not job.input["request"]["must_succeed"]
        async with contextlib.AsyncExitStack() as stack:
            for attempt in attempts:
                await stack.enter_async_context(kit.intake.undoing(ctx, attempt))
            rows = [record(kit, attempt, 0) for attempt in attempts]
            rooms = {attempt.store: await kit.intake.rooms.measure(attempt.store) for attempt in attempts}
            image, sources, full = await kit.db.write(self._begin, job, rows, rooms)
            going = [attempt for attempt in attempts if attempt.copy_id not in full]
            reader = await stack.enter_async_context(self._reading(kit, image, sources))
            size = (sources[0] if self._staged else image).size or 0
            inspector = Inspector(image.disk_format or "", image.container_format or "", kit.settings.formats) if self._staged else None
            for attempt in going:
                attempt.reserved = size
            facts = await kit.intake.take_in(
                going[0],
                staging.watched(reader.blocks(), work, size),
                Bounds(size, size),
                inspector,
                witness=verifier(proof_of(job.input), job.image_id) if self._staged else None,
                others=going[1:],
                tolerant=tolerant,
            )
            facts = msgspec.structs.replace(facts, failed=facts.failed | full)
            finish = functools.partial(
                self._finish, ctx=ctx, inspected=image, attempts=attempts, facts=facts, first=going[0], me=kit.lease.id
            )
            await work.end(finish)
        for attempt in attempts:
            if why := facts.failed.get(attempt.copy_id):
                await kit.intake.leave_behind(ctx, attempt, why)
        if self._staged:
            await kit.intake.remove(msgspec.structs.replace(sources[0], state="deleting"))
        log.get().info("image stored", image=image.id, stores=",".join(job.input["stores"]), size_bytes=size, job=job.id)

    def _begin(
        self, conn: Connection, job: Job, rows: Sequence[Copy], rooms: Mapping[str, Room]
    ) -> tuple[Image, list[Copy], dict[str, Problem]]:
        """The image, its data, and why attempts do not begin, by copy id, where some may fail."""
        image = images.lock(conn, job.image_id or "")
        if image is None:
            raise lost(conn, job.image_id or "")
        sources = [staging.find(conn, job)[1]] if self._staged else copies.of_image(conn, image.id)
        project, size = image.owner or job.project, (sources[0] if self._staged else image).size or 0
        full: dict[str, Problem] = {}
        lock(conn, rooms.values())
        for row in rows:
            try:
                require(conn, rooms[row.store], size, image.id)
            except StoreFull as problem:
                if job.input["request"]["must_succeed"] or len(full) + 1 == len(rows):
                    raise
                full[row.id] = problem
            else:
                copies.intend(conn, msgspec.structs.replace(row, project=project, reserved=size))
        return image, sources, full

    def _reading(self, kit: Kit, image: Image, sources: list[Copy]) -> contextlib.AbstractAsyncContextManager[Reader]:
        return kit.outflow.reading_staged(image, sources[0]) if self._staged else kit.outflow.reading(image, sources, [])

    def _finish(
        self,
        conn: Connection,
        job: Job,
        *,
        ctx: Context,
        inspected: Image,
        attempts: Sequence[Attempt],
        facts: Facts,
        first: Attempt,
        me: str,
    ) -> dict[str, Any]:
        image = images.lock(conn, job.image_id or "")
        good = [attempt for attempt in attempts if attempt.copy_id not in facts.failed]
        if image is None or not all(copies.finish(conn, attempt.copy_id, me, facts.size) for attempt in good):
            raise lost(conn, job.image_id or "")
        before = [] if self._staged else image.stores  # a location that was refused before is dropped
        changes: dict[str, Any] = {"stores": [*before, *(attempt.store for attempt in good)]}
        changes["importing"] = Importing(None, [], [attempt.store for attempt in attempts if attempt not in good], known=True)
        if self._staged:
            assert facts.verdict is not None
            if any(getattr(image, name) != getattr(inspected, name) for name in FORMATS):  # which may be patched while an import runs
                raise Conflict("The image's formats were changed while its data was looked at. Import it again")
            require_same(image.properties, proof_of(job.input))
            changes |= {"status": "active", "size": facts.size, "checksum": facts.checksum, "digests": first.copy_id, "reason": None}
            changes |= {"os_hash_algo": facts.os_hash_algo, "os_hash_value": facts.os_hash_value}
            changes["virtual_size"] = facts.verdict.virtual_size
            drop_staged(conn, image.id)
        elif not copies.are_same(conn, image.id, image.digests, first.copy_id):
            raise DataUnavailable(f"What was read of image {image.id} is not what its digests say")
        else:
            copies.drop_digests(conn, image.id, first.copy_id)  # the first copy's say the same of the same bytes
        image = images.save(conn, image, msgspec.structs.replace(image, **changes))
        for attempt in attempts:
            if why := facts.failed.get(attempt.copy_id):
                events.failed(conn, ctx, "image.store.failed", image, why, **events.job_facts(job), store=attempt.store)
        events.add(conn, ctx, "image.activate" if self._staged else "image.update", image, f"stored in {', '.join(changes['stores'])}")
        return {}
