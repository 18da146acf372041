"""What every database must do beneath `Database`, and how it fails: real deadlocks, killed and silent servers, a lost COMMIT."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from ikon.db import connect, engine
from ikon.db.engine import Database, make_engine, now_ms, now_ms_sql, proven_by
from ikon.problems import Busy, DatabaseDown, OutcomeUnknown, TooSlow
from tests.faults.proxy import Proxy
from tests.services.servers import Server

metadata = sa.MetaData()
things = sa.Table(
    "things",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False, default=0),
    mysql_engine="InnoDB",
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_nopad_bin",  # utf8mb4_bin takes "a" and "a " for the same
)
NAMES = sa.select(things.c.name).order_by(things.c.name)
ITSELF = sa.select(things.c.name).where(things.c.name == sa.bindparam("itself"))


def add(conn: Connection, name: str) -> str:
    conn.execute(sa.insert(things), {"name": name})
    return name


def names(conn: Connection) -> list[str]:
    return list(conn.execute(NAMES).scalars())


def named(conn: Connection, name: str) -> list[str]:
    return list(conn.execute(NAMES.where(things.c.name == name)).scalars())


def touch(conn: Connection, name: str) -> int:
    return conn.execute(sa.update(things).where(things.c.name == name).values(at=things.c.at + 1)).rowcount


def make_tables(url: str) -> None:
    metadata.create_all(make_engine(url))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    make_tables(database_url)
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture(params=["mariadb", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def server_url(server: Server) -> Iterator[str]:
    url = server.new_database()
    make_tables(url)
    yield url
    server.drop_database(url)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as between:
        yield between


@pytest.fixture
async def through(server: Server, server_url: str, proxy: Proxy) -> AsyncIterator[Database]:
    """A Database behind the proxy, on an empty table, with connections that have been used."""
    database = Database(server.url(server_url.rsplit("/", 1)[1], port=proxy.port))
    await database.write(add, "first")
    await database.read(names)
    yield database
    proxy.flow()
    await database.close()


class Counted:
    """A database function that knows how often it ran."""

    def __init__(self, fn: Any) -> None:
        self.fn, self.runs = fn, 0

    def __call__(self, conn: Connection, *args: Any) -> Any:
        self.runs += 1
        return self.fn(conn, *args)


# What all three do


async def test_an_exception_undoes_the_transaction_and_reaches_the_caller(db: Database) -> None:
    def fail(conn: Connection) -> None:
        add(conn, "undone")
        raise LookupError("own")

    with pytest.raises(LookupError, match="own"):
        await db.write(fail)
    assert await db.write(add, "kept") == "kept"
    assert await db.read(names) == ["kept"]


async def test_a_duplicate_key_reaches_the_caller_and_is_not_repeated(db: Database) -> None:
    await db.write(add, "one")
    again = Counted(add)

    with pytest.raises(IntegrityError):
        await db.write(again, "one")

    assert again.runs == 1


async def test_a_mistake_in_the_sql_reaches_the_caller_as_itself(db: Database) -> None:
    for call in (db.read, db.write):
        with pytest.raises((ProgrammingError, OperationalError), match="nosuch"):
            await call(lambda conn: conn.exec_driver_sql("SELECT * FROM nosuch"))
    assert await db.read(names) == []


async def test_a_read_cannot_write(db: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.?only"):
        await db.read(add, "one")
    assert await db.read(names) == []


async def test_text_is_kept_as_it_is_and_told_apart_by_case_blanks_and_code_points(db: Database) -> None:
    given = ["a", "A", "a ", "a  ", " a", "ä", "Ä", "😀", "😁", "ｅ", "e", "é", "e\u0301", "ß", "ss", "Z"]

    for name in given:
        await db.write(add, name)

    assert await db.read(names) == sorted(given)  # by bytes, which for UTF-8 is by code points
    for name in given:
        assert await db.read(named, name) == [name]


async def test_the_clock_is_the_databases_and_runs_inside_an_update(db: Database) -> None:
    def touch_before(conn: Connection, limit_ms: int) -> int:
        return conn.execute(sa.update(things).where(now_ms_sql() < limit_ms).values(at=now_ms_sql() + 5)).rowcount

    await db.write(add, "one")
    before = await db.read(now_ms)

    assert abs(before - time.time() * 1000) < 1000
    assert await db.write(touch_before, before - 60_000) == 0
    assert await db.write(touch_before, before + 60_000) == 1
    assert 0 <= await db.read(lambda conn: conn.execute(sa.select(things.c.at)).scalar_one()) - 5 - before < 60_000


async def test_rows_matched_are_counted_even_if_they_stay_the_same(db: Database) -> None:
    await db.write(add, "one")

    assert await db.write(lambda conn: conn.execute(sa.update(things).values(at=0)).rowcount) == 1


async def test_a_rehearsed_function_runs_twice_and_counts_once(database_url: str) -> None:
    make_tables(database_url)
    db, kept, spoilt = Database(database_url, rehearse=True), Counted(add), ["once"]

    assert await db.write(kept, "one") == "one"
    assert await asyncio.gather(*(db.write(add, f"n{n}") for n in range(20))) == [f"n{n}" for n in range(20)]
    with pytest.raises(IndexError):  # one that cannot be repeated is found at once
        await db.write(lambda conn: add(conn, spoilt.pop()))

    assert kept.runs == 2
    assert len(await db.read(names)) == 21
    await db.close()


async def test_a_cancelled_write_waits_for_its_outcome(db: Database) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(conn: Connection) -> None:
        add(conn, "one")
        begun.set()
        assert go.wait(4)

    task = asyncio.create_task(db.write(slow))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await db.read(names) == ["one"]


async def test_many_at_once_lose_nothing(db: Database) -> None:
    await db.write(add, "counter")

    await asyncio.gather(*(db.write(touch, "counter") for _ in range(200)), *(db.read(names) for _ in range(200)))

    assert await db.read(lambda conn: conn.execute(sa.select(things.c.at)).scalar_one()) == 200


# Servers


@pytest.mark.slow
async def test_a_deadlock_is_repeated_and_both_succeed(server_url: str) -> None:
    db, both = Database(server_url), threading.Barrier(2)
    await db.write(add, "a")
    await db.write(add, "b")

    def cross(conn: Connection, first: str, second: str, runs: list[int]) -> None:
        touch(conn, first)
        runs.append(1)
        if len(runs) == 1:
            both.wait(5)  # each holds what the other wants next
        touch(conn, second)

    runs: tuple[list[int], list[int]] = ([], [])
    await asyncio.gather(db.write(cross, "a", "b", runs[0]), db.write(cross, "b", "a", runs[1]))

    assert sorted(map(len, runs)) == [1, 2]
    assert await db.read(lambda conn: conn.execute(sa.select(things.c.at)).scalars().all()) == [2, 2]
    await db.close()


@pytest.mark.slow
async def test_a_row_locked_by_another_for_long_makes_busy(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "LOCK_WAIT_S", 1)
    monkeypatch.setattr(engine, "GIVE_UP_S", 1.5)
    db = Database(server_url)
    await db.write(add, "a")
    waits = Counted(touch)

    with make_engine(server_url).begin() as other:
        touch(other, "a")
        began = time.monotonic()
        with pytest.raises(Busy) as refused:
            await db.write(waits, "a")

    assert time.monotonic() - began < 4
    assert waits.runs == 2
    assert refused.value.headers["Retry-After"] == "1"
    assert await db.write(touch, "a") == 1
    await db.close()


@pytest.mark.slow
async def test_a_statement_that_takes_too_long_is_given_up(server: Server, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "STATEMENT_S", 1)
    db = Database(server_url)
    endless = {
        "mariadb": "SELECT count(*) FROM seq_1_to_100000 a, seq_1_to_100000 b",
        "postgres": "SELECT count(*) FROM generate_series(1, 10000000000)",
    }[server.name]

    for call in (db.read, db.write):
        began = time.monotonic()
        with pytest.raises(TooSlow):
            await call(lambda conn: conn.exec_driver_sql(endless).scalar())
        assert time.monotonic() - began < 3
    assert await db.read(names) == []
    await db.close()


@pytest.mark.slow
async def test_connections_that_died_while_idle_are_replaced_unseen(through: Database, proxy: Proxy) -> None:
    for _ in range(3):
        proxy.cut()
        seen = await asyncio.gather(through.read(names), through.write(touch, "first"), through.read(names), through.write(touch, "first"))
        assert list(seen) == [["first"], 1, ["first"], 1]

    assert await through.read(lambda conn: conn.execute(sa.select(things.c.at)).scalar_one()) == 6


@pytest.mark.slow
async def test_a_connection_lost_within_the_transaction_is_repeated_from_its_first_statement(through: Database, proxy: Proxy) -> None:
    def cut_once(conn: Connection, runs: list[int]) -> None:
        add(conn, "second")
        runs.append(1)
        if len(runs) == 1:
            proxy.cut()
        add(conn, "third")

    runs: list[int] = []
    await through.write(cut_once, runs)

    assert len(runs) == 2
    assert await through.read(names) == ["first", "second", "third"]


@pytest.mark.slow
@pytest.mark.parametrize("answered", [False, True], ids=["not seen by the server", "answer lost"])
async def test_a_connection_lost_in_the_commit_is_outcome_unknown(through: Database, proxy: Proxy, answered: bool) -> None:
    second, happened = Counted(add), proxy.cut_at(rb"COMMIT(?!TED)", answered=answered)

    with pytest.raises(OutcomeUnknown):
        await through.write(second, "second")

    assert happened.is_set()
    assert second.runs == 1
    assert await through.read(names) == (["first", "second"] if answered else ["first"])
    assert await through.write(add, "third") == "third"


def add_proven(conn: Connection, name: str, meanwhile: Callable[[], None] = lambda: None) -> str:
    add(conn, name)
    proven_by(conn, ITSELF, {"itself": name})
    meanwhile()
    return name


@pytest.mark.slow
async def test_a_commit_whose_answer_was_lost_is_found_by_what_proves_it(through: Database, proxy: Proxy) -> None:
    second, third = Counted(add_proven), Counted(add_proven)
    proxy.cut_at(rb"COMMIT(?!TED)", answered=True)
    assert await through.write(second, "second") == "second"
    proxy.cut_at(rb"COMMIT(?!TED)", answered=False)
    with pytest.raises(OutcomeUnknown):
        await through.write(third, "third")

    assert (second.runs, third.runs) == (1, 1)
    assert await through.read(names) == ["first", "second"]
    assert await through.write(third, "third") == "third"


@pytest.mark.slow
async def test_a_commit_is_unknown_while_nobody_can_be_asked_about_it(
    through: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0.5)
    proxy.cut_at(rb"COMMIT(?!TED)", answered=True)

    with pytest.raises(OutcomeUnknown) as unknown:
        await through.write(add_proven, "second", proxy.refuse_new)

    assert unknown.value.headers["Retry-After"] == "1"
    proxy.flow()
    assert await through.read(names) == ["first", "second"]
    with pytest.raises(IntegrityError):  # who repeats it hears that it is there
        await through.write(add_proven, "second")


@pytest.mark.slow
async def test_what_proved_one_change_proves_no_other(through: Database, proxy: Proxy) -> None:
    await asyncio.gather(*(through.write(add_proven, f"n{n}") for n in range(30)))  # on every connection

    proxy.cut_at(rb"COMMIT(?!TED)", answered=False)
    with pytest.raises(OutcomeUnknown):
        await through.write(add, "lost")


@pytest.mark.slow
async def test_a_silent_server_is_given_up(through: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "SILENCE_S", 1)  # for the connections made from here on
    monkeypatch.setattr(connect, "CONNECT_S", 1)
    monkeypatch.setattr(engine, "GIVE_UP_S", 1.0)
    proxy.cut()
    await asyncio.gather(through.read(names), through.write(touch, "first"))

    proxy.stall()
    began = time.monotonic()
    results = await asyncio.gather(*(through.read(names) for _ in range(40)), through.write(touch, "first"), return_exceptions=True)

    assert {type(result) for result in results} == {DatabaseDown}
    assert time.monotonic() - began < 8
    proxy.flow()
    assert await through.read(names) == ["first"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mariadb", "postgres"])
async def test_a_killed_server_is_down_and_found_again_soon(name: str) -> None:
    with Server(name, durable=True) as own:
        url = own.new_database()
        make_tables(url)
        db = Database(url)
        await asyncio.gather(*(db.write(add, f"n{n}") for n in range(8)), *(db.read(names) for _ in range(8)))

        def killed_within(conn: Connection) -> None:
            add(conn, "lost")
            own.kill()
            add(conn, "lost too")

        with pytest.raises(DatabaseDown) as down:
            await db.write(killed_within)
        assert down.value.headers["Retry-After"] == "1"
        began = time.monotonic()
        results = await asyncio.gather(
            *(db.read(names) for _ in range(30)), *(db.write(add, "x") for _ in range(30)), return_exceptions=True
        )
        assert {type(result) for result in results} == {DatabaseDown}
        assert time.monotonic() - began < 2 * engine.GIVE_UP_S

        await asyncio.to_thread(own.start)
        began = time.monotonic()
        assert await db.write(add, "patient") == "patient"
        assert await db.read(names) == [*(f"n{n}" for n in range(8)), "patient"]
        assert time.monotonic() - began < 2
        await db.close()
