"""Faults are brought about in a real server, and `ikon why` has to name them: the right cause, and no other."""

import contextlib
import errno
import gzip
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.faults.misfortune import Misfortune, build
from tests.faults.test_crash import upgrade
from tests.faults.world import BROKEN, BYTES, MIB, Answer, Ikon, eventually, head, noise
from tests.services.servers import Server, free_port
from tests.unit.cli.run import ikon
from tests.unit.formats.made import put, qcow2

DATA = noise(3 * MIB + 12345)
SOURCE = Path(__file__).parents[1] / "services/http_broken.py"
#: What `why` says of each cause; no two are alike.
CLIENT_GONE = "The client closed the connection"
FULL = "A disk is full"
STORE_DOWN = "A store is gone or fails"
STORE_DENIED = "A store refuses to be written to"
MISMATCH = "not in the format that the image names"
UNSAFE = "could harm those who boot it"
TOO_LARGE = "larger than this service takes"
QUOTA = "The project's quota is used up"
UPLOADER_ENDED = "The server process that received the data ended"
WORKER_ENDED = "it was killed, crashed or was restarted"
SILENT = "fell silent for longer than its lease"
DATABASE = "The database did not answer, was restarted"
CANCELLED = "It was cancelled"
DELETED = "It was deleted while its data came in"
SUSPECT = "is damaged or gone"
STAGING_LOST = "The staged data was lost"
NO_NODE = "on which no server runs"
DNS = "DNS failed"
TLS = "TLS with the source failed"
CLOSED = "The source takes no connection"
NOT_ALLOWED = "or one that it redirects to, is not allowed"
INSIDE = "has an address that may not be fetched from"
NOTHING_THERE = "The source has nothing at this URL"
NOT_ONES_OWN = "The source wants an authorisation"
SLOW = "The source is too slow, or has stalled"
BROKE_OFF = "The source broke off"
LOOP = "The source redirects without an end"
WRONG_DIGEST = "The data is not what its digest says"
BOMB = "is a decompression bomb"
CANNOT_UNPACK = "The compressed data cannot be unpacked"
CANNOT_CONVERT = "The conversion into another format failed"
BROKER = "The broker is away, so that no process is told of it"
#: What an owner is told of a source that is out of reach, whatever the reason.
OUT_OF_REACH = "The source cannot be reached, or may not be"
CAUSES = [
    CLIENT_GONE, FULL, STORE_DOWN, STORE_DENIED, MISMATCH, UNSAFE, TOO_LARGE, QUOTA, UPLOADER_ENDED, WORKER_ENDED, SILENT, DATABASE, CANCELLED,
    DELETED, SUSPECT, STAGING_LOST, NO_NODE, DNS, TLS, CLOSED, NOT_ALLOWED, INSIDE, NOTHING_THERE, NOT_ONES_OWN, SLOW, BROKE_OFF, LOOP,
    WRONG_DIGEST, BOMB, CANNOT_UNPACK, CANNOT_CONVERT, BROKER, OUT_OF_REACH,
]  # fmt: skip


class Place:
    """Where faults are seeded: servers with what may befall them."""

    def __init__(self, directory: Path, misfortune: Misfortune, stack: contextlib.ExitStack) -> None:
        self.directory, self.misfortune, self._stack = directory, misfortune, stack

    def server(self, name: str = "ikon", **how: Any) -> Ikon:
        """A running server."""
        return self._stack.enter_context(Ikon(self.directory / name, env=self.misfortune.env, **how))

    def small_disk(self) -> Path:
        """A file system of 2 MiB."""
        disk = self.directory / "disk"
        disk.mkdir()
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", f"size=2m,mode=700,uid={os.geteuid()}", "ikon-test", disk], check=True)
        self._stack.callback(subprocess.run, [*sudo, "umount", "-l", disk], check=True)
        return disk

    def source(self) -> int:
        """The port of a web server that is wrong on purpose."""
        command = [sys.executable, SOURCE, "127.0.0.1", "0"]
        source = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._stack.callback(source.kill)
        assert source.stdout is not None
        return int(source.stdout.readline())

    def http(self) -> Server:
        """A sound web server."""
        return self._stack.enter_context(Server("http"))

    def mariadb(self) -> Server:
        """A database server that may be stopped."""
        return self._stack.enter_context(Server("mariadb", durable=True))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once."""
    return build(tmp_path_factory.mktemp("misfortune"))


@pytest.fixture
def place(library: Path, tmp_path: Path) -> Iterator[Place]:
    """Nothing wrong yet."""
    with contextlib.ExitStack() as stack:
        yield Place(tmp_path, Misfortune(library, tmp_path / "misfortune"), stack)


# What befalls an image: each brings one fault about, and returns the server to ask and the image


def begin(server: Ikon, image: str, what: str = "file") -> socket.socket:
    """An upload, or staging, of which a part has come."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    sock.sendall(head("PUT", f"/v2/images/{image}/{what}", f"Content-Length: {len(DATA)}", "Content-Type: application/octet-stream"))
    sock.sendall(DATA[:MIB])
    eventually(lambda: server.show(image)["status"] in ("saving", "uploading"))
    return sock


def queued(server: Ikon, image: str, within_s: float = 30) -> tuple[Ikon, str]:
    """Wait until an upload is undone."""
    eventually(lambda: server.show(image)["status"] == "queued", within_s)
    return server, image


def staged(server: Ikon, data: bytes = DATA, **fields: Any) -> str:
    """An image with staged data."""
    image = server.create(**fields)
    assert server.call("PUT", f"/v2/images/{image}/stage", data, BYTES).status == 204
    return image


def start(server: Ikon, image: str, **more: Any) -> None:
    """Begin the import."""
    body = json.dumps({"method": {"name": "glance-direct"}} | more).encode()
    answer = server.call("POST", f"/v2/images/{image}/import", body)
    assert answer.status == 202, answer


def job(server: Ikon, image: str) -> Any:
    """The image's one job."""
    [found] = server.rows(f"SELECT * FROM jobs WHERE image_id = '{image}'")
    return found


def job_is(server: Ikon, image: str, state: str, within_s: float = 60) -> tuple[Ikon, str]:
    """Wait for a state of the job."""
    eventually(lambda: job(server, image).state == state, within_s)
    return server, image


def hangs(place: Place, server: Ikon, image: str) -> None:
    """Have an import that is at work in the middle of its step."""
    place.misfortune.hang("write", "/one")
    start(server, image)
    eventually(place.misfortune.struck)


def imported(server: Ikon, data: bytes = DATA, **fields: Any) -> tuple[Ikon, str]:
    """An import that was begun."""
    image = staged(server, data, **fields)
    start(server, image)
    return server, image


def failed(server: Ikon, data: bytes = DATA, **fields: Any) -> tuple[Ikon, str]:
    """An import that has failed."""
    return job_is(*imported(server, data, **fields), "failed")


def uploaded(server: Ikon, status: int, data: bytes = DATA, **fields: Any) -> tuple[Ikon, str]:
    """An upload that was answered so."""
    image = server.create(**fields)
    answer: Answer = server.upload(image, data)
    assert answer.status == status, answer
    return server, image


def client_leaves(place: Place, what: str) -> tuple[Ikon, str]:
    server = place.server()
    image = server.create()
    begin(server, image, what).close()
    return queued(server, image)


def full_disk(place: Place) -> Ikon:
    return place.server(stores={"one": place.small_disk(), "two": place.directory / "two"})


def store_gone(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    server.stores["one"].rename(place.directory / "away")
    return job_is(*imported(server), "waiting")


def left_behind(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    server.stores["two"].rename(place.directory / "away")
    image = staged(server)
    start(server, image, stores=["one", "two"], all_stores_must_succeed=False)
    return job_is(server, image, "done")


def disk_fails(place: Place, call: str, error: int) -> tuple[Ikon, str]:
    server = place.server()
    place.misfortune.strike(call, "/one", error=error)
    return uploaded(server, 503)


def killed_in_upload(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = server.create()
    with begin(server, image):
        server.kill()
    server.start()
    return queued(server, image)


def killed_in_step(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = staged(server)
    hangs(place, server, image)
    server.kill()
    place.misfortune.relent()
    server.start()
    return job_is(server, image, "done")


def broker_down(place: Place) -> tuple[Ikon, str]:
    server = place.server(settings=f'broker = "amqp://ikon:secret@127.0.0.1:{free_port()}/"\n[jobs]\nslots = 0\n')
    eventually(lambda: "broker not reached" in server.log.read_text(), 60)
    return imported(server)


def restarted_in_step(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = staged(server)
    hangs(place, server, image)
    assert server.process is not None
    threading.Timer(1, place.misfortune.relent).start()
    assert server.stop() == 0
    server.start()
    return job_is(server, image, "done")


def database_restarts_in_step(place: Place) -> tuple[Ikon, str]:
    database = place.mariadb()
    upgrade(database.url())
    server = place.server(database=database.url())
    image = staged(server)
    hangs(place, server, image)
    database.stop()
    place.misfortune.relent()
    eventually(lambda: "job left as it is" in server.log.read_text(), 60)
    database.start()
    return job_is(server, image, "done", 90)


def database_restarts_in_upload(place: Place) -> tuple[Ikon, str]:
    database = place.mariadb()
    upgrade(database.url())
    server = place.server(database=database.url())
    image = server.create()
    with begin(server, image) as sock:
        database.stop()
        sock.sendall(DATA[MIB:])
        eventually(lambda: "undo put off" in server.log.read_text(), 60)
        database.start()
    return queued(server, image, 60)


def paused(place: Place) -> tuple[Ikon, str]:
    database = place.mariadb()
    upgrade(database.url())
    stores = {"one": place.directory / "one"}
    left, right = (place.server(name, database=database.url(), stores=stores) for name in ("left", "right"))
    image = left.create()
    with begin(left, image) as sock:
        left.signal(signal.SIGSTOP)
        queued(right, image, 90)
        left.signal(signal.SIGCONT)
        with contextlib.suppress(*BROKEN):
            sock.sendall(DATA[MIB:])
    return right, image


def cancelled(place: Place, state: str) -> tuple[Ikon, str]:
    server = place.server()
    image = staged(server)
    if state == "waiting":
        server.stores["one"].rename(place.directory / "away")
        start(server, image)
        job_is(server, image, "waiting")
    else:
        hangs(place, server, image)
    done = ikon("jobs", "cancel", "--data", server.directory, job(server, image).id)
    assert done.returncode == 0, done.stderr
    threading.Timer(4, place.misfortune.relent).start()
    job_is(server, image, "cancelled")
    assert server.show(image)["status"] == "uploading"
    return server, image


def deleted_in_upload(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = server.create()
    with begin(server, image):
        assert server.delete(image).status == 204
    return server, image


def deleted_in_import(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = staged(server)
    hangs(place, server, image)
    assert server.delete(image).status == 204
    place.misfortune.relent()
    eventually(lambda: job(server, image).state in ("cancelled", "failed"), 30)
    return server, image


def damaged(place: Place) -> tuple[Ikon, str]:
    server, image = uploaded(place.server(), 204)
    [path] = server.stores["one"].iterdir()
    path.write_bytes(noise(len(DATA), at=MIB))
    assert server.download(image).status == 503
    return server, image


def staging_lost(place: Place) -> tuple[Ikon, str]:
    server = place.server()
    image = staged(server)
    for path in (server.directory / "staging").iterdir():
        path.unlink()
    start(server, image)
    return job_is(server, image, "waiting")


def node_gone(place: Place) -> tuple[Ikon, str]:
    with Ikon(place.directory / "ikon", env={"IKON_NODE": "left"}, settings="[jobs]\nslots = 0\n") as first:
        _, image = imported(first)
    return place.server(), image


def fetching(
    place: Place, uri: str, port: int = 80, *, settings: str = "", networks: str = '["127.0.0.0/8"]', **more: str
) -> tuple[Ikon, str]:
    """A web-download that was begun."""
    egress = f"[egress]\nallowed_ports = [80, {port}]\nallowed_networks = {networks}\nstall_s = 1\n"
    server = place.server(settings=f"{egress}{settings}")
    image = server.create()
    start(server, image, method={"name": "web-download", "uri": uri} | more)
    return server, image


def fetched(place: Place, path: str, **how: str) -> tuple[Ikon, str]:
    """A web-download that has failed."""
    port = place.source()
    return job_is(*fetching(place, f"http://127.0.0.1:{port}{path}", port, **how), "failed")


def no_such_name(place: Place) -> tuple[Ikon, str]:
    return job_is(*fetching(place, "http://nowhere.invalid/disk"), "failed")


def unknown_authority(place: Place) -> tuple[Ikon, str]:
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    subprocess.run([*made, "-keyout", "key.pem", "-out", "own.pem"], cwd=place.directory, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(place.directory / "own.pem", place.directory / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever).start()
    try:
        port = server.server_port
        return job_is(*fetching(place, f"https://127.0.0.1:{port}/", port), "failed")
    finally:
        server.shutdown()
        server.server_close()


def closed_port(place: Place) -> tuple[Ikon, str]:
    port = free_port()
    return job_is(*fetching(place, f"http://127.0.0.1:{port}/ok/5", port), "failed")


def inner_name(place: Place) -> tuple[Ikon, str]:
    return job_is(*fetching(place, "http://localhost/disk", networks="[]"), "failed")


def loop(place: Place) -> tuple[Ikon, str]:
    port = place.http().port
    return job_is(*fetching(place, f"http://127.0.0.1:{port}/loop/", port), "failed")


def unpacked(place: Place, data: bytes) -> tuple[Ikon, str]:
    return failed(place.server(settings="[imports]\ndecompress = true\n"), data)


def converted(place: Place) -> tuple[Ikon, str]:
    vast = place.directory / "vast"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", vast, "64T"], check=True)
    return failed(place.server(settings='[conversion]\noutput_format = "vmdk"\n'), vast.read_bytes(), disk_format="qcow2")


SEEDS: dict[str, tuple[Callable[[Place], tuple[Ikon, str]], str]] = {
    "client leaves an upload": (lambda place: client_leaves(place, "file"), CLIENT_GONE),
    "client leaves while it stages": (lambda place: client_leaves(place, "stage"), CLIENT_GONE),
    "disk full in an upload": (lambda place: uploaded(full_disk(place), 413), FULL),
    "disk full in an import": (lambda place: failed(full_disk(place)), FULL),
    "store gone": (store_gone, STORE_DOWN),
    "one of two stores gone": (left_behind, STORE_DOWN),
    "disk fails": (lambda place: disk_fails(place, "write", errno.EIO), STORE_DOWN),
    "store is read-only": (lambda place: disk_fails(place, "create", errno.EROFS), STORE_DENIED),
    "bad format in an upload": (lambda place: uploaded(place.server(), 415, disk_format="qcow2"), MISMATCH),
    "bad format in an import": (lambda place: failed(place.server(), disk_format="vmdk"), MISMATCH),
    "unsafe image": (lambda place: failed(place.server(), put(qcow2(), 8, ">QI", 512, 4), disk_format="qcow2"), UNSAFE),
    "too large": (lambda place: uploaded(place.server(settings="[limits]\nimage_bytes = 1000000"), 413), TOO_LARGE),
    "quota in an upload": (lambda place: uploaded(place.server(settings="[quota]\nbytes = 1000000"), 413), QUOTA),
    "quota in an import": (lambda place: failed(place.server(settings="[quota]\nbytes = 1000000")), QUOTA),
    "process killed in an upload": (killed_in_upload, UPLOADER_ENDED),
    "process killed in step store": (killed_in_step, WORKER_ENDED),
    "process restarted in step store": (restarted_in_step, WORKER_ENDED),
    "process paused past its lease": (paused, SILENT),
    "database restarted in an import": (database_restarts_in_step, DATABASE),
    "database restarted in an upload": (database_restarts_in_upload, DATABASE),
    "broker down": (broker_down, BROKER),
    "waiting job cancelled": (lambda place: cancelled(place, "waiting"), CANCELLED),
    "running job cancelled": (lambda place: cancelled(place, "running"), CANCELLED),
    "deleted during an upload": (deleted_in_upload, DELETED),
    "deleted during an import": (deleted_in_import, DELETED),
    "copy damaged": (damaged, SUSPECT),
    "staging lost": (staging_lost, STAGING_LOST),
    "node of the staged data gone": (node_gone, NO_NODE),
    "name not known": (no_such_name, DNS),
    "authority not known": (unknown_authority, TLS),
    "nobody listens": (closed_port, CLOSED),
    "name of an inside address": (inner_name, INSIDE),
    "redirected inside": (lambda place: fetched(place, "/redirect/302/http://169.254.169.254/"), NOT_ALLOWED),
    "404": (lambda place: fetched(place, "/status/404"), NOTHING_THERE),
    "403": (lambda place: fetched(place, "/status/403"), NOT_ONES_OWN),
    "source stalls": (lambda place: fetched(place, "/stall/1000000/1000"), SLOW),
    "source is slow": (lambda place: fetched(place, "/slow/1000000/2000"), SLOW),
    "source breaks off": (lambda place: fetched(place, "/nonsense"), BROKE_OFF),
    "source redirects for ever": (loop, LOOP),
    "source has too much": (lambda place: fetched(place, "/ok/5000", settings="[limits]\nimage_bytes = 1000\n"), TOO_LARGE),
    "wrong digest": (lambda place: fetched(place, "/ok/5000", digest="md5:" + "0" * 32), WRONG_DIGEST),
    "decompression bomb": (lambda place: unpacked(place, gzip.compress(bytes(80 * MIB))), BOMB),
    "damaged archive": (lambda place: unpacked(place, gzip.compress(DATA)[:-5000]), CANNOT_UNPACK),
    "conversion fails": (converted, CANNOT_CONVERT),
}


#: What an owner is told where the cause would be a look into the operator's networks.
DISCREET = {fault: OUT_OF_REACH for fault, (_, cause) in SEEDS.items() if cause in (DNS, TLS, CLOSED, INSIDE)} | {
    "source stalls": BROKE_OFF
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", SEEDS)
def test_why_names_what_befell_an_image(fault: str, place: Place) -> None:
    seed, cause = SEEDS[fault]
    server, image = seed(place)

    told = ikon("why", "--data", server.directory, image)
    discreet = ikon("why", "--data", server.directory, image, "--for-tenant")

    assert told.returncode == discreet.returncode == 0, told.stderr + discreet.stderr
    for text, right in ((told.stdout, cause), (discreet.stdout, DISCREET.get(fault, cause))):
        last = [line for line in text.splitlines() if line.startswith("    cause:")][-1]
        assert [known for known in CAUSES if known in last] == [right], text
        paragraph = text[text.rindex(last) :]
        assert "    remedy: " in paragraph, text
    assert str(place.directory) not in discreet.stdout
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["web-download", "decompress", "convert", "store"])
def test_why_names_the_step_that_a_killed_process_was_at(step: str, place: Place) -> None:
    settings = {"decompress": "[imports]\ndecompress = true\n", "convert": '[conversion]\noutput_format = "qcow2"\n'}.get(step, "")
    # the first file to be synced in the staging area is the one that is staged, where one is
    place.misfortune.hang("fsync", "/one/" if step == "store" else "/staging/", at=1 if step in ("store", "web-download") else 2)
    if step == "web-download":
        port = place.source()
        server, image = fetching(place, f"http://127.0.0.1:{port}/ok/5000", port)
    else:
        server, image = imported(place.server(settings=settings), gzip.compress(DATA) if step == "decompress" else DATA)
    eventually(place.misfortune.struck)
    server.kill()
    place.misfortune.relent()
    server.start()
    job_is(server, image, "done")

    lines = ikon("why", "--data", server.directory, image).stdout.splitlines()

    [at] = [at for at, line in enumerate(lines) if line.endswith(f"attempt 1 was lost in step {step}")]
    assert WORKER_ENDED in lines[at + 1]
