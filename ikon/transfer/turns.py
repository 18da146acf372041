"""Turns: at most so many at once of something on this node, in whichever of its processes."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class Turns:
    """A turn is a lock on a file in the directory of running servers, so that it ends with its process, however that ends."""

    def __init__(self, run: Path, name: str, most: int) -> None:
        self._files = [run / f"{name}.{number}" for number in range(most)]

    @contextlib.contextmanager
    def take(self) -> Iterator[bool]:
        """Whether there was a turn; it is kept until the end of this."""
        fd = next((fd for path in self._files if (fd := _lock(path)) is not None), None)
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)


def _lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
