"""One client's connection: uvicorn's httptools protocol with deadlines, caps, safe early answers and sendfile.

What uvicorn leaves open: a client may take for ever over its headers or its body, send headers without an end, have a coded body taken for
the plain one, or lose an early answer to a reset. This module knows bytes and HTTP, no images.
"""

import asyncio
import contextlib
import errno
import fcntl
import math
import os
import select
import socket
import struct
import termios
import urllib.parse
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ikon.problems import REASONS, ClientGone, Problem

BLOCK_BYTES = 256 * 1024  # of a body that may wait for the application before reading pauses, and the most that one message joins
CHUNK_COST_BYTES = 64  # what it costs to keep a chunk, beside its bytes: chunks of 2 bytes would take 28 times their size
MAX_PIPELINED = 100  # 256 KiB of the smallest requests are 14,000 of them, about 3 KiB each once parsed
SENDFILE_BYTES = 1024 * 1024  # moved at most before other connections get their turn
#: What the kernel takes of an answer beyond what it can send, until the client has taken so many bytes in so short a time. Without a bound
#: it is 2 to 3 MiB for each of a crowd that comes at once, and everyone waits for that; one that stays costs a quick client 0.6 instead
#: of 0.45 CPU s/GiB.
UNSENT_BYTES = 256 * 1024
QUICK_BYTES, QUICK_S = 4 * 1024 * 1024, 4.0
LOOK_S = 60.0  # every connection is looked at this often, even when nothing is due

#: Calls a function of a file's descriptor and more on a thread.
Elsewhere = Callable[..., Awaitable[Any]]

INTERNET = (socket.AF_INET, socket.AF_INET6)
GONE = {errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}  # beside those that Python calls ConnectionError

# uvicorn writes status lines from this table and has no setting for it; clients match on our phrases.
STATUS_LINE.update({status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in REASONS.items()})


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


def protocol_class(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol under these limits, for `uvicorn.Config(http=...)`. Addresses are counted per class: one server, one class."""

    class LimitedConnection(Connection):
        pass

    LimitedConnection.limits = limits
    LimitedConnection.addresses = Counter()
    return LimitedConnection


class RefusedError(Exception):
    """Stops the parser from within one of its callbacks; `Connection.fault` says why."""


class Connection(HttpToolsProtocol):
    """A connection under `limits`. What is due when is a plain attribute, `inf` for never, and one timer looks at them all."""

    limits = Limits()
    addresses: ClassVar[Counter[str]] = Counter()
    cycle: "Cycle"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Cycle | None = None  # the request being answered; `self.cycle` is the one being read, perhaps a later one
        self.fault: tuple[int, str] | None = None  # status and reason of the refusal that ends this connection; nothing is parsed after it
        self.in_head = False
        self.in_body = False
        self.head_bytes = 0
        self.quiet_bytes = 0  # read since the parser last had something to tell: what it swallows, or hoards
        self.dropped_bytes = 0
        self.unsent_bytes = 0  # of the answer, when `write_due` was set
        self.write_patience_s = self.limits.write_stall_s
        self.head_due = self.body_due = self.write_due = self.drain_due = self.close_due = math.inf
        self.timer: asyncio.TimerHandle | None = None
        self.timer_at = math.inf
        self.counted_address: str | None = None

    # From the first byte to the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw.family in INTERNET:  # asyncio leaves it out on sockets that uvicorn bound, and every small answer takes 40 ms
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self.head_due = self.loop.time() + self.limits.header_timeout_s
        self._look_by(self.head_due)
        if self.limits.connections_per_address and self.client and not _is_loopback(self.client[0]):
            self.counted_address = self.client[0]
            self.addresses[self.counted_address] += 1
            if self.addresses[self.counted_address] > self.limits.connections_per_address:
                self._refuse(503, "Too many connections from this address")

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer_at = -math.inf  # nothing is due any more
        self._unset_keepalive_if_required()
        if self.counted_address is not None:
            self.addresses[self.counted_address] -= 1
            if not self.addresses[self.counted_address]:
                del self.addresses[self.counted_address]
        if self.running is not None:
            self.running.lose()  # uvicorn tells only the request read last, which may be a pipelined one that never started
        self.pipeline.clear()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Break the connection: the client sees a reset, never a short answer with a clean end."""
        if self not in self.connections:  # lost already, and the number of its socket may be another client's by now
            return
        raw = self.transport.get_extra_info("socket")
        if raw.family in INTERNET:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        if self.running is not None:
            self.running.lose()

    # What is read

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self.fault is not None or self.drain_due < math.inf:
            self.dropped_bytes += len(data)
            if self.dropped_bytes > self.limits.drain_bytes:
                self.abort() if self.is_answering() else self.transport.close()
        if self.fault is not None or self.transport.is_closing():
            return
        self.quiet_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self._fail(*(self.fault or (400, "Invalid HTTP request received.")))
            return
        if self.quiet_bytes > self.limits.header_bytes:
            self._fail(431 if self.in_head else 400, "Request header is too long")
        else:
            self._expect_head()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrade()
                data = data[upgrade.args[0] :]

    def _decline_upgrade(self) -> None:
        """Go on with HTTP/1.1 when the client offers to talk something else, as every Java client does on plain HTTP.

        The parser takes all that follows such headers for the other protocol, the body too, and says that the request has none. A fresh one
        is told how the body is framed instead, and its callbacks for these few headers are passed over.
        """
        framing = [b"%b: %b\r\n" % header for header in self.headers if header[0] in (b"content-length", b"transfer-encoding")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"PUT / HTTP/1.1\r\n" + b"".join(framing) + b"\r\n")

    def on_message_begin(self) -> None:
        if self.in_body:  # of a declined upgrade
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self._stop_parsing(503, "Too many requests at once")
        if self.transport.is_closing():
            raise RefusedError
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self.in_head, self.head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        if self.in_head:
            super().on_url(url)
        if len(self.url) > self.limits.url_bytes:
            self._stop_parsing(414, "Request URL is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_head:  # a trailer of a chunked body is not a header: whoever has checked the headers has not checked it
            self.head_bytes += len(name) + len(value) + len(b": \r\n")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.in_body:  # of a declined upgrade
            return
        self._check_head()
        self._fill_scope()
        self.in_head, self.in_body, self.quiet_bytes, self.head_due = False, True, 0, math.inf
        busy = self.limit_concurrency is not None and max(len(self.connections), len(self.tasks)) >= self.limit_concurrency
        app = service_unavailable if busy else self.app
        self.cycle = cycle = Cycle(self)
        if self.is_answering():
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, app))
        else:
            self._start_asgi_task(cycle, app)

    def _check_head(self) -> None:
        line_bytes = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n\r\n")
        if line_bytes + self.head_bytes > self.limits.header_bytes:
            self._stop_parsing(431, "Request header is too long")
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            self._stop_parsing(400, "Invalid HTTP request received.")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            self._stop_parsing(501, "Transfer-Encoding must be chunked, or absent")

    def _fill_scope(self) -> None:
        url = httptools.parse_url(self.url)
        raw_path = url.path or b"/"
        path = raw_path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = self.root_path + (urllib.parse.unquote(path) if "%" in path else path)
        self.scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        self.scope["query_string"] = url.query or b""

    def on_body(self, body: bytes) -> None:
        self.quiet_bytes = 0
        cycle = self.cycle
        if cycle.is_over():
            return
        cycle.chunks.append(body)
        cycle.queued_bytes += len(body) + CHUNK_COST_BYTES
        cycle.body_bytes += len(body)
        if cycle.queued_bytes > BLOCK_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # not complete at all: `_decline_upgrade` comes next
            return
        self.in_body, self.quiet_bytes = False, 0
        self.cycle.more_body = False
        self.cycle.message_event.set()
        if self.cycle.response_complete:  # the rest of a body that was answered early has come in
            self.drain_due = math.inf
            if self.cycle.close_after:
                self.transport.close()
            else:
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    # What is answered

    def is_answering(self) -> bool:
        """Whether a request is with the application."""
        return self.running is not None and not self.running.is_over()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        assert isinstance(cycle, Cycle)
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        cycle = self.running
        assert cycle is not None
        cycle.chunks.clear()
        if not (cycle.more_body or cycle.close_after or (self.fault and not self.pipeline)):
            super().on_response_complete()
            if self.pipeline:
                self.flow.pause_reading()
        else:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self._end_early(cycle)
        self._expect_head()

    def _end_early(self, cycle: "Cycle") -> None:
        if cycle.more_body:
            self._drain(close=cycle.close_after)
        elif cycle.close_after:
            self.transport.close()
        elif self.fault is not None:
            self._refuse(*self.fault)

    def _drain(self, *, close: bool) -> None:
        """Read on and drop, within bounds: closing with bytes unread resets the connection, and naive clients lose the answer by it."""
        self.dropped_bytes = 0
        self.drain_due = self.loop.time() + self.limits.drain_s
        self._look_by(self.drain_due)
        self.flow.resume_reading()
        if close and self.transport.can_write_eof():
            self.transport.write_eof()

    def _stop_parsing(self, status: int, reason: str) -> None:
        self.fault = (status, reason)
        raise RefusedError

    def _fail(self, status: int, reason: str) -> None:
        """The client broke a rule: answer so, after the requests before it, then close. A request cut by it is never whole."""
        self.fault = (status, reason)
        self.head_due = math.inf
        if self.in_body and self.cycle.response_complete:
            self._drain(close=True)
            return
        if self.in_body:
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.abort()
            self.cycle.lose()
        if not self.is_answering() and not self.transport.is_closing():
            self._refuse(status, reason)

    def _refuse(self, status: int, reason: str) -> None:
        self.fault = (status, reason)
        self.logger.info("Refused a request of %s: %d %s", self.client, status, reason)
        body = reason.encode()
        headers = [*self.server_state.default_headers, (b"content-type", b"text/plain; charset=utf-8")]
        headers += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        self.transport.write(STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body)
        self._drain(close=True)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.expect_writing(self.limits.write_stall_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_due = math.inf

    # What is due

    def _expect_head(self) -> None:
        if (
            (self.in_head or (self.quiet_bytes and not self.in_body))
            and self.head_due == math.inf
            and not (self.fault or self.is_answering())
        ):
            self.head_due = self.loop.time() + self.limits.header_timeout_s
            self._look_by(self.head_due)

    def expect_body(self, cycle: "Cycle", now: float) -> None:
        """The application waits for bytes of this body from now on."""
        self.body_due = now + self.limits.body_stall_s
        if self.limits.body_rate_bytes_s:
            free_s = max(self.limits.body_rate_grace_s, cycle.body_bytes / self.limits.body_rate_bytes_s)
            self.body_due = min(self.body_due, now + free_s - cycle.waited_s)
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
            self._look_at_head()
        self.timer, self.timer_at = None, math.inf
        if self.transport.is_closing():
            self._look_by(min(self.close_due, now + LOOK_S))
        else:
            self._look_by(min(self.head_due, self.body_due, self.write_due, self.drain_due, now + LOOK_S))

    def _look_at_closing(self, now: float) -> None:
        if now >= self.close_due:  # closed, and the client does not take the rest of the answer
            self.abort()
        self.close_due = min(self.close_due, now + self.limits.write_stall_s)

    def _look_at_head(self) -> None:
        if self.in_head:
            self._fail(408, "The request header took too long")
        else:
            self.transport.close()


class Cycle(RequestResponseCycle):
    """One request: hands its body on as it was received, ends early answers safely, and sends from files."""

    def __init__(self, connection: Connection) -> None:
        http_1_1 = connection.scope["http_version"] == "1.1"
        super().__init__(
            scope=connection.scope,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=connection.expect_100_continue and http_1_1,
            keep_alive=http_1_1 and connection.parser.should_keep_alive(),
            on_response=connection.on_response_complete,
        )
        self.connection = connection
        self.chunks: deque[bytes] = deque()
        self.queued_bytes = 0
        self.body_bytes = 0
        self.waited_s = 0.0
        self.sending_since = 0.0
        self.body_given = False  # the application has had the last piece
        self.close_after = False  # after the answer the rest of the body is dropped, then the connection is closed
        self.unyielded_bytes = self.sent_bytes = 0
        self.head: Joined | None = None  # of the answer, not yet written
        self.writable: asyncio.Future[None] | None = None
        extensions: dict[str, Any] = {"ikon.abort": connection.abort}
        if connection.scheme == "http":
            extensions["ikon.sendfile"] = self.sendfile
        self.scope["extensions"] = extensions

    def is_over(self) -> bool:
        """Nothing more is read or written for this request."""
        return self.response_complete or self.disconnected

    def lose(self) -> None:
        """The client is gone, or sent what cannot be a body: the application is told so, whatever it waits for."""
        if not self.response_complete:
            self.disconnected = True
        self.message_event.set()
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)

    async def receive(self) -> ASGIReceiveEvent:
        if self.waiting_for_100_continue:
            self.waiting_for_100_continue = False
            if self.more_body and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.is_over():
            if self.chunks or not (self.more_body or self.body_given):
                body = self._take()
                more_body = self.more_body or bool(self.chunks)
                self.body_given = not more_body
                return {"type": "http.request", "body": body, "more_body": more_body}
            await self._wait()
        return {"type": "http.disconnect"}

    def _take(self) -> bytes:
        """The next piece of the body, without copying it when it came in large pieces."""
        pieces: list[bytes] = []
        size = 0
        while self.chunks and (not pieces or size + len(self.chunks[0]) <= BLOCK_BYTES):
            size += len(self.chunks[0])
            pieces.append(self.chunks.popleft())
        self.queued_bytes -= size + CHUNK_COST_BYTES * len(pieces)
        if not self.chunks and not self.connection.pipeline:
            self.flow.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _wait(self) -> None:
        self.message_event.clear()
        if not self.more_body:  # waits for the end of the answer, or of the client
            await self.message_event.wait()
            return
        began = self.connection.loop.time()
        self.connection.expect_body(self, began)
        try:
            await self.message_event.wait()
        finally:
            self.connection.body_due = math.inf
            self.waited_s += self.connection.loop.time() - began

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.start":
            if self.waiting_for_100_continue and self.more_body:  # the client may never send the body that it was not asked for
                self.keep_alive = False
        elif self.more_body and not self.keep_alive and not message.get("more_body", False):
            self.keep_alive, self.close_after = True, True  # uvicorn would close at once
        transport = self.transport
        if message["type"] == "http.response.start":
            joined = self.head = Joined(transport)
        elif self.head is not None:
            joined, self.head = self.head, None
            joined.begun = True
            if self.scope["method"] == "HEAD":
                joined.write(b"")
        else:
            await super().send(message)
            return
        self.transport = joined  # type: ignore[assignment]
        try:
            await super().send(message)
        finally:
            self.transport = transport

    async def sendfile(self, fd: int, offset: int, count: int, stall_s: float = 60.0, elsewhere: Elsewhere | None = None) -> int:
        """Send `count` bytes of a file as the next part of the body, and return how many were sent: fewer only if the file ends before.

        For after `http.response.start` with a Content-Length; no thread waits for the client. A HEAD request sends nothing and returns
        `count`. elsewhere: runs what may have to wait for the file on a thread, and gives it the descriptor; when it gives up, no more can
        be sent. Raises ClientGone when the client is gone or took no byte for `stall_s`; an OSError is the file's.
        """
        if self.disconnected:
            raise ClientGone
        if self.chunked_encoding is not False or self.response_complete:
            raise RuntimeError("sendfile needs an answer begun with a Content-Length")
        if self.scope["method"] == "HEAD":
            return count
        if count > self.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        if self.head is not None:
            self.transport.write(self.head.data)
            self.head = None
        await self._flushed(stall_s)
        self.sending_since = self.sending_since or self.connection.loop.time()
        sent = 0
        while sent < count:
            size = await self._send_some(fd, offset + sent, min(count - sent, SENDFILE_BYTES), stall_s, elsewhere)
            if size == 0:
                break
            sent += size
            self.expected_content_length -= size
            self._trust_quick(size)
            self.unyielded_bytes += size
            if self.unyielded_bytes >= SENDFILE_BYTES:
                self.unyielded_bytes = 0
                await asyncio.sleep(0)
        return sent

    def _trust_quick(self, size: int) -> None:
        """Leave it to the kernel how much it holds for a client that takes its bytes quickly."""
        before, self.sent_bytes = self.sent_bytes, self.sent_bytes + size
        quick = before < QUICK_BYTES <= self.sent_bytes and self.connection.loop.time() - self.sending_since < QUICK_S
        raw = self.transport.get_extra_info("socket") if quick else None
        if raw is not None and raw.family in INTERNET and not self.transport.is_closing():
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)

    async def _flushed(self, stall_s: float) -> None:
        """Wait until the transport holds nothing that has to go before."""
        if self.transport.get_write_buffer_size() and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(0)  # pauses writing now, and resumes it when nothing is left
            try:
                self.connection.expect_writing(stall_s)
                await self.flow.drain()
            finally:
                if not self.transport.is_closing():
                    self.transport.set_write_buffer_limits()

    async def _send_some(self, fd: int, offset: int, count: int, stall_s: float, elsewhere: Elsewhere | None) -> int:
        while True:
            if self.disconnected or self.transport.is_closing():
                raise ClientGone
            client = self.transport.get_extra_info("socket").fileno()
            try:
                if elsewhere is None:
                    return os.sendfile(client, fd, offset, count)
                return await self._send_elsewhere(elsewhere, client, offset, count)
            except BlockingIOError:
                await self._wait_writable(client, stall_s)
            except OSError as error:
                if not isinstance(error, ConnectionError | TimeoutError) and error.errno not in GONE:
                    raise
                self.transport.abort()
                raise ClientGone from error

    async def _send_elsewhere(self, elsewhere: Elsewhere, client: int, offset: int, count: int) -> int:
        # The thread has a duplicate of its own: by the time it comes to it, the number itself may be another client's.
        duplicate = socket.socket(fileno=os.dup(client))
        try:
            return int(await elsewhere(_sendfile_and_close, duplicate, offset, count))
        except Problem:
            with contextlib.suppress(OSError):
                duplicate.shutdown(socket.SHUT_RDWR)  # closing it is not enough while the thread has it
            raise

    async def _wait_writable(self, client: int, stall_s: float) -> None:
        self.unyielded_bytes = 0
        self.writable = self.connection.loop.create_future()
        self.connection.expect_writing(stall_s)
        watch = Watch.of(self.connection.loop)
        watch.add(client, self.writable)
        try:
            await self.writable
        finally:
            watch.remove(client, self.writable)
            self.connection.write_due = math.inf


def _sendfile_and_close(fd: int, client: socket.socket, offset: int, count: int) -> int:
    with client:
        return os.sendfile(client.fileno(), fd, offset, count)


class Joined:
    """The transport as an answer begins on it: the head waits for what follows, so that a small answer leaves in one system call."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.data = b""
        self.begun = False  # what follows is being written

    def write(self, data: bytes) -> None:
        """Keep the head; with what follows, write both."""
        self.data += data
        if self.begun:
            self.transport.write(self.data)
            self.data = b""

    def is_closing(self) -> bool:
        """As the transport says."""
        return self.transport.is_closing()

    def close(self) -> None:
        """Close it."""
        self.transport.close()


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


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
