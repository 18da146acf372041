"""One question and its answer over a connection of its own, HTTP/1.1, read strictly and within bounds. Knows no rule of who may be asked.

The parser is httptools', which the server loads anyway: it refuses what can be read in two ways, such as two lengths.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress

import httptools

from ikon.problems import SourceBroken
from ikon.transfer.egress import Address, Target

CONNECT_S = 10.0
LINGER_S = 0.5
HEADER_BYTES = 64 * 1024
#: Data held at which the socket is left alone; what comes at once, at most 256 KiB, may still be added.
HELD_BYTES = 128 * 1024
HEADER = re.compile(r"[A-Za-z0-9-]+: [ -~]*")


class Answer(asyncio.Protocol):
    """The answer to a request: after read_head its `status`, its `headers` by names in lower case, and `length`, None where not announced.

    It parses what comes as it comes, without a stream in between: that costs two copies of the data instead of five.
    """

    def __init__(self) -> None:
        self.status, self.headers = 0, dict[str, str]()
        self.length: int | None = None
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._head_left = HEADER_BYTES
        self._in_body = self._complete = self._over = False
        self._failure: Exception | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._without_data = 0  # bytes that came since the last byte of data: chunk heads and trailers
        self._news = asyncio.Event()

    # What the connection calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection, to pause and to drop it."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what came, within bounds; what is against them breaks the connection, and `read` and `read_head` raise why."""
        held = self._held
        try:
            if not self._in_body:
                self._parser.feed_data(data[: self._head_left])
                rest, self._head_left = data[self._head_left :], max(0, self._head_left - len(data))
                if not self._in_body and not self._head_left:
                    raise SourceBroken(because=f"more than {HEADER_BYTES} bytes of headers")
                data = rest
            if data:
                self._parser.feed_data(data)
            self._without_data = 0 if self._held > held else self._without_data + len(data)
            if self._without_data > HEADER_BYTES:
                raise SourceBroken(because=f"more than {HEADER_BYTES} bytes between data")
        except httptools.HttpParserError as error:
            self._fail(SourceBroken(because="more data than announced" if self._complete else f"not HTTP as it should be: {error}"))
        except SourceBroken as problem:
            self._fail(problem)
        if self._held >= HELD_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Take the end of the connection for that of the data where none was announced, else for a failure if data is missing."""
        until_closed = self._in_body and self.length is None and "transfer-encoding" not in self.headers
        if error is None and until_closed:
            self._complete = True  # it announced no end: the closing is it
        elif not self._complete:
            self._failure = self._failure or error or ConnectionError("the source closed the connection before the end")
        self._over = True
        self._news.set()

    def _fail(self, failure: Exception) -> None:
        self._failure = failure
        self._transport.abort()

    # What the parser calls

    def on_message_begin(self) -> None:
        """An answer begins, which there may be but one of."""
        if self._complete:
            self._fail(SourceBroken(because="more data than announced"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; several of one name become one list. Trailers are dropped."""
        if not self._in_body:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        """The head is whole: data follows, or the real answer after an interim one."""
        if self._in_body:
            return  # of a second answer, which nobody asked for
        self.status = self._parser.get_status_code()
        self._in_body = self.status >= 200
        if not self._in_body:
            self.headers.clear()  # an interim answer; the real one follows
        elif (length := self.headers.get("content-length")) is not None:
            self.length = int(length)

    def on_body(self, piece: bytes) -> None:
        """Hold a piece of data until it is read."""
        if self._complete:
            return
        self._pieces.append(piece)
        self._held += len(piece)
        if len(self._pieces) == 64:  # chunks may be of one byte, and an object of each would be 40 times the data
            self._pieces = [b"".join(self._pieces)]

    def on_message_complete(self) -> None:
        """All data has come, unless the answer was an interim one."""
        self._complete = self._in_body

    # What its reader calls

    async def read_head(self) -> None:
        """Wait until the data begins. Raises SourceBroken, and OSError when the connection breaks or ends."""
        while not self._in_body:
            await self._wait()
        if self.headers.get("transfer-encoding", "chunked") != "chunked":
            raise SourceBroken(because=f"Transfer-Encoding {self.headers['transfer-encoding']!r}")

    async def read(self) -> bytes:
        """The next data, at most 384 KiB; b"" after the last. Raises SourceBroken, and OSError when the connection breaks or ends."""
        while not self._pieces:
            if self._complete and not self._over:
                await self._see_it_close()
            if self._complete and self._failure is None:
                return b""
            await self._wait()
        block = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces.clear()
        if self._held >= HELD_BYTES and not self._transport.is_closing():
            self._transport.resume_reading()
        self._held = 0
        return block

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._news.clear()
        await self._news.wait()

    async def _see_it_close(self) -> None:
        """Whoever sends more than announced is seen until the connection closes, as it was asked to, but not for longer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._over and self._failure is None:
                    await self._wait()
        self._over = True

    def close(self) -> None:
        """Drop the connection, wherever it is."""
        self._transport.abort()


async def ask(
    target: Target, address: Address, headers: Mapping[str, str], tls: ssl.SSLContext | None, body: bytes | None = None
) -> Answer:
    """Connect to this very address and send it a GET for the target, whose name TLS (None: plain HTTP) has to prove; with a body, a POST.

    Raises OSError where it cannot be connected to within CONNECT_S seconds. The answer's head is yet to be read.
    """
    method, length = ("GET", {}) if body is None else ("POST", {"Content-Length": str(len(body))})
    lines = [f"{name}: {value}" for name, value in {"Host": target.authority, **headers, **length}.items()]
    if not all(HEADER.fullmatch(line) for line in lines):
        raise ValueError("a header holds what no header may")
    async with asyncio.timeout(CONNECT_S):
        transport, answer = await asyncio.get_running_loop().create_connection(
            Answer, str(address), target.port, ssl=tls, server_hostname=target.host if tls else None
        )
    transport.write("\r\n".join([f"{method} {target.path} HTTP/1.1", *lines, "", ""]).encode("ascii") + (body or b""))
    return answer
