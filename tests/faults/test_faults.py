"""Disks that fail, processes that are stopped, clocks that jump, clients that leave: after each the image is queued with the reason, or
active and whole, and of a lost attempt nothing is left."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.faults.misfortune import Misfortune, build
from tests.faults.proxy import Proxy
from tests.faults.test_crash import upgrade
from tests.faults.world import (
    BROKEN,
    MIB,
    Answer,
    Ikon,
    chunk,
    eventually,
    is_queued_with_reason,
    is_whole,
    noise,
    pieces,
    read_answer,
    read_head,
)
from tests.services.servers import Server

DATA = noise(3 * MIB + 12345)
KIB = 1024
LONG = noise(6 * MIB + 256 * KIB)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once."""
    return build(tmp_path_factory.mktemp("misfortune"))


@pytest.fixture
def misfortune(library: Path, tmp_path: Path) -> Misfortune:
    """Nothing wrong yet."""
    return Misfortune(library, tmp_path / "misfortune")


@pytest.fixture
def server(tmp_path: Path, misfortune: Misfortune) -> Iterator[Ikon]:
    """A server whose disk may fail."""
    with Ikon(tmp_path / "ikon", env=misfortune.env) as running:
        yield running


def in_step(server: Ikon, misfortune: Misfortune) -> Iterable[bytes]:
    """Data in five pieces, each sent when some of the one before is written: so many writes at least, unless one fails."""
    size = 0
    for piece in pieces(LONG, MIB + 256 * KIB):
        yield piece
        began = time.monotonic()
        while not misfortune.struck() and time.monotonic() - began < 10:
            with contextlib.suppress(FileNotFoundError):  # it has just failed
                written = max((path.stat().st_size for path in server.stores["one"].glob("*.part")), default=0)
                if written > size:
                    size = written
                    break
            time.sleep(0.001)


def in_chunks() -> Iterable[bytes]:
    return pieces(DATA, 100_000)


def fill(server: Ikon, disk: Path, leave: int) -> Path:
    """Take the room of a disk but for some bytes, once nothing that is deleted takes any."""
    server.settle()
    eventually(lambda: not server.holds_deleted())
    filler = disk / "filler"
    stat = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - leave))
    return filler


# The disk


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_a_disk_that_fails_at_any_call_fails_one_upload(announced: bool, server: Ikon, misfortune: Misfortune) -> None:
    cases = [("create", 1, errno.EIO, 503), ("write", 2, errno.EDQUOT, 413), ("write", 2, errno.EACCES, 503)]
    cases += [("write", at, error, status) for at in (1, 2, 3, 4) for error, status in ((errno.EIO, 503), (errno.ENOSPC, 413))]
    cases += [("fsync", 1, errno.EIO, 503), ("fsync", 2, errno.EIO, 503), ("rename", 1, errno.EIO, 503), ("rename", 1, errno.ENOSPC, 413)]
    for call, at, error, status in cases:
        image = server.create()
        misfortune.strike(call, "/one", at=at, error=error)
        answer = server.upload(image, in_step(server, misfortune), len(LONG) if announced else None)
        assert (answer.status, misfortune.struck()) == (status, 1), (call, at, error, answer)
        assert is_queued_with_reason(server, image)
        assert server.complaints() == []
        assert server.upload(image, DATA).status == 204
        assert is_whole(server, image, DATA)


@pytest.mark.slow
@pytest.mark.parametrize("call", ["unlink", "fsync"])
def test_bytes_that_cannot_be_deleted_are_deleted_later(call: str, server: Ikon, misfortune: Misfortune) -> None:
    lost, deleted = server.create(), server.create()
    assert server.upload(deleted, DATA).status == 204
    misfortune.strike("write", "/one", at=2)
    misfortune.strike(call, "/one", lasting=True, slot=1)
    assert server.upload(lost, DATA).status == 503
    assert server.delete(deleted).status == 204
    assert len(server.rows("SELECT * FROM copies WHERE state = 'deleting'")) == 2
    misfortune.relent()
    server.settle(within_s=30)
    assert is_queued_with_reason(server, lost)


def test_a_copy_to_a_disk_that_fails_leaves_the_image_as_it_was(server: Ikon, misfortune: Misfortune) -> None:
    image = server.create()
    server.upload(image, DATA)
    for call, at in (("create", 1), ("write", 2), ("fsync", 1), ("fsync", 2), ("rename", 1)):
        misfortune.strike(call, "/two", at=at)
        job = server.begin_copy(image, "two").json["job"]
        eventually(lambda job=job: server.job(job)["state"] == "waiting")
        server.cancel(job)
        assert server.complaints() == []
        assert server.show(image)["stores"] == "one"
    assert server.copy(image, "two").status == 202
    assert is_whole(server, image, DATA, store="two")


def test_a_disk_that_cannot_be_read_is_passed_over(server: Ikon, misfortune: Misfortune) -> None:
    image, alone = server.create(), server.create()
    for each in (image, alone):
        server.upload(each, DATA)
    server.copy(image, "two")
    for call in ("read", "open"):
        misfortune.strike(call, "/one/", lasting=True)
        assert server.download(image, store="one").body == DATA
        answer = server.download(alone)
        assert (answer.status, "Retry-After" in answer.headers or b"No intact copy" in answer.body) == (503, True)
        misfortune.relent()
        assert server.download(alone).body == DATA
    states = dict(server.rows(f"SELECT store, state FROM copies WHERE image_id = '{image}'"))
    assert states == {"one": "suspect", "two": "ready"}


def test_a_disk_that_fails_in_the_middle_of_a_download_breaks_the_connection_or_is_passed_over(
    server: Ikon, misfortune: Misfortune
) -> None:
    image = server.create()
    server.upload(image, DATA)
    for copied in (False, True):
        if copied:
            server.copy(image, "two")
        for call, at in (("read", 7), ("read", 13), ("sendfile", 2), ("sendfile", 3)):
            misfortune.strike(call, "/one/", at=at, lasting=True)
            try:
                answer: Answer | None = server.download(image, store="one")
            except BROKEN:
                answer = None
            struck = misfortune.struck()
            misfortune.relent()
            assert answer is None or answer.body == DATA
            assert answer is not None or struck
            assert answer is not None or call == "sendfile" or not copied  # a block that cannot be read is read from elsewhere
            server.rows("SELECT 1")


@pytest.mark.slow
@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_a_full_disk_ends_an_upload_at_any_block(announced: bool, small_disk: Path, tmp_path: Path) -> None:
    with Ikon(tmp_path / "ikon", stores={"one": small_disk / "one"}) as server:
        for leave in (0, 4 * KIB, 256 * KIB, 300 * KIB, 1 * MIB, 2 * MIB, 3 * MIB):
            filler = fill(server, small_disk, leave)
            image = server.create()
            answer = server.upload(image, DATA if announced else in_chunks())
            assert answer.status == 413
            assert b"has no room" in answer.body
            if announced:  # refused before a byte is stored, and before the image is touched
                assert server.show(image)["status"] == "queued"
            assert is_queued_with_reason(server, image)
            assert server.complaints() == []
            filler.unlink()
            assert server.upload(image, DATA).status == 204
            assert is_whole(server, image, DATA)
            assert server.delete(image).status == 204
        server.settle()


@pytest.mark.slow
def test_a_full_disk_that_the_database_shares_loses_nothing(small_disk: Path) -> None:
    with Ikon(small_disk / "ikon", stores={"one": small_disk / "one"}) as server:
        kept = server.create()
        assert server.upload(kept, noise(MIB)).status == 204
        for leave in (0, 8 * KIB, 64 * KIB, 512 * KIB, 2 * MIB):
            image = server.create()
            filler = fill(server, small_disk, leave)
            assert server.upload(image, in_chunks()).status in (413, 503)
            filler.unlink()
            server.settle(within_s=20)
            assert server.show(image)["status"] == "queued"
            assert server.upload(image, DATA).status == 204
            assert is_whole(server, image, DATA)
            assert is_whole(server, kept, noise(MIB))
            assert server.delete(image).status == 204
            server.settle(within_s=20)


# The client, and the other clients


@pytest.mark.slow
@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
def test_a_client_that_leaves_at_any_byte_leaves_nothing(announced: bool, server: Ikon) -> None:
    image = server.create()
    for sent in (0, 1, 100_000, 256 * KIB, MIB, 2 * MIB, len(DATA) - 1, *([] if announced else [len(DATA)])):
        with server.begin_upload(image, len(DATA) if announced else None) as sock:
            if sent:
                sock.sendall(DATA[:sent] if announced else chunk(DATA[:sent]))
            eventually(lambda: server.show(image)["status"] == "saving")
        eventually(lambda: server.show(image)["status"] == "queued")
        server.settle()
        assert is_queued_with_reason(server, image)
    assert server.upload(image, DATA).status == 204
    assert is_whole(server, image, DATA)


def test_a_delete_ends_an_upload_with_410_and_nothing_left(server: Ikon) -> None:
    for sent in (0, 1, MIB, len(DATA) - 1):
        image = server.create()
        with server.begin_upload(image, len(DATA)) as sock:
            sock.sendall(DATA[:sent])
            eventually(lambda image=image: server.show(image)["status"] == "saving")
            assert server.delete(image).status == 204
            assert read_answer(sock).status == 410
        server.settle()
        assert server.call("GET", f"/v2/images/{image}").status == 404
        assert server.files() == set()


def test_deletes_and_finishes_at_once_end_as_one_of_the_two(server: Ikon) -> None:
    outcomes = set()
    for number in range(30):
        image = server.create()
        with server.begin_upload(image, len(DATA)) as sock:
            sock.sendall(DATA[:-1])
            eventually(lambda image=image: server.show(image)["status"] == "saving")
            deleting = threading.Timer(number / 3000, server.delete, [image])
            deleting.start()
            sock.sendall(DATA[-1:])
            outcomes.add(read_answer(sock).status)
            deleting.join()
        assert server.call("GET", f"/v2/images/{image}").status == 404
    assert outcomes <= {204, 410}
    server.settle()
    assert server.files() == set()


@pytest.mark.slow
def test_a_download_goes_on_when_its_image_is_deleted_or_breaks(server: Ikon) -> None:
    image, data = server.create(), noise(20 * MIB)
    assert server.upload(image, data).status == 204
    with server.begin_download(image) as sock:
        body = read_head(sock)
        assert server.delete(image).status == 204
        with contextlib.suppress(OSError):
            while len(body) < len(data) and (got := sock.recv(MIB)):
                body += got
        assert data.startswith(body)
    server.settle()
    assert server.files() == set()


# The server's processes


@pytest.mark.slow
def test_sigterm_lets_an_upload_and_a_download_finish(tmp_path: Path) -> None:
    with Ikon(tmp_path) as server:
        image, other, big = server.create(), server.create(), noise(20 * MIB)
        assert server.upload(other, big).status == 204
        with server.begin_upload(image, len(DATA)) as up, server.begin_download(other) as down:
            up.sendall(DATA[:MIB])
            start = down.recv(1000)
            eventually(lambda: server.show(image)["status"] == "saving")
            stopping = threading.Timer(0.5, lambda: (up.sendall(DATA[MIB:]), down_all.append(read_all(down))))
            down_all: list[bytes] = []
            stopping.start()
            assert server.stop() == 0
            stopping.join()
            assert read_answer(up).status == 204
            assert (start + down_all[0]).endswith(big[-1000:])
        server.start()
        assert is_whole(server, image, DATA)
        assert server.complaints() == []


@pytest.mark.slow
def test_sigterm_undoes_an_upload_that_does_not_finish_in_time(tmp_path: Path) -> None:
    with Ikon(tmp_path, settings="shutdown_grace_s = 1") as server:
        image, other = server.create(), server.create()
        server.upload(other, noise(20 * MIB))
        with server.begin_upload(image, len(DATA)) as up, server.begin_download(other) as down:
            up.sendall(DATA[:MIB])
            down.recv(1000)
            eventually(server.files)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
        assert server.complaints() == []  # before it starts again
        server.start()
        assert is_queued_with_reason(server, image)
        assert is_whole(server, other, noise(20 * MIB))


@pytest.mark.slow
def test_a_server_paused_past_its_lease_gives_up_and_touches_nothing_of_others(tmp_path: Path, mariadb_url: str) -> None:
    upgrade(mariadb_url)
    stores = {"one": tmp_path / "one"}
    with (
        Ikon(tmp_path / "left", database=mariadb_url, stores=stores) as left,
        Ikon(tmp_path / "right", database=mariadb_url, stores=stores) as right,
    ):
        images = [left.create() for _ in range(4)]
        again, overlapping, alone, deleted = images
        paused = [left.begin_upload(image, len(DATA)) for image in images]
        for sock in paused:
            sock.sendall(DATA[:MIB])
        eventually(lambda: len(left.files()) == 4)
        left.signal(signal.SIGSTOP)
        assert right.delete(deleted).status == 204
        eventually(lambda: all(right.show(image)["status"] == "queued" for image in images[:3]), within_s=90)
        other = noise(2 * MIB, at=5 * MIB)
        assert right.upload(again, other).status == 204  # the name is free again, and its data is another's
        with right.begin_upload(overlapping, len(other)) as running:
            running.sendall(other[:MIB])
            eventually(lambda: right.show(overlapping)["status"] == "saving")
            left.signal(signal.SIGCONT)
            answers = []
            for sock in paused:
                try:
                    sock.sendall(DATA[MIB:])
                    answers.append(read_answer(sock))
                except BROKEN as error:
                    pytest.fail(f"no answer: {error!r}")
                finally:
                    sock.close()
            assert [answer.status for answer in answers] == [503, 503, 503, 410]
            assert all(b"pload again" in answer.body for answer in answers[:3]), answers
            time.sleep(1)
            assert right.show(overlapping)["status"] == "saving"
            running.sendall(other[MIB:])
            assert read_answer(running).status == 204
        right.settle()
        assert is_whole(left, again, other)
        assert is_whole(left, overlapping, other)
        assert is_queued_with_reason(right, alone)
        assert len(right.files()) == 2
        assert left.upload(alone, DATA).status == 204


@pytest.mark.slow
@pytest.mark.parametrize("answered", [True, False])
def test_a_connection_lost_in_the_last_commit_leaves_the_image_whole_or_queued(
    answered: bool, tmp_path: Path, mariadb: Server, mariadb_url: str
) -> None:
    upgrade(mariadb_url)
    with Proxy(mariadb.port) as proxy:
        through = mariadb_url.replace(f":{mariadb.port}/", f":{proxy.port}/")
        with Ikon(tmp_path, database=through, stores={"one": tmp_path / "one"}) as server:
            server.database = mariadb_url
            image = server.create()
            with server.begin_upload(image, len(DATA)) as sock:
                sock.sendall(DATA[:-1])
                eventually(lambda: server.rows("SELECT 1 FROM block_digests") or server.files())
                eventually(lambda: server.rows("SELECT 1 FROM copies WHERE state = 'writing'"))
                ready = proxy.cut_at(b"COMMIT", answered=answered)
                sock.sendall(DATA[-1:])
                assert ready.wait(10)
                proxy.refuse()
                assert read_answer(sock).status == 503
            proxy.flow()
            server.settle(within_s=30)
            assert is_whole(server, image, DATA) or is_queued_with_reason(server, image)


# The clock


@pytest.mark.slow
def test_a_clock_that_jumps_a_day_loses_nothing(server: Ikon, misfortune: Misfortune) -> None:
    day = 24 * 3600
    image = server.create()
    server.upload(image, DATA)
    for ahead in (day, -day, 0):
        running = server.create()
        with server.begin_upload(running, len(DATA)) as sock:
            sock.sendall(DATA[:MIB])
            eventually(lambda running=running: server.show(running)["status"] == "saving")
            misfortune.set_clock(ahead)
            time.sleep(7)  # a heartbeat and a run of the reaper
            sock.sendall(DATA[MIB:])
            assert read_answer(sock).status == 204
        assert is_whole(server, running, DATA)
        assert is_whole(server, image, DATA)
        assert server.patch(image, a=str(ahead)).status == 200
        misfortune.strike("unlink", "/one")  # a deletion that has to be tried again
        assert server.delete(running).status == 204
        misfortune.set_clock(ahead - 2 * day)
        server.settle(within_s=30)
        misfortune.set_clock(ahead)
        server.kill()
        server.start()
        assert is_whole(server, image, DATA)


@pytest.mark.slow
def test_two_servers_whose_clocks_differ_by_days_take_nothing_from_each_other(
    tmp_path: Path, misfortune: Misfortune, mariadb_url: str
) -> None:
    upgrade(mariadb_url)
    stores = {"one": tmp_path / "one"}
    with (
        Ikon(tmp_path / "left", database=mariadb_url, stores=stores) as left,
        Ikon(tmp_path / "right", database=mariadb_url, stores=stores, env=misfortune.env) as right,
    ):
        image, there = left.create(), right.create()
        with left.begin_upload(image, len(DATA)) as sock, right.begin_upload(there, len(DATA)) as far:
            for each in (sock, far):
                each.sendall(DATA[:MIB])
            for days in (3, -3):
                misfortune.set_clock(days * 24 * 3600)
                time.sleep(13)
            for each in (sock, far):
                each.sendall(DATA[MIB:])
                assert read_answer(each).status == 204
        assert is_whole(left, there, DATA)
        assert is_whole(right, image, DATA)


def read_all(sock: socket.socket) -> bytes:
    """What comes until the other side ends."""
    received = b""
    while got := sock.recv(MIB):
        received += got
    return received
