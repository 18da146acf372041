"""One request and its answer on a connection: the body as it comes, an answer that leaves in few calls, and data straight from files."""

import asyncio
import contextlib
import errno
import math
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ikon.api.deadlines import INTERNET, TimedConnection
from ikon.api.watch import Watch
from ikon.problems import ClientGone, Problem

BLOCK_BYTES = 256 * 1024  # of a body that may wait for the application before reading pauses, and the most that one message joins
CHUNK_COST_BYTES = 64  # what it costs to keep a chunk, beside its bytes: chunks of 2 bytes would take 28 times their size
SENDFILE_BYTES = 1024 * 1024  # moved at most before other connections get their turn
#: What the kernel takes of an answer beyond what it can send, until the client has taken so many bytes in so short a time. Without a bound
#: it is 2 to 3 MiB for each of a crowd that comes at once, and everyone waits for that; one that stays costs a quick client 0.6 instead
#: of 0.45 CPU s/GiB.
UNSENT_BYTES = 256 * 1024
QUICK_BYTES, QUICK_S = 4 * 1024 * 1024, 4.0

#: Calls a function of a file's descriptor and more on a thread.
Elsewhere = Callable[..., Awaitable[Any]]

GONE = {errno.ENOTCONN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}  # beside those that Python calls ConnectionError


class Cycle(RequestResponseCycle):
    """One request: hands its body on as it was received, ends early answers safely, and sends from files."""

    def __init__(self, connection: TimedConnection) -> None:
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
            extensions |= {"ikon.sendfile": self.sendfile, "ikon.sendbytes": self.sendbytes}
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
        self.connection.expect_body(began, self.body_bytes, self.waited_s)
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

    async def sendbytes(self, data: bytes, stall_s: float = 60.0) -> None:
        """Send bytes as the next part of the body, once those before have left. Raises ClientGone as `sendfile` does."""
        await self._flushed(stall_s)
        if self.disconnected or self.transport.is_closing():
            raise ClientGone
        await self.send({"type": "http.response.body", "body": data, "more_body": True})

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
