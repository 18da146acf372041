"""Quotas while clients race and all processes are killed in mid-upload: at every instant what is held is within its limits, and counted right."""

import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from ikon.db import usage
from ikon.db.engine import make_engine
from ikon.model.quota import Usage
from tests.faults.conftest import Say
from tests.faults.test_crash import upgrade
from tests.faults.world import BROKEN, BYTES, Ikon, eventually

MOST = Usage(bytes=1_500_000, staged_bytes=600_000, images=8, uploading=3)
SETTINGS = "[quota]\n" + "\n".join(f"{name} = {getattr(MOST, name)}" for name in usage.NAMES)
CLIENTS, LARGEST, PIECE = 6, 700_000, 64_000


class Server(Ikon):
    """A server of one or more processes with these limits."""

    def __init__(self, directory: Path, database: str | None, processes: int) -> None:
        super().__init__(directory, database=database, workers=processes, settings=SETTINGS)
        self.processes = processes


class Clients:
    """Clients of one project that create, send and delete, more than they may, whether the server is there or not."""

    def __init__(self, server: Ikon, seed: int) -> None:
        self._server, self._over = server, threading.Event()
        self.answers: Counter[tuple[str, int]] = Counter()
        self._left: list[str] = []  # images that nobody has deleted, as far as is known
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(random.Random(seed + n),), daemon=True) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have each end what it does. Raises what one of them did not expect."""
        self._over.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()
        if self._failures:
            raise self._failures[0]

    def _work(self, chance: random.Random) -> None:
        while not self._over.is_set():
            try:
                self._live(chance)
            except BROKEN:
                time.sleep(0.05)  # the server is gone; it comes back
            except BaseException as failure:
                self._failures.append(failure)
                return

    def _live(self, chance: random.Random) -> None:
        image = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        body = json.dumps({"id": image, "disk_format": "raw", "container_format": "bare"}).encode()
        try:
            status = self._said("create", "POST", "/v2/images", body, {})
        except ConnectionRefusedError:
            raise
        except BROKEN:
            self._left.append(image)  # no answer came, and the image may be there
            raise
        if status == 201:
            self._left.append(image)
            way, size = chance.choice(["file", "file", "stage"]), chance.randrange(LARGEST)
            framing = {"Content-Length": str(size)} if chance.random() < 0.5 else {}
            self._said(way, "PUT", f"/v2/images/{image}/{way}", pieces(size), BYTES | framing)
        if status == 413 or chance.random() < 0.5:
            with suppress(IndexError):
                self._delete(self._left.pop(0))

    def _delete(self, image: str) -> None:
        try:
            self._said("delete", "DELETE", f"/v2/images/{image}", None, {})
        except BROKEN:
            self._left.append(image)  # it may be there still
            raise

    def _said(self, deed: str, method: str, path: str, body: bytes | Iterator[bytes] | None, headers: dict[str, str]) -> int:
        status = self._server.call(method, path, body, headers).status
        self.answers[deed, status] += 1
        return status


def pieces(size: int) -> Iterator[bytes]:
    for at in range(0, size, PIECE):
        time.sleep(0.005)  # so that there is a middle to be killed in
        yield bytes(min(PIECE, size - at))


class Watcher:
    """Looks at the database beside the server, all the time: each look sees one instant."""

    def __init__(self, database: str) -> None:
        engine = make_engine(database)
        self._engine = engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="REPEATABLE READ")
        self._over, self.failure = threading.Event(), ""
        self.looks, self.known, self.highest = 0, 0, Usage()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Raises what was wrong at any instant."""
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._engine.dispose()
        assert not self.failure, self.failure

    def look(self) -> tuple[Usage, Usage | None]:
        """What the project holds, and what is counted, if that is known."""
        with self._engine.connect() as conn, conn.begin():
            row = conn.execute(sa.select(*usage.AMOUNTS).where(usage.t.c.project == "p")).first()
            return usage.count(conn, "p"), None if row is None or usage.UNKNOWN in row else Usage(*row)

    def _work(self) -> None:
        while not self._over.is_set() and not self.failure:
            held, counted = self.look()
            self.looks, self.known = self.looks + 1, self.known + (counted is not None)
            self.highest = Usage(*(max(getattr(self.highest, name), getattr(held, name)) for name in usage.NAMES))
            if counted not in (None, held):
                self.failure = f"counted {counted}, held {held}"
            if any(getattr(held, name) > getattr(MOST, name) for name in usage.NAMES):
                self.failure = f"held {held}, allowed {MOST}"
            time.sleep(0.002)


def kill(server: Server, chance: random.Random) -> int:
    """Kill all of a server, or one of its processes where it has several, and have it run again. Returns attempts in mid-upload then."""
    if server.processes > 1 and chance.random() < 0.5:
        os.kill(chance.choice(eventually(server.workers)), signal.SIGKILL)  # the other goes on, and it is replaced
        return writing(server)
    server.kill()
    found = writing(server)
    assert lying(*server.stores.values()) <= MOST.bytes
    assert lying(server.directory / "staging") <= MOST.staged_bytes
    server.start()
    return found


def writing(server: Ikon) -> int:
    return int(server.rows("SELECT count(*) AS n FROM copies WHERE state = 'writing'")[0].n)


def lying(*places: Path) -> int:
    """Bytes that lie in directories."""
    found = [path for place in places if place.exists() for path in place.iterdir()]
    return sum(path.stat().st_size for path in found)


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.full)])
def test_no_limit_is_passed_at_any_instant_whoever_races_and_is_killed(kills: int, database_url: str, tmp_path: Path, say: Say) -> None:
    chance, sqlite = random.Random(kills), database_url.startswith("sqlite")
    if not sqlite:
        upgrade(database_url)
    with Server(tmp_path, None if sqlite else database_url, 1 if sqlite else 2) as server:
        watcher, clients = Watcher(server.database), Clients(server, kills)
        killed = mid_upload = 0
        while killed < kills or not mid_upload:
            time.sleep(chance.uniform(0.1, 1.0))
            eventually(lambda: writing(server), 60)
            mid_upload += kill(server, chance)
            killed += 1
            assert killed < kills + 50
        eventually(lambda: all(clients.answers[deed, 413] for deed in ("create", "file", "stage")) and clients.answers["file", 204], 60)
        clients.stop()
        for image in server.call("GET", "/v2/images?limit=100").json["images"]:
            assert server.delete(image["id"]).status == 204
        eventually(lambda: watcher.look()[0] == Usage(), 60)
        server.create()
        ran = server.call("POST", "/ikon/v1/periodic/updater/run")
        left = watcher.look()
        watcher.stop()

    told = ", ".join(f"{deed} {status}: {n}" for (deed, status), n in sorted(clients.answers.items()))
    say(
        f"{server.database.split(':')[0]}: {killed} kills, {mid_upload} attempts in mid-upload; {watcher.looks} looks, {watcher.known} of a "
        f"known row; highest {watcher.highest} of {MOST}; answers {told}"
    )
    assert (ran.status, ran.json["parts"]["usage"]["mended"]) == (200, 0), ran
    assert left == (Usage(images=1), Usage(images=1))
    assert watcher.known > 0
    assert {status for _, status in clients.answers} <= {201, 204, 404, 409, 410, 413, 503}
    assert lying(*server.stores.values()) == 0
