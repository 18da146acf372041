"""Image data on its way out: block by block, each checked against its digest before it is sent, from whichever copy has it right.

A copy that gives a wrong, short or no block is marked suspect and left; one whose store takes too long is left as it is. The same block is
read from another. When no copy has it, the answer is a 503 if nothing was sent yet, and a broken connection if something was: never a
wrong byte, never a silent end.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import blake3
import msgspec
from sqlalchemy import Connection

from ikon import log, metrics
from ikon.context import Context
from ikon.db import copies, events, images
from ikon.db.copies import READABLE, Copy
from ikon.db.engine import Database
from ikon.model.image import Image
from ikon.problems import DataUnavailable, ImageNotFound, NotVerified, Problem, StoreDown
from ikon.stores.base import CopyMissing, LocalFile, Remote
from ikon.stores.registry import Stores
from ikon.transfer.digests import BLOCK, DIGEST, GIB_BLOCKS

#: Bytes read at once while checking: little enough to stay in a core's cache between the read and the digest.
PIECE = 256 * 1024
#: Seconds for which a checked block may be sent; a slow reader's block is checked again.
FRESH_S = 5.0
#: Blocks checked in one go while others are being sent: 16 cost 0.40 CPU s/GiB in all, 2 cost 0.55, for each hop to a thread has its price.
AHEAD = 16

#: Reads of the database at once for downloads; any number made a list that comes with 500 of them wait for twice as much work.
LOOK_UPS = 4

#: Seconds after which a client may ask again for data that is being read for the first time.
NOT_VERIFIED_S = 5

#: A client that takes longer than this for a MiB is sent smaller pieces, so that what it gets has been checked not long ago.
SLOW_S, SLOW_PIECE = 1.0, 64 * 1024

P = ParamSpec("P")
T = TypeVar("T")


class SendFile(Protocol):
    """Sends `count` bytes of a file from an offset; returns how many it sent, fewer only when the file ended."""

    async def __call__(self, fd: int, offset: int, count: int, *, elsewhere: Any = None) -> int:
        """elsewhere: `LocalFile.run` of a file that the event loop must not touch. Raises what that raises, and OSError."""


class SendBytes(Protocol):
    """Sends bytes, once those before have left."""

    async def __call__(self, data: bytes) -> None:
        """Raises ClientGone."""


class Outflow:
    """Opens images for reading."""

    def __init__(self, db: Database, stores: Stores, node: str) -> None:
        self._db, self._stores, self._node = db, stores, node
        self._looking_up = asyncio.Semaphore(LOOK_UPS)

    async def look_up(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Read from the database for a download: a few at a time, so that a crowd of them does not stand before everyone else there."""
        async with self._looking_up:
            return await self._db.read(fn, *args, **kwargs)

    @contextlib.asynccontextmanager
    async def reading_staged(self, image: Image, staged: Copy) -> AsyncIterator["Reader"]:
        """A reader of data that is not an image's yet."""
        reader = Reader(self, self._db, self._stores, msgspec.structs.replace(image, digests=staged.id, size=staged.size), [staged])
        try:
            yield reader
        finally:
            reader.close()

    @contextlib.asynccontextmanager
    async def reading(self, image: Image, found: Sequence[Copy], prefer: Sequence[str]) -> AsyncIterator["Reader"]:
        """A reader of an active image. prefer: stores to try first; then by weight, sound copies before suspect ones."""
        order = sorted(
            (c for c in found if c.state in READABLE and c.store in self._stores.all and (c.node is None or c.node == self._node)),
            key=lambda c: (
                c.store not in prefer,
                prefer.index(c.store) if c.store in prefer else 0,
                c.state,
                -self._stores.weight(c.store),
            ),
        )
        reader = Reader(self, self._db, self._stores, image, order, unchecked=any(c.state == "unchecked" for c in found))
        try:
            yield reader
        finally:
            reader.close()


class Reader:
    """One read of one image, whole or in part."""

    def __init__(self, outflow: Outflow, db: Database, stores: Stores, image: Image, order: list[Copy], *, unchecked: bool = False) -> None:
        """unchecked: there is a place besides which nobody has read yet."""
        self._outflow, self._db, self._stores, self._image, self._order = outflow, db, stores, image, order
        self._unchecked = unchecked
        self._file: LocalFile | Remote | None = None
        self._held, self._data = -1, b""  # the block of a remote copy that is at hand, checked
        self._gib, self._digests = -1, b""

    async def check(self, block: int) -> int:
        """Find a copy whose block is right. Returns how many blocks are: this one. Raises DataUnavailable."""
        return await self._found(_good_blocks, len, block) and 1

    async def send(self, sendfile: SendFile, sendbytes: SendBytes, offset: int, length: int, checked: int) -> None:
        """Send part of the image, of which the first `checked` blocks have just been checked. Raises DataUnavailable, ClientGone."""
        loop = asyncio.get_running_loop()
        end = offset + length
        fresh_until = loop.time() + FRESH_S
        ahead_blocks = 0  # until the client has taken a block: most of a crowd that comes at once will not be that quick
        while offset < end:
            block = offset // BLOCK
            if not checked or loop.time() > fresh_until:
                checked = await self.check(block)
                fresh_until = loop.time() + FRESH_S
            stop = min(end, (block + checked) * BLOCK)
            most = min(ahead_blocks, -(-end // BLOCK) - block - checked)
            if block == self._held:
                stop = min(end, (block + 1) * BLOCK)
                await self._send_held(sendbytes, offset, stop)
                offset, checked = stop, 0
                continue
            ahead = asyncio.ensure_future(self._check_ahead(block + checked, most)) if most else None
            try:
                offset = await self._send_checked(sendfile, offset, stop, fresh_until)
            finally:
                checked_ahead = await ahead if ahead else 0
            if checked_ahead is None:
                checked, ahead_blocks = 0, 0
                self._pass_over("the store takes too long")
            elif offset < stop:
                checked, ahead_blocks = 0, 0  # the client was slow, or the file has shrunk: look again before the rest
            else:
                ahead_blocks = min(2 * ahead_blocks or 1, AHEAD)
                checked, fresh_until = checked_ahead, loop.time() + FRESH_S

    async def _send_held(self, sendbytes: SendBytes, offset: int, stop: int) -> None:
        """Send bytes of the block at hand."""
        first = self._held * BLOCK
        for at in range(offset - first, stop - first, PIECE):
            piece = self._data[at : min(at + PIECE, stop - first)]
            await sendbytes(piece)
            metrics.SENT.inc(len(piece))

    async def _send_checked(self, sendfile: SendFile, offset: int, stop: int, fresh_until: float) -> int:
        """Send bytes that were checked, while that is fresh. Returns where to go on."""
        assert isinstance(self._file, LocalFile)
        loop = asyncio.get_running_loop()
        piece, elsewhere = BLOCK, self._file.run if self._file.waits else None
        while offset < stop and (began := loop.time()) <= fresh_until:
            wanted = min(piece, stop - offset)
            try:
                sent = await sendfile(self._file.fd, offset, wanted, elsewhere=elsewhere)
            except (OSError, StoreDown) as error:  # how much has gone out before it is not known: nothing may follow
                if isinstance(error, OSError):
                    await self._leave_copy(f"it was checked, and then could not be read: {error.strerror}")
                raise DataUnavailable(f"The data of image {self._image.id} could not be read to its end") from error
            offset += sent
            metrics.SENT.inc(sent)
            if sent < wanted:
                break
            piece = BLOCK if loop.time() - began < SLOW_S else SLOW_PIECE
        return offset

    async def blocks(self) -> AsyncIterator[bytes]:
        """The whole image, block by block, each checked. Raises DataUnavailable."""
        for block in range(-(-(self._image.size or 0) // BLOCK)):
            yield await self._found(_good_block, bytes, block)

    async def _found(self, check: Callable[[int, int, bytes, list[int]], T], made: Callable[[bytes], T], block: int) -> T:
        """What a check on a thread finds in the first copy whose block is right, or what is made of the block of one that is remote."""
        while True:
            await self._have_digests(block)
            file = await self._have_file()
            try:
                if isinstance(file, LocalFile):
                    found = await file.run(check, block, self._digests, self._sizes(block, 1))
                else:
                    found = made(await self._hold(file, block))
                if found:
                    return found
            except StoreDown as problem:
                self._pass_over(str(problem))
            except CopyMissing:
                await self._leave_copy("the store has nothing there any more")
            else:
                await self._leave_copy(f"block {block} is wrong or missing")

    async def _hold(self, remote: Remote, block: int) -> bytes:
        """The block, read from a remote copy and kept at hand; empty when it is not what its digest says."""
        if block != self._held:
            self._held, self._data = -1, b""
            data, place = await remote.read(block * BLOCK, self._sizes(block, 1)[0]), block % GIB_BLOCKS * DIGEST
            if blake3.blake3(data).digest() != self._digests[place : place + DIGEST]:  # 0.2 ms: a hop to a thread is not worth it
                return b""
            self._held, self._data = block, data
        return self._data

    async def _check_ahead(self, block: int, most: int) -> int | None:
        """Check the blocks to come in the copy at hand. 0 when they are not right there, which is looked into when they are due; None when
        the store takes too long."""
        if not isinstance(self._file, LocalFile) or block // GIB_BLOCKS != self._gib:
            return 0
        try:
            return await self._file.run(_good_blocks, block, self._digests, self._sizes(block, most))
        except StoreDown:
            return None

    def _sizes(self, block: int, most: int) -> list[int]:
        """Bytes in this block and the next ones that are checked in one go, inside one GiB of digests."""
        size = self._image.size or 0
        last = min(block + most, -(-size // BLOCK), (block // GIB_BLOCKS + 1) * GIB_BLOCKS)
        return [min(BLOCK, size - n * BLOCK) for n in range(block, last)]

    async def _have_digests(self, block: int) -> None:
        gib = block // GIB_BLOCKS
        if gib != self._gib:
            self._digests = await self._outflow.look_up(copies.digests, self._image.id, self._image.digests or "", gib)
            self._gib = gib

    async def _have_file(self) -> LocalFile | Remote:
        while self._file is None:
            if not self._order:
                if await self._db.read(images.get, self._image.id) is None:
                    raise ImageNotFound(self._image.id)  # it was deleted since it was looked up
                if self._unchecked:
                    raise NotVerified(retry_after_s=NOT_VERIFIED_S)
                log.get().error("no intact copy", image=self._image.id)
                raise DataUnavailable(f"No intact copy of image {self._image.id} can be read now")
            copy = self._order[0]
            try:
                self._file = await self._stores[copy.store].open(copy.url)
            except CopyMissing:
                await self._leave_copy("the store has nothing there")
                continue
            except Problem as problem:
                self._pass_over(str(problem))
                continue
            if self._file.size != self._image.size:
                why = f"it has {self._file.size} bytes and should have {self._image.size}"
                await (self._doubt(copy, why) if isinstance(self._file, LocalFile) else self._leave_copy(why))
        return self._file

    async def _leave_copy(self, why: str) -> None:
        """Go on to the next copy, and have this one looked at."""
        await self._doubt(self._order.pop(0), why)
        self.close()

    def _pass_over(self, because: str) -> None:
        """Go on to the next copy, with nothing said against this one but that its store does not answer."""
        log.get().warning("copy cannot be read", image=self._image.id, store=self._order.pop(0).store, because=because)
        self.close()

    async def _doubt(self, copy: Copy, why: str) -> None:
        try:
            if await self._db.write(_suspect, copy, why):
                metrics.SUSPECT.inc()
                log.get().error("copy is suspect", image=self._image.id, store=copy.store, copy=copy.id, because=why)
        except Problem as problem:
            log.get().warning("suspect copy not marked", image=self._image.id, copy=copy.id, because=str(problem))

    def close(self) -> None:
        """Let go of the file at hand."""
        if self._file is not None:
            self._file.close()
            self._file = None


_buffers = threading.local()


def _suspect(conn: Connection, copy: Copy, why: str) -> bool:
    """Mark a copy, and say in the image's timeline what was seen. True for the first who does."""
    if not copies.suspect(conn, copy.id):
        return False
    if (image := images.get(conn, copy.image_id)) is not None:
        seen = DataUnavailable(f"What was read of the copy is not the image's data: {why}")
        events.failed(conn, Context(user="reader"), "image.copy.suspect", image, seen, store=copy.store)
    return True


def _good_blocks(fd: int, first: int, digests: bytes, sizes: list[int]) -> int:
    """How many of the blocks, from the first on, are what their digests say. Runs on a thread, in a buffer that the thread keeps."""
    try:
        buffer = _buffers.piece
    except AttributeError:
        buffer = _buffers.piece = bytearray(PIECE)
    view = memoryview(buffer)
    for block, size in enumerate(sizes, first):
        at, end = block * BLOCK, block * BLOCK + size
        digest = blake3.blake3()
        while at < end:
            try:
                got = os.preadv(fd, [view[: end - at]], at)
            except OSError:
                got = 0
            if not got:
                return block - first
            digest.update(view[:got])
            at += got
        place = block % GIB_BLOCKS * DIGEST
        if digest.digest() != digests[place : place + DIGEST]:
            return block - first
    return len(sizes)


def _good_block(fd: int, block: int, digests: bytes, sizes: list[int]) -> bytes:
    """One block's bytes, or none when they are not what their digest says. Runs on a thread."""
    place = block % GIB_BLOCKS * DIGEST
    try:
        data = os.pread(fd, sizes[0], block * BLOCK)
    except OSError:
        return b""
    return data if blake3.blake3(data).digest() == digests[place : place + DIGEST] else b""
