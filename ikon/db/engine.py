"""How SQL reaches a database: plain functions of a connection, run on small pools of threads, one transaction per call. Knows no table."""

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from ikon import log
from ikon.db import connect, failures
from ikon.db.connect import Line, make_engine, raw
from ikon.db.failures import CONTENDED, DOWN, LOST, SLOW
from ikon.db.pool import Call, Pool
from ikon.db.wal import Wal
from ikon.model.event import Sink
from ikon.problems import DatabaseDown, OutcomeUnknown, Problem

__all__ = ["Database", "be_sure", "make_engine", "now_ms", "now_ms_sql", "proven_by"]

P = ParamSpec("P")
T = TypeVar("T")

#: Threads of writers on a server. SQLite has one.
WRITERS = 8
#: A failure before the commit is met with so many tries, none begun after so many seconds since the call came in.
TRIES, GIVE_UP_S = 8, 5.0
PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
#: A group of writes on SQLite is committed when it has so many members, or has run so long.
GROUP_MEMBERS, GROUP_S = 64, 0.5
CLOSE_S = 5.0
#: After a COMMIT that broke off: how long its outcome is looked for, how often, and after how many looks it is taken not to be there.
LOOK_S, LOOK_EACH_S, LOOKS = 2.0, 0.1, 3


class NowMs(FunctionElement[int]):
    """The database's clock when the statement runs, in ms since 1970, as an expression: `WHERE lease_until < now_ms_sql()`."""

    type = sa.BigInteger()
    inherit_cache = True


now_ms_sql = NowMs


@compiles(NowMs, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(NowMs, "mysql")
@compiles(NowMs, "mariadb")
def _now_mysql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(1000 * UNIX_TIMESTAMP(SYSDATE(6)) AS SIGNED)"  # NOW() is the time before the statement waited for a lock


@compiles(NowMs, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "CAST(1000 * extract(epoch from clock_timestamp()) AS bigint)"  # now() is the start of the transaction


#: What surrounds a function that writes, in its transaction, with what its earlier tries lacked.
Around = Callable[[Connection, dict[str, Any]], AbstractContextManager[None]]


class Lacking(Exception):
    """A function needs what only others know. It is undone, `learn` is awaited outside any transaction, and the function runs again."""

    def __init__(self, name: str, learn: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(name)
        self.name, self.learn = name, learn


_SELECT_NOW = sa.select(NowMs())


def now_ms(conn: Connection) -> int:
    """The database's clock, in ms since 1970."""
    return int(conn.execute(_SELECT_NOW).scalar_one())


class Behind(Exception):
    """The function is to run again, when this node has caught up with the others."""


def be_sure(conn: Connection) -> None:
    """What was found is not what a caller hopes for, and may be out of date: on a node of Galera the function runs once more, after all
    that other nodes have committed. A Problem that it raises has the same effect. Elsewhere, and the second time, nothing.
    """
    if conn.info.get("galera") and not conn.info.get("synced"):
        raise Behind


def proven_by(conn: Connection, row: sa.Select[Any], values: dict[str, Any]) -> None:
    """A query that finds something if, and only if, this transaction was committed: asked where its COMMIT breaks off."""
    conn.info["proof"] = row, values


class Database:
    """One database with its connections and threads. Belongs to one event loop; several Databases do not know each other.

    Reads and writes take a plain synchronous function of a connection and plain values. It does nothing outside the database, for it
    may run more than once, and neither commits nor rolls back. Any exception from it undoes the transaction and reaches the caller; on a
    node of Galera a Problem does so when it is raised again after the node has caught up with the others.
    Of the database's own failures callers see IntegrityError, Busy, TooSlow, DatabaseDown and OutcomeUnknown; all but the last mean
    that nothing was changed.
    """

    def __init__(
        self, url: str, *, readers: int = 8, rehearse: bool = False, sinks: Sequence[Sink] = (), around: Around | None = None
    ) -> None:
        """Connects to nothing yet. sinks: who is told of events that functions write. around: in what they run. rehearse runs each
        function that writes twice, the first time undone, for tests: it must bear that.

        Raises StartError when the URL is of no use.
        """
        writes, reads = connect.engine(url, limits=True), connect.engine(url, limits=True, reads=True)
        writes.update_execution_options(sinks=tuple(sinks), around=around)
        #: "sqlite", "mysql" (MariaDB too) or "postgresql"
        self.dialect = "mysql" if writes.dialect.name == "mariadb" else writes.dialect.name
        #: CLOCK_BOOTTIME, in seconds, when a transaction last succeeded; 0.0 before the first.
        self.last_contact = 0.0
        self._rehearse = rehearse
        self._unreachable = False
        self._closing = threading.Event()
        sqlite = self.dialect == "sqlite"
        self._wal = Wal(str(writes.url.database)) if sqlite else None
        self._reads = Pool("db-read", readers, lambda pool: _Each(self, pool, reads, _read, writing=False), eager=not sqlite)
        if sqlite:
            self._writes = Pool("db-write", 1, lambda pool: _Groups(self, pool, writes), eager=True, batch=GROUP_MEMBERS)
        else:
            once = _rehearse_and_write if rehearse else _write
            self._writes = Pool("db-write", WRITERS, lambda pool: _Each(self, pool, writes, once, writing=True), eager=True)

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn where it cannot write. A cancelled caller leaves at once, and the thread finishes by itself.

        On SQLite all statements of fn see one snapshot; on servers each sees what was committed before it.
        """
        return await self._put(self._reads, fn, args, kwargs)  # type: ignore[no-any-return]

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn and commit. Returns after the commit; a cancelled caller waits for the outcome, then is cancelled."""
        given: dict[str, Any] = {}
        while True:
            try:
                return await self._put(self._writes, fn, args, kwargs, given)  # type: ignore[no-any-return]
            except Lacking as lacking:
                given = {**given, lacking.name: await lacking.learn()}

    async def close(self) -> None:
        """Finish what is queued and close the connections; after 5 s give up the rest, with DatabaseDown or OutcomeUnknown."""
        self._closing.set()
        threads = self._reads.end() + self._writes.end() + (self._wal.end() if self._wal else [])
        end = time.monotonic() + CLOSE_S
        while any(thread.is_alive() for thread in threads) and time.monotonic() < end:  # noqa: ASYNC110  a thread's end cannot be awaited
            await asyncio.sleep(0.005)
        self._reads.give_up(_stopping, _stopping)
        self._writes.give_up(_stopping, OutcomeUnknown)

    def _put(
        self, pool: Pool, fn: Callable[..., Any], args: Any, kwargs: Any, given: dict[str, Any] | None = None
    ) -> "asyncio.Future[Any]":
        if self._closing.is_set():
            raise _stopping()
        call = Call(fn, args, kwargs, given or {}, patient=pool is self._writes)
        pool.put(call)
        return call.future

    # From the threads

    def succeeded(self) -> None:
        """A transaction has ended well."""
        self.last_contact = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._unreachable = False

    def repeated(self, line: Line, call: Call, once: Callable[[Line, Call], Any], *, writing: bool) -> Any:
        """Carry out a call, again where it failed before its commit and another try may do better."""
        pause = PAUSE_S
        line.relax()
        for tries in range(1, TRIES + 2):  # one more, for a node of Galera that has to catch up first
            if self._unreachable and time.monotonic() - call.since > GIVE_UP_S:
                raise DatabaseDown(retry_after_s=1)  # it has waited long enough behind others that reached nobody
            try:
                result = once(line, call)
            except BaseException as error:
                means = failures.meaning(error, writing=writing)
                line.undo(drop=means == LOST)
                if means is None and isinstance(error, (Problem, Behind)) and not isinstance(error, OutcomeUnknown) and line.catch_up():
                    continue
                if means is None:
                    raise
                self._unreachable = means == LOST
                late = time.monotonic() - call.since > GIVE_UP_S
                if means in (DOWN, SLOW) or tries >= TRIES or late or self._closing.wait(pause * random.uniform(0.5, 1)):  # noqa: S311
                    log.get().warning("database call failed", means=means, tries=tries, error=failures.facts(error))
                    raise failures.problem(means, error) from error
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self.succeeded()
                return result
        raise AssertionError("the last try returns or raises")

    def grouped(self, line: Line, calls: list[Call]) -> list[tuple[Call, Any, BaseException | None]]:
        """Carry out calls in one transaction on SQLite; returns the outcomes of those that it settled, in order, one at least.

        The rest must go again: the group took too long, or one member broke the transaction for all (then it alone is settled).
        """
        try:
            conn, until = line.connection(), time.monotonic() + GROUP_S
            conn.begin()
            ended = []
            for call in calls:
                ended.append((call, *self._member(line, call, len(calls) > 1)))
                if time.monotonic() > until or not raw(conn).in_transaction:
                    break
            if not raw(conn).in_transaction:  # SQLite undid all of it: disk full, I/O error, interrupted; or this call was alone
                line.undo()
                culprit, _, error = ended[-1]
                return [(culprit, None, error or RuntimeError("a database function must neither commit nor roll back"))]
            conn.commit()
        except (DBAPIError, sqlite3.Error) as error:  # in BEGIN or COMMIT: nothing has happened, for none of them
            line.undo(drop=True)
            log.get().error("database did not commit", members=len(calls), error=failures.facts(error))
            means = failures.meaning(error, writing=True) or DOWN
            return [(call, None, failures.problem(means, error)) for call in calls]
        self.succeeded()
        return ended

    def committed(self) -> None:
        """SQLite's writer is between two groups."""
        if self._wal:
            self._wal.look()

    def _member(self, line: Line, call: Call, grouped: bool) -> tuple[Any, BaseException | None]:
        """Run one call of a group; returns its result, or its exception, which has left nothing behind."""
        conn = line.connection()
        driver, guarded = raw(conn), grouped or self._rehearse
        result, problem = None, None
        try:
            if guarded:
                driver.execute("SAVEPOINT member")
            if self._rehearse:
                _run(conn, call)
                driver.execute("ROLLBACK TO member")
            result = _run(conn, call)
        except BaseException as error:
            means = failures.meaning(error, writing=True)
            problem = error if means is None else failures.problem(means, error)
            if means:
                log.get().warning("database call failed", means=means, tries=1, error=failures.facts(error))
        if driver.in_transaction:
            if problem is not None:
                driver.execute("ROLLBACK TO member" if guarded else "ROLLBACK")
            if guarded:
                driver.execute("RELEASE member")
        return result, problem


def _stopping() -> DatabaseDown:
    return DatabaseDown("The service is stopping.")


def _read(line: Line, call: Call) -> Any:
    conn = line.connection()
    result = call.run(conn)
    conn.rollback()
    return result


def _rehearse_and_write(line: Line, call: Call) -> Any:
    conn = line.connection()
    _run(conn, call)
    conn.rollback()
    return _write(line, call)


def _run(conn: Connection, call: Call) -> Any:
    around: Around | None = conn.get_execution_options()["around"]
    if around is None:
        return call.run(conn)
    with around(conn, call.given):
        return call.run(conn)


def _write(line: Line, call: Call) -> Any:
    conn = line.connection()
    conn.info.pop("proof", None)
    result = _run(conn, call)
    proof = conn.info.get("proof")
    try:
        conn.commit()
    except DBAPIError as error:
        if isinstance(error, IntegrityError) or failures.meaning(error, writing=True) == CONTENDED:
            raise  # the server's word that it has not
        line.undo(drop=True)
        log.get().warning("commit broke off", error=failures.facts(error))
        if proof is None or not _is_proven(line, *proof):
            raise OutcomeUnknown(retry_after_s=1) from error
    return result


def _is_proven(line: Line, row: sa.Select[Any], values: dict[str, Any]) -> bool:
    """Whether a transaction whose COMMIT broke off is seen, over a new connection, to have happened.

    False: it is not seen, or nobody answers for a while. It may come yet, as long as the server works on what it got over the old one.
    """
    until, looks = time.monotonic() + LOOK_S, 0
    while looks < LOOKS and time.monotonic() < until:
        try:
            found = line.connection().execute(row, values).first()
            line.undo()
            if found is not None:
                return True
            looks += 1
        except DBAPIError:
            line.undo(drop=True)
        time.sleep(LOOK_EACH_S)
    return False


class _Each:
    """A thread that carries out calls one by one, each in a transaction of its own."""

    def __init__(self, db: Database, pool: Pool, engine: sa.Engine, once: Callable[[Line, Call], Any], *, writing: bool) -> None:
        self._db, self._pool, self._line, self._once, self._writing = db, pool, Line(engine), once, writing

    def run(self, calls: list[Call]) -> None:
        for call in calls:
            self._pool.answer(call, self._db.repeated(self._line, call, self._once, writing=self._writing))

    def close(self) -> None:
        self._line.close()


class _Groups:
    """SQLite's one thread that writes: a commit for all that waits, as a commit costs the same for one and for many."""

    def __init__(self, db: Database, pool: Pool, engine: sa.Engine) -> None:
        self._db, self._pool, self._line = db, pool, Line(engine)

    def run(self, calls: list[Call]) -> None:
        while calls:
            settled = self._db.grouped(self._line, calls)
            for call, result, error in settled:
                self._pool.answer(call, result, error)
            gone = {id(call) for call, _, _ in settled}
            calls = [call for call in calls if id(call) not in gone]
        self._db.committed()

    def close(self) -> None:
        self._line.close()
