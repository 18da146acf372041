"""One client's connection: uvicorn's httptools protocol with caps, safe early answers, deadlines (deadlines.py) and sendfile (cycle.py).

Adds deadlines for headers and bodies, caps, refusal of coded bodies, and early answers that arrive. This module knows bytes and HTTP, no
images.
"""

import asyncio
import math
import socket
import urllib.parse
from collections import Counter
from ipaddress import ip_address
from typing import Any, ClassVar

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from ikon.api.cycle import BLOCK_BYTES, CHUNK_COST_BYTES, UNSENT_BYTES, Cycle
from ikon.api.deadlines import INTERNET, Limits, TimedConnection
from ikon.problems import REASONS

MAX_PIPELINED = 100  # 256 KiB of the smallest requests are 14,000 of them, about 3 KiB each once parsed

# uvicorn writes status lines from this table and has no setting for it; clients match on our phrases.
STATUS_LINE.update({status: f"HTTP/1.1 {status} {phrase}\r\n".encode() for status, phrase in REASONS.items()})


def protocol_class(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol under these limits, for `uvicorn.Config(http=...)`. Addresses are counted per class: one server, one class."""

    class LimitedConnection(Connection):
        pass

    LimitedConnection.limits = limits
    LimitedConnection.addresses = Counter()
    return LimitedConnection


class RefusedError(Exception):
    """Stops the parser from within one of its callbacks; `Connection.fault` says why."""


class Connection(TimedConnection):
    """A connection that refuses what cannot be a sound request, and hands on the rest."""

    addresses: ClassVar[Counter[str]] = Counter()
    cycle: Cycle

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: Cycle | None = None  # the request being answered; `self.cycle` is the one being read, perhaps a later one
        self.fault: tuple[int, str] | None = None  # status and reason of the refusal that ends this connection; nothing is parsed after it
        self.in_head = False
        self.in_body = False
        self.head_bytes = 0
        self.quiet_bytes = 0  # read since the parser last had something to tell: what it swallows, or hoards
        self.dropped_bytes = 0
        self.counted_address: str | None = None

    # From the first byte to the last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        raw = transport.get_extra_info("socket")
        if raw.family in INTERNET:  # asyncio leaves it out on sockets that uvicorn bound, and every small answer takes 40 ms
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            if self.client is None:  # it is over already, and has no address to be judged by
                transport.abort()
        self.head_due = self.loop.time() + self.limits.header_timeout_s
        self._look_by(self.head_due)
        if self.limits.connections_per_address and self.client and not _is_loopback(self.client[0]):
            self.counted_address = self.client[0]
            self.addresses[self.counted_address] += 1
            if self.addresses[self.counted_address] > self.limits.connections_per_address:
                self._refuse(503, "Too many connections from this address")

    def connection_lost(self, exc: Exception | None) -> None:
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
        super().abort()
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

    def _end_early(self, cycle: Cycle) -> None:
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

    def _expect_head(self) -> None:
        if (
            (self.in_head or (self.quiet_bytes and not self.in_body))
            and self.head_due == math.inf
            and not (self.fault or self.is_answering())
        ):
            self.head_due = self.loop.time() + self.limits.header_timeout_s
            self._look_by(self.head_due)

    def head_is_late(self) -> None:
        if self.in_head:
            self._fail(408, "The request header took too long")
        else:
            super().head_is_late()


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
