"""The fetcher against real web servers, sound ones and such as cut, stall, lie and trickle: survived or refused, and never more than 1 MiB held."""

import asyncio
import hashlib
import os
import ssl
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from ikon.config import Egress, Settings
from ikon.problems import Problem, SourceNotAllowed, StartError
from ikon.transfer.fetch import Fetcher
from tests.faults.conftest import Say
from tests.services.http_broken import body
from tests.services.servers import Server

BROKEN = Path(__file__).parents[1] / "services/http_broken.py"
MIB = 1 << 20


@pytest.fixture(scope="module")
def broken() -> Iterator[int]:
    """The port of the server that is wrong on purpose."""
    with subprocess.Popen([sys.executable, BROKEN, "127.0.0.1", "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


@pytest.fixture(scope="module")
def nginx() -> Iterator[Server]:
    """A sound server with a file of 8 MiB."""
    with Server("http") as server:
        (server.directory / "root/f").write_bytes(body(8 * MIB))
        yield server


@asynccontextmanager
async def fetcher(port: int, names: dict[str, Sequence[str]] | None = None, **egress: Any) -> AsyncIterator[Fetcher]:
    """A fetcher that may use loopback and this port; names resolve as told, and to 127.0.0.1 where nothing is told."""

    async def resolve(host: str) -> Sequence[str]:
        return (names or {}).get(host, ["127.0.0.1"])

    settings = {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [port], "stall_s": 0.5} | egress
    made = Fetcher(Settings(egress=Egress(**settings)), resolve=resolve, pause_s=0.01)
    try:
        yield made
    finally:
        made.close()


async def read(fetcher: Fetcher, url: str, **kwargs: Any) -> bytes:
    async with fetcher.open(url, **kwargs) as source:
        return b"".join([block async for block in source])


def on_both_loops(story: Callable[[], Awaitable[Any]]) -> None:
    """Run a story on asyncio's own loop, and on the one that serves."""
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(story())  # type: ignore[arg-type]


#: Path at the broken server, and what comes: a number of right bytes, or a problem and words of its reason for the operator.
TABLE: list[tuple[str, int | str, str]] = [
    ("ok/3000000", 3_000_000, ""),
    ("ok/0", 0, ""),
    ("nolength/100000", 100_000, ""),
    ("chunked/1000000", 1_000_000, ""),
    ("crumbs/200000", 200_000, ""),
    ("flaky/9000000/2000000", 9_000_000, ""),
    ("flaky/1000/300", 1000, ""),
    ("status/503/3", 2, ""),
    ("redirect/302/ok/5", "SourceBroken", "too many redirects"),
    ("redirect/301//ok/5", 5, ""),
    ("redirect/303//ok/5", 5, ""),
    ("redirect/307//ok/5", 5, ""),
    ("redirect/308//ok/5", 5, ""),
    ("redirect/300//ok/5", "SourceDenied", "300"),
    ("redirect/304//ok/5", "SourceDenied", "304"),
    ("flaky/9000000/1000", "SourceBroken", "closed the connection"),
    ("cut/100000/0", "SourceBroken", "closed the connection"),
    ("cut/100000/40000", "SourceChanged", "neither a strong ETag"),
    ("reset/100000/40000", "SourceChanged", "neither a strong ETag"),
    ("chunkcut/100000", "SourceChanged", "neither a strong ETag"),
    ("undated/100000/40000", "SourceChanged", "neither a strong ETag"),
    ("changed/100000/40000", "SourceChanged", 'as "2"'),
    ("lie-range/100000/40000", "SourceChanged", "answered 200"),
    ("other-range/100000/40000", "SourceBroken", "bytes 40001-99999/100000"),
    ("stall/100000/0", "SourceTooSlow", "no data for"),
    ("stall/100000/40000", "SourceChanged", "neither a strong ETag"),
    ("silent", "SourceTooSlow", "no data for"),
    ("slow/100000/3000", "SourceTooSlow", "bytes a second"),
    ("slow/30000/100000", 30_000, ""),
    ("drip-head", "SourceTooSlow", "no data for"),
    ("more/1000/1001", "SourceBroken", "more data than announced"),
    ("more/300000/900000", "SourceBroken", "more data than announced"),
    ("twice/1000", "SourceBroken", "more data than announced"),
    ("two-lengths/10", "SourceBroken", "Duplicate Content-Length"),
    ("length-and-chunks/10", "SourceBroken", "can't be present with"),
    ("coded-chunks/10", "SourceBroken", "Transfer-Encoding 'gzip, chunked'"),
    ("headers/100", "SourceBroken", "65536 bytes of headers"),
    ("headers/50", 0, ""),
    ("interim", "SourceBroken", "65536 bytes of headers"),
    ("trailers", "SourceBroken", "65536 bytes between data"),
    ("gzip/10000000", "SourceBroken", "Content-Encoding 'gzip'"),
    ("nonsense", "SourceBroken", "not HTTP"),
    ("endless", "SourceTooLarge", "as it came"),
    ("ok/10000001", "SourceTooLarge", "as it announced"),
    ("status/404", "SourceDenied", "404"),
    ("status/500", "SourceDenied", "500"),
    *((f"redirect/302/{where}", "SourceNotAllowed", why) for where, why in [
        ("http://169.254.169.254/latest/meta-data/", "metadata"), ("http://[::1]/", "private or loopback"), ("http://[::ffff:10.0.0.1]/", "private"),
        ("http://0.0.0.0/", "unspecified"), ("http://[fe80::1]/", "link-local"), ("http://2130706433/", "number"), ("http://0x7f000001/", "number"),
        ("http://017700000001/", "number"), ("http://[64:ff9b::a00:1]/", "carries"), ("http://10.0.0.1/", "private"), ("http://u@a/", "RFC 3986"),
        ("file:///etc/passwd", "RFC 3986"), ("http://a:22/", "port 22"), ("gopher://a/", "RFC 3986"), ("//[::]/", "unspecified"),
    ]),
]  # fmt: skip


@pytest.mark.slow
async def test_each_wrong_server_is_survived_or_refused_as_specified(broken: int, say: Say) -> None:
    lines = []

    async def outcome(path: str, expected: int | str, words: str) -> None:
        began, quoted = asyncio.get_running_loop().time(), path.replace("[", "%5B").replace("]", "%5D")
        async with fetcher(broken, stall_s=2.0, allowed_ports=[80, broken]) as fetch:
            try:
                got: int | str = len(data := await read(fetch, f"http://source.example:{broken}/{quoted}", limit=10_000_000))
                right = data == (b"ok" if path.startswith("status") else body(len(data)))
                because = "right bytes" if right else "WRONG BYTES"
            except Problem as problem:
                got, because = type(problem).__name__, getattr(problem, "because", "")
        took = asyncio.get_running_loop().time() - began
        if got != expected or words not in because or because == "WRONG BYTES":
            lines.append(f"WRONG: expected {expected} {words!r}")
        lines.append(f"{path:52} {got!s:18} {took:4.1f} s  {because[:70]}")

    limit = asyncio.Semaphore(16)

    async def turn(row: tuple[str, int | str, str]) -> None:
        async with limit:
            await outcome(*row)

    await asyncio.gather(*(turn(row) for row in TABLE))

    say("\n".join(lines))
    assert not [line for line in lines if line.startswith("WRONG")]


@pytest.mark.slow
def test_a_sound_server_is_read_whole_in_part_and_behind_redirects(nginx: Server) -> None:
    url = f"http://source.example:{nginx.port}"

    async def story() -> None:
        async with fetcher(nginx.port, stall_s=5) as fetch:
            for path in ("f", "norange/f", "noetag/f", "redirect/f"):
                async with fetch.open(f"{url}/{path}") as source:
                    assert source.size == 8 * MIB
                    assert b"".join([block async for block in source]) == body(8 * MIB)
            async with fetch.open(f"{url}/f") as source:
                validator = source.validator
            assert validator
            assert await read(fetch, f"{url}/f", offset=8 * MIB - 1000, validator=validator) == body(1000, 8 * MIB - 1000)
            assert await failure(read(fetch, f"{url}/f", offset=8 * MIB - 1000, validator='"other"')) == "SourceChanged"
            assert await failure(read(fetch, f"{url}/norange/f", offset=1000, validator=validator)) == "SourceChanged"
            assert await failure(read(fetch, f"{url}/f", offset=9 * MIB)) == "SourceChanged"
            assert await failure(read(fetch, f"{url}/loop/")) == "SourceBroken"
            assert await failure(read(fetch, f"{url}/503/")) == "SourceDenied"
            assert await failure(read(fetch, f"{url}/auth/f")) == "SourceDenied"
            assert len(await read(fetch, f"{url}/auth/f", headers={"Authorization": "Basic dTpw"})) == 8 * MIB
            assert await failure(read(fetch, f"{url}/redirect/auth/f", headers={"Authorization": "Basic dTpw"})) == "SourceDenied"

    on_both_loops(story)


async def failure(work: Awaitable[Any]) -> str:
    """The name of the problem that this ends with."""
    try:
        await work
    except Problem as problem:
        return type(problem).__name__
    return "none"


@pytest.mark.slow
async def test_a_request_says_what_it_needs_and_nothing_of_the_environment(broken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    async with fetcher(broken) as fetch:
        await read(fetch, f"http://Source.Example.:{broken}/redirect/302//ok/7#part", headers={"X-Auth-Token": "secret"})
        seen = (await read(fetch, f"http://source.example:{broken}/seen")).decode().lower().splitlines()

    at, then = seen.index("/redirect/302//ok/7"), seen.index("/ok/7")
    first, second = [line.strip() for line in seen[at:then] if line.strip()], seen[then : seen.index("/seen")]
    assert f"host: source.example:{broken}" in first
    assert "accept-encoding: identity" in first
    assert "x-auth-token: secret" in first
    assert not [line for line in second if "secret" in line or "cookie" in line]


@pytest.mark.slow
async def test_no_message_tells_how_a_connection_failed_and_every_one_is_explained_to_the_operator(broken: int) -> None:
    names: dict[str, Sequence[str]] = {
        "inside.example": ["10.0.0.1"],
        "mixed.example": ["127.0.0.1", "::1"],
        "nobody.example": [],
        "closed.example": ["127.0.0.99"],
    }
    urls = [f"http://{name}:{broken}/ok/1?signature=secret" for name in names]
    said, reasons = set(), set()
    async with fetcher(broken, names) as fetch:
        for url in urls:
            with capture_logs() as logs, pytest.raises(Problem) as problem:
                await read(fetch, url)
            said.add((type(problem.value).__name__, problem.value.status, str(problem.value)))
            failed = [entry for entry in logs if entry["event"] == "source failed"]
            tried = [entry for entry in logs if entry["event"] == "source tried again"]
            assert len(failed) == 1
            assert len(tried) == 4  # for a refused name too: time does not tell them apart
            assert "secret" not in str(logs)
            reasons.add(failed[0]["because"])

    assert len(said) == 1
    assert len(reasons) == len(urls)


async def test_names_are_looked_up_as_this_machine_does_and_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ikon.transfer.egress.DNS_S", 0.05)
    fetch = Fetcher(Settings(), pause_s=0.01)
    with capture_logs() as logs:
        assert await failure(read(fetch, "http://localhost/")) == "SourceUnreachable"
        monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: time.sleep(0.5))
        assert await failure(read(fetch, "http://name.example/")) == "SourceUnreachable"
    fetch.close()

    because = [entry["because"] for entry in logs if entry["event"] == "source failed"]
    assert "private or loopback" in because[0]
    assert because[1] == "name.example was not looked up in time"


def test_a_url_is_judged_before_anything_is_fetched() -> None:
    fetch = Fetcher(Settings())

    fetch.check("https://name.example/image.qcow2")
    for url in ("http://127.0.0.1/", "http://name.example:8080/", "file:///etc/passwd"):
        with capture_logs() as logs, pytest.raises(SourceNotAllowed):
            fetch.check(url)
        assert logs[0]["because"]


def connections_of(story: Callable[[], Awaitable[Any]]) -> list[tuple[str, Any]]:
    """Every connection and every look-up of a name that Python makes during a story, seen from below."""
    seen: list[tuple[str, Any]] = []
    listening = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if listening and event == "socket.connect" and args[0].type.name == "SOCK_STREAM":
            seen.append((event, args[1][:2]))
        elif listening and event in ("socket.getaddrinfo", "socket.gethostbyname"):
            seen.append((event, args[0]))

    sys.addaudithook(hook)
    try:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(story())  # type: ignore[arg-type]
    finally:
        listening = False
    return seen


@pytest.mark.slow
def test_the_address_connected_to_is_the_one_that_was_judged_though_the_name_moves_at_once(broken: int) -> None:
    """The name is outside for whoever asks first, and loopback from then on: a second look-up would be the mistake."""
    answers = [["127.0.0.2"], ["127.0.0.1"]]
    asked = []

    async def resolve(host: str) -> Sequence[str]:
        asked.append(host)
        return answers[0] if len(asked) == 1 else answers[1]

    async def story() -> None:
        # 127.0.0.2 stands for the outside here: it alone is opened, and 127.0.0.1, where the server is, is inside
        fetch = Fetcher(Settings(egress=Egress(allowed_networks=["127.0.0.2"], allowed_ports=[broken])), resolve=resolve, pause_s=0.01)
        assert await failure(read(fetch, f"http://moving.example:{broken}/ok/1")) == "SourceUnreachable"
        fetch.close()

    seen = connections_of(story)

    assert [where for event, where in seen if event == "socket.connect"] == [("127.0.0.2", broken)]
    assert not [where for event, where in seen if event != "socket.connect" and where != "127.0.0.2"]
    assert len(asked) == 5  # refused from the second on


@pytest.mark.slow
def test_the_whole_time_is_bounded_and_a_slow_reader_is_not_the_source_s_fault(broken: int, nginx: Server) -> None:
    async def story() -> None:
        async with fetcher(broken, total_s=1.0) as fetch:
            began = asyncio.get_running_loop().time()
            assert await failure(read(fetch, f"http://source.example:{broken}/slow/1000000/100000")) == "SourceTooSlow"
            assert asyncio.get_running_loop().time() - began < 2
        async with fetcher(nginx.port, stall_s=0.3) as fetch, fetch.open(f"http://source.example:{nginx.port}/f") as source:
            digest = hashlib.sha256()
            async for block in source:
                digest.update(block)
                await asyncio.sleep(0.05)
            assert digest.digest() == hashlib.sha256(body(8 * MIB)).digest()

    on_both_loops(story)


@pytest.mark.slow
async def test_a_fetch_that_is_cancelled_or_left_lets_its_connection_go(broken: int) -> None:
    async with fetcher(broken, stall_s=60) as fetch:
        task = asyncio.create_task(read(fetch, f"http://source.example:{broken}/stall/1000/10"))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with fetch.open(f"http://source.example:{broken}/endless") as source:
            await anext(source)
        await asyncio.sleep(0.1)

        assert not [link for link in map(link_of, Path("/proc/self/fd").iterdir()) if link and peer_is(link, broken)]


def link_of(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def peer_is(link: str, port: int) -> bool:
    """Whether a file descriptor's link is a TCP connection to this port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(f"socket:[{row[9]}]" == link and row[2].endswith(f":{port:04X}") for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["endless", "crumbs/300000", "trailers", "interim", "headers/1000", "flaky/60000000/9000000"])
async def test_less_than_one_mib_is_held_whatever_comes(broken: int, path: str, say: Say) -> None:
    async with fetcher(broken, stall_s=20) as fetch:
        await read(fetch, f"http://source.example:{broken}/ok/1000000")  # what is made once
        tracemalloc.start()
        try:
            before, total = tracemalloc.get_traced_memory()[0], 0
            try:
                async with fetch.open(f"http://source.example:{broken}/{path}", limit=64 * MIB) as source:
                    async for block in source:
                        total += len(block)
                        if total % (8 * MIB) < len(block):
                            await asyncio.sleep(0.01)
            except Problem as problem:
                total = f"{total}, then {type(problem).__name__}"  # type: ignore[assignment]
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    say(f"{path}: {total} bytes read, {peak // 1024} KiB held at most")
    assert peak < MIB


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a throwaway authority `ca.pem`, and by it a certificate for good.example and 127.0.0.1, and one that is over."""
    place = tmp_path_factory.mktemp("authority")
    (place / "names").write_text("subjectAltName=DNS:good.example,IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    sign = ["openssl", "x509", "-req", "-in", "c.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    for command in (
        [*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=throwaway", "-days", "2"],
        [*new, "-keyout", "c.key", "-out", "c.csr", "-subj", "/CN=good.example"],
        [*sign, "-out", "good.pem", "-days", "2"],
        [*sign, "-out", "over.pem", "-days", "-1"],
    ):
        subprocess.run(command, cwd=place, check=True, capture_output=True)
    return place


@asynccontextmanager
async def https(authority: Path, certificate: str, answer: bytes) -> AsyncIterator[tuple[int, list[str | None]]]:
    """A TLS server that gives one answer to all: its port, and the names that its clients asked for."""
    names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / certificate, authority / "c.key")
    context.sni_callback = lambda link, name, context: names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], names


@pytest.mark.slow
def test_tls_proves_the_url_s_name_at_the_judged_address_and_nothing_else_will_do(authority: Path, nginx: Server) -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + body(300_000)
    ca = {"ca_file": str(authority / "ca.pem"), "stall_s": 5.0}

    async def story() -> None:
        async with https(authority, "good.pem", whole) as (port, names):
            async with fetcher(port, **ca) as fetch:
                assert await read(fetch, f"https://Good.Example:{port}/x") == body(300_000)
                assert await read(fetch, f"https://127.0.0.1:{port}/x") == body(300_000)
                assert names == ["good.example", None]
                assert await failure(read(fetch, f"https://other.example:{port}/x")) == "SourceUnreachable"
            async with fetcher(port) as fetch:
                assert await failure(read(fetch, f"https://good.example:{port}/x")) == "SourceUnreachable"
        async with https(authority, "over.pem", whole) as (port, _), fetcher(port, **ca) as fetch:
            assert await failure(read(fetch, f"https://good.example:{port}/x")) == "SourceUnreachable"
        down = f"HTTP/1.1 302 Found\r\nLocation: http://good.example:{nginx.port}/f\r\nContent-Length: 0\r\n\r\n".encode()
        async with https(authority, "good.pem", down) as (port, _), fetcher(port, **ca, allowed_ports=[port, nginx.port]) as fetch:
            assert await failure(read(fetch, f"https://good.example:{port}/x")) == "SourceNotAllowed"

    on_both_loops(story)


def test_a_ca_file_of_no_use_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "missing.pem"):
        with pytest.raises(StartError, match=r"config: egress\.ca_file = .*Allowed: a PEM file"):
            Fetcher(Settings(egress=Egress(ca_file=str(tmp_path / name))))


RSS = """
import asyncio, resource, sys, time, uvloop
from ikon.config import Egress, Settings
from ikon.transfer.fetch import Fetcher

async def story(port):
    fetch = Fetcher(Settings(egress=Egress(allowed_networks=["127.0.0.1"], allowed_ports=[port])))
    async def read(path):
        total = 0
        async with fetch.open(f"http://127.0.0.1:{port}/{path}") as source:
            async for block in source:
                total += len(block)
        return total
    await read("f")
    before, began, cpu = resource.getrusage(0).ru_maxrss, time.monotonic(), time.process_time()
    total = await read("big")
    print(total, resource.getrusage(0).ru_maxrss - before, time.monotonic() - began, time.process_time() - cpu)

uvloop.run(story(int(sys.argv[1])))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_source(nginx: Server, say: Say) -> None:
    with (nginx.directory / "root/big").open("wb") as big:
        big.truncate(1 << 30)

    done = subprocess.run([sys.executable, "-c", RSS, str(nginx.port)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    total, kib, took_s, cpu_s = map(float, done.stdout.split())
    say(f"1 GiB from nginx: {total / took_s / 1e6:.0f} MB/s, {cpu_s:.2f} CPU s, {kib:.0f} KiB more than for 8 MiB")
    assert total == 1 << 30
    assert kib < 2048
