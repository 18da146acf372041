"""Waits for sockets that belong to an event loop's transports."""

import asyncio
import errno
import select
from typing import ClassVar
from weakref import WeakKeyDictionary


class Watch:
    """Tells when sockets that belong to transports can take more bytes: one epoll set of its own for each event loop.

    An event loop watches no socket of its transports for others. A duplicate of the socket would get round that, but it keeps a closed
    connection open, and uvloop tells its watcher nothing when the client resets the connection.
    """

    watches: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, "Watch"]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.waiting: dict[int, asyncio.Future[None]] = {}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "Watch":
        """The watch of this loop."""
        watch = cls.watches.get(loop)
        if watch is None:
            watch = cls.watches[loop] = cls()
            loop.add_reader(watch.epoll.fileno(), watch.look)
        return watch

    def add(self, fd: int, writable: asyncio.Future[None]) -> None:
        """Set `writable` once the socket takes bytes, or its client is gone."""
        self.epoll.register(fd, select.EPOLLOUT | select.EPOLLONESHOT)
        self.waiting[fd] = writable

    def remove(self, fd: int, writable: asyncio.Future[None]) -> None:
        """Forget it, if it has not been forgotten: a closed socket leaves the set by itself, and its number may be another's by now."""
        if self.waiting.get(fd) is writable:
            del self.waiting[fd]
            try:
                self.epoll.unregister(fd)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EBADF):
                    raise

    def look(self) -> None:
        """Wake those whose sockets have something to tell."""
        for fd, _ in self.epoll.poll(0):
            writable = self.waiting.get(fd)
            if writable is not None and not writable.done():
                writable.set_result(None)
