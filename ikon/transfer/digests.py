"""The digests of an image: md5 and the multihash that clients check, and BLAKE3 of each MiB that this server checks before it sends."""

import hashlib
from collections.abc import Sequence

import blake3

from ikon.stores.base import Buffer

BLOCK = 1 << 20  #: Bytes under one block digest
GIB_BLOCKS = 1024
DIGEST = 32
#: The multihash of new images.
ALGORITHM = "sha512"


class Md5:
    """The `checksum` of an image."""

    def __init__(self) -> None:
        self._hash = hashlib.md5(usedforsecurity=False)

    def update(self, blocks: Sequence[Buffer]) -> None:
        """Take the next bytes."""
        for block in blocks:
            self._hash.update(block)

    def hex(self) -> str:
        """The digest of all bytes so far."""
        return self._hash.hexdigest()


class Multihash(Md5):
    """The `os_hash_value` of an image."""

    def __init__(self) -> None:
        self._hash = hashlib.new(ALGORITHM)


class BlockDigests:
    """BLAKE3 of each MiB as the bytes pass; full GiBs are handed out as they are complete."""

    def __init__(self) -> None:
        self._hash = blake3.blake3()
        self._room = BLOCK
        self._digests = bytearray()

    def update(self, blocks: Sequence[Buffer]) -> None:
        """Take the next bytes."""
        for block in blocks:
            view = memoryview(block)
            while view:
                part = view[: self._room]
                self._hash.update(part)
                self._room -= len(part)
                view = view[len(part) :]
                if not self._room:
                    self._end_block()

    def _end_block(self) -> None:
        self._digests += self._hash.digest()
        self._hash.reset()
        self._room = BLOCK

    def take_gib(self) -> bytes | None:
        """The digests of a GiB that is complete, once; None while there is none."""
        size = GIB_BLOCKS * DIGEST
        if len(self._digests) < size:
            return None
        full = bytes(self._digests[:size])
        del self._digests[:size]
        return full

    def rest(self) -> bytes:
        """The digests of the last, incomplete GiB. Nothing may follow."""
        if self._room < BLOCK:
            self._end_block()
        return bytes(self._digests)
