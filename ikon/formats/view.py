"""What a detector sees of a stream, and what it answers."""

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from ikon.config import Formats

#: Bytes kept of the start of a stream. The last thing that a sound image has there is VHDX's second region table, which ends at 320 KiB.
HEAD = 512 << 10
#: Bytes kept of the end of a stream: the longest thing there is VMDK's footer with its markers, 1536 bytes.
TAIL = 2048
#: Bytes of the further stretch that a detector may ask for.
EXTRA = 128 << 10
SECTOR = 512
REASONS = 5


class Short(Exception):
    """The stream ends, or what was kept of it does, before something that its format needs."""


class View(msgspec.Struct):
    """What was kept of a stream.

    head: its first HEAD bytes, fewer if it is shorter. size (bytes) and tail: known at its end only; None and empty before.
    extra: the bytes from extra_at on that a detector asked for, as far as they have come.
    """

    head: bytearray
    size: int | None = None
    tail: bytes = b""
    extra_at: int = 0
    extra: bytes | bytearray = b""

    def unpack(self, form: str, at: int) -> tuple[Any, ...]:
        """Numbers from the head. Raises Short."""
        try:
            return struct.unpack_from(form, self.head, at)
        except struct.error:
            raise Short from None

    def take(self, at: int, length: int) -> bytes:
        """Bytes from the head. Raises Short."""
        if not 0 <= at <= at + length <= len(self.head):
            raise Short
        return bytes(self.head[at : at + length])

    def has(self, text: bytes, at: int = 0) -> bool:
        """Whether these bytes are there, in the head."""
        return self.head[at : at + len(text)] == text

    def beyond(self, end: int) -> bool:
        """Whether something that ends at `end` is known to lie beyond the end of the stream."""
        return self.size is not None and end > self.size


class Match(msgspec.Struct):
    """A format that was recognised.

    virtual_size: bytes of the disk inside; None where the format does not tell. refusals: why such an image is not taken, in words for
    its owner. short: the stream ends inside the header. whole_disk: the bytes are a disk's from the first on, so that they may well begin
    with a partition table. wants: offset and length of bytes beyond the head without which no judgement is possible.
    """

    format: str
    virtual_size: int | None = None
    refusals: list[str] = []
    short: bool = False
    whole_disk: bool = False
    wants: tuple[int, int] | None = None

    def refuse(self, when: Any, reason: str) -> None:
        """Note a reason, once, if the condition holds. A handful is enough for a person."""
        if when and len(self.refusals) < REASONS and reason not in self.refusals:
            self.refusals.append(reason)

    def limit(self, size: int, rules: Formats) -> None:
        """Take a virtual size in bytes, unless it is absurd."""
        self.virtual_size = size
        self.refuse(
            size > rules.virtual_size_max_gib << 30,
            f"the virtual size of {size} bytes is over the limit of {rules.virtual_size_max_gib} GiB",
        )


#: Sees a stream and says whether it is of its format. May raise Short once it has seen its format's mark. Called again when more is known.
Detector = Callable[[View, Formats], Match | None]
