"""Compressed data unpacked as it passes: gzip, xz, zstd, or a zip archive of one file. What comes out is counted, and not unpacked again.

Nothing that the data says of its own size is believed, and nothing in it names a file here.
"""

import contextlib
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

from ikon.config import MIB
from ikon.formats.packed import MAGICS
from ikon.problems import ImageTooLarge, PackedDataRefused
from ikon.threads import Pool
from ikon.transfer.inflate import Decoder, Inflate
from ikon.transfer.zipped import Zip

FORMS = ("gzip", "xz", "zstd", "zip")
#: Bytes of a block that comes out, at most.
BLOCK = MIB
#: Bytes that are worth a hop to a thread, and bytes for a decoder at once: it copies what it does not need yet.
GATHER, PIECE = 256 * 1024, 32 * 1024
#: Times its packed size that unpacked data may have, once that is over FREE bytes.
RATIO_MOST, FREE = 200, 64 * MIB
#: Members that may follow each other (parallel packers make many), and bytes that each further one holds on average: one of 9 bytes was
#: measured to cost 40 us.
MEMBERS_FREE, MEMBER_BYTES = 1000, 4096
#: Bytes of memory that a decoder may take, as a power of 2: what `zstd` takes unless told otherwise, twice what `xz -9` asks for.
MEMORY_LOG = 27


def _ways(form: str) -> tuple[Callable[[], Decoder], type[Exception]]:
    """What makes a decoder of one member, and what that raises when the data is damaged. Imports what only this form needs."""
    if form == "gzip":
        return lambda: Inflate(zlib.MAX_WBITS | 16), zlib.error
    if form == "zip":
        return Zip, zlib.error
    if form == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << MEMORY_LOG), lzma.LZMAError
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return lambda: zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: MEMORY_LOG}), zstd.ZstdError


async def unpack(blocks: AsyncIterable[bytes], pool: Pool, most: int) -> AsyncIterator[bytes]:
    """The unpacked data in blocks of at most 1 MiB, not more than `most` bytes of it. The work is done on the pool's threads.

    What has come out counts only once the iterator has ended: some refusals are known last. Holds about 2 MiB, and 128 MiB at most of what
    a decoder needs. Raises PackedDataRefused, ImageTooLarge.
    """
    unpacking = _Unpacking(most)
    async with contextlib.aclosing(_gathered(blocks)) as gathered:
        async for data in gathered:
            unpacking.feed(data)
            while block := await pool.run(unpacking.take):
                yield block
    unpacking.end()


async def _gathered(blocks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    held = bytearray()
    async for block in blocks:
        held += block
        if len(held) >= GATHER:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


class _Unpacking:
    """One stream under way. The first data fed tells its form."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._form = ""
        self._decoder: Decoder | None = None  # None between members
        self._fed = memoryview(b"")
        self._left = b""  # of what was fed, behind the end of a member
        self._head = b""
        self._fresh = True  # nothing has come out of this member
        self._members = self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> None:
        """Give it the next bytes, once `take` has nothing more. Raises PackedDataRefused."""
        if not self._form:
            self._form = next((form for form in FORMS if data.startswith(MAGICS[form])), "")
            if not self._form:
                raise PackedDataRefused("The data is not compressed in a way that is known here")
            self._make, self._error = _ways(self._form)
        self._fed = memoryview(data)

    def take(self) -> bytes:
        """Up to a block of unpacked bytes; none when it has to be fed. Raises PackedDataRefused, ImageTooLarge."""
        taken: list[bytes] = []
        room = BLOCK
        while room and (decoder := self._current()):
            data = self._next() if decoder.needs_input else b""
            if not data and decoder.needs_input:
                break
            block = self._decode(decoder, data, room)
            if block:
                self._count(block)
                taken.append(block)
                room -= len(block)
            if decoder.eof:
                self._decoder, self._left = None, decoder.unused_data
        return b"".join(taken)

    def end(self) -> None:
        """Nothing more will be fed. Raises PackedDataRefused when something is missing."""
        if self._decoder or not self._members:
            raise PackedDataRefused(f"The {self._form} data ends too early" if self._form else "There is no data to unpack")

    def _current(self) -> Decoder | None:
        """The decoder at work, or one for a member that follows; None when there is nothing to do."""
        if self._decoder is None and (self._left or self._fed):
            if self._members and self._form == "zip":
                raise self._trailing()
            self._members += 1
            if self._members > MEMBERS_FREE + self._unpacked // MEMBER_BYTES:
                raise PackedDataRefused(f"The {self._form} data is made of too many small parts, of under {MEMBER_BYTES} bytes each")
            self._decoder, self._fresh = self._make(), True
        return self._decoder

    def _next(self) -> bytes:
        if self._left:
            data, self._left = self._left, b""
        else:
            data, self._fed = bytes(self._fed[:PIECE]), self._fed[PIECE:]
            self._packed += len(data)
        return data

    def _decode(self, decoder: Decoder, data: bytes, room: int) -> bytes:
        try:
            return decoder.decompress(data, room)
        except self._error as error:
            if "memory" in str(error).lower():
                raise PackedDataRefused(f"The {self._form} data takes more than {1 << MEMORY_LOG - 20} MiB of memory to unpack") from None
            if self._members > 1 and self._fresh:
                raise self._trailing() from None
            raise PackedDataRefused(f"The {self._form} data is damaged") from None

    def _trailing(self) -> PackedDataRefused:
        return PackedDataRefused(f"The {self._form} data is followed by something else")

    def _count(self, block: bytes) -> None:
        """Hold what has come out against what may."""
        self._fresh = False
        self._unpacked += len(block)
        if self._unpacked > self._most:
            raise ImageTooLarge(f"The unpacked image is larger than the {self._most} bytes that are allowed")
        if self._unpacked > max(FREE, RATIO_MOST * self._packed):
            raise PackedDataRefused(f"The {self._form} data unpacks to more than {RATIO_MOST} times its size")
        if len(self._head) < len(MAGICS["xz"]):
            self._head += block[: len(MAGICS["xz"])]
            inner = next((form for form, magic in MAGICS.items() if self._head.startswith(magic)), None)
            if inner:
                raise PackedDataRefused(f"The {self._form} data holds {inner} data, and only one layer is unpacked")
