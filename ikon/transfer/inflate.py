"""What unpacks one member of a compressed stream, piece by piece; and that for gzip and deflate, which Python has in another form."""

import zlib
from typing import Protocol


class Decoder(Protocol):
    """Python's own decoders of xz and zstd are such."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing comes out before more is put in."""

    @property
    def unused_data(self) -> bytes:
        """What was put in after the member's end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most max_length bytes of what comes out, with this put in; the rest comes from later calls."""


class Inflate:
    """A Decoder of deflated data. window: zlib's `wbits`, which also says what is around it."""

    def __init__(self, window: int) -> None:
        self._inflate = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """See Decoder."""
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        """See Decoder."""
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Decoder."""
        left = self._inflate.unconsumed_tail
        block = self._inflate.decompress(left + data if left else data, max_length)
        self.needs_input = not self._inflate.unconsumed_tail and len(block) < max_length
        return block


class Stored:
    """A Decoder of bytes that are not packed, of which there are `size`."""

    def __init__(self, size: int) -> None:
        self._missing, self._held = size, b""
        self.eof, self.needs_input, self.unused_data = False, True, b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Decoder."""
        held = self._held + data
        block = held[: min(max_length, self._missing)]
        self._held = held[len(block) :]
        self._missing -= len(block)
        if not self._missing:
            self.eof, self.unused_data, self._held = True, self._held, b""
        self.needs_input = not self._held
        return block
