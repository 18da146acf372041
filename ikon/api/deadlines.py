"""When a client has to have done what: the limits of one connection, and one timer that holds it to them."""

import asyncio
import fcntl
import math
import socket
import struct
import termios
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LOOK_S = 60.0  # every connection is looked at this often, even when nothing is due

INTERNET = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class Limits:
    """What one client may take: times in seconds, sizes in bytes, rates in bytes a second."""

    header_timeout_s: float = 10.0  # from the first byte of a request (of a new connection: from its start) to the end of the headers
    header_bytes: int = 32 * 1024  # request line included; more is answered with 431
    url_bytes: int = 8 * 1024  # more is answered with 414
    body_stall_s: float = 60.0  # no byte of the body for that long while the application waits for one
    body_rate_bytes_s: int = 0  # least average rate of a body over the time that the application waited for it; 0: any
    body_rate_grace_s: float = 30.0  # so much waiting is free
    write_stall_s: float = 60.0  # the client takes no byte of the answer for that long
    connections_per_address: int = 0  # more are answered with 503; 0: any number; loopback is not counted
    drain_bytes: int = 64 * 1024 * 1024  # read and dropped of a body that was answered early, before the connection is closed
    drain_s: float = 5.0  # and for how long


class TimedConnection(HttpToolsProtocol):
    """A connection under `limits`. What is due when is a plain attribute, `inf` for never, and one timer looks at them all."""

    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unsent_bytes = 0  # of the answer, when `write_due` was set
        self.write_patience_s = self.limits.write_stall_s
        self.head_due = self.body_due = self.write_due = self.drain_due = self.close_due = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = -math.inf  # nothing is due any more
        super().connection_lost(exc)

    def abort(self) -> None:
        """Break the connection: the client sees a reset, never a short answer with a clean end."""
        if self not in self.connections:  # lost already, and the number of its socket may be another client's by now
            return
        raw = self.transport.get_extra_info("socket")
        if raw.family in INTERNET:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.expect_writing(self.limits.write_stall_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_due = math.inf

    def expect_body(self, now: float, body_bytes: int, waited_s: float) -> None:
        """The application waits for more of a body from now on, of which so much has come while it waited so long."""
        self.body_due = now + self.limits.body_stall_s
        if self.limits.body_rate_bytes_s:
            free_s = max(self.limits.body_rate_grace_s, body_bytes / self.limits.body_rate_bytes_s)
            self.body_due = min(self.body_due, now + free_s - waited_s)
        self._look_by(self.body_due)

    def expect_writing(self, stall_s: float) -> None:
        """The client has to take something of the answer within `stall_s` from now on."""
        self.write_patience_s = stall_s
        self.unsent_bytes = self._count_unsent()
        self.write_due = self.loop.time() + stall_s
        self._look_by(self.write_due)

    def _count_unsent(self) -> int:
        # The kernel's share counts: a full socket buffer is writable again when a third of it is free, and that may take a client minutes.
        kernel = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return self.transport.get_write_buffer_size() + int(struct.unpack("i", kernel)[0])

    def _look_by(self, due: float) -> None:
        if due < self.timer_at:
            if self.timer is not None:
                self.timer.cancel()
            self.timer, self.timer_at = self.loop.call_at(due, self._look), due

    def _look(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing():
            self._look_at_closing(now)
        elif now >= self.body_due:
            self.transport.abort()
        elif now >= self.write_due:
            if self._count_unsent() < self.unsent_bytes:
                self.expect_writing(self.write_patience_s)
            else:
                self.abort()
        elif now >= self.drain_due:
            self.transport.close()
        elif now >= self.head_due:
            self.head_is_late()
        self.timer, self.timer_at = None, math.inf
        if self.transport.is_closing():
            self._look_by(min(self.close_due, now + LOOK_S))
        else:
            self._look_by(min(self.head_due, self.body_due, self.write_due, self.drain_due, now + LOOK_S))

    def _look_at_closing(self, now: float) -> None:
        if now >= self.close_due:  # closed, and the client does not take the rest of the answer
            self.abort()
        self.close_due = min(self.close_due, now + self.limits.write_stall_s)

    def head_is_late(self) -> None:
        """The client has not said in time what it wants."""
        self.transport.close()
