"""Image data on its way in: from a stream into one store, with its digests; and the way back when that fails.

Undoing claims first: one transaction takes the copy from writing to deleting and the image from saving to queued. Only who wins that
deletes bytes, then the row. Losing it means that the other side won: touch nothing.
"""

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection

from ikon import log, metrics
from ikon.context import Context
from ikon.db import copies, events, images, instances
from ikon.db.copies import Copy
from ikon.db.engine import Database
from ikon.db.lease import Lease
from ikon.formats.inspector import Inspector, Verdict
from ikon.model.image import Image
from ikon.problems import (
    BadRequest,
    DatabaseDown,
    ImageDeleted,
    ImageRefused,
    ImageTooLarge,
    Interrupted,
    LeaseLost,
    Problem,
    QuotaExceeded,
    ServerFailed,
    StoreFull,
    Unavailable,
)
from ikon.stores.base import Buffer
from ikon.stores.registry import Stores
from ikon.threads import Pool, outcome
from ikon.transfer.attempts import Attempt, Attempts, deleted
from ikon.transfer.budget import Budget
from ikon.transfer.digests import ALGORITHM, BlockDigests, Md5, Multihash
from ikon.transfer.pump import Consumer, Pump
from ikon.transfer.rests import Rests
from ikon.transfer.room import Room, Rooms, require

#: Statuses of images whose data comes in with a request, which goes back to queued when that fails.
TAKING_IN = ("saving", "uploading")
#: Bytes by which the promise to an attempt of unknown length grows.
GROW = 64 << 20
#: Seconds that an answer waits for bytes to be deleted; after that the reaper goes on.
INLINE_S = 2.0
#: Seconds before bytes whose deletion failed are tried again: doubled with every try, up to the second number.
BACK_OFF_S = (5, 600)
#: Seconds after which the names of a process that may still be alive are looked at once more.
SECOND_LOOK_S = 600


class Witness(Protocol):
    """Sees all data, on a thread, and has its say before it is kept."""

    def update(self, batch: Sequence[Buffer], /) -> None:
        """Take some of the data."""

    def end(self) -> object:
        """All has come. Raises a Problem for data that is not to be kept."""


Watcher = Inspector | Md5 | BlockDigests | Witness


class Facts(msgspec.Struct, frozen=True):
    """What is known of an image once its bytes are stored. size: bytes. verdict: None when they were not inspected.

    checksum, os_hash_value: empty where they were not inspected: such bytes have the digests of their blocks alone.
    failed: why attempts did not take part, by copy id.
    """

    size: int
    checksum: str
    os_hash_algo: str
    os_hash_value: str
    verdict: Verdict | None
    failed: dict[str, Problem] = {}


class Bounds(msgspec.Struct, frozen=True):
    """How long a stream may be, in bytes. expected: what the client announced, None when it did not. most: the largest image taken."""

    expected: int | None
    most: int


class Intake:
    """Writes attempts, undoes them, and removes copies that are to be deleted."""

    def __init__(self, db: Database, stores: Stores, lease: Lease, buffer_bytes: int) -> None:
        self._db, self._stores, self._lease = db, stores, lease
        self.attempts = Attempts()
        self.rooms = Rooms(db, stores, lease.node)
        self.rests = Rests()
        self.budget = Budget(buffer_bytes)
        metrics.BUFFERED.set_function(lambda: self.budget.used)
        self.pool = Pool("digests", 4)

    @contextlib.asynccontextmanager
    async def undoing(self, ctx: Context, attempt: Attempt) -> AsyncIterator[Attempt]:
        """Run one attempt. Whatever ends it early, its bytes and its row go and the image is queued again, with the reason."""
        with self.attempts.running(attempt):
            try:
                yield attempt
            except BaseException as failure:
                metrics.UPLOADS_UNDONE.inc()
                if isinstance(failure, ImageRefused):
                    metrics.REFUSED.labels(type(failure).__name__).inc()
                if isinstance(failure, StoreFull):
                    log.get().warning("no room", image=attempt.image_id, why=str(failure), because=failure.because)
                taken_away = await outcome(self._undo(ctx, attempt, _why(failure)))
                if taken_away and isinstance(failure, Unavailable):
                    raise taken_away from failure  # what failed, failed because others had removed our file: that is no news for a client
                raise

    async def _undo(self, ctx: Context, attempt: Attempt, why: Problem) -> Problem | None:
        """Undo an attempt that failed. Returns why it had been taken from this process before, if it had."""
        try:
            await self._lease.held()
            claim = await self._db.write(_give_up, ctx, attempt.image_id, attempt.copy_id, self._lease.id, why)
        except Problem as problem:
            log.get().warning("undo put off", image=attempt.image_id, copy=attempt.copy_id, because=str(problem))
            claim = None  # the row names us, and we are alive: the reaper of this process tries again
        if attempt.writer is not None and claim != "finished" and not (claim is None and attempt.stored):
            with contextlib.suppress(Problem):
                await (
                    attempt.writer.abort()
                )  # these names are this attempt's alone: right whoever won, unless they may be an image's by now
        if claim in ("claimed", "condemned") and (copy := await self._db.read(copies.get, attempt.copy_id)):
            await self.remove(copy)
        return await self._db.read(lost, attempt.image_id) if claim == "condemned" else None

    async def leave_behind(self, ctx: Context, attempt: Attempt, why: Problem) -> None:
        """Undo one of several attempts, the others having gone well."""
        await outcome(self._undo(ctx, attempt, why))

    async def undo_forgotten(self, copy: Copy) -> None:
        """Undo an attempt of this process that no task runs any more, because its undoing could not be done at the time."""
        why = DatabaseDown("the upload broke off while the server could not reach its database; upload again")
        await self._undo(Context(user="reaper"), Attempt(copy.image_id, copy.id, copy.store, copy.url), why)

    async def take_in(
        self,
        attempt: Attempt,
        blocks: AsyncIterable[bytes],
        bounds: Bounds,
        inspector: Inspector | None = None,
        *,
        witness: Witness | None = None,
        others: Sequence[Attempt] = (),
        tolerant: bool = False,
    ) -> Facts:
        """Store a stream and make it durable. What was not promised to the attempt before is now, and of unknown length as it comes.

        inspector: None where the bytes are an image's already, or none's yet. witness: who else has to agree. others: more attempts for the
        same bytes, each in a store of its own and with its promise; the digests of blocks are kept under the first. tolerant: go on while
        one store takes the data; Facts.failed says which do not.

        Raises what the witness does, BadRequest for a length that is not the announced one, ImageTooLarge, QuotaExceeded, FormatMismatch,
        UnsafeImage, StoreFull, RoomPromised, StoreDenied, StoreDown, ClientGone, and ImageDeleted when the first attempt is stopped.
        """
        block_digests = BlockDigests()
        watchers: list[Watcher] = [block_digests]
        # most of the CPU that there is to it, and of use for an image's record alone
        whole = (Md5(), Multihash()) if inspector else None
        if whole:
            watchers.insert(0, whole[0])
        if inspector:
            watchers.insert(0, inspector)  # in the same hop to a thread, which costs more than the inspector does
        if witness:
            watchers.insert(0, witness)
        await self.reserve(attempt, bounds.expected or 0)
        outlets = _Outlets((attempt, *others), tolerant=tolerant)
        await outlets.each(lambda each: outcome(self._begin(each, bounds.expected)))

        async def digest(batch: Sequence[Buffer]) -> None:
            await self.pool.run(_update_all, watchers, batch)
            while (full := block_digests.take_gib()) is not None:
                await self._keep_digests(attempt, gibs, full)

        gibs = itertools.count()
        consumers: list[Consumer] = [*outlets.consumers(), digest]
        if whole:
            multihash = whole[1]
            consumers.append(lambda batch: self.pool.run(multihash.update, batch))
        pump = Pump(self.budget, consumers)
        grow = functools.partial(self._grow, attempt) if bounds.expected is None else None
        size = await attempt.unless_stopped(pump.run(_counted(blocks, bounds, grow)))
        if bounds.expected is not None and size != bounds.expected:
            raise BadRequest(f"Size mismatch: expected {bounds.expected} bytes, got {size} bytes")
        verdict = await self.pool.run(inspector.end) if inspector else None
        if witness:
            await self.pool.run(witness.end)
        if rest := block_digests.rest():
            await self._keep_digests(attempt, gibs, rest)
        await self._lease.held()
        attempt.check()
        await outlets.each(_commit)
        checksum, value = (digest.hex() for digest in whole) if whole else ("", "")
        return Facts(size, checksum, ALGORITHM, value, verdict, {each.copy_id: why for each, why in outlets.failed.items()})

    async def take_made(self, attempt: Attempt, make: Callable[[Path], Awaitable[None]]) -> Facts:
        """Have a file made by somebody else become an attempt's bytes: read, digested and made durable. Raises as `make` and `take_in`."""
        store: Any = self._stores[attempt.store]
        await attempt.unless_stopped(make(store.place(attempt.url)))
        attempt.reserved = 1 << 62  # nothing more comes
        attempt.writer = writer = await outcome(store.adopt(attempt.url))
        return await self.take_in(attempt, writer.blocks(), Bounds(None, 1 << 62))

    async def reserve(self, attempt: Attempt, wanted: int) -> int:
        """Promise an attempt so many bytes in its store in all, unless it has them. Returns what it has.

        Raises StoreFull, RoomPromised, QuotaExceeded, and what `lost` does.
        """
        if wanted > attempt.reserved:
            room = await self.rooms.measure(attempt.store)
            await self._db.write(_reserve, attempt, self._lease.id, wanted, room)
            attempt.reserved = wanted
        return attempt.reserved

    async def _grow(self, attempt: Attempt, total: int) -> int:
        """More room: generously while there is some, to the byte at the end of it."""
        if total <= attempt.reserved:
            return attempt.reserved
        try:
            return await self.reserve(attempt, total + GROW)
        except (QuotaExceeded, StoreFull):
            return await self.reserve(attempt, total)

    async def _begin(self, attempt: Attempt, size: int | None) -> None:
        """Open the attempt's writer. Never abandoned: whoever undoes the attempt has to know what it opened."""
        if attempt.writer is None:
            attempt.writer = await self._stores[attempt.store].create(attempt.url, size)

    async def _keep_digests(self, attempt: Attempt, gibs: Iterator[int], digests: bytes) -> None:
        await self._db.write(copies.add_digests, attempt.image_id, attempt.copy_id, next(gibs), digests)

    async def remove(self, copy: Copy) -> bool:
        """Delete the bytes of a copy in deleting, then its row. What takes over 2 s is left to the reaper. True when all is gone.

        A store that has just failed to delete something is left alone: one that is down costs a try now and then, not one for each copy.
        """
        gone = await self._delete_bytes(copy)
        if gone:
            return await self._db.write(_gone, copy)
        if gone is False:
            wait_s = min(BACK_OFF_S[0] << min(copy.tries, 10), BACK_OFF_S[1])
            await self._db.write(copies.release, copy.id, wait_s * 1000)
        return False

    async def remove_of_unproven(self, copy: Copy) -> None:
        """Delete the bytes of a copy whose process may only be paused; its row stays for a second look: it might begin its file late."""
        if await self._delete_bytes(copy) is not None:
            await self._db.write(copies.release, copy.id, SECOND_LOOK_S * 1000)

    async def _delete_bytes(self, copy: Copy) -> bool | None:
        """Whether a copy's bytes are gone by now; None: that was not tried, for it is not for this process, or its store rests."""
        store = self._stores.find(copy.store)
        if store is None or (store.local and copy.node != self._lease.node) or self.rests.resting(copy.store):
            return None
        try:
            await self._lease.held()
        except Problem:
            return None
        try:
            await asyncio.wait_for(outcome_of(store.delete(copy.url)), INLINE_S)
        except (Problem, TimeoutError) as problem:
            rest_s, why = self.rests.failed(copy.store), str(problem) or "timed out"
            log.get().warning("bytes not deleted yet", store=copy.store, copy=copy.id, store_again_in_s=rest_s, because=why)
            return False
        self.rests.worked(copy.store)
        return True

    def close(self) -> None:
        """Let the threads go."""
        self.pool.close()


async def _commit(attempt: Attempt) -> None:
    assert attempt.writer is not None
    await outcome(attempt.writer.commit())
    attempt.stored = True


class _Outlets:
    """The stores that one stream goes to. tolerant: one that fails is left behind, as long as another goes on."""

    def __init__(self, attempts: Sequence[Attempt], *, tolerant: bool) -> None:
        self._attempts, self._tolerant = attempts, tolerant
        self.failed: dict[Attempt, Problem] = {}

    async def each(self, do: Callable[[Attempt], Awaitable[None]]) -> None:
        """Do one thing to every attempt that goes on, one after the other."""
        for attempt in self._attempts:
            if attempt not in self.failed:
                await self._guarded(attempt, lambda attempt=attempt: do(attempt))  # type: ignore[misc]

    def consumers(self) -> list[Consumer]:
        """What takes the stream, for each attempt."""
        return [functools.partial(self._write, attempt) for attempt in self._attempts if attempt not in self.failed]

    async def _write(self, attempt: Attempt, batch: Sequence[bytes]) -> None:
        if attempt not in self.failed:
            assert attempt.writer is not None
            await self._guarded(attempt, lambda: attempt.writer.write(batch))  # type: ignore[union-attr]

    async def _guarded(self, attempt: Attempt, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except Problem as problem:
            if not self._tolerant or len(self.failed) + 1 == len(self._attempts):
                raise
            self.failed[attempt] = problem
            log.get().warning("store left behind", image=attempt.image_id, store=attempt.store, because=str(problem))


async def outcome_of(work: Awaitable[None]) -> None:
    """Wait for work that goes on by itself when the waiting is given up."""
    await asyncio.shield(asyncio.ensure_future(work))


def _update_all(watchers: Sequence[Watcher], batch: Sequence[Buffer]) -> None:
    for watcher in watchers:
        watcher.update(batch)


async def _counted(blocks: AsyncIterable[bytes], bounds: Bounds, grow: Callable[[int], Awaitable[int]] | None) -> AsyncIterator[bytes]:
    """The stream, ended by a problem at the first byte too many."""
    total, room = 0, 0
    async for block in blocks:
        total += len(block)
        if bounds.expected is not None and total > bounds.expected:
            raise BadRequest(f"Size exceeds: expected {bounds.expected} bytes, got {total} bytes")
        if total > bounds.most:
            raise ImageTooLarge(f"The incoming image is too large: it passed the limit of {bounds.most} bytes")
        if grow is not None and total > room:
            room = await grow(total)
        metrics.RECEIVED.inc(len(block))
        yield block


def _reserve(conn: Connection, attempt: Attempt, me: str, wanted: int, room: Room) -> None:
    require(conn, room, wanted - attempt.reserved, attempt.image_id)
    if not copies.reserve(conn, attempt.copy_id, me, wanted):
        raise lost(conn, attempt.image_id)


def lost(conn: Connection, image_id: str) -> ImageDeleted | Unavailable:
    """Why an attempt that was ours is ours no more."""
    if images.get(conn, image_id) is None:
        return deleted(image_id)
    return LeaseLost("The server lost touch with its database for too long, and the upload was given up. Upload again", retry_after_s=1)


def _give_up(conn: Connection, ctx: Context, image_id: str, copy_id: str, me: str, why: Problem) -> str:
    """Claim an attempt for undoing, and queue its image again if it was saving. See copies.claim_undo for what comes back."""
    image = images.lock(conn, image_id)
    claim = copies.claim_undo(conn, copy_id, me)
    if claim == "lost" and image is not None and image.status == "queued" and isinstance(why, (ImageTooLarge, QuotaExceeded)):
        events.failed(conn, ctx, "image.upload.refused", image, why)  # before its first byte, by limits that only those meet who may upload
    refused = claim == "lost" and image is not None and image.status == "queued" and isinstance(why, StoreFull)
    if image is not None and (refused or (claim == "claimed" and image.status in TAKING_IN)):
        queue_again(conn, ctx, image, why)
    return claim


def queue_again(conn: Connection, ctx: Context, image: Image, why: Problem) -> None:
    """Put a locked image whose upload failed back where it was, and keep why."""
    queued = images.move(conn, image, image.status, "queued", reason=str(why)[:1000], size=None)
    events.failed(conn, ctx, "image.upload.failed", queued, why, was=image.status)


def _gone(conn: Connection, copy: Copy) -> bool:
    """The bytes of a copy are gone: so are its row and its charge."""
    copies.forget(conn, copy)
    return True


def _why(failure: BaseException) -> Problem:
    if isinstance(failure, Problem):
        return failure
    text = "the server stopped, or failed, during the upload"
    return ServerFailed(text) if isinstance(failure, Exception) else Interrupted(text)


def take_over(conn: Connection, ctx: Context, copy: Copy) -> bool:
    """Claim the attempt of a dead instance, and queue its image again. False when it is not to be had."""
    image = images.lock(conn, copy.image_id)
    if not copies.claim_ownerless(conn, copy):
        return False
    if image is not None and image.status in TAKING_IN:
        queue_again(conn, ctx, image, instances.why_gone(conn, copy.instance or "", "upload again"))
    return True
