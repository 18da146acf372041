"""How calls reach SQLite: groups of writes with one commit, snapshots, bounds, cancellation, and a write-ahead log that stays small."""

import asyncio
import os
import sqlite3
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError

from ikon.db import connect, engine
from ikon.db.engine import Database, make_engine
from ikon.problems import Busy, DatabaseDown, OutcomeUnknown, StartError, TooSlow

metadata = sa.MetaData()
things = sa.Table("things", metadata, sa.Column("k", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable=False))
parts = sa.Table(
    "parts",
    metadata,
    sa.Column("k", sa.Integer, primary_key=True),
    sa.Column("thing", sa.ForeignKey("things.k", deferrable=True, initially="DEFERRED"), nullable=False),
)
COUNT = sa.select(sa.func.count()).select_from(things)


def add(conn: Connection, k: int, name: str = "x") -> int:
    conn.execute(sa.insert(things), {"k": k, "name": name})
    return k


def count(conn: Connection) -> int:
    return int(conn.execute(COUNT).scalar_one())


def add_orphan(conn: Connection) -> None:
    conn.execute(sa.insert(parts), {"k": 1, "thing": 404})


def seen_from_outside(url: str) -> int:
    """What a second connection sees committed."""
    conn = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return int(conn.execute("SELECT count(*) FROM things").fetchone()[0])
    finally:
        conn.close()


class Gate:
    """Holds a database function up on its thread."""

    def __init__(self) -> None:
        self._begun, self._open = threading.Event(), threading.Event()

    def hold(self, conn: Connection, then: Callable[[Connection], Any] = lambda conn: True) -> Any:
        self._begun.set()
        assert self._open.wait(10)
        return then(conn)

    async def reached(self) -> None:
        while not self._begun.is_set():
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def db(sqlite_url: str) -> AsyncIterator[Database]:
    metadata.create_all(made := make_engine(sqlite_url))
    made.dispose()
    database = Database(sqlite_url)
    yield database
    await database.close()


async def grouped(db: Database, *calls: tuple[Any, ...]) -> list[Any]:
    """Have the calls wait for the writer together, so that they become one group; returns results and exceptions."""
    gate = Gate()
    first = asyncio.create_task(db.write(gate.hold))
    await gate.reached()
    rest = asyncio.gather(*(db.write(*call) for call in calls), return_exceptions=True)
    await asyncio.sleep(0.01)
    gate.open()
    await first
    return await rest


async def test_what_a_function_returns_comes_back(db: Database) -> None:
    assert await db.write(add, 1, name="one") == 1
    assert await db.read(count) == 1
    assert db.dialect == "sqlite"
    assert abs(db.last_contact - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


async def test_a_failing_member_of_a_group_leaves_the_others(db: Database, sqlite_url: str) -> None:
    def fail(conn: Connection) -> None:
        add(conn, 50)
        raise LookupError("own")

    results = await grouped(db, (add, 1), (add, 1), (fail,), (add, 2))

    assert [type(result) for result in results] == [int, IntegrityError, LookupError, int]
    assert seen_from_outside(sqlite_url) == 2


async def test_nobody_is_answered_before_the_commit(db: Database, sqlite_url: str) -> None:
    answered: list[int] = []
    looks: list[int] = []

    async def write(k: int) -> None:
        await db.write(add, k)
        answered.append(k)

    def look(conn: Connection) -> int:  # runs after the others' RELEASE and before the group's COMMIT
        time.sleep(0.05)
        looks.append(seen_from_outside(sqlite_url))
        looks.append(len(answered))
        return count(conn)

    gate = Gate()
    held = asyncio.create_task(db.write(gate.hold))
    await gate.reached()
    writes = [asyncio.create_task(write(k)) for k in range(5)]
    last = asyncio.create_task(db.write(look))
    await asyncio.sleep(0.01)
    gate.open()
    await asyncio.gather(held, *writes)

    assert await last == 5
    assert looks == [0, 0]
    assert seen_from_outside(sqlite_url) == 5


async def test_a_commit_that_fails_fails_the_whole_group(db: Database, sqlite_url: str) -> None:
    results = await grouped(db, (add, 1), (add_orphan,), (add, 2))

    assert [type(result) for result in results] == [DatabaseDown] * 3
    assert seen_from_outside(sqlite_url) == 0
    assert await db.write(add, 1) == 1


async def test_a_full_disk_fails_who_met_it_and_nobody_else(db: Database, sqlite_url: str) -> None:
    def limit(conn: Connection, pages: int) -> None:
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    await db.write(limit, 10)
    results = await grouped(db, (add, 1), (add, 2, "x" * 200_000), (add, 3))

    assert [type(result) for result in results] == [int, DatabaseDown, int]
    assert seen_from_outside(sqlite_url) == 2
    with pytest.raises(DatabaseDown):
        await db.write(add, 2, "x" * 200_000)
    await db.write(limit, 1000)
    await db.write(add, 2, "x" * 200_000)


async def test_a_member_that_ends_the_transaction_is_told_so(db: Database, sqlite_url: str) -> None:
    def undo(conn: Connection) -> None:
        conn.rollback()

    results = await grouped(db, (add, 1), (undo,), (add, 2))

    assert [type(result) for result in results] == [int, RuntimeError, int]
    assert seen_from_outside(sqlite_url) == 2


async def test_a_group_that_takes_long_is_committed_in_parts(db: Database, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GROUP_S", 0.02)

    def slow(conn: Connection, k: int) -> int:
        seen = seen_from_outside(sqlite_url)
        add(conn, k)
        time.sleep(0.03)
        return seen

    assert await grouped(db, *((slow, k) for k in range(3))) == [0, 1, 2]


async def test_two_statements_of_a_read_see_one_snapshot(db: Database) -> None:
    gate = Gate()
    read = asyncio.create_task(db.read(lambda conn: (count(conn), gate.hold(conn, count))))
    await gate.reached()

    await db.write(add, 1)
    gate.open()

    assert await read == (0, 0)
    assert await db.read(count) == 1


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await db.read(add, 1)


async def test_a_read_that_is_held_up_does_not_hold_up_others(db: Database) -> None:
    gate = Gate()
    held = [asyncio.create_task(db.read(gate.hold)) for _ in range(7)]
    await asyncio.sleep(0.05)

    async with asyncio.timeout(1):
        await asyncio.gather(*(db.read(count) for _ in range(100)))

    gate.open()
    assert await asyncio.gather(*held) == [True] * 7
    assert await asyncio.gather(*(db.read(count) for _ in range(100))) == [0] * 100


async def test_a_read_that_takes_too_long_is_given_up(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "STATEMENT_S", 0.2)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    began = time.monotonic()

    with pytest.raises(TooSlow):
        await db.read(lambda conn: conn.exec_driver_sql(endless).scalar())

    assert time.monotonic() - began < 2
    assert await db.read(count) == 0


async def test_a_write_that_takes_too_long_is_given_up_alone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "STATEMENT_S", 0.2)
    endless = "INSERT INTO things WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 7, max(i) FROM n"

    results = await grouped(db, (add, 1), (lambda conn: conn.exec_driver_sql(endless),), (add, 2))

    assert [type(result) for result in results] == [int, TooSlow, int]
    assert await db.read(count) == 2


async def test_a_cancelled_write_that_fails_is_cancelled(db: Database) -> None:
    gate = Gate()
    task = asyncio.create_task(db.write(gate.hold, add_orphan))
    await gate.reached()

    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_read_leaves_at_once(db: Database) -> None:
    gate = Gate()
    task = asyncio.create_task(db.read(gate.hold))
    await gate.reached()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(1):
            await task

    gate.open()
    assert await db.read(count) == 0


async def test_too_many_writes_are_refused_and_the_others_done(db: Database) -> None:
    gate = Gate()
    held = asyncio.create_task(db.write(gate.hold))
    await gate.reached()
    writes = [asyncio.create_task(db.write(add, k)) for k in range(1000)]
    await asyncio.sleep(0.01)

    with pytest.raises(Busy) as refused:
        await db.write(add, 5000)
    assert refused.value.headers["Retry-After"] == "1"

    gate.open()
    await asyncio.gather(held, *writes)
    assert await db.read(count) == 1000


async def test_a_write_lock_held_by_another_process_makes_busy(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "LOCK_WAIT_S", 0)
    metadata.create_all(make_engine(sqlite_url))
    db = Database(sqlite_url)
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Busy):
        await db.write(add, 1)
    assert await db.read(count) == 0

    other.execute("ROLLBACK")
    assert await db.write(add, 1) == 1
    other.close()
    await db.close()


async def test_a_function_that_runs_out_of_an_iterator_does_not_hang_its_caller(db: Database) -> None:
    def empty(conn: Connection) -> Any:
        return next(iter(()))

    for call in (db.read, db.write):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await call(empty)


async def test_the_file_is_for_its_owner_only(db: Database, sqlite_url: str) -> None:
    await db.write(add, 1)

    path = sqlite_url.removeprefix("sqlite:///")
    assert {name: stat.S_IMODE(os.stat(path + name).st_mode) for name in ("", "-wal", "-shm")} == {"": 0o600, "-wal": 0o600, "-shm": 0o600}


async def test_after_closing_nothing_is_taken_and_the_log_is_gone(sqlite_url: str) -> None:
    metadata.create_all(make_engine(sqlite_url))
    db = Database(sqlite_url)
    queued = [asyncio.create_task(db.write(add, k)) for k in range(100)]
    await asyncio.sleep(0)

    await db.close()

    assert await asyncio.gather(*queued) == list(range(100))
    assert seen_from_outside(sqlite_url) == 100
    assert not Path(sqlite_url.removeprefix("sqlite:///") + "-wal").exists()
    with pytest.raises(DatabaseDown):
        await db.write(add, 1000)


async def test_closing_does_not_wait_for_ever(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CLOSE_S", 0.2)
    metadata.create_all(make_engine(sqlite_url))
    db, gate = Database(sqlite_url), Gate()
    held_write, held_read = asyncio.create_task(db.write(gate.hold)), asyncio.create_task(db.read(gate.hold))
    await asyncio.sleep(0.05)
    behind = asyncio.create_task(db.write(add, 1))
    await asyncio.sleep(0)

    async with asyncio.timeout(2):
        await db.close()
        results = await asyncio.gather(held_write, held_read, behind, return_exceptions=True)

    assert [type(result) for result in results] == [OutcomeUnknown, DatabaseDown, DatabaseDown]
    gate.open()


def test_several_loops_use_databases_of_their_own(tmp_path: Path) -> None:
    async def work(number: int) -> int:
        url = f"sqlite:///{tmp_path}/{number}.db"
        metadata.create_all(make_engine(url))
        db = Database(url)
        await asyncio.gather(*(db.write(add, k) for k in range(200)))
        found = await asyncio.gather(*(db.read(count) for _ in range(200)))
        await db.close()
        return max(found)

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda number: asyncio.run(work(number)), range(4))) == [200] * 4


@pytest.mark.parametrize(
    "url", ["", "nonsense", "sqlite://", "sqlite:///:memory:", "oracle://x/y", "mysql+nothing://x/y", "sqlite:////nowhere/at/all.db"]
)
def test_a_url_of_no_use_is_said_at_the_start(url: str) -> None:
    with pytest.raises(StartError, match="database: "):
        Database(url)


async def test_the_log_stays_small_under_many_writes_and_reads(db: Database, sqlite_url: str) -> None:
    wal, sizes, done = Path(sqlite_url.removeprefix("sqlite:///") + "-wal"), [0], False

    async def watch(until: Callable[[], bool]) -> None:
        while not until():
            with suppress(FileNotFoundError):
                sizes.append(wal.stat().st_size)
            await db.read(count)
            await asyncio.sleep(0.005)

    async def write(first: int) -> None:
        for k in range(first, first + 400):
            await db.write(add, k, "x" * 500)

    watcher = asyncio.create_task(watch(lambda: done))
    await asyncio.gather(*(write(n * 400) for n in range(50)))
    done = True
    await watcher

    assert await db.read(count) == 20_000
    assert max(sizes) < 32 << 20, f"{max(sizes)} bytes"
