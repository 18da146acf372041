"""Images as files in one directory: `<image id>.<copy id>`, written as `.part` beside it and published by a rename."""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from msgspec import Meta

from ikon.problems import StartError, StoreDenied, StoreDown, StoreFull
from ikon.stores.base import Buffer, CopyMissing, Found, LocalFile, StoreSettings, Usage, Writer
from ikon.threads import Late, Pool, outcome

T = TypeVar("T")
NAME = re.compile(r"[0-9A-Za-z-]+\.[0-9a-f-]{36}(\.part)?")
PART = ".part"
#: Files that others may have put into the directory for an image: not hidden, and not in the making.
OTHERS = re.compile(r"(?!.*\.part$)[0-9A-Za-z_-][0-9A-Za-z._-]{0,254}")
#: Bytes written between requests to begin writing them to disk, so that the final fsync finds little left.
FLUSH_BYTES = 32 << 20
#: Bytes read at once of a file that is taken over.
READ_BYTES = 256 * 1024
LIBC = ctypes.CDLL(None)
SYNC_FILE_RANGE_WRITE = 2  #: linux/fs.h
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


class FileSettings(StoreSettings, frozen=True, kw_only=True):
    """A directory of a local or mounted file system."""

    path: Annotated[str, Meta(min_length=1, description="Directory of the images; made if it is missing.")]
    shared: Annotated[bool, Meta(description="Whether every node sees this directory, as on a network file system.")] = False
    threads: Annotated[int, Meta(ge=1, description="Reads at work at once, and as many writes and deletions.")] = 4
    read_s: Annotated[
        float, Meta(gt=0, description="Seconds after which a read that does not come back is given up, and another copy is read.")
    ] = 10.0


class FileStore:
    """A directory of image files, each reachable by the node that wrote it, or by all where the directory is shared."""

    Settings = FileSettings
    read_only = False

    def __init__(self, name: str, settings: FileSettings) -> None:
        """Raises StartError when the directory cannot be made or written to."""
        self.name, self.settings, self.local = name, settings, not settings.shared
        self.path = Path(settings.path).absolute()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "not writable", str(self.path))
        except OSError as error:
            raise StartError(
                f"config: stores.{name}.path = {settings.path!r}: {error.strerror}. Name a directory that this user can write to"
            ) from None
        self.disk: object | None = self.path.stat().st_dev
        self._pool = Pool(f"store-{name}", settings.threads)
        self._reads = Pool(f"reads-{name}", settings.threads, settings.read_s)

    def url(self, image_id: str, copy_id: str) -> str:
        """See Store."""
        return f"file://{self.path}/{image_id}.{copy_id}"

    def claims(self, url: str) -> bool:
        """See Store. A file right in the directory, in the one spelling that its path has."""
        name = url.removeprefix(f"file://{self.path}/")
        return name != url and OTHERS.fullmatch(name) is not None and not NAME.fullmatch(name)

    def _file(self, url: str) -> Path:
        """The file that one of our URLs names. Nothing outside the directory can be named."""
        parts = urlsplit(url)
        path = Path(parts.path)
        if (
            parts.scheme != "file"
            or parts.netloc
            or path.parent != self.path
            or not (NAME.fullmatch(path.name) or OTHERS.fullmatch(path.name))
        ):
            raise StoreDown(f"Store {self.name} does not keep what its record names")
        return path

    async def create(self, url: str, size: int | None) -> Writer:
        """See Store."""
        beginning = asyncio.ensure_future(self._call(_begin, self, self._file(url), size))
        try:
            return await outcome(beginning)
        except asyncio.CancelledError:
            if beginning.exception() is None:  # nobody else knows of the file, and it must not come after its deletion
                await beginning.result().abort()
            raise

    def place(self, url: str) -> Path:
        """Where another program may make the file of an attempt, to be taken over by `adopt`."""
        return Path(f"{self._file(url)}{PART}")

    async def adopt(self, url: str) -> "Adopted":
        """Take over the file that was made at `place`. Raises StoreDown."""
        return await self._call(_adopt, self, self._file(url))

    async def open(self, url: str) -> LocalFile:
        """See Store."""
        try:
            return await self._reads.run(_open, self._file(url), self._reads)
        except Late:
            raise StoreDown(f"Store {self.name} takes too long") from None
        except OSError as error:
            self.fail(error)

    async def delete(self, url: str) -> None:
        """See Store."""
        await self._call(_delete, self._file(url))

    async def list(self) -> AsyncIterator[Found]:
        """See Store."""
        entries = await self._call(os.scandir, self.path)
        try:
            while names := await self._call(_next_names, entries, 500):
                for name in names:
                    yield Found(f"file://{self.path}/{name.removesuffix(PART)}", not name.endswith(PART))
        finally:
            entries.close()

    async def usage(self) -> Usage:
        """See Store."""
        room, self.disk = await self._call(_disk, self.path)  # another one, where it was mounted after the start
        return Usage(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize)

    async def written(self, urls: Sequence[str]) -> Sequence[int]:
        """See Store."""
        return await self._call(_written, [self._file(url) for url in urls])

    def details(self) -> dict[str, Any]:
        """See Store."""
        return {"data_dir": str(self.path)}

    def close(self) -> None:
        """See Store."""
        self._pool.close()
        self._reads.close()

    async def _call(self, fn: Callable[..., T], *args: Any) -> T:
        try:
            return await self._pool.run(fn, *args)
        except OSError as error:
            self.fail(error)

    def fail(self, error: OSError) -> NoReturn:
        """Raise what an error of the file system means to a user."""
        if error.errno in FULL:
            raise StoreFull(f"Store {self.name} is full") from error
        if error.errno in DENIED:
            raise StoreDenied(f"Store {self.name} cannot be written to") from error
        raise StoreDown(f"Store {self.name} failed: {error.strerror}") from error


class FileWriter:
    """An attempt: a `.part` file that becomes the image's file when it is whole and on disk."""

    def __init__(self, store: FileStore, path: Path, fd: int) -> None:
        self._store, self._path, self._fd = store, path, fd
        self._written = self._flushed = 0
        self._busy = asyncio.Lock()  # abort waits for the write that a cancelled caller left behind

    async def write(self, blocks: Sequence[Buffer]) -> None:
        """See Writer."""
        await self._exclusive(self._write, blocks)

    async def commit(self) -> None:
        """See Writer."""
        await self._exclusive(self._commit)

    async def abort(self) -> None:
        """See Writer."""
        await self._exclusive(self._abort)

    async def _exclusive(self, fn: Callable[..., None], *args: Any) -> None:
        """One thread at a time touches the file, and a cancelled caller leaves only when it has stopped."""
        async with self._busy:
            await outcome(self._store._call(fn, *args))

    def _write(self, blocks: Sequence[Buffer]) -> None:
        views = [memoryview(block) for block in blocks]
        while views:
            n = os.writev(self._fd, views[:64])
            self._written += n
            while views and n >= len(views[0]):
                n -= len(views.pop(0))
            if n:
                views[0] = views[0][n:]
        if self._written - self._flushed >= FLUSH_BYTES:
            _begin_flush(self._fd, self._flushed, self._written - self._flushed)
            self._flushed = self._written

    def _commit(self) -> None:
        os.fsync(self._fd)
        self._close()
        os.rename(f"{self._path}{PART}", self._path)
        _sync_directory(self._path.parent)

    def _abort(self) -> None:
        self._close()
        _delete(self._path)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Adopted(FileWriter):
    """An attempt whose bytes somebody else has written: what is left is to read them, and to make them durable."""

    async def write(self, blocks: Sequence[Buffer]) -> None:
        """The bytes are there already."""

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes, from the first to the last."""
        at = 0
        while block := await self._store._call(os.pread, self._fd, READ_BYTES, at):
            at += len(block)
            yield block


def _adopt(store: FileStore, path: Path) -> Adopted:
    return Adopted(store, path, os.open(f"{path}{PART}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))


def _begin(store: FileStore, path: Path, size: int | None) -> FileWriter:
    if size is not None:
        room = os.statvfs(path.parent)
        if size > room.f_bavail * room.f_frsize:
            raise OSError(errno.ENOSPC, "not enough room for the announced size")
    fd = os.open(f"{path}{PART}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    return FileWriter(store, path, fd)


def _open(path: Path, reads: Pool) -> LocalFile:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe of somebody's must not be waited for
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            raise CopyMissing(str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CopyMissing(f"{path} is no file")
    return LocalFile(fd, reads)


def _delete(path: Path) -> None:
    for name in (f"{path}{PART}", path) if NAME.fullmatch(path.name) else (path,):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    _sync_directory(path.parent)


def _disk(path: Path) -> tuple[os.statvfs_result, int]:
    return os.statvfs(path), os.stat(path).st_dev


def _written(paths: Sequence[Path]) -> list[int]:
    """Bytes of disk that each file takes: of a sparse one less than it has."""
    return [512 * max(_blocks(f"{path}{PART}"), _blocks(path)) for path in paths]


def _blocks(path: Path | str) -> int:
    try:
        return os.stat(path).st_blocks
    except FileNotFoundError:
        return 0


def _next_names(entries: Any, most: int) -> list[str]:
    names = []
    for entry in entries:
        if NAME.fullmatch(entry.name):
            names.append(entry.name)
            if len(names) == most:
                break
    return names


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _begin_flush(fd: int, offset: int, length: int) -> None:
    """Have the kernel start writing these bytes out, without waiting and without dropping them from the page cache."""
    LIBC.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), SYNC_FILE_RANGE_WRITE)
