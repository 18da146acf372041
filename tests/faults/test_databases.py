"""Databases that are killed, restarted, stopped, locked and cut off under load: 503 meanwhile, work again after, and all that was said is true."""

import contextlib
import json
import random
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from tests.faults.conftest import Say
from tests.faults.proxy import Proxy
from tests.faults.test_crash import upgrade
from tests.faults.world import BROKEN, MIB, PATIENCE_S, Ikon, is_whole, noise
from tests.services.servers import Server

pytestmark = pytest.mark.slow
CLIENTS = 6
#: Seconds of load before a fault and after it.
QUIET_S = 0.5
#: Seconds in which copies of attempts that a fault broke off are gone: a reaper's run or two, behind whatever waits after a failure.
MENDED_S = 90.0
QUOTA = 1 << 40


class Note(NamedTuple):
    """One request and its answer. status 0: the connection broke."""

    deed: str
    began: float
    ended: float
    status: int


class Life:
    """One image as its client wants it to be, and knows it to be once each deed was acknowledged."""

    def __init__(self, chance: random.Random) -> None:
        self.id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        self.data = noise(chance.choice([1, 100_000, 3 * MIB]), chance.randrange(20 * MIB))
        self.colour = str(chance.getrandbits(32))
        self.ends = chance.random() < 0.4


class Client(threading.Thread):
    """Lives lives of images, one after the other, and repeats what was answered with 503 until it knows that it is done."""

    def __init__(self, server: Ikon, seed: int) -> None:
        super().__init__(daemon=True)
        self._server, self._random, self._over = server, random.Random(seed), threading.Event()
        self.lives: list[Life] = []
        self.notes: list[Note] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._over.is_set():
                self._live(Life(self._random))
        except BaseException as failure:
            self.failure = failure

    def stop(self) -> None:
        """Finish the life that it is at. Raises what it did not expect."""
        self._over.set()
        self.join(4 * PATIENCE_S)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure

    def _live(self, life: Life) -> None:
        path = f"/v2/images/{life.id}"
        record = {"id": life.id, "disk_format": "raw", "container_format": "bare"}
        change = [{"op": "add", "path": "/colour", "value": life.colour}]
        as_patch = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
        self._do("create", "POST", "/v2/images", json.dumps(record).encode(), {}, (201,), (409,))
        while not self._is_active(life):
            self._do("upload", "PUT", f"{path}/file", life.data, {"Content-Type": "application/octet-stream"}, (204,), (409,))
        self._do("patch", "PATCH", path, json.dumps(change).encode(), as_patch, (200,), ())
        self._do("list", "GET", "/v2/images?limit=5", None, {}, (200,), ())
        if life.ends:
            self._do("delete", "DELETE", path, None, {}, (204,), (404,))
        self.lives.append(life)

    def _is_active(self, life: Life) -> bool:
        body = self._do("show", "GET", f"/v2/images/{life.id}", None, {}, (200,), ())
        return bool(json.loads(body)["status"] == "active")

    def _do(
        self, deed: str, method: str, path: str, body: bytes | None, headers: dict[str, str], good: Sequence[int], then: Sequence[int]
    ) -> bytes:
        """Ask until it is done. then: answers that mean so too, once it is not known whether an earlier try did it."""
        known = True
        while True:
            began = time.monotonic()
            try:
                answer = self._server.call(method, path, body, headers)
            except BROKEN:
                assert deed == "upload", f"{deed} broke after {time.monotonic() - began} s"  # its answer may come before its end
                self.notes.append(Note(deed, began, time.monotonic(), 0))
                return b""
            self.notes.append(Note(deed, began, time.monotonic(), answer.status))
            if answer.status in good or (answer.status in then and not known):
                return answer.body
            assert answer.status in (503, 409 if deed == "upload" else 503), (deed, answer)
            if answer.status == 503:
                assert answer.headers["Retry-After"], answer
            known = False
            time.sleep(0.05)
            if deed == "upload":
                return b""  # it is looked at first


class World:
    """A server, its database, the link between, and clients at work."""

    def __init__(self, directory: Path, database: Server | None, seed: int) -> None:
        self.directory, self.db, self._stack = directory, database, contextlib.ExitStack()
        self.link: Proxy | None = None
        self.url = f"sqlite:///{directory}/ikon.db"
        if database is not None:
            self.url = database.new_database()
            upgrade(self.url)
            self.link = self._stack.enter_context(Proxy(database.port))
        through = database.url(self.url.rsplit("/", 1)[1], port=self.link.port) if database and self.link else None
        self.ikon = self._stack.enter_context(Ikon(directory, database=through, settings=f"[quota]\nbytes = {QUOTA}"))
        self.clients = [Client(self.ikon, seed + n) for n in range(CLIENTS)]

    def __enter__(self) -> "World":
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def meet(self, name: str, fault: Callable[["World"], contextlib.AbstractContextManager[object]], seconds: float) -> str:
        """Have a fault last some seconds under load, and wait until changes succeed again. Returns what clients saw."""
        time.sleep(QUIET_S)
        began = time.monotonic()
        with fault(self):
            time.sleep(seconds)
        back = time.monotonic()
        while not (again := [n.ended for n in self.notes() if n.began > back and n.status in (200, 201, 204) and n.deed == "patch"]):
            assert time.monotonic() - back < 2 * PATIENCE_S, f"{name}: nothing succeeds any more"
            time.sleep(0.02)
        time.sleep(QUIET_S)
        seen = [note for note in self.notes() if note.ended > began]
        first = min(note.ended for note in seen if note.ended > back and note.status in (200, 201, 204))
        statuses = ", ".join(f"{count} x {status or 'broken'}" for status, count in sorted(Counter(n.status for n in seen).items()))
        return (
            f"{name} for {back - began:.1f} s: {statuses}; longest answer {max(n.ended - n.began for n in seen):.1f} s; "
            f"first success {first - back:.2f} s after its return, first change begun and done after it {min(again) - back:.2f} s"
        )

    def notes(self) -> list[Note]:
        """What all clients were answered so far."""
        return [note for client in self.clients for note in list(client.notes)]

    def rows(self, query: str) -> list[sa.Row[tuple[object, ...]]]:
        """What the database says, read beside the server."""
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.connect() as conn:
            return list(conn.execute(sa.text(query)))

    def judge(self) -> str:
        """End the load, and compare what was acknowledged with what is there. Returns the count."""
        for client in self.clients:
            client.stop()
        self.ikon.settle(within_s=MENDED_S)
        lives = [life for client in self.clients for life in client.lives]
        there = {row.id for row in self.rows("SELECT id FROM images")}
        assert there == {life.id for life in lives if not life.ends}
        check_lives(self.ikon, lives)
        counted = self.rows("SELECT SUM(reserved) FROM copies WHERE project = 'p'")[0][0]
        [held] = [row.bytes for row in self.rows("SELECT * FROM `usage`" if self.url.startswith("mysql") else 'SELECT * FROM "usage"')]
        assert held == counted == sum(len(life.data) for life in lives if not life.ends)
        assert {note.status for note in self.notes()} <= {200, 201, 204, 404, 409, 503, 0}
        assert "Traceback" not in self.ikon.log.read_text(errors="replace"), self.ikon.tail()
        return f"{len(lives)} images, none lost, none half done, usage is what a recount gives"


def check_lives(server: Ikon, lives: Sequence[Life]) -> None:
    """Each image is as its client was told, or gone."""
    for life in lives:
        if life.ends:
            assert server.call("GET", f"/v2/images/{life.id}").status == 404, life.id
        else:
            assert is_whole(server, life.id, life.data), life.id
            assert server.show(life.id)["colour"] == life.colour


# Faults


@contextlib.contextmanager
def killed(world: World) -> Iterator[None]:
    """The server ends at once, and is started again."""
    assert world.db is not None
    world.db.kill()
    yield
    world.db.start()


@contextlib.contextmanager
def stopped(world: World) -> Iterator[None]:
    """The server is stopped in good order, and started again."""
    assert world.db is not None
    world.db.stop()
    yield
    world.db.start()


@contextlib.contextmanager
def frozen(world: World) -> Iterator[None]:
    """The server stands still: it keeps its connections, and says nothing."""
    assert world.db is not None
    world.db.freeze()
    yield
    world.db.thaw()


@contextlib.contextmanager
def cut(world: World) -> Iterator[None]:
    """The network is gone: connections break, and new ones."""
    assert world.link is not None
    world.link.refuse()
    yield
    world.link.flow()


@contextlib.contextmanager
def rows_locked(world: World) -> Iterator[None]:
    """A transaction holds every image and the usage."""
    engine = sa.create_engine(world.url, poolclass=sa.NullPool)
    usage = "`usage`" if world.url.startswith("mysql") else '"usage"'
    with engine.begin() as conn:
        for table in ("images", usage):
            conn.exec_driver_sql(f"SELECT * FROM {table} FOR UPDATE").all()
        yield


@contextlib.contextmanager
def tables_locked(world: World) -> Iterator[None]:
    """Somebody has whole tables to himself, readers out."""
    engine = sa.create_engine(world.url, poolclass=sa.NullPool)
    with engine.connect() as conn:
        if world.url.startswith("mysql"):
            conn.exec_driver_sql("LOCK TABLES images WRITE, copies WRITE")
        else:
            conn.exec_driver_sql("LOCK TABLE images, copies IN ACCESS EXCLUSIVE MODE")
        yield


@contextlib.contextmanager
def file_locked(world: World) -> Iterator[None]:
    """Another process has the write lock of SQLite."""
    with contextlib.closing(sqlite3.connect(world.directory / "ikon.db", isolation_level=None, timeout=60)) as conn:
        conn.execute("BEGIN EXCLUSIVE")
        yield
        conn.execute("ROLLBACK")


@contextlib.contextmanager
def commits_cut(world: World) -> Iterator[None]:
    """Connections break at a COMMIT again and again, half of them when the server has it and only its answer is lost."""
    assert world.link is not None
    over = threading.Event()

    def strike(link: Proxy) -> None:
        for number in range(1000):
            struck = link.cut_at(rb"COMMIT(?!TED)", answered=number % 2 == 0)
            while not struck.wait(0.05):
                if over.is_set():
                    return

    striking = threading.Thread(target=strike, args=(world.link,))
    striking.start()
    yield
    over.set()
    striking.join()


Faults = Sequence[tuple[Callable[[World], contextlib.AbstractContextManager[object]], float]]
SHORT: Faults = [(killed, 0.5), (frozen, 1.0), (tables_locked, 1.0), (commits_cut, 1.0)]
LONG: Faults = [
    *[(killed, seconds) for seconds in (0.0, 1.0, 8.0)],
    *[(stopped, seconds) for seconds in (0.0, 2.0)],
    *[(frozen, seconds) for seconds in (2.0, 5.0, 20.0)],
    *[(cut, seconds) for seconds in (1.0, 7.0)],
    *[(rows_locked, seconds) for seconds in (2.0, 4.9)],
    *[(tables_locked, seconds) for seconds in (2.0, 5.0, 9.0)],
    (commits_cut, 5.0),
]


def endure(directory: Path, db: Server | None, faults: Faults, say: Say) -> None:
    """Meet each fault under load, and judge at the end."""
    seen = []
    with World(directory, db, seed=7) as world:
        for fault, seconds in faults:
            seen.append(world.meet(fault.__name__, fault, seconds))
        seen.append(world.judge())
    kind = db.name if db else "sqlite"
    say("\n".join(f"{kind}: {line}" for line in seen))


@pytest.mark.parametrize("name", ["mariadb", "postgres"])
def test_a_server_in_trouble_gives_503_comes_back_by_itself_and_loses_nothing(name: str, tmp_path: Path, say: Say) -> None:
    with Server(name, durable=True) as db:
        endure(tmp_path, db, SHORT, say)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mariadb", "postgres"])
def test_a_server_in_every_trouble_for_long_gives_503_comes_back_by_itself_and_loses_nothing(name: str, tmp_path: Path, say: Say) -> None:
    with Server(name, durable=True) as db:
        endure(tmp_path, db, LONG, say)


def test_sqlite_locked_by_another_process_for_a_moment_keeps_changes_waiting(tmp_path: Path, say: Say) -> None:
    endure(tmp_path, None, [(file_locked, 1.0)], say)


@pytest.mark.full
def test_sqlite_locked_by_another_process_for_long_gives_503_and_loses_nothing(tmp_path: Path, say: Say) -> None:
    endure(tmp_path, None, [(file_locked, seconds) for seconds in (2.0, 5.0, 9.0, 0.2)], say)
