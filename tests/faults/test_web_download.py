"""web-download through a running server, from sources that are wrong, hostile or inside: survived or refused, nothing left, in little memory."""

import contextlib
import gzip
import hashlib
import io
import json
import lzma
import random
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import pytest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from tests.faults.conftest import Say
from tests.faults.misfortune import build
from tests.faults.world import MIB, Ikon, eventually
from tests.services.http_broken import body
from tests.services.servers import free_port
from tests.unit.transfer.test_egress import INSIDE, NEVER_WRITTEN_SO

pytestmark = pytest.mark.slow
BROKEN = Path(__file__).parents[1] / "services/http_broken.py"
#: Where the sources are: it stands for the outside, and is all that the server may fetch from. What else is of this machine is inside.
OUTSIDE = "127.0.0.2"
#: Addresses that names have here, one of each kind; all others of INSIDE are tried as redirects, and as names by the gate's own tests.
KINDS = (
    "127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "100.100.100.200", "::", "::1", "fe80::1", "fd00:ec2::254", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::127.0.0.2", "64:ff9b::7f00:2", "64:ff9b:1::7f00:2", "2002:7f00:2::", "224.0.0.1", "255.255.255.255",
)  # fmt: skip
#: Bytes of the largest image that is taken here, and seconds of silence that are.
MOST, STALL_S = 80 * MIB, 2.0

# What the owner of an image is told: one sentence for each kind of failure, and nothing of what stands behind it.
NOT_ALLOWED = "The URL, or one that it redirects to, does not pass filtering. Allowed: http or https, a host's name or public address, no user name, and"
UNREACHABLE = "The source cannot be reached, or may not be. Check its address, or ask the operator, whose log says more"
DENIED = "The source does not give the data: it answered with HTTP status "
SLOW = "The source stalled, or gave its data too slowly"
BROKE_OFF, NOT_HTTP = "The source broke off before its end", "The source broke off, or answered in a way that cannot be trusted"
CHANGED = "The source broke off, and does not show that what it has now is the same data"
LOOP = "The source redirects more than 5 times"
TOO_LARGE, TOO_LARGE_UNPACKED = "The source has ", f"The unpacked image is larger than the {MOST} bytes that are allowed"
BOMB, LAYERS, HUNGRY = (
    "unpacks to more than 200 times its size",
    "only one layer is unpacked",
    "takes more than 128 MiB of memory to unpack",
)


class Row(NamedTuple):
    """A URL, and what must come of it: the bytes that the image then has, or how the task's message begins, or what is in it."""

    url: str
    comes: bytes | str


def packed(form: str, data: bytes) -> bytes:
    """Data, compressed."""
    if form == "zip":
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr("disk.raw", data)
        return made.getvalue()
    return {"gzip": lambda data: gzip.compress(data, 1), "xz": lambda data: lzma.compress(data, preset=0), "zstd": zstd.compress}[form](
        data
    )


class Own(BaseHTTPRequestHandler):
    """A source for what tests/services/http_broken.py has not: bodies of ours, chains of redirects, chunks that are all extension."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        what, _, rest = self.path.lstrip("/").partition("/")
        with contextlib.suppress(OSError):
            if what == "hop" and rest != "0":
                self._head(302, {"Location": f"/hop/{int(rest) - 1}", "Content-Length": "0"})
            elif what == "loop":
                self._head(307, {"Location": f"/loop/{'b' if rest == 'a' else 'a'}", "Content-Length": "0"})
            elif what == "extensions":
                self._head(200, {"Transfer-Encoding": "chunked"})
                while True:
                    self.wfile.write(b"1;" + b"x" * 65536)
            else:
                data = self.bodies[what if what != "hop" else "small"]
                self._head(200, {"Content-Length": str(len(data))})
                self.wfile.write(data)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


class World:
    """One server, the ports of its sources and of nobody, and names that are as we like."""

    def __init__(self, ikon: Ikon, names: Path, broken: int, own: int, closed: int) -> None:
        self.ikon, self._names, self.broken, self.own, self.closed = ikon, names, broken, own, closed

    def name(self, name: str, addresses: str) -> str:
        """Give a name answers, as names.c reads them."""
        with self._names.open("a") as file:
            file.write(f"{name} {addresses}\n")
        return name

    def asked(self) -> list[str]:
        """Whom the server has looked up and connected to so far."""
        return Path(f"{self._names}.asked").read_text().splitlines()

    def ask(self, url: str) -> tuple[str, int, str]:
        """Begin a web-download: image, status and message of the answer."""
        image = self.ikon.create()
        asked = json.dumps({"method": {"name": "web-download", "uri": url}}).encode()
        answer = self.ikon.call("POST", f"/v2/images/{image}/import", asked)
        return image, answer.status, "" if answer.status == 202 else str(answer.json)

    def bring(self, row: Row) -> tuple[str, float]:
        """Import from a URL: what is wrong with what comes of it, and the seconds that it took."""
        began = time.monotonic()
        image, status, said = self.ask(row.url)
        assert status == 202, f"{row.url}: {status} {said}"
        while "os_glance_import_task" in self.ikon.show(image):
            assert time.monotonic() < began + 300, row.url
            time.sleep(0.1 + (time.monotonic() - began) / 20)  # hundreds wait at once
        took = time.monotonic() - began
        wrong = self._judge(row, self.ikon.show(image))
        assert self.ikon.delete(image).status == 204
        return wrong, took

    def _judge(self, row: Row, record: dict[str, Any]) -> str:
        [task] = self.ikon.call("GET", f"/v2/images/{record['id']}/tasks").json["tasks"]
        said = f"{record['status']}, {record['size']} bytes, task {task['status']}: {task['message']}"
        if isinstance(row.comes, bytes):
            right = (record["status"], record["size"], task["status"]) == ("active", len(row.comes), "success")
            return "" if right and record["os_hash_value"] == hashlib.sha512(row.comes).hexdigest() else said
        failed = (record["status"], record["size"], record.get("os_glance_failed_import"), task["status"]) == (
            "queued",
            None,
            "one",
            "failure",
        )
        return "" if failed and row.comes in task["message"] else said

    def left(self) -> list[str]:
        """What lies in stores and staging, and rows of copies."""
        staged = [str(path) for path in (self.ikon.directory / "staging").iterdir()]
        return [*self.ikon.files(), *staged, *(row.id for row in self.ikon.rows("SELECT id FROM copies"))]

    def peak_mib(self) -> float:
        """The most memory that the server had resident since `rest`."""
        return self._memory("VmHWM")

    def rest(self) -> float:
        """Begin to look for a new peak: the memory now."""
        assert self.ikon.process is not None
        Path(f"/proc/{self.ikon.process.pid}/clear_refs").write_text("5")
        return self._memory("VmRSS")

    def _memory(self, field: str) -> float:
        assert self.ikon.process is not None
        status = Path(f"/proc/{self.ikon.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    names, library = place / "names", build(place, Path(__file__).with_name("names.c"))
    names.write_text("localhost 127.0.0.1,::1\n")
    Path(f"{names}.asked").touch()
    with contextlib.ExitStack() as stack:
        broken, closed = free_port(), free_port()
        source = stack.enter_context(subprocess.Popen([sys.executable, BROKEN, OUTSIDE, str(broken)], stdout=subprocess.PIPE))
        stack.callback(source.kill)
        own = ThreadingHTTPServer((OUTSIDE, 0), Own)
        stack.callback(own.server_close)
        stack.callback(own.shutdown)
        threading.Thread(target=own.serve_forever).start()
        assert source.stdout is not None
        source.stdout.readline()
        egress = (
            f'[egress]\nallowed_networks = ["{OUTSIDE}"]\nallowed_ports = [{broken}, {own.server_port}, {closed}]\nstall_s = {STALL_S}\n'
        )
        settings = f"[limits]\nimage_bytes = {MOST}\n[imports]\ndecompress = true\n[jobs]\nslots = 256\n{egress}"
        proxies = dict.fromkeys(
            ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9/"
        )  # of the environment: not to be asked
        env = {"LD_PRELOAD": str(library), "NAMES": str(names)} | proxies
        world = World(stack.enter_context(Ikon(place / "ikon", env=env, settings=settings)), names, broken, own.server_port, closed)
        yield world
        assert "Traceback" not in world.ikon.log.read_text()
        assert {line for line in world.asked() if line.startswith("to ")} <= {
            f"to {OUTSIDE} {port}" for port in (broken, own.server_port, closed)
        }


def literal(address: str, port: int) -> str:
    return f"http://[{address}]:{port}/ok/5" if ":" in address else f"http://{address}:{port}/ok/5"


def test_a_url_that_leads_inside_is_refused_when_it_is_asked_for(world: World) -> None:
    asked = len(world.asked())
    urls = [*(literal(address, world.broken) for address in INSIDE if address != OUTSIDE), *NEVER_WRITTEN_SO]
    urls += [
        f"http://{form}:{world.broken}/ok/5" for form in ("127.2", "2130706434", "0x7f000002", "017700000002", "0177.0.0.2", "127.0.2", "0")
    ]

    for url in urls:
        image, status, said = world.ask(url)
        assert status == 400, f"{url!r}: {status}"
        assert NOT_ALLOWED in said or "'uri' needs to be set" in said, said
        assert world.ikon.show(image)["status"] == "queued"
        assert world.ikon.call("GET", f"/v2/images/{image}/tasks").json == {"tasks": []}
        world.ikon.delete(image)

    assert world.asked()[asked:] == []
    assert not world.left()


def sound(world: World) -> list[Row]:
    """Sources that have their faults, and are read whole all the same; names whose first good answer counts, though others follow."""
    broken, own = f"http://{OUTSIDE}:{world.broken}", f"http://{OUTSIDE}:{world.own}"
    told = [
        ("ok/3000000", 3_000_000), ("ok/0", 0), ("nolength/100000", 100_000), ("chunked/1000000", 1_000_000), ("crumbs/20000", 20_000),
        ("flaky/9000000/2000000", 9_000_000), ("flaky/1000/300", 1000), ("slow/30000/100000", 30_000), ("headers/50", 0),
        ("redirect/301//ok/5", 5), ("redirect/308//ok/5", 5),
    ]  # fmt: skip
    rows = [Row(f"{broken}/{path}", body(size)) for path, size in told]
    moving = [
        world.name(f"moving-{at}.example", answers)
        for at, answers in enumerate((OUTSIDE, f"{OUTSIDE};127.0.0.1", f"::1;{OUTSIDE};127.0.0.1"))
    ]
    return [*rows, Row(f"{own}/hop/5", Own.bodies["small"]), *(Row(f"http://{name}:{world.broken}/ok/5", body(5)) for name in moving)]


def wrong(world: World) -> list[Row]:
    """Sources that are slow, stalling, cutting, lying, looping or too large; redirects and names that lead inside, or would for the careless."""
    broken, own = f"http://{OUTSIDE}:{world.broken}", f"http://{OUTSIDE}:{world.own}"
    told = [
        ("slow/100000/3000", SLOW), ("silent", SLOW), ("drip-head", SLOW), ("stall/100000/0", SLOW), ("stall/100000/40000", CHANGED),
        ("cut/100000/0", BROKE_OFF), ("flaky/9000000/1000", BROKE_OFF), ("cut/100000/40000", CHANGED), ("reset/100000/40000", CHANGED),
        ("chunkcut/100000", CHANGED), ("changed/100000/40000", CHANGED), ("undated/100000/40000", CHANGED), ("lie-range/100000/40000", CHANGED),
        ("other-range/100000/40000", NOT_HTTP), ("more/1000/1001", NOT_HTTP), ("more/300000/900000", NOT_HTTP), ("twice/1000", NOT_HTTP),
        ("two-lengths/10", NOT_HTTP), ("length-and-chunks/10", NOT_HTTP), ("coded-chunks/10", NOT_HTTP), ("headers/100", NOT_HTTP),
        ("interim", NOT_HTTP), ("trailers", NOT_HTTP), ("gzip/10000000", NOT_HTTP), ("nonsense", NOT_HTTP), (f"ok/{MOST + 1}", TOO_LARGE),
        ("redirect/300//ok/5", f"{DENIED}300"), ("status/404", f"{DENIED}404"), ("status/500", f"{DENIED}500"),
    ]  # fmt: skip
    rows = [Row(f"{broken}/{path}", comes) for path, comes in told]
    rows += [Row(f"{own}/hop/6", LOOP), Row(f"{own}/loop/a", LOOP)]
    hop = f"{broken}/redirect/302/"
    rows += [Row(hop + quote(literal(address, world.broken), safe=""), NOT_ALLOWED) for address in INSIDE]
    odd = [url for url in NEVER_WRITTEN_SO if len(url) < 1000 and url.isprintable() and url.isascii()]
    rows += [Row(hop + quote(url, safe=""), "") for url in odd]  # some are right as relative ones: nobody else may be asked, that is all
    answers = [*KINDS, f"{OUTSIDE},10.0.0.1", f"::1,{OUTSIDE}", f"{OUTSIDE},64:ff9b::7f00:1", ""]
    names = [world.name(f"inside-{at}.example", answer) for at, answer in enumerate(answers)]
    rows += [Row(f"http://{name}:{world.broken}/ok/5", UNREACHABLE) for name in (*names, "localhost", "LOCALHOST.", "unknown.example")]
    # moves between two connections: when it is asked again after a cut, and after a redirect
    again, back = (world.name(name, f"{OUTSIDE};127.0.0.1") for name in ("again.example", "back.example"))
    rows.append(Row(f"http://{again}:{world.broken}/flaky/9000000/2000000", UNREACHABLE))
    rows.append(Row(f"http://{back}:{world.broken}/redirect/302/" + quote(f"http://{back}:{world.broken}/ok/5", safe=""), UNREACHABLE))
    return [*rows, Row(f"http://{world.name('closed.example', OUTSIDE)}:{world.closed}/ok/5", UNREACHABLE)]


def heavy(world: World) -> list[Row]:
    """What would take much memory, or a disk, if it were let."""
    broken, own = f"http://{OUTSIDE}:{world.broken}", f"http://{OUTSIDE}:{world.own}"
    rows = [Row(f"{broken}/endless", TOO_LARGE), Row(f"{own}/extensions", NOT_HTTP), Row(f"{broken}/ok/{64 * MIB}", body(64 * MIB))]
    zeros = bytes(82 * MIB)
    for form in ("gzip", "xz", "zstd", "zip"):
        Own.bodies[f"bomb-{form}"] = packed(form, zeros[: 72 * MIB])
        Own.bodies[f"large-{form}"] = packed(form, body(2 * MIB) + random.Random(1).randbytes(MIB // 2) + zeros)
        Own.bodies[f"nested-{form}"] = packed(form, packed("gzip", zeros[: 30 * MIB]))
        rows += [Row(f"{own}/bomb-{form}", BOMB), Row(f"{own}/large-{form}", TOO_LARGE_UNPACKED), Row(f"{own}/nested-{form}", LAYERS)]
    window = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    Own.bodies["window-zstd"] = window.compress(zeros[: 30 * MIB]) + window.flush()
    Own.bodies["dictionary-xz"] = lzma.compress(zeros[:MIB], filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 256 * MIB, "preset": 0}])
    # what may take as much memory as a decoder is ever given, and is sound
    data, window = random.Random(1).randbytes(MIB) * 78, zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    Own.bodies["greedy-zstd"] = window.compress(data) + window.flush()
    rows.append(Row(f"{own}/greedy-zstd", data))
    return [*rows, Row(f"{own}/window-zstd", HUNGRY), Row(f"{own}/dictionary-xz", HUNGRY)]


@pytest.fixture(scope="module", autouse=True)
def small() -> None:
    Own.bodies["small"] = body(5000)


def shown(row: Row, world: World) -> str:
    """A row's URL, as a table has room for it."""
    short = row.url.replace(f"http://{OUTSIDE}:{world.broken}", "broken").replace(f"http://{OUTSIDE}:{world.own}", "own")
    return short.replace(f":{world.broken}", "").replace(f"%3A{world.broken}", "")[:70]


@pytest.mark.parametrize("rows", [sound, wrong])
def test_every_source_is_survived_or_refused_and_many_at_once_take_little_memory(
    rows: Callable[[World], list[Row]], world: World, say: Say
) -> None:
    table = rows(world)
    at_rest = world.rest()
    with ThreadPoolExecutor(len(table)) as pool:
        found = list(pool.map(world.bring, table))
    peak = world.peak_mib()

    lines = [
        f"{shown(row, world):70} {took:5.1f} s  {wrong and f'WRONG: {wrong}'}" for row, (wrong, took) in zip(table, found, strict=True)
    ]
    say("\n".join([*lines, f"{len(table)} sources at once: {at_rest:.0f} MiB at rest, {peak:.0f} MiB at most"]))
    assert not [line for line in lines if "WRONG" in line]
    eventually(lambda: not world.left())
    assert peak - at_rest < 48 + len(table)  # the buffer of all, and 1 MiB for each
    once = [
        row.url.split("/")[2].split(":")[0] for row in table if "/inside-" in row.url or "/closed." in row.url or "/unknown." in row.url
    ]
    assert {world.asked().count(f"name {name}") for name in once} <= {5}  # nor does the number of tries tell what a name leads to


def test_endless_bodies_and_bombs_are_stopped_in_little_memory(world: World, say: Say) -> None:
    lines = []
    for row in heavy(world):
        at_rest = world.rest()
        wrong, took = world.bring(row)
        peak = world.peak_mib()
        over = peak - at_rest > 128 + 48  # what a decoder may have, and the buffer of all
        lines.append(
            f"{shown(row, world):30} {took:5.1f} s {at_rest:5.0f} {peak:5.0f} MiB{' WRONG, too much' if over else ''}{wrong and f' WRONG: {wrong}'}"
        )
    say("\n".join(["source                          took   rest  peak", *lines]))
    assert not [line for line in lines if "WRONG" in line]
    eventually(lambda: not world.left())
