"""What a store is. Whoever writes one reads this page; the suite in tests/contract/stores.py judges it."""

import functools
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from msgspec import Meta, Struct

from ikon.problems import StoreDown
from ikon.threads import Late, Pool

T = TypeVar("T")

Buffer = bytes | bytearray | memoryview


class StoreSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings that every store has."""

    type: Annotated[str, Meta(description="Kind of store.")]
    weight: Annotated[int, Meta(description="Stores of higher weight are read first.")] = 0
    description: Annotated[str, Meta(description="Sentence shown to users who choose a store.")] = ""


class LocalFile:
    """Bytes that this machine can read by a file descriptor. size: bytes in it when it was opened.

    waits: even bytes in memory may have to be waited for, as on a network file system, so that `fd` is used by `run` only.
    """

    def __init__(self, fd: int, reads: Pool) -> None:
        self.fd, self._reads, self.waits = fd, reads, True
        self._lock = threading.Lock()
        self._users = 1  # who opened it, and threads at work in it
        self._wanted = True
        self.size = os.fstat(fd).st_size
        self.waits = _may_wait(fd)

    async def run(self, fn: Callable[..., T], *args: Any) -> T:
        """fn(fd, *args) on a thread of the store. Raises StoreDown when that takes too long, or would: it may then still be at it."""
        try:
            return await self._reads.run(self._call, fn, *args)
        except Late:
            raise StoreDown("The store takes too long") from None

    def _call(self, fn: Callable[..., T], *args: Any) -> T:
        with self._lock:
            if not self._users:
                raise StoreDown("The file was closed")  # nobody waits for this
            self._users += 1
        try:
            return fn(self.fd, *args)
        finally:
            if self._leave():
                os.close(self.fd)

    def _leave(self) -> bool:
        with self._lock:
            self._users -= 1
            return not self._users

    def close(self) -> None:
        """Let go of it. While a thread hangs in it, it stays open: its number must not become another file's."""
        if self._wanted:
            self._wanted = False
            if self._leave():
                self._reads.leave(functools.partial(os.close, self.fd)) if self.waits else os.close(self.fd)

    def __del__(self) -> None:
        self.close()  # whoever asked for it has left before it was open


def _may_wait(fd: int) -> bool:
    """Whether a file's system cannot promise to give only what it has at hand. Those of this machine's disks can."""
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


class Source(Protocol):
    """Bytes that come over HTTP. size: of the whole, None where it is not told. at: which byte comes next."""

    size: int | None
    at: int

    async def __anext__(self) -> bytes:
        """The next of them, as many as come. Raises SourceProblem."""

    def close(self) -> None:
        """Let the connection go."""


#: Begins to read a URL at a byte. Raises SourceProblem.
Fetch = Callable[[str, int], Awaitable[Source]]


class Remote(Protocol):
    """Bytes that this machine has to ask for. size: how many there are. For one reader at a time."""

    size: int

    async def read(self, offset: int, length: int) -> bytes:
        """Some of them, fewer only where they end. What lies behind what was read last comes quickest. Raises CopyMissing, StoreDown."""

    def close(self) -> None:
        """Let go of them."""


class Usage(NamedTuple):
    """Room in a store, in bytes; None where the store cannot tell."""

    free: int | None
    total: int | None


class Found(NamedTuple):
    """Something that lies in a store: its URL, and whether it is a finished copy or what an attempt left."""

    url: str
    finished: bool


class Writer(Protocol):
    """One attempt to store one image's bytes."""

    async def write(self, blocks: Sequence[Buffer]) -> None:
        """Take these blocks, in order; they belong to the caller again on return. Raises StoreFull, StoreDenied, StoreDown."""

    async def commit(self) -> None:
        """After this, and only after this, the bytes can be read and survive a power cut. Raises as `write` does."""

    async def abort(self) -> None:
        """Nothing stays behind. May be called after any failure, and twice."""


class Store(Protocol):
    """A place for image bytes. Every call is safe from any task; calls that block run on the store's own bounded threads."""

    settings: StoreSettings
    #: Whether Ikon writes and deletes nothing there.
    read_only: bool
    #: Whether only the node that wrote a copy can reach its bytes.
    local: bool
    #: What stores that take from the same room have in common; None: this one has its own.
    disk: object | None

    def url(self, image_id: str, copy_id: str) -> str:
        """Where an attempt's bytes will be: known, and committed, before the first of them is written. Holds no secret."""

    def claims(self, url: str) -> bool:
        """Whether a URL names a place in this store where somebody else may have put an image's bytes. Never one of Ikon's own making."""

    async def create(self, url: str, size: int | None) -> Writer:
        """Begin an attempt under its URL. size: bytes expected, None when not known. Raises StoreFull, StoreDenied, StoreDown."""

    async def open(self, url: str) -> LocalFile | Remote:
        """The bytes under a URL. Raises CopyMissing, StoreDown."""

    async def delete(self, url: str) -> None:
        """Make sure that nothing lies under the URL, finished or not, and that this survives a power cut. Raises StoreDown."""

    def list(self) -> AsyncIterator[Found]:
        """Everything in the store that looks like a copy, in no order."""

    async def usage(self) -> Usage:
        """Room in the store. Raises StoreDown."""

    async def written(self, urls: Sequence[str]) -> Sequence[int]:
        """Bytes of each of these attempts that `usage` counts as taken by now. Raises StoreDown."""

    def details(self) -> dict[str, Any]:
        """Properties of the store that an administrator may see."""

    def close(self) -> None:
        """Let go of threads and connections. Does not wait for a hung store."""


class CopyMissing(Exception):
    """The store has nothing under this URL."""
