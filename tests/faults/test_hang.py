"""A store that hangs, as a mount does whose server is gone: its readers go on elsewhere or hear so in time, and others feel nothing."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.misfortune import Misfortune, build
from tests.faults.world import BROKEN, MIB, Answer, Ikon, eventually, noise, read_head

pytestmark = pytest.mark.slow

DATA = noise(3 * MIB + 12345)
BIG = noise(20 * MIB)
#: Seconds of patience that the stores are given; within which an answer has to come: twice that, for it may take two reads, and some.
READ_S, SOON_S = 0.5, 2.0
CROWD = 40


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
    """A server whose stores may hang."""
    with Ikon(tmp_path / "ikon", env=misfortune.env, store_settings=f"read_s = {READ_S}") as running:
        yield running
        assert "Traceback" not in running.log.read_text(errors="replace")


@pytest.fixture
def network_store(misfortune: Misfortune, tmp_path: Path) -> Iterator[Ikon]:
    """A server with a store on a file system that, as those of a network, promises nothing of what it has at hand: that of shared memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        stores = {"one": Path(directory) / "one", "two": tmp_path / "two"}
        with Ikon(tmp_path / "ikon", env=misfortune.env, stores=stores, store_settings=f"read_s = {READ_S}") as running:
            yield running


def stored(server: Ikon, data: bytes, *stores: str) -> str:
    """An image with copies in these stores."""
    image = server.create()
    answer = server.call(
        "PUT", f"/v2/images/{image}/file", data, {"Content-Type": "application/octet-stream", "X-Image-Meta-Store": stores[0]}
    )
    assert answer.status == 204, answer
    for store in stores[1:]:
        assert server.copy(image, store).status == 202
    return image


def timed(server: Ikon, image: str) -> tuple[Answer, float]:
    """A download, and how long it took."""
    began = time.monotonic()
    return server.download(image), time.monotonic() - began


def open_files(server: Ikon) -> list[str]:
    """Files of its stores that the server has open."""
    assert server.process is not None
    found = []
    for fd in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    return [path for path in found if any(path.startswith(f"{store}/") for store in server.stores.values())]


@pytest.mark.parametrize(("call", "at"), [("open", 1), ("read", 1), ("read", 7), ("read", 13)])
def test_a_download_from_a_store_that_hangs_goes_on_from_another(call: str, at: int, server: Ikon, misfortune: Misfortune) -> None:
    image = stored(server, DATA, "one", "two")
    misfortune.hang(call, "/one/", at=at)
    answer, took_s = timed(server, image)
    assert (answer.status, answer.body == DATA, misfortune.struck() > 0) == (200, True, True)
    assert took_s < SOON_S
    assert dict(server.rows("SELECT store, state FROM copies")) == {"one": "ready", "two": "ready"}
    misfortune.relent()
    eventually(lambda: not open_files(server), within_s=2)


@pytest.mark.parametrize("call", ["open", "read"])
def test_an_image_whose_only_store_hangs_is_a_503_in_time_and_comes_back_with_the_store(
    call: str, server: Ikon, misfortune: Misfortune
) -> None:
    image = stored(server, DATA, "one")
    misfortune.hang(call, "/one/")
    answer, took_s = timed(server, image)
    assert (answer.status, took_s < SOON_S) == (503, True)
    assert b"No intact copy" in answer.body
    misfortune.relent()
    assert eventually(lambda: server.download(image).body == DATA)


def test_a_store_that_hangs_costs_other_stores_nothing_and_the_server_a_few_threads(server: Ikon, misfortune: Misfortune) -> None:
    hung, sound, both = stored(server, DATA, "one"), stored(server, DATA, "two"), stored(server, DATA, "one", "two")
    with ThreadPoolExecutor(CROWD) as clients:
        assert all(answer.body == DATA for answer in clients.map(server.download, [sound, both] * CROWD))
        threads, memory_mib = server.threads(), server.memory_mib()
        misfortune.hang("read", "/one/")
        waiting = [clients.submit(timed, server, hung) for _ in range(CROWD // 2)]
        for _ in range(CROWD):
            answer, took_s = timed(server, sound)
            assert (answer.body == DATA, took_s < READ_S) == (True, True), "others wait for the store that hangs"
        ended = [each.result() for each in waiting]
        assert {answer.status for answer, _ in ended} == {503}
        assert max(took_s for _, took_s in ended) < SOON_S
        passed = [timed(server, each) for each in (hung, both) * CROWD]  # now that it is known to hang
        assert [answer.status for answer, _ in passed] == [503, 200] * CROWD
        assert max(took_s for _, took_s in passed) < READ_S
        assert server.threads() <= threads + 4
        assert server.memory_mib() < memory_mib + 20
        misfortune.relent()
        assert eventually(lambda: server.download(hung).body == DATA)


def test_a_copy_to_another_store_is_given_up_in_time(server: Ikon, misfortune: Misfortune) -> None:
    image = stored(server, DATA, "one")
    misfortune.hang("read", "/one/", at=3)
    job = server.begin_copy(image, "two").json["job"]
    eventually(lambda: server.job(job)["state"] == "waiting", within_s=SOON_S)
    misfortune.relent()
    server.cancel(job)
    server.settle()
    assert server.copy(image, "two").status == 202


def test_a_store_that_hangs_in_the_middle_of_a_download_breaks_it_where_there_is_no_other_copy(
    server: Ikon, misfortune: Misfortune
) -> None:
    image = stored(server, BIG, "one")
    with server.begin_download(image, receive_bytes=MIB) as sock:
        body = read_head(sock)
        misfortune.hang("read", "/one/")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while got := sock.recv(MIB):
                body += got
        assert (len(body) < len(BIG), BIG.startswith(body)) == (True, True)
        assert time.monotonic() - began < 2 * SOON_S
    misfortune.relent()


def test_data_on_a_network_file_system_is_served_whole_and_in_parts(network_store: Ikon) -> None:
    image = stored(network_store, BIG, "one")
    assert network_store.download(image).body == BIG
    assert network_store.download(image, part="1000000-12345678").body == BIG[1000000:12345679]
    with network_store.begin_download(image) as sock:  # slowly, from a socket that is seldom ready
        body = read_head(sock)
        while len(body) < len(BIG):
            body += sock.recv(MIB)
        assert body == BIG
    eventually(lambda: not open_files(network_store), within_s=2)
    assert network_store.delete(image).status == 204
    network_store.settle()


def test_a_network_file_system_that_hangs_in_the_very_sending_breaks_that_connection_and_holds_no_other(
    network_store: Ikon, misfortune: Misfortune
) -> None:
    image = stored(network_store, BIG, "one", "two")
    misfortune.hang("sendfile", "/one/", at=3)
    outcome: list[Answer | Exception] = []

    def download() -> None:
        try:
            outcome.append(network_store.download(image))
        except BROKEN as error:
            outcome.append(error)

    client = threading.Thread(target=download)
    client.start()
    eventually(misfortune.struck)
    began = time.monotonic()
    assert network_store.call("GET", "/v2/images").status == 200
    assert time.monotonic() - began < READ_S, "the whole server waits for the store"
    client.join(SOON_S)
    assert [type(each) is not Answer for each in outcome] == [True]
    misfortune.relent()
    assert eventually(lambda: network_store.download(image).body == BIG)
