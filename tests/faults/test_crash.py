"""Kill everything at any instant: what was acknowledged holds, and nothing is left behind."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import run

import pytest

from tests.faults.conftest import Say
from tests.faults.world import IKON, MIB, Ikon, Restless, eventually, lives, noise, pieces, sha512

WRITERS = 6
#: Images that are kept from round to round by each writer; beyond it older ones are deleted.
KEPT = 8


class Fate:
    """One image as its only writer knows it. What was asked and not answered may have happened or not."""

    def __init__(self, image: str) -> None:
        self.id = image
        self.data: bytes | None = None  # acknowledged as active
        self.sent: bytes | None = None  # an upload that was not answered
        self.properties: dict[str, str] = {}
        self.patching: dict[str, str] = {}
        self.copied = self.deleting = self.deleted = False


class Writer:
    """A client that uploads, patches, copies and deletes until the server is gone, and notes what it was told."""

    def __init__(self, server: Ikon, fates: list[Fate], seed: int) -> None:
        self._server, self.fates, self._random = server, fates, random.Random(seed)
        self.join = Restless(self._deed).join

    def _deed(self) -> None:
        living = [fate for fate in self.fates if not fate.deleting]
        if len(living) < 2 or self._random.random() < 0.5:
            self._upload()
        elif len(living) > KEPT:
            self._delete(living[0])
        else:
            self._random.choice([self._patch, self._patch, self._copy, self._delete])(self._random.choice(living))

    def _upload(self) -> None:
        fate = Fate(self._server.create())
        self.fates.append(fate)
        size = self._random.choice([0, 1, self._random.randrange(MIB), self._random.randrange(8 * MIB), 8 * MIB])
        fate.sent = data = noise(size, self._random.randrange(15 * MIB))
        body = data if self._random.random() < 0.5 else pieces(data, self._random.choice([1000 + size // 50, 300_000, MIB]))
        answer = self._server.upload(fate.id, body)
        assert answer.status == 204, answer
        fate.data, fate.sent = data, None

    def _patch(self, fate: Fate) -> None:
        fate.patching = {self._random.choice("abc"): str(self._random.random())}
        answer = self._server.patch(fate.id, **fate.patching)
        assert answer.status == 200, answer
        fate.properties |= fate.patching
        fate.patching = {}

    def _copy(self, fate: Fate) -> None:
        if fate.data is not None and not fate.copied:
            answer = self._server.copy(fate.id, "two")
            if answer.status == 202:
                fate.copied = True
            else:  # made in an earlier round, whose answer was lost, or being made since
                assert b"already present" in answer.body or b"active task" in answer.body, answer

    def _delete(self, fate: Fate) -> None:
        fate.deleting = True
        answer = self._server.delete(fate.id)
        assert answer.status == 204, answer
        fate.deleted = True


def look(server: Ikon, fate: Fate) -> bool:
    """Compare an image with what its writer was told, and note what became of what was not answered. True when it has data."""
    answer = server.call("GET", f"/v2/images/{fate.id}")
    if fate.deleted or (fate.deleting and answer.status == 404):
        assert answer.status == 404, f"deleted, and here again: {answer}"
        fate.deleted = True
        return False
    assert answer.status == 200, answer
    record, fate.deleting = answer.json, False
    for key, value in fate.properties.items():
        assert record.get(key) in (value, fate.patching.get(key, value)), f"a patch is lost: {key} of {record}"
    fate.properties |= {key: record[key] for key in fate.patching if key in record}
    fate.patching = {}
    if fate.sent is not None and record["status"] == "active":
        fate.data = fate.sent
    fate.sent = None
    assert record["status"] == ("queued" if fate.data is None else "active"), record
    if fate.data is None:
        return False
    assert record["os_hash_value"] == sha512(fate.data)
    for store in ("one", "two") if fate.copied else ("one",):
        assert store in record["stores"]
        assert server.download(fate.id, store=store).body == fate.data, f"wrong bytes of {fate.id} from {store}"
    return True


def crash(rounds: int, servers: Sequence[Ikon], victims: Callable[[random.Random], Sequence[Ikon]], seed: int) -> str:
    """Rounds of work, kill, restart, look. Returns the figures."""
    chance = random.Random(seed)
    slowest_s = max(server.start() for server in servers)
    all_fates: list[list[Fate]] = [[] for _ in range(WRITERS)]
    looked, slowest_mend_s, kills = 0, 0.0, 0
    for number in range(rounds):
        writers = [Writer(servers[at % len(servers)], fates, chance.randrange(2**32)) for at, fates in enumerate(all_fates)]
        time.sleep(chance.uniform(0.02, 0.8))
        doomed = victims(chance)
        for server in doomed:
            server.kill()
            kills += 1
        slowest_s = max(slowest_s, *(server.start() for server in doomed))
        for server in servers:
            if server not in doomed:
                server.kill()  # it lived while the other died; now its writers stop as well
                slowest_s = max(slowest_s, server.start())
                kills += 1
        for writer in writers:
            writer.join()
        for server in servers[:1]:
            slowest_mend_s = max(slowest_mend_s, server.settle())
        for at, fates in enumerate(all_fates):
            looked += sum(look(servers[(at + number) % len(servers)], fate) for fate in fates)
            fates[:] = [fate for fate in fates if not fate.deleted]
    return (
        f"{rounds} rounds, {kills} kills, {looked} images with data compared, slowest first answer {slowest_s:.2f} s, "
        f"slowest mending {slowest_mend_s:.2f} s, seed {seed}"
    )


@pytest.mark.parametrize("rounds", [pytest.param(12, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.full)])
def test_whatever_instant_it_is_killed_at_nothing_is_lost_and_nothing_is_left(rounds: int, tmp_path: Path, say: Say) -> None:
    server = Ikon(tmp_path)
    try:
        say(f"SQLite: {crash(rounds, [server], lambda chance: [server], seed=random.randrange(2**32))}")
    finally:
        server.kill()


@pytest.mark.parametrize("rounds", [pytest.param(4, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.full)])
def test_two_processes_killed_at_once_lose_nothing(rounds: int, tmp_path: Path, mariadb_url: str, say: Say) -> None:
    upgrade(mariadb_url)
    server = Ikon(tmp_path, database=mariadb_url, workers=2)
    try:
        say(f"MariaDB, --workers 2: {crash(rounds, [server], lambda chance: [server], seed=random.randrange(2**32))}")
    finally:
        server.kill()


@pytest.mark.parametrize("rounds", [pytest.param(4, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.full)])
def test_two_servers_on_the_same_stores_killed_alone_or_together_lose_nothing(
    rounds: int, tmp_path: Path, mariadb_url: str, say: Say
) -> None:
    upgrade(mariadb_url)
    stores = {name: tmp_path / name for name in ("one", "two")}
    servers = [Ikon(tmp_path / name, database=mariadb_url, stores=stores) for name in ("left", "right")]
    try:
        figures = crash(rounds, servers, lambda chance: chance.choice([servers[:1], servers[1:], servers]), seed=random.randrange(2**32))
        say(f"MariaDB, two servers: {figures}")
    finally:
        for server in servers:
            server.kill()


@pytest.mark.slow
def test_one_process_killed_is_replaced_and_its_uploads_are_undone(tmp_path: Path, mariadb_url: str) -> None:
    upgrade(mariadb_url)
    with Ikon(tmp_path, database=mariadb_url, workers=2) as server:
        for _ in range(3):
            images = [server.create() for _ in range(4)]
            uploads = [server.begin_upload(image, MIB) for image in images]
            for sock in uploads:
                sock.sendall(noise(1000))
            eventually(lambda images=images: all(server.show(image)["status"] == "saving" for image in images))
            victim = server.workers()[0]
            os.kill(victim, signal.SIGKILL)
            eventually(lambda victim=victim: len(server.workers()) == 2 and victim not in server.workers())
            for sock in uploads:
                with contextlib.suppress(OSError):
                    sock.sendall(noise(MIB - 1000, 1000))
            eventually(lambda images=images: all(server.show(image)["status"] != "saving" for image in images), within_s=30)
            server.settle()


@pytest.mark.slow
def test_a_killed_supervisor_leaves_nobody_on_its_address(tmp_path: Path, mariadb_url: str) -> None:
    upgrade(mariadb_url)
    with Ikon(tmp_path, database=mariadb_url, workers=2) as server:
        assert server.process is not None
        eventually(lambda: len(server.workers()) == 2)
        workers = server.workers()
        os.kill(server.process.pid, signal.SIGKILL)
        eventually(lambda: not any(lives(pid) for pid in workers))
        server.kill()
        server.start()


def upgrade(database: str) -> None:
    """Make the schema of a database server."""
    run([IKON, "db", "upgrade", "--database", database], check=True, capture_output=True)
