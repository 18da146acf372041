"""Real servers to be killed, stopped and starved, a client that can be slow or cut, and the comparison of rows with files."""

import contextlib
import hashlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import sqlalchemy as sa

from tests.services.servers import free_port

IKON = Path(sys.executable).with_name("ikon")
MIB = 1 << 20
#: What all made-up image data is cut from: no two cuts alike.
NOISE = random.Random(1).randbytes(24 * MIB)
ADMIN = {"X-Identity-Status": "Confirmed", "X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "admin,member,reader"}
BYTES = {"Content-Type": "application/octet-stream"}
#: Seconds for one request; for what a server has to mend after a crash.
PATIENCE_S, MENDED_S = 60.0, 10.0
#: States of a job with which nothing more comes of it.
ENDED = ("done", "failed", "cancelled")


class Answer(NamedTuple):
    """An answer that came in whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


#: What breaks when the other side is killed, cut or out of patience.
BROKEN = (OSError, http.client.HTTPException)


class Ikon:
    """One `ikon serve` on a directory of its own, with file stores, as a context manager; it may be killed and started again."""

    def __init__(
        self,
        directory: Path,
        *,
        database: str | None = None,
        stores: Mapping[str, Path] | None = None,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
        settings: str = "",
        store_settings: str = "",
    ) -> None:
        self.directory, self.port = directory, free_port()
        directory.mkdir(parents=True, exist_ok=True)
        self.stores = dict(stores or {"one": directory / "one", "two": directory / "two"})
        self.database = database or f"sqlite:///{directory}/ikon.db"
        self.env = dict(env or {})
        self.log = directory / "log"
        self._config = directory / "ikon.toml"
        lines = [f'data = "{directory}"', f'listen = "127.0.0.1:{self.port}"', 'identity = "headers"', f'database = "{self.database}"']
        lines += [f"workers = {workers}", 'log_format = "json"', settings]
        lines += [
            f'[stores.{name}]\ntype = "file"\npath = "{path}"\nweight = {20 - at}\n{store_settings}'
            for at, (name, path) in enumerate(self.stores.items())
        ]
        self._config.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()

    def start(self, before: Sequence[str] = ()) -> float:
        """Start it, behind the words of another command if need be. Returns the seconds until its first answer."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = self.run([*before, IKON, "serve", "--config", self._config], log)
        while True:
            try:
                if self.call("GET", "/v2/images?limit=1", timeout=5).status == 200:
                    return time.monotonic() - began
            except BROKEN:
                pass
            assert self.process.poll() is None, f"the server ended at its start:\n{self.tail()}"
            assert time.monotonic() - began < PATIENCE_S, f"the server does not answer:\n{self.tail()}"
            time.sleep(0.005)

    def run(self, command: Sequence[str | Path], log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start one of its commands, in a session of its own."""
        return subprocess.Popen(
            command, env=os.environ | self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End all its processes at once, as a crash does."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while _session_lives(self.process.pid):  # the worker processes
            time.sleep(0.002)
        self.process = None

    def stop(self) -> int:
        """SIGTERM, and wait for the end. Returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=PATIENCE_S)
        self.process = None
        return code

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    # Requests

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Answer:
        """One request on a connection of its own. A body that is no bytes goes out chunked. Raises one of BROKEN."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, ADMIN | dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def create(self, **more: Any) -> str:
        """A queued image."""
        answer = self.call("POST", "/v2/images", json.dumps({"disk_format": "raw", "container_format": "bare"} | more).encode())
        assert answer.status == 201, answer
        return str(answer.json["id"])

    def upload(self, image: str, data: bytes | Iterable[bytes], size: int | None = None) -> Answer:
        """Send an image's data: bytes with their length, pieces with the size that is given, or chunked without one."""
        return self.call("PUT", f"/v2/images/{image}/file", data, BYTES | ({} if size is None else {"Content-Length": str(size)}))

    def show(self, image: str) -> Any:
        """An image's record."""
        answer = self.call("GET", f"/v2/images/{image}")
        assert answer.status == 200, answer
        return answer.json

    def download(self, image: str, *, store: str | None = None, part: str | None = None) -> Answer:
        """An image's data, or a part of it."""
        query = f"?prefer={store}" if store else ""
        return self.call("GET", f"/v2/images/{image}/file{query}", headers={"Range": f"bytes={part}"} if part else {})

    def copy(self, image: str, store: str) -> Answer:
        """Put a copy into one more store. Where that is let begin, the copy is there when this returns. Raises one of BROKEN."""
        answer = self.begin_copy(image, store)
        if answer.status == 202:
            ended = eventually(lambda: (job := self.job(answer.json["job"]))["state"] in ENDED and job, within_s=PATIENCE_S)
            assert ended["state"] == "done", ended
        return answer

    def begin_copy(self, image: str, store: str) -> Answer:
        """Have a job put a copy into one more store."""
        return self.call("POST", f"/ikon/v1/images/{image}/copies", json.dumps({"store": store}).encode())

    def job(self, job: str) -> Any:
        """A job as it is now."""
        answer = self.call("GET", f"/ikon/v1/jobs/{job}")
        assert answer.status == 200, answer
        return answer.json

    def cancel(self, job: str) -> None:
        """End a job that waits, at once."""
        answer = self.call("POST", f"/ikon/v1/jobs/{job}/cancel")
        assert (answer.status, answer.json["state"]) == (200, "cancelled"), answer

    def patch(self, image: str, **properties: str) -> Answer:
        """Set properties."""
        body = json.dumps([{"op": "add", "path": f"/{key}", "value": value} for key, value in properties.items()]).encode()
        return self.call("PATCH", f"/v2/images/{image}", body, {"Content-Type": "application/openstack-images-v2.1-json-patch"})

    def delete(self, image: str) -> Answer:
        """Delete an image."""
        return self.call("DELETE", f"/v2/images/{image}")

    def begin_upload(self, image: str, size: int | None, timeout: float = PATIENCE_S) -> socket.socket:
        """A connection on which the head of an upload has gone out; size None: its body will be chunked."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
        sock.sendall(head("PUT", f"/v2/images/{image}/file", framing, "Content-Type: application/octet-stream"))
        return sock

    def begin_download(self, image: str, receive_bytes: int = 4096) -> socket.socket:
        """A connection on which an image was asked for, with little room for what comes."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(PATIENCE_S)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(head("GET", f"/v2/images/{image}/file"))
        return sock

    # Truth

    def rows(self, query: str) -> list[Any]:
        """What the database says, read beside the server."""
        engine = sa.create_engine(self.database, poolclass=sa.NullPool)
        try:
            with engine.connect() as conn:
                return list(conn.execute(sa.text(query)))
        finally:
            engine.dispose()

    def files(self) -> set[str]:
        """Everything that lies in the stores."""
        return {str(path) for store in self.stores.values() if store.exists() for path in store.iterdir()}

    def complaints(self) -> list[str]:
        """What is not as it should be while nobody does anything: unfinished states, files without rows, rows without files."""
        files = self.files()
        copies = self.rows("SELECT id, image_id, store, url, state, size FROM copies")
        images = {row.id: row for row in self.rows("SELECT id, status, digests FROM images")}
        images |= {row.id: row for row in self.rows("SELECT id, 'active' AS status, digests FROM trash")}
        found = [f"copy {c.id} in {c.store} is {c.state}" for c in copies if c.state not in ("ready", "suspect", "bad")]
        named = {c.url.removeprefix("file://"): c for c in copies}
        found += [f"no row for {path}" for path in files if path.removesuffix(".part") not in named]
        found += [f"unfinished {path}" for path in files if path.endswith(".part")]
        for path, copy in named.items():
            if copy.state == "ready" and (path not in files or os.stat(path).st_size != copy.size):
                found.append(f"copy {copy.id} has no such file as it says")
            if copy.image_id not in images or images[copy.image_id].status not in ("active", "deactivated"):
                found.append(f"copy {copy.id} of no active image")
        with_copies = {c.image_id for c in copies if c.state == "ready"}
        for image in images.values():
            if image.status not in ("queued", "active", "deactivated"):
                found.append(f"image {image.id} is {image.status}")
            if image.status in ("active", "deactivated") and image.id not in with_copies:
                found.append(f"image {image.id} is active without a copy")
        digests = self.rows("SELECT image_id, copy_id FROM block_digests")
        found += [
            f"digests of lost attempt {d.copy_id}" for d in digests if d.image_id not in images or images[d.image_id].digests != d.copy_id
        ]
        return found

    def settle(self, within_s: float = MENDED_S) -> float:
        """Wait until rows and files agree. Returns how long it took; fails with what is still wrong."""
        began = time.monotonic()
        while found := self.complaints():
            assert time.monotonic() - began < within_s, "\n".join([*found, self.tail()])
            time.sleep(0.05)
        return time.monotonic() - began

    def holds_deleted(self) -> bool:
        """Whether its process has a file open that has no name any more, and still takes its room."""
        links = []
        for each in Path(f"/proc/{self.process.pid}/fd").iterdir():  # type: ignore[union-attr]
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(each))
        return any(link.startswith(str(path)) and link.endswith(" (deleted)") for link in links for path in self.stores.values())

    def threads(self) -> int:
        """How many threads the server process has."""
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def workers(self) -> list[int]:
        """Its worker processes, where it has several."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split() if lives(int(pid))]

    def memory_mib(self) -> float:
        """Resident memory of the server process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Restless:
    """A client that does one thing after another until the server is gone."""

    def __init__(self, deed: Callable[[], None]) -> None:
        self._deed = deed
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end, which the server's end brings about. Raises what the client did not expect."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while True:
                self._deed()
        except BROKEN:
            return
        except BaseException as failure:
            self._failure = failure


def head(method: str, path: str, *lines: str) -> bytes:
    """A request's head."""
    identity = [f"{name}: {value}" for name, value in ADMIN.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: ikon", *identity, *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; the empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def noise(size: int, at: int = 0) -> bytes:
    """Data like no other of its size: cut from the noise at a place."""
    return NOISE[at : at + size]


def pieces(data: bytes, size: int, pause_s: float = 0.0) -> Iterable[bytes]:
    """Data in pieces, as a client without a length sends it."""
    for at in range(0, len(data), size):
        time.sleep(pause_s)
        yield data[at : at + size]


def sha512(data: bytes) -> str:
    """The digest that clients compare."""
    return hashlib.sha512(data).hexdigest()


def is_whole(server: Ikon, image: str, data: bytes, store: str | None = None) -> bool:
    """Whether an image is active, says what its data is, and gives it."""
    record = server.show(image)
    answer = server.download(image, store=store)
    return (record["status"], record["size"], record["os_hash_value"], answer.body) == ("active", len(data), sha512(data), data)


def is_queued_with_reason(server: Ikon, image: str) -> bool:
    """Whether an image waits for data again, and says why its last upload failed."""
    [row] = server.rows(f"SELECT status, reason FROM images WHERE id = '{image}'")
    return bool(server.show(image)["status"] == "queued" and row.status == "queued" and row.reason)


def read_answer(sock: socket.socket) -> Answer:
    """The answer that comes on a connection. Raises one of BROKEN."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    return Answer(response.status, response.headers, response.read())


def read_head(sock: socket.socket) -> bytes:
    """Read an answer's head, and return what came of its body with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        got = sock.recv(1000)
        assert got, received
        received += got
    assert received.startswith(b"HTTP/1.1 200"), received
    return received.partition(b"\r\n\r\n")[2]


def eventually(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """What a look finds, as soon as it finds something."""
    began = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - began < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return found


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _session_lives(session: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            return True
    return False
