"""The protocol against real sockets: each test speaks raw bytes to a uvicorn server that runs in a thread, on both event loops."""

import asyncio
import contextlib
import gc
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from ikon.api.deadlines import Limits
from ikon.api.protocol import protocol_class
from ikon.api.watch import Watch
from ikon.problems import ClientGone

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
HEAD = b"Host: ikon\r\n"
LIMITS = Limits(
    header_timeout_s=0.2, header_bytes=4096, url_bytes=1024, body_stall_s=0.25, write_stall_s=0.25, drain_bytes=8 * MIB, drain_s=0.3
)
KEEP_ALIVE_S = 0.6
SOON_S = 2.0  # far more than anything here takes, far less than what it must not wait for


class House:
    """An application with one path for each way to behave, and what it saw."""

    def __init__(self, big: Path) -> None:
        self.big = big
        self.seen: list[Any] = []
        self.go = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await getattr(self, scope["path"].split("/")[1] or "hello")(scope, receive, send)

    async def answer(self, send: Any, body: bytes = b"ok", status: int = 200, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % len(body)), *headers]})
        await send({"type": "http.response.body", "body": body})

    async def wait(self) -> None:
        while not self.go.is_set():
            await asyncio.sleep(0.01)

    async def hello(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, scope["path"].encode())

    async def status(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, b"", status=int(scope["path"].split("/")[2]))

    async def upload(self, scope: Any, receive: Any, send: Any) -> None:
        digest, size, messages, largest = hashlib.sha256(), 0, 0, 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.append(("disconnect", size))
                return
            digest.update(message["body"])
            size, messages, largest = size + len(message["body"]), messages + 1, max(largest, len(message["body"]))
            if not message["more_body"]:
                break
        self.seen.append(("whole", size, messages, largest))
        await self.answer(send, digest.hexdigest().encode())

    async def nap_then_upload(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.4)
        await self.upload(scope, receive, send)

    async def early(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, b"too large", status=413)
        self.seen.append((await receive())["type"])

    async def early_later(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await self.answer(send, b"too large", status=413)

    async def early_part(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await self.answer(send, b"too large", status=413)

    async def half_answer(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        self.seen.append([(await receive())["type"], (await receive())["type"]])

    async def slow(self, scope: Any, receive: Any, send: Any) -> None:
        await self.wait()
        await self.answer(send, scope["path"].encode())

    async def until_gone(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.seen.append("gone")

    async def headers(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await self.answer(send, b",".join(name for name, _ in scope["headers"]))

    async def fail(self, scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the application fails")

    async def extensions(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, ",".join(sorted(scope["extensions"])).encode())

    async def last(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answer(send, bytes(16 * MIB), headers=((b"connection", b"close"),))

    async def abort(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        scope["extensions"]["ikon.abort"]()
        await receive()
        scope["extensions"]["ikon.abort"]()  # twice does no harm

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        size = self.big.stat().st_size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for _ in range(size // MIB):
            await send({"type": "http.response.body", "body": bytes(MIB), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.seen.append("streamed")

    async def file(self, scope: Any, receive: Any, send: Any) -> None:
        """/file/<bytes sent the usual way before>/<offset>/<count>[/<stall>]: in calls of at most 3 MiB."""
        before, offset, count, *stall = scope["path"].split("/")[2:]
        offset, end, sent = int(offset), int(offset) + int(count), 0
        options = {"stall_s": float(stall[0])} if stall else {}
        sendfile = scope["extensions"]["ikon.sendfile"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (int(before) + int(count)))]})
        if int(before):
            await send({"type": "http.response.body", "body": bytes(int(before)), "more_body": True})
        fd = os.open(self.big, os.O_RDONLY)
        try:
            while offset + sent < end:
                wanted = min(end - offset - sent, 3 * MIB)
                got = await sendfile(fd, offset + sent, wanted, **options)
                sent += got
                if got < wanted:
                    self.seen.append(("file ended", sent))
                    scope["extensions"]["ikon.abort"]()
                    return
            await send({"type": "http.response.body", "body": b""})
            self.seen.append(("sent", sent))
        except ClientGone:
            self.seen.append("client gone")
        finally:
            os.close(fd)

    async def file_too_long(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        with self.big.open("rb") as file:
            try:
                await scope["extensions"]["ikon.sendfile"](file.fileno(), 0, 6)
            except RuntimeError as error:
                self.seen.append(str(error))
            await scope["extensions"]["ikon.sendfile"](file.fileno(), 0, 5)
        await send({"type": "http.response.body", "body": b""})

    async def file_after_loss(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await self.file({"path": "/file/0/0/5000", "extensions": scope["extensions"]}, receive, send)

    async def file_cancelled(self, scope: Any, receive: Any, send: Any) -> None:
        size = self.big.stat().st_size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        with self.big.open("rb") as file:
            task = asyncio.create_task(scope["extensions"]["ikon.sendfile"](file.fileno(), 0, size))
            await asyncio.sleep(0.2)
            waiting_before = len(Watch.of(asyncio.get_running_loop()).waiting)
            task.cancel()
            await asyncio.wait([task])
            self.seen.append((task.cancelled(), waiting_before, len(Watch.of(asyncio.get_running_loop()).waiting)))
        scope["extensions"]["ikon.abort"]()


class Running:
    """A server in a thread."""

    def __init__(self, loop: str, limits: Limits, big: Path, host: str = "127.0.0.1", **options: Any) -> None:
        self.house = House(big)
        self.listener = socket.create_server((host, 0))
        self.address = self.listener.getsockname()[:2]
        self.protocol = protocol_class(limits)
        options = {"timeout_keep_alive": KEEP_ALIVE_S, "timeout_graceful_shutdown": 3} | options
        self.config = uvicorn.Config(
            self.house, http=self.protocol, loop=loop, lifespan="off", ws="none", access_log=False, log_config=None, **options
        )
        self.server = uvicorn.Server(self.config)
        self.thread = threading.Thread(target=self.server.run, args=([self.listener],))
        self.thread.start()
        until(lambda: self.server.started)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def client(self) -> "Client":
        return Client(self.address)

    def saw(self, count: int = 1) -> list[Any]:
        """What the application saw, once it saw `count` things."""
        until(lambda: len(self.house.seen) >= count)
        return self.house.seen

    def is_quiet(self) -> bool:
        return not (self.server.server_state.connections or self.server.server_state.tasks)


class Client:
    def __init__(self, address: tuple[str, int], receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(5)
        self.socket.connect(address)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        self.socket.sendall(b"".join(pieces))

    def head(self) -> tuple[int, dict[str, str], str]:
        line = self.file.readline().decode()
        if not line:
            raise EOFError
        headers = {}
        while (header := self.file.readline().decode().strip()) != "":
            name, _, value = header.partition(": ")
            headers[name] = value
        return int(line.split(" ", 2)[1]), headers, line.split(" ", 2)[2].strip()

    def answer(self, *, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        status, headers, _ = self.head()
        size = 0 if method == "HEAD" or status == 100 else int(headers["content-length"])
        body = self.file.read(size)
        assert len(body) == size, "the answer is cut"
        return status, headers, body

    def get(self, path: str) -> bytes:
        self.send(f"GET {path} HTTP/1.1\r\n".encode(), HEAD, b"\r\n")
        status, _, body = self.answer()
        assert status == 200
        return body

    def put(self, path: str, *headers: bytes) -> None:
        self.send(f"PUT {path} HTTP/1.1\r\n".encode(), HEAD, *(header + b"\r\n" for header in headers), b"\r\n")

    def is_closed(self, within_s: float = 5.0) -> bool:
        """Whether the server ends the connection in time; bytes before the end are not expected."""
        self.socket.settimeout(within_s)
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def reset(self) -> None:
        """Go away with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.__exit__()


def until(what: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@contextlib.contextmanager
def took(least_s: float, most_s: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert least_s <= time.monotonic() - began <= most_s


#: For what waits by our own timer and asks nothing of the loop.
on_one_loop = pytest.mark.parametrize("loop", ["uvloop"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "big"
    path.write_bytes(os.urandom(MIB) * 32)
    return path


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running(loop: str, big: Path) -> Iterator[Running]:
    running = Running(loop, LIMITS, big)
    yield running
    running.stop()


@pytest.fixture
def server(running: Running) -> Iterator[Running]:
    """The shared server; after each test it holds no connection, no task and no waiting socket."""
    running.house.seen.clear()
    running.house.go.clear()
    yield running
    running.house.go.set()
    until(running.is_quiet)
    assert all(not watch.waiting for watch in Watch.watches.values())


@contextlib.contextmanager
def another(loop: str, big: Path, limits: Limits = LIMITS, **options: Any) -> Iterator[Running]:
    running = Running(loop, limits, big, **options)
    try:
        yield running
    finally:
        running.stop()


# Headers


@on_one_loop
def test_a_connection_that_sends_nothing_is_closed(server: Running) -> None:
    with server.client() as client, took(0.15, SOON_S):
        assert client.is_closed()


@on_one_loop
def test_headers_that_drip_are_cut_at_their_deadline(server: Running) -> None:
    with server.client() as client, took(0.15, SOON_S):
        client.send(b"GET / HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.send(b"a")
                client.socket.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    if client.socket.recv(1, socket.MSG_PEEK):
                        break
        client.socket.settimeout(5)
        assert client.answer()[0] == 408
        assert client.is_closed()


@on_one_loop
def test_an_idle_connection_lives_as_long_as_keep_alive_says(server: Running) -> None:
    with server.client() as client:
        client.get("/")
        time.sleep(2 * LIMITS.header_timeout_s)
        client.get("/")
        with took(0.5, SOON_S):
            assert client.is_closed()


@on_one_loop
def test_headers_of_a_later_request_have_a_deadline_too(server: Running) -> None:
    with server.client() as client:
        client.get("/")
        with took(0.15, SOON_S):
            client.send(b"GET / HT")
            assert client.answer()[0] == 408


@on_one_loop
def test_headers_begun_while_an_answer_runs_have_their_time_after_it(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /slow HTTP/1.1\r\n", HEAD, b"\r\nGET / HT")
        time.sleep(0.4)
        server.house.go.set()
        assert client.answer()[2] == b"/slow"
        client.send(b"TP/1.1\r\n\r\nGET /early_later HTTP/1.1\r\n\r\nGET / HT")
        assert client.answer()[2] == b"/"
        assert client.answer()[0] == 413
        with took(0.15, SOON_S):
            assert client.answer()[0] == 408


@on_one_loop
def test_blank_lines_do_not_keep_a_connection(server: Running) -> None:
    with server.client() as client:
        client.get("/")
        client.send(b"\r\n")
        with took(0.15, SOON_S):
            assert client.is_closed()


@pytest.mark.parametrize("headers", [b"X: " + b"a" * 5000 + b"\r\n", b"".join(b"X-%d: aaaaaaaaaa\r\n" % n for n in range(300))])
def test_too_many_header_bytes_are_answered_431(server: Running, headers: bytes) -> None:
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\n", headers, b"\r\n")
        status, answered, body = client.answer()
        assert (status, answered["connection"]) == (431, "close")
        assert body
        assert client.is_closed()


def test_a_header_without_an_end_is_answered_431_and_the_answer_arrives(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET / HTTP/1.1\r\nX: ", b"a" * 2 * MIB)
        assert client.answer()[0] == 431
        assert client.is_closed()


def test_headers_just_under_the_cap_pass(server: Running) -> None:
    with server.client() as client:
        client.put("/headers", b"X: " + b"a" * 4000, b"Content-Length: 10000")
        client.send(b"a" * 10000)
        assert client.answer()[2] == b"host,x,content-length"


def test_a_long_url_is_answered_414(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /" + b"a" * 1100 + b" HTTP/1.1\r\n\r\n")
        assert client.answer()[0] == 414
        assert client.is_closed()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET http://host:99999999/ HTTP/1.1\r\n\r\n",
        b"CONNECT host:443 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\r\n folded\r\n\r\n",
        b"PUT /upload HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"PUT /upload HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"PUT /upload HTTP/1.1\r\nContent-Length: -3\r\n\r\nabc",
        b"PUT /upload HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
    ],
)
def test_what_is_no_http_is_answered_400_and_never_reaches_the_application(server: Running, request_bytes: bytes) -> None:
    with server.client() as client:
        client.send(request_bytes)
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert client.is_closed()
    assert not server.house.seen


@pytest.mark.parametrize(
    "coding", [b"gzip, chunked", b"gzip", b"identity", b"chunked, chunked", b"xchunked", b"chunked\r\nTransfer-Encoding: gzip"]
)
def test_a_coding_that_would_become_the_image_is_refused(server: Running, coding: bytes) -> None:
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding: " + coding)
        assert client.answer()[0] in ((501, 400) if b"\r" in coding or b"chunked," in coding else (501,))
        assert client.is_closed()
    assert not server.house.seen


@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED", b"   Chunked  "])
def test_chunked_is_taken_in_any_case_and_with_blanks(server: Running, coding: bytes) -> None:
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding:" + coding)
        client.send(b"3\r\nabc\r\n0\r\n\r\n")
        assert client.answer()[2] == hashlib.sha256(b"abc").hexdigest().encode()


def test_trailers_are_no_headers(server: Running) -> None:
    with server.client() as client:
        client.put("/headers", b"Transfer-Encoding: chunked")
        client.send(b"3\r\nabc\r\n0\r\nX-Roles: admin\r\n\r\n")
        assert client.answer()[2] == b"host,transfer-encoding"


def test_a_trailer_without_an_end_is_refused(server: Running) -> None:
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding: chunked")
        client.send(b"3\r\nabc\r\n0\r\nX: ", b"a" * MIB)
        assert client.answer()[0] == 400
    assert server.saw() == [("disconnect", 3)]


def test_an_offer_of_http_2_is_declined_by_going_on(server: Running) -> None:
    with server.client() as client:
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        client.send(
            b"GET / HTTP/1.1\r\n", offer, b"\r\nPUT /upload HTTP/1.1\r\n", offer, b"Content-Length: 3\r\n\r\nabcGET /hello HTTP/1.1\r\n\r\n"
        )
        assert client.answer()[2] == b"/"
        assert client.answer()[2] == hashlib.sha256(b"abc").hexdigest().encode()
        assert client.answer()[2] == b"/hello"


def test_a_declined_offer_does_not_count_for_the_length_of_the_url(server: Running) -> None:
    with server.client() as client:
        url = b"/hello/".ljust(LIMITS.url_bytes, b"a")
        client.send(b"GET ", url, b" HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert client.answer()[2] == url


@pytest.mark.parametrize("framing", [b"Content-Length: 300000", b"Transfer-Encoding: chunked"])
def test_a_body_behind_a_declined_offer_is_whole_or_a_disconnect(server: Running, framing: bytes) -> None:
    body = os.urandom(300_000)
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if b"chunked" in framing else body
    for cut in (0, 10):
        with server.client() as client:
            client.put("/upload", b"Connection: Upgrade", b"Upgrade: h2c", framing)
            time.sleep(0.02)
            client.send(sent[: len(sent) - cut])
            if not cut:
                assert client.answer()[2] == hashlib.sha256(body).hexdigest().encode()
                client.get("/")
    assert [seen[0] for seen in server.saw(2)] == ["whole", "disconnect"]


@pytest.mark.parametrize(("status", "phrase"), [(413, "Request Entity Too Large"), (416, "Request Range Not Satisfiable"), (200, "OK")])
def test_status_lines_carry_the_phrases_that_clients_know(server: Running, status: int, phrase: str) -> None:
    with server.client() as client:
        client.send(b"GET /status/%d HTTP/1.1\r\n\r\n" % status)
        assert client.head()[::2] == (status, phrase)


def test_small_answers_do_not_wait_for_acknowledgements(server: Running) -> None:
    with server.client() as client, took(0, 1.5):
        for _ in range(50):
            client.get("/")


def test_connections_from_one_address_are_bounded(loop: str, big: Path) -> None:
    outside = own_address()
    assert outside is not None, "this machine has only the loopback address, from which connections are not counted"
    limits = Limits(connections_per_address=2, drain_s=0.3)
    with another(loop, big, limits, host="0.0.0.0") as server:
        server.address = (outside, server.address[1])
        with server.client() as first, server.client() as second:
            first.get("/")
            second.get("/")
            with server.client() as third:
                assert third.answer()[0] == 503
                assert third.is_closed()
        until(server.is_quiet)
        assert not server.protocol.addresses  # type: ignore[attr-defined]
        with server.client() as fourth:
            fourth.get("/")


@on_one_loop
def test_connections_from_loopback_are_not_counted(loop: str, big: Path) -> None:
    with another(loop, big, Limits(connections_per_address=1)) as server, contextlib.ExitStack() as stack:
        for client in [stack.enter_context(server.client()) for _ in range(5)]:
            client.get("/")


def own_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


# Bodies


def test_a_body_arrives_whole_in_large_pieces(server: Running, big: Path) -> None:
    body = big.read_bytes()
    with server.client() as client:
        client.put("/upload", b"Content-Length: %d" % len(body))
        client.send(body)
        assert client.answer()[2] == hashlib.sha256(body).hexdigest().encode()
    _, size, messages, largest = server.saw()[0]
    assert size == len(body)
    assert messages < size // (16 * 1024)
    assert largest <= 256 * 1024


@on_one_loop
def test_chunks_of_one_byte_are_joined(server: Running) -> None:
    with server.client() as client:
        client.put("/nap_then_upload", b"Transfer-Encoding: chunked")
        client.send(b"1\r\nx\r\n" * 20_000, b"0\r\n\r\n")
        assert client.answer()[2] == hashlib.sha256(b"x" * 20_000).hexdigest().encode()
    assert server.saw()[0][2] < 500


def test_one_byte_at_a_time_is_a_body_too(server: Running) -> None:
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding: chunked")
        for byte in b"3\r\nabc\r\n1;ext=1\r\nd\r\n0\r\n\r\n":
            client.send(bytes([byte]))
        assert client.answer()[2] == hashlib.sha256(b"abcd").hexdigest().encode()


def test_a_chunk_of_64_mib_passes(server: Running, big: Path) -> None:
    body = big.read_bytes() * 2
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding: chunked")
        client.send(b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n")
        assert client.answer()[2] == hashlib.sha256(body).hexdigest().encode()
    assert server.saw()[0][3] <= 256 * 1024


@pytest.mark.parametrize(
    "rest", [b"zz\r\nabc\r\n", b"-3\r\nabc\r\n", b" 3\r\nabc\r\n", b"3\r\nabcde\r\n", b"3\nabc\n", b"fffffffffffffffff\r\nabc"]
)
def test_a_chunk_size_that_is_no_number_never_ends_the_body_cleanly(server: Running, rest: bytes) -> None:
    with server.client() as client:
        client.put("/upload", b"Transfer-Encoding: chunked")
        client.send(b"3\r\nabc\r\n", rest, b"0\r\n\r\n")
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (400, "close")
        assert client.is_closed()
    assert server.saw()[0][0] == "disconnect"


def test_a_malformed_body_breaks_an_answer_that_has_begun(server: Running) -> None:
    with server.client() as client:
        client.put("/half_answer", b"Transfer-Encoding: chunked")
        client.send(b"3\r\nabc\r\n")
        assert client.head()[0] == 200
        assert client.file.read(4) == b"half"
        client.send(b"zz\r\n")
        with pytest.raises(ConnectionResetError):
            client.file.read(1)
    assert server.saw() == [["http.request", "http.disconnect"]]


@pytest.mark.parametrize("way", ["leave", "reset"])
@pytest.mark.parametrize(("header", "part"), [(b"Content-Length: 1000", b"abc"), (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n")])
def test_a_client_that_vanishes_amid_its_body_is_a_disconnect(server: Running, header: bytes, part: bytes, way: str) -> None:
    with server.client() as client:
        client.put("/upload", header)
        client.send(part)
        time.sleep(0.05)
        if way == "reset":
            client.reset()
    assert server.saw() == [("disconnect", 3)]


def test_a_body_that_stalls_is_closed(server: Running) -> None:
    with server.client() as client, took(0.2, SOON_S):
        client.put("/upload", b"Content-Length: 1000")
        client.send(b"abc")
        assert client.is_closed()
    assert server.saw() == [("disconnect", 3)]


@on_one_loop
def test_a_body_stalls_only_while_the_application_waits_for_it(server: Running) -> None:
    with server.client() as client:
        client.put("/nap_then_upload", b"Content-Length: 3")
        time.sleep(0.5)
        client.send(b"abc")
        assert client.answer()[0] == 200


@on_one_loop
def test_a_body_that_goes_on_slowly_is_no_stall(server: Running) -> None:
    with server.client() as client:
        client.put("/upload", b"Content-Length: 5")
        for _ in range(5):
            time.sleep(0.08)
            client.send(b"a")
        assert client.answer()[0] == 200


@on_one_loop
def test_a_body_below_the_least_rate_is_closed(loop: str, big: Path) -> None:
    limits = Limits(body_rate_bytes_s=1000, body_rate_grace_s=0.3)
    with another(loop, big, limits) as server, server.client() as slow, server.client() as fast:
        slow.put("/upload", b"Content-Length: 100000")
        fast.put("/upload", b"Content-Length: 100000")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                time.sleep(0.02)
                fast.send(b"a" * 100)
                slow.send(b"a")
                if server.house.seen:
                    break
        assert 0.25 < time.monotonic() - began < SOON_S
        assert slow.is_closed()
        fast.send(b"a" * 100_000)
        assert fast.answer()[0] == 200


def test_a_body_that_nobody_reads_stops_coming(server: Running) -> None:
    with server.client() as client:
        client.put("/slow", b"Content-Length: %d" % (64 * MIB))
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.sendall(bytes(64 * MIB))
        (connection,) = server.server.server_state.connections
        assert 0 < connection.cycle.queued_bytes <= 520 * 1024  # type: ignore[union-attr]


def test_tiny_chunks_that_nobody_reads_stop_coming_sooner(server: Running) -> None:
    with server.client() as client:
        client.put("/slow", b"Transfer-Encoding: chunked")
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.sendall(b"2\r\nab\r\n" * (4 * MIB))
        (connection,) = server.server.server_state.connections
        assert 0 < len(connection.cycle.chunks) < 50_000  # type: ignore[union-attr]


@on_one_loop
def test_receiving_after_the_end_waits_for_the_client_to_leave(server: Running) -> None:
    with server.client() as client:
        client.put("/until_gone", b"Content-Length: 3")
        client.send(b"abc")
        time.sleep(0.4)  # longer than a body may stall
        assert not server.house.seen
    assert server.saw() == ["gone"]


# Early answers


@pytest.mark.parametrize("path", ["/early", "/early_later", "/early_part", "/fail"])
def test_an_early_answer_arrives_whole_whatever_the_client_still_sends(server: Running, path: str) -> None:
    with server.client() as client:
        client.put(path, b"Content-Length: %d" % (6 * MIB))
        client.send(bytes(6 * MIB))
        assert client.answer()[::2] == ((500, b"Internal Server Error") if path == "/fail" else (413, b"too large"))
        if path == "/fail":
            assert client.is_closed()
        else:
            assert client.get("/") == b"/"
    if path == "/early":
        assert server.saw() == ["http.disconnect"]


@on_one_loop
def test_an_early_answer_goes_out_at_once(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Transfer-Encoding: chunked")
        with took(0, 0.25):
            assert client.answer()[0] == 413
        client.send(b"3\r\nabc\r\n0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n")
        assert client.answer()[2] == b"/"
        client.put("/early", b"Content-Length: 3")
        assert client.answer()[0] == 413
        client.send(b"abc")
        with took(0.5, SOON_S):
            assert client.is_closed()  # by keep-alive, which is no shorter for it


@on_one_loop
def test_keep_alive_does_not_run_while_the_request_behind_an_early_answer_does(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Content-Length: 3")
        assert client.answer()[0] == 413
        client.send(b"abc", b"GET /slow HTTP/1.1\r\n\r\n")
        time.sleep(KEEP_ALIVE_S + 0.2)
        server.house.go.set()
        assert client.answer()[2] == b"/slow"


@on_one_loop
def test_a_body_answered_early_is_dropped_for_a_time_only(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Content-Length: %d" % (100 * MIB))
        assert client.answer()[0] == 413
        with took(0.25, SOON_S), pytest.raises(ConnectionError):
            while True:
                client.send(b"a")
                time.sleep(0.02)


@on_one_loop
def test_a_body_answered_early_is_dropped_up_to_a_size_only(loop: str, big: Path) -> None:
    with another(loop, big, Limits(drain_bytes=8 * MIB, drain_s=60)) as server, server.client() as client:
        client.put("/early", b"Content-Length: %d" % (100 * MIB))
        assert client.answer()[0] == 413
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 100 * MIB:
                client.send(bytes(MIB))
                sent += MIB
        assert 8 * MIB <= sent < 40 * MIB  # the kernel's buffers take some of it


def test_a_client_that_asked_first_is_refused_without_its_body(server: Running) -> None:
    with server.client() as client, took(0, 0.25):
        client.put("/early", b"Content-Length: 1000", b"Expect: 100-continue")
        status, headers, _ = client.answer()
        assert (status, headers["connection"]) == (413, "close")
        assert client.is_closed()


def test_a_client_that_asked_first_and_did_not_wait_reads_the_answer(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Content-Length: %d" % (4 * MIB), b"Expect: 100-continue")
        time.sleep(0.05)
        client.send(bytes(4 * MIB))
        assert client.answer()[0] == 413
        assert client.is_closed()


def test_a_client_that_asked_first_is_told_to_go_on_when_its_body_is_wanted(server: Running) -> None:
    with server.client() as client:
        client.put("/upload", b"Content-Length: 3", b"Expect: 100-continue")
        assert client.head()[0] == 100
        client.send(b"abc")
        assert client.answer()[0] == 200
        client.get("/")


def test_a_client_of_http_1_0_is_not_told_to_go_on(server: Running) -> None:
    with server.client() as client:
        client.send(b"PUT /upload HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        time.sleep(0.05)
        client.send(b"abc")
        assert client.answer()[0] == 200
        assert client.is_closed()


def test_a_client_that_closes_after_the_answer_reads_an_early_one(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Content-Length: %d" % (4 * MIB), b"Connection: close")
        client.send(bytes(4 * MIB))
        assert client.answer()[::2] == (413, b"too large")
        assert client.is_closed()


def test_rubbish_after_an_early_answer_closes_the_connection(server: Running) -> None:
    with server.client() as client:
        client.put("/early", b"Transfer-Encoding: chunked")
        assert client.answer()[0] == 413
        client.send(b"zz\r\n")
        assert client.is_closed()


# Pipelines


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    with server.client() as client:
        client.send(b"".join(b"GET /hello/%d HTTP/1.1\r\n\r\n" % n for n in range(10)))
        assert [client.answer()[2] for _ in range(10)] == [b"/hello/%d" % n for n in range(10)]
        client.get("/")


def test_pipelined_requests_behind_an_early_answer_are_answered(server: Running) -> None:
    put = b"PUT /%s HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"
    with server.client() as client:
        client.send(put % b"early", put % b"upload", put % b"early_later", b"GET / HTTP/1.1\r\n\r\n")
        assert [client.answer()[0] for _ in range(4)] == [413, 200, 413, 200]
        assert server.saw(2)[1] == ("whole", 10, 1, 10)


def test_a_pipelined_body_comes_in_behind_a_slow_answer(server: Running, big: Path) -> None:
    body = big.read_bytes()[: 4 * MIB]
    with server.client() as client:
        client.send(b"GET /slow HTTP/1.1\r\n\r\nPUT /upload HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body))
        sender = threading.Thread(target=client.send, args=(body,))
        sender.start()
        time.sleep(0.2)
        server.house.go.set()
        assert client.answer()[2] == b"/slow"
        assert client.answer()[2] == hashlib.sha256(body).hexdigest().encode()
        sender.join()


def test_any_number_of_pipelined_requests_is_answered_when_they_are_not_tiny(server: Running) -> None:
    with server.client() as client:
        sender = threading.Thread(target=client.send, args=[b"GET / HTTP/1.1\r\nX: " + b"a" * 3000 + b"\r\n\r\n"] * 250)
        sender.start()
        assert [client.answer()[0] for _ in range(250)] == [200] * 250
        sender.join()


def test_requests_beyond_the_pipeline_are_refused_after_those_before(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /slow HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n" * 5000)
        time.sleep(0.1)
        server.house.go.set()
        assert [client.answer()[0] for _ in range(102)] == [200] * 101 + [503]
        assert client.is_closed()


@pytest.mark.parametrize("bad", [b"GARBAGE\r\n\r\n", b"PUT /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_rubbish_behind_a_request_is_answered_after_it(server: Running, bad: bytes) -> None:
    with server.client() as client:
        client.send(b"GET /slow HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", bad)
        time.sleep(0.1)
        server.house.go.set()
        assert [client.answer()[0] for _ in range(3)] == [200, 200, 400]
        assert client.is_closed()


def test_a_client_that_leaves_requests_behind_is_missed_by_the_one_that_runs(server: Running) -> None:
    with server.client() as client:
        client.send(b"PUT /until_gone HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
        time.sleep(0.05)
        (connection,) = server.server.server_state.connections
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        until(lambda: len(connection.pipeline) == 1)  # type: ignore[union-attr]
        connection.loop.call_soon_threadsafe(connection.transport.abort)  # type: ignore[union-attr]
        assert server.saw() == ["gone"]


# Answers


def test_a_file_is_sent_as_part_of_the_body(server: Running, big: Path) -> None:
    whole = big.read_bytes()
    with server.client() as client:
        assert client.get(f"/file/0/0/{len(whole)}") == whole
        assert client.get(f"/file/10/1000/{MIB}") == bytes(10) + whole[1000 : 1000 + MIB]
        assert client.get("/file/5/0/0") == bytes(5)
        assert client.get("/") == b"/"
    assert server.saw(3)[:3] == [("sent", len(whole)), ("sent", MIB), ("sent", 0)]


def test_a_file_waits_for_what_was_written_before(server: Running, big: Path) -> None:
    with server.client() as client:
        client.send(b"GET /file/%d/0/%d HTTP/1.1\r\n\r\n" % (20 * MIB, MIB))
        time.sleep(0.3)
        assert client.answer()[2] == bytes(20 * MIB) + big.read_bytes()[:MIB]


def test_pipelined_files_arrive_in_order(server: Running, big: Path) -> None:
    whole = big.read_bytes()
    with server.client() as client:
        client.send(b"GET /file/0/0/%d HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\nGET /file/1/7/70000 HTTP/1.1\r\n\r\n" % len(whole))
        assert client.answer()[2] == whole
        assert client.answer()[2] == b"/"
        assert client.answer()[2] == b"\0" + whole[7:70007]


def test_a_file_that_ends_early_says_so(server: Running, big: Path) -> None:
    size = big.stat().st_size
    with server.client() as client:
        client.send(b"GET /file/0/%d/5000 HTTP/1.1\r\n\r\n" % (size - 1000))
        client.head()
        with contextlib.suppress(ConnectionResetError):
            assert len(client.file.read(5000)) <= 1000
    assert server.saw() == [("file ended", 1000)]


def test_a_file_is_not_sent_to_head(server: Running) -> None:
    with server.client() as client:
        client.send(b"HEAD /file/0/0/5000 HTTP/1.1\r\n\r\n")
        status, headers, _ = client.answer(method="HEAD")
        assert (status, headers["content-length"]) == (200, "5000")
        assert client.get("/") == b"/"


def test_a_file_is_never_longer_than_announced(server: Running, big: Path) -> None:
    with server.client() as client:
        assert client.get("/file_too_long") == big.read_bytes()[:5]
    assert server.saw() == ["Response content longer than Content-Length"]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_a_client_that_vanishes_amid_a_file_is_noticed(server: Running, big: Path, way: str) -> None:
    with server.client() as client:
        client.send(b"GET /file/0/0/%d HTTP/1.1\r\n\r\n" % big.stat().st_size)
        client.head()
        time.sleep(0.1)
        if way == "reset":
            client.reset()
    with took(0, SOON_S):
        assert server.saw() == ["client gone"]


@pytest.mark.parametrize("way", ["leave", "reset"])
def test_a_client_that_vanishes_amid_a_file_with_requests_behind_it_is_noticed(server: Running, big: Path, way: str) -> None:
    with server.client() as client:
        client.send(b"GET /file/0/0/%d HTTP/1.1\r\n\r\n" % big.stat().st_size, b"GET / HTTP/1.1\r\n\r\n" * 3)
        client.head()
        time.sleep(0.1)
        if way == "reset":
            client.reset()
    with took(0, SOON_S):
        assert server.saw() == ["client gone"]


def test_a_client_that_left_before_its_file_is_noticed(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /file_after_loss HTTP/1.1\r\n\r\n")
        time.sleep(0.05)
    assert server.saw() == ["client gone"]


def test_a_client_that_takes_nothing_of_a_file_is_given_up(server: Running, big: Path) -> None:
    with Client(server.address, receive_buffer=65536) as client:
        with took(0.25, SOON_S):
            client.send(b"GET /file/0/0/%d/0.3 HTTP/1.1\r\n\r\n" % big.stat().st_size)
            assert server.saw() == ["client gone"]
        client.head()
        with pytest.raises(ConnectionResetError):
            client.file.read()


def test_a_slow_reader_gets_its_file_and_holds_nobody_up(server: Running, big: Path) -> None:
    size = 8 * MIB
    with Client(server.address, receive_buffer=65536) as slow, server.client() as other:
        slow.send(b"GET /file/0/0/%d/0.25 HTTP/1.1\r\n\r\n" % (size))
        slow.head()
        read = 0
        for _ in range(30):  # at this pace the socket becomes writable less often than the stall allows: bytes taken count
            time.sleep(0.03)
            read += len(slow.file.read(32 * 1024))
            with took(0, 0.25):
                other.get("/")
        while read < size:
            read += len(slow.file.read(MIB))
    assert server.saw() == [("sent", size)]


def test_a_cancelled_file_leaves_no_watcher(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /file_cancelled HTTP/1.1\r\n\r\n")
        assert server.saw() == [(True, 1, 0)]
        client.head()
        with pytest.raises(ConnectionResetError):
            client.file.read()


def test_a_client_that_takes_nothing_of_a_stream_is_given_up(server: Running) -> None:
    with Client(server.address, receive_buffer=65536) as client:
        with took(0.2, SOON_S):
            client.send(b"GET /stream HTTP/1.1\r\n\r\n")
            assert server.saw() == ["streamed"]  # sends after the loss are dropped
        client.head()
        with pytest.raises(ConnectionResetError):
            client.file.read()


def test_a_client_that_takes_nothing_of_the_last_answer_is_given_up(server: Running) -> None:
    with Client(server.address, receive_buffer=65536) as client:
        client.send(b"GET /last HTTP/1.1\r\n\r\n")
        until(lambda: bool(server.server.server_state.connections))
        with took(0.2, SOON_S):
            until(server.is_quiet)
        client.head()
        with pytest.raises(ConnectionResetError):
            client.file.read()


def test_an_aborted_answer_is_a_broken_connection(server: Running) -> None:
    with server.client() as client:
        client.send(b"GET /abort HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            client.head()
            client.file.read(1000)


def test_over_tls_there_is_no_sendfile_but_early_answers_and_aborts(loop: str, big: Path, tmp_path: Path) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=ikon -days 1 -keyout key -out cert"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.create_default_context(cafile=tmp_path / "cert")
    tls.check_hostname = False
    with another(loop, big, ssl_keyfile=tmp_path / "key", ssl_certfile=tmp_path / "cert") as server:
        with server.client() as client:
            client.socket = tls.wrap_socket(client.socket, suppress_ragged_eofs=False)
            client.file = client.socket.makefile("rb")
            assert client.get("/extensions") == b"ikon.abort"
            client.put("/early_later", b"Content-Length: %d" % MIB, b"Connection: close")
            client.send(bytes(MIB))
            assert client.answer()[0] == 413
        with server.client() as client:
            client.socket = tls.wrap_socket(client.socket, suppress_ragged_eofs=False)
            client.file = client.socket.makefile("rb")
            client.send(b"GET /abort HTTP/1.1\r\n\r\n")
            with pytest.raises(OSError, match=r"reset|EOF"):
                client.head()
                client.file.read(1000)


# Stopping and cleaning up


def test_stopping_closes_idle_connections_and_lets_running_ones_finish(loop: str, big: Path) -> None:
    with another(loop, big) as server, server.client() as idle, server.client() as fresh, server.client() as busy:
        idle.get("/")
        busy.send(b"GET /slow HTTP/1.1\r\n\r\n")
        until(lambda: len(server.server.server_state.tasks) == 1)
        server.server.should_exit = True
        assert idle.is_closed(0.5)
        assert fresh.is_closed(0.5)
        server.house.go.set()
        status, headers, body = busy.answer()
        assert (status, headers["connection"], body) == (200, "close", b"/slow")
        server.thread.join(2)
        assert not server.thread.is_alive()


def test_nothing_leaks(server: Running, big: Path) -> None:
    def round_of_trouble() -> None:
        for path in ("/fail", "/early", "/upload", "/until_gone"):
            with server.client() as client:
                client.put(path, b"Content-Length: 1000")
                client.send(b"abc")
        for way in ("leave", "reset"):
            with server.client() as client:
                client.send(b"GET /file/0/0/%d HTTP/1.1\r\n\r\n" % big.stat().st_size)
                client.head()
                if way == "reset":
                    client.reset()
        with server.client() as client:
            client.get(f"/file/0/0/{MIB}")
        until(server.is_quiet)

    round_of_trouble()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        round_of_trouble()
    gc.collect()
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    (watch,) = [watch for loop, watch in Watch.watches.items() if not loop.is_closed()]
    assert not watch.waiting
