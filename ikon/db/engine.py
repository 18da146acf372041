"""How SQL reaches a database: plain functions of a connection, run on small pools of threads, one transaction per call.

Knows SQLite, MariaDB (and MySQL) and PostgreSQL, and what each of their failures means; knows no table.
Each thread has a connection of its own, opened when it is first needed and replaced when it is lost.
"""

import asyncio
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, PendingRollbackError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from ikon import log
from ikon.problems import Busy, DatabaseDown, OutcomeUnknown, StartError, TooSlow

P = ParamSpec("P")
T = TypeVar("T")

#: Calls that wait for a thread, reads and writes each; beyond it the caller hears Busy.
QUEUED = 1000
#: Threads of writers on a server. SQLite has one.
WRITERS = 8
#: What a failure before the commit is given: this many tries, and none begun after so many seconds since the call came in.
TRIES, GIVE_UP_S = 8, 5.0
PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
CONNECT_S = 3
#: For a row or table lock, and for a client that stopped inside its transaction.
LOCK_WAIT_S = 5
#: For one statement on a server, for a whole transaction on SQLite. Beyond it TooSlow.
STATEMENT_S = 10
#: The client's own patience with a silent server: longer than the server's, whose answer is clearer and frees the locks.
SILENCE_S = 15
#: A group of writes on SQLite is committed when it has so many members or has run so long.
GROUP_MEMBERS, GROUP_S = 64, 0.5
#: The WAL is copied back from this size on; from the second on, writers wait up to a second for readers so that it can be emptied.
WAL_BYTES, WAL_LARGE_BYTES = 4 << 20, 64 << 20
CLOSE_S = 5.0


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


_SELECT_NOW = sa.select(NowMs())


def now_ms(conn: Connection) -> int:
    """The database's clock, in ms since 1970."""
    return int(conn.execute(_SELECT_NOW).scalar_one())


# Connections


def make_engine(url: str) -> sa.Engine:
    """An engine for sqlite:////path, mysql+pymysql://, mysql+mysqldb:// or postgresql+psycopg://, without limits of time on statements.

    For migrations and tools; a server uses `Database`. Keeps no connection: closing one closes it. On SQLite every transaction
    takes the write lock at its begin, and the file is made readable by its owner only. Raises StartError when the URL is of no use.
    """
    return _engine(url, limits=False)


def _engine(url: str, *, limits: bool, **options: Any) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        kind = parsed.get_backend_name()
        if kind == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise StartError("database: SQLite needs the path of a file, as in sqlite:////var/lib/ikon/ikon.db")
            args: dict[str, Any] = {"isolation_level": None, "cached_statements": 512, "timeout": LOCK_WAIT_S}
        elif kind in ("mysql", "mariadb"):
            args = {"connect_timeout": CONNECT_S, "charset": "utf8mb4"}
            if limits:
                args |= {"read_timeout": SILENCE_S, "write_timeout": SILENCE_S}
            options = {"isolation_level": "READ COMMITTED"} | options
        elif kind == "postgresql":
            args = {"connect_timeout": CONNECT_S}
            options = {"isolation_level": "READ COMMITTED"} | options
        else:
            raise StartError(f"database: {kind} is not known. Use sqlite, mysql+pymysql, mysql+mysqldb or postgresql+psycopg")
        engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args=args, **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StartError(f"database: the URL cannot be used: {error}") from error
    if kind == "sqlite":
        _make_private(str(parsed.database))
        sa.event.listen(engine, "begin", _begin_sqlite)
    prepare = {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}.get(kind, _prepare_mysql)
    sa.event.listen(engine, "connect", lambda raw, record: prepare(raw, limits))
    if limits and kind == "postgresql":
        sa.event.listen(engine, "do_connect", _connect_postgresql)
    if limits and engine.driver == "pymysql":
        sa.event.listen(engine, "do_connect", _connect_pymysql)
    return engine


def _make_private(path: str) -> None:
    """Make the file, where it is not there, for its owner only; SQLite gives its WAL the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"database: {path} cannot be opened: {error.strerror}") from error


def _begin_sqlite(conn: Connection) -> None:
    # Left to itself, Python's sqlite3 begins at the first write: a savepoint's RELEASE would commit, and two SELECTs be no snapshot.
    raw: Any = conn.connection.dbapi_connection
    raw.execute("BEGIN" if conn.get_execution_options().get("reads") else "BEGIN IMMEDIATE")


def _prepare_sqlite(raw: Any, limits: bool) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={LOCK_WAIT_S * 1000}"):
        raw.execute(f"PRAGMA {pragma}").fetchall()
    if limits:
        for pragma in ("cache_size=-16384", f"mmap_size={1 << 30}", "temp_store=MEMORY", "wal_autocheckpoint=0"):
            raw.execute(f"PRAGMA {pragma}").fetchall()


def _prepare_mysql(raw: Any, limits: bool) -> None:
    settings = ["sql_mode='STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'"]
    if limits:
        settings.append(f"innodb_lock_wait_timeout={LOCK_WAIT_S}")
        if "mariadb" in str(raw.get_server_info()).lower():
            settings += [f"idle_write_transaction_timeout={LOCK_WAIT_S}", f"max_statement_time={STATEMENT_S}"]
        else:
            settings.append(f"max_execution_time={STATEMENT_S * 1000}")
    with raw.cursor() as cursor:
        cursor.execute("SET NAMES utf8mb4 COLLATE utf8mb4_bin")
        cursor.execute("SET SESSION " + ", SESSION ".join(settings))


def _prepare_postgresql(raw: Any, limits: bool) -> None:
    if not limits:
        return
    before, raw.autocommit = raw.autocommit, True
    guards = {"lock_timeout": LOCK_WAIT_S, "idle_in_transaction_session_timeout": LOCK_WAIT_S, "statement_timeout": STATEMENT_S}
    raw.execute("; ".join(f"SET {name}='{seconds}s'" for name, seconds in guards.items()))
    raw.autocommit = before


def _connect_postgresql(dialect: Any, record: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        """psycopg has no time limit of its own for an answer: a server that is stopped would hold the thread for ever."""

        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(_until(gen, self.pgconn), *args, **kwargs)

    def _until(gen: Any, pgconn: Any) -> Any:
        deadline = time.monotonic() + SILENCE_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    pgconn.finish()
                    raise psycopg.OperationalError(f"no answer within {SILENCE_S} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value

    return Impatient.connect(*args, **kwargs)


def _connect_pymysql(dialect: Any, record: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    raw = dialect.loaded_dbapi.connect(*args, **kwargs | {"read_timeout": CONNECT_S})  # its connect_timeout does not reach the handshake
    raw._read_timeout = SILENCE_S
    return raw


# What failures mean

LOST, CONTENDED, DOWN, SLOW = "lost", "contended", "down", "slow"
#: 1047: a Galera node that is not part of the cluster; 1290 and 1836: a server made read-only, as in a failover.
MYSQL = (
    dict.fromkeys((1040, 1047, 1053, 1203, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2055, 4031), LOST)
    | dict.fromkeys((1020, 1205, 1213, 3101), CONTENDED)
    | dict.fromkeys((1021, 1026, 1114), DOWN)
    | dict.fromkeys((1317, 1969, 3024), SLOW)
)
POSTGRESQL = (
    dict.fromkeys(("25P03", "53300", "57P01", "57P02", "57P03", "57P05"), LOST)
    | dict.fromkeys(("40001", "40P01", "55P03"), CONTENDED)
    | dict.fromkeys(("53000", "53100", "53200", "58030"), DOWN)
    | {"57014": SLOW}
)
#: SQLite's primary result codes: busy, locked; no memory, read-only, I/O error, corrupt, full, cannot open, not a database; interrupted.
SQLITE = dict.fromkeys((5, 6), CONTENDED) | dict.fromkeys((7, 8, 10, 11, 13, 14, 26), DOWN) | {9: SLOW}


def _meaning(error: BaseException, *, writing: bool) -> str | None:
    """What a failure of the driver says about the database; None for all that is the caller's own matter."""
    if isinstance(error, PendingRollbackError):
        return LOST  # the function went on with a connection that was lost
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
        return None
    if error.connection_invalidated:
        return LOST
    orig: Any = error.orig
    if (state := getattr(orig, "sqlstate", None)) is not None:
        standby = writing and state == "25006"  # a read that writes is refused with the same code, and is a mistake in the program
        return LOST if standby or state.startswith("08") else POSTGRESQL.get(state)
    if (code := getattr(orig, "sqlite_errorcode", None)) is not None:
        return SQLITE.get(code & 0xFF)
    return MYSQL.get(orig.args[0]) if orig is not None and orig.args else None


def _problem(meaning: str) -> Exception:
    if meaning == CONTENDED:
        return Busy("The database is busy with other changes to the same rows.", retry_after_s=1)
    return TooSlow() if meaning == SLOW else DatabaseDown(retry_after_s=1)


# Threads


class _Answers:
    """Brings what threads have done to one event loop; what several have done in the meantime comes with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._done: deque[tuple[_Call, Any, BaseException | None]] = deque()
        self._woken = False

    def give(self, call: "_Call", result: Any, error: BaseException | None) -> None:
        """From any thread: call has ended."""
        self._done.append((call, result, error))
        if not self._woken:  # who sees True has added before the loop takes the flag down, and so before it looks
            self._woken = True
            with suppress(RuntimeError):  # the loop has closed: nobody waits
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            call, result, error = self._done.popleft()
            call.pool.in_flight -= 1
            if call.future.done():
                continue
            if error is None:
                call.future.set_result(result)
            elif isinstance(error, StopIteration):  # a future takes none, and its caller would wait for ever
                call.future.set_exception(RuntimeError("a database function raised StopIteration"))
            else:
                call.future.set_exception(error)


class _Call:
    """A function on its way to a thread and its outcome on the way back."""

    __slots__ = ("answers", "args", "fn", "future", "kwargs", "pool", "since")

    def __init__(self, pool: "_Pool", answers: _Answers, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.pool, self.answers = pool, answers
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.future: asyncio.Future[Any] = answers.loop.create_future()
        self.since = time.monotonic()

    def run(self, conn: Connection) -> Any:
        return self.fn(conn, *self.args, **self.kwargs)

    def answer(self, result: Any, error: BaseException | None = None) -> None:
        self.answers.give(self, result, error)


class _Line:
    """One thread's connection."""

    def __init__(self, engine: sa.Engine, **options: Any) -> None:
        self._engine, self._options = engine, options
        self._conn: Connection | None = None
        self.deadline = 0.0  # of the transaction under way, on SQLite

    def connection(self) -> Connection:
        """The connection, opened if there is none. Raises the driver's errors."""
        if self._conn is None:
            self._conn = self._engine.connect().execution_options(**self._options)
            if self._engine.dialect.name == "sqlite":
                raw: Any = self._conn.connection.dbapi_connection
                raw.execute(f"PRAGMA query_only={'ON' if self._options.get('reads') else 'OFF'}")
                raw.set_progress_handler(self._overdue, 50_000)  # instructions: about every ms of a long statement, never in a short one
        self.deadline = time.monotonic() + STATEMENT_S
        return self._conn

    def _overdue(self) -> bool:
        return time.monotonic() > self.deadline

    def reset(self, *, lost: bool = False) -> None:
        """End the transaction without its changes; drop the connection when it is lost or refuses."""
        conn = self._conn
        if conn is None:
            return
        with suppress(DBAPIError):
            if not (lost or conn.invalidated):
                conn.rollback()
                return
        self._conn = None
        with suppress(Exception):  # whatever a broken connection says to being closed
            conn.invalidate()
        with suppress(Exception):
            conn.close()

    def close(self) -> None:
        self.reset()
        if self._conn is not None:
            self._conn.close()
            self._conn = None


class _Pool:
    """A bounded queue of calls and the threads that take from it, started as they are needed. None of them keeps the process."""

    def __init__(self, name: str, size: int, work: Callable[["queue.SimpleQueue[_Call | None]"], None]) -> None:
        self._name, self._size, self._work = name, size, work
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self.in_flight = 0  # handed in and not yet answered; counted on the event loop

    def put(self, call: _Call) -> None:
        """Raises Busy when too many wait."""
        if self.in_flight >= QUEUED + self._size:
            raise Busy("Too many requests wait for the database.", retry_after_s=1)
        self.in_flight += 1
        if self.in_flight > len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, args=(self._calls,), name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._calls.put(call)

    def end(self) -> list[threading.Thread]:
        """Let the threads end after what is queued; returns those that still run."""
        for _ in self._threads:
            self._calls.put(None)
        return self._threads

    def drain(self) -> list[_Call]:
        """Take what no thread has begun."""
        left = []
        with suppress(queue.Empty):
            while True:
                if (call := self._calls.get_nowait()) is not None:
                    left.append(call)
        return left


class Database:
    """One database, its connections and threads. Belongs to one event loop at a time; several Databases do not know each other.

    Reads and writes take a plain synchronous function of a connection and plain values. It does nothing outside the database, for it
    may run more than once, and neither commits nor rolls back. Any exception from it undoes the transaction and reaches the caller.
    Beside the function's own exceptions, and IntegrityError, callers see Busy, TooSlow, DatabaseDown and OutcomeUnknown. All but the last
    are raised only when nothing was changed.
    `last_contact` is the CLOCK_BOOTTIME, in seconds, of the last transaction that succeeded; 0.0 before the first.
    """

    def __init__(self, url: str, *, readers: int = 8, rehearse: bool = False) -> None:
        """rehearse runs every function that writes twice, the first time undone, so that tests find those that cannot be repeated."""
        self.last_contact = 0.0
        self._rehearse = rehearse
        self._writes_engine = _engine(url, limits=True)
        name = self._writes_engine.dialect.name
        self.dialect = "mysql" if name == "mariadb" else name
        self._unreachable = False
        self._closing = threading.Event()
        self._answers: _Answers | None = None
        if name == "sqlite":
            self._reads_engine = self._writes_engine
            self._wal = _Wal(str(self._writes_engine.url.database))
            self._writes = _Pool("db-write", 1, self._write_in_groups)
        else:
            # At READ COMMITTED each statement sees what was committed before it: a transaction would add round trips, and no snapshot.
            self._reads_engine = _engine(url, limits=True, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)
            self._writes = _Pool("db-write", WRITERS, self._write_each)
        self._reads = _Pool("db-read", readers, self._read_each)

    async def read(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn where it cannot write. A cancelled caller leaves at once.

        On SQLite all statements of fn see one snapshot; on servers each sees what was committed before it.
        """
        return await self._submit(self._reads, fn, args, kwargs)  # type: ignore[no-any-return]

    async def write(self, fn: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run fn and commit. Returns after the commit; a cancelled caller waits for the outcome, then is cancelled."""
        future = self._submit(self._writes, fn, args, kwargs)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                cancelled = error
            except BaseException:  # noqa: S110  raised by result() below
                pass
        if cancelled is not None:
            future.exception()
            raise cancelled
        return future.result()  # type: ignore[no-any-return]

    def _submit(self, pool: _Pool, fn: Callable[..., Any], args: Any, kwargs: Any) -> "asyncio.Future[Any]":
        if self._closing.is_set():
            raise DatabaseDown("The service is stopping.")
        loop = asyncio.get_running_loop()
        answers = self._answers
        if answers is None or answers.loop is not loop:
            self._answers = answers = _Answers(loop)
        call = _Call(pool, answers, fn, args, kwargs)
        pool.put(call)
        return call.future

    async def close(self) -> None:
        """Finish what is queued and close the connections, within 5 s; what a hung server still holds then is given up."""
        self._closing.set()
        threads = self._reads.end() + self._writes.end()
        end = time.monotonic() + CLOSE_S
        while any(thread.is_alive() for thread in threads) and time.monotonic() < end:  # noqa: ASYNC110  a thread's end cannot be awaited
            await asyncio.sleep(0.01)
        for call in self._reads.drain() + self._writes.drain():
            call.answer(None, DatabaseDown("The service is stopping."))
        if self.dialect == "sqlite":
            self._wal.close()

    # On the threads

    def _read_each(self, calls: "queue.SimpleQueue[_Call | None]") -> None:
        self._each(calls, _Line(self._reads_engine, reads=True), self._read)

    def _write_each(self, calls: "queue.SimpleQueue[_Call | None]") -> None:
        self._each(calls, _Line(self._writes_engine), self._write)

    def _each(self, calls: "queue.SimpleQueue[_Call | None]", line: _Line, once: Callable[[_Line, _Call], Any]) -> None:
        while (call := calls.get()) is not None:
            try:
                result = self._repeated(line, call, once)
            except BaseException as error:
                call.answer(None, error)
            else:
                call.answer(result)
            call = result = None
        line.close()

    def _repeated(self, line: _Line, call: _Call, once: Callable[[_Line, _Call], Any]) -> Any:
        pause = PAUSE_S
        for tries in range(1, TRIES + 1):
            if self._unreachable and time.monotonic() - call.since > GIVE_UP_S:
                raise DatabaseDown(retry_after_s=1)  # it has waited long enough behind others that found nobody
            try:
                result = once(line, call)
                self.last_contact = time.clock_gettime(time.CLOCK_BOOTTIME)
                self._unreachable = False
                return result
            except BaseException as error:
                meaning = _meaning(error, writing=call.pool is self._writes)
                line.reset(lost=meaning == LOST)
                if meaning is None:
                    raise
                self._unreachable = meaning == LOST
                late = time.monotonic() - call.since > GIVE_UP_S
                if meaning in (DOWN, SLOW) or late or tries == TRIES or self._closing.wait(pause * random.uniform(0.5, 1)):  # noqa: S311
                    log.get().warning("database call failed", meaning=meaning, tries=tries, error=str(getattr(error, "orig", error)))
                    raise _problem(meaning) from error
            pause = min(2 * pause, LONGEST_PAUSE_S)
        raise AssertionError("unreachable")

    def _connect(self, line: _Line) -> Connection:
        try:
            return line.connection()
        except DBAPIError as error:
            error.connection_invalidated = self.dialect != "sqlite"  # whatever a server says to a new connection: it cannot be reached
            raise

    def _read(self, line: _Line, call: _Call) -> Any:
        conn = self._connect(line)
        result = call.run(conn)
        conn.rollback()
        return result

    def _write(self, line: _Line, call: _Call) -> Any:
        conn = self._connect(line)
        if self._rehearse:
            call.run(conn)
            conn.rollback()
        result = call.run(conn)
        try:
            conn.commit()
        except DBAPIError as error:
            if (
                isinstance(error, IntegrityError) or _meaning(error, writing=True) == CONTENDED
            ):  # both are the server's word that it did not
                raise
            line.reset(lost=True)
            log.get().warning("outcome of a commit is unknown", error=str(error.orig))
            raise OutcomeUnknown(retry_after_s=1) from error
        return result

    # SQLite's one writer

    def _write_in_groups(self, calls: "queue.SimpleQueue[_Call | None]") -> None:
        line = _Line(self._writes_engine)
        ending = False
        while not ending:
            group = [calls.get()]
            with suppress(queue.Empty):
                while group[-1] is not None and len(group) < GROUP_MEMBERS:
                    group.append(calls.get_nowait())
            ending = group[-1] is None
            self._write_group(line, [call for call in group if call is not None])
            del group
            self._wal.look()
        line.close()

    def _write_group(self, line: _Line, calls: list[_Call]) -> None:
        """Run calls in as few transactions as may be, and answer them. Whoever breaks the transaction for all is left out of the next."""
        while calls:
            ended: list[tuple[_Call, Any, BaseException | None]] = []
            try:
                conn = self._connect(line)
                began = time.monotonic()
                conn.begin()
                for call in calls:
                    ended.append((call, *self._member(line, conn, call, len(calls) > 1)))
                    if not conn.connection.dbapi_connection.in_transaction or time.monotonic() > began + GROUP_S:  # type: ignore[union-attr]
                        break
                if conn.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
                    conn.commit()
                    self.last_contact = time.clock_gettime(time.CLOCK_BOOTTIME)
                else:  # SQLite gave up the whole transaction: disk full, I/O error, interrupted
                    line.reset()
                    culprit, _, error = ended[-1]
                    ended = [(culprit, None, error or RuntimeError("a database function must neither commit nor roll back"))]
            except DBAPIError as error:  # BEGIN or COMMIT failed: for all of them nothing has happened
                line.reset(lost=True)
                meaning = _meaning(error, writing=True) or DOWN
                log.get().error("database did not commit", members=len(calls), error=str(error.orig))
                ended = [(call, None, _caused(_problem(meaning), error)) for call in calls]
            for call, result, problem in ended:
                call.answer(result, problem)
            answered = {id(call) for call, _, _ in ended}
            calls = [call for call in calls if id(call) not in answered]

    def _member(self, line: _Line, conn: Connection, call: _Call, grouped: bool) -> tuple[Any, BaseException | None]:
        """Run one call inside the group's transaction; returns its result or its exception, which has left nothing behind."""
        raw: Any = conn.connection.dbapi_connection
        guarded = grouped or self._rehearse
        line.deadline = time.monotonic() + STATEMENT_S
        result, problem = None, None
        try:
            if guarded:
                raw.execute("SAVEPOINT member")
            if self._rehearse:
                call.run(conn)
                raw.execute("ROLLBACK TO member")
            result = call.run(conn)
        except BaseException as error:
            problem = error
            if (meaning := _meaning(error, writing=True)) is not None:
                problem = _caused(_problem(meaning), error)
                log.get().warning("database call failed", meaning=meaning, tries=1, error=str(getattr(error, "orig", error)))
        if raw.in_transaction:
            if problem is not None:
                raw.execute("ROLLBACK TO member" if guarded else "ROLLBACK")
            if guarded:
                raw.execute("RELEASE member")
        return result, problem


def _caused(problem: Exception, cause: BaseException) -> Exception:
    problem.__cause__ = cause
    return problem


class _Wal:
    """Copies SQLite's write-ahead log back into the database on a thread of its own: no commit pays for it, and the log stays small."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._grown, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """From the writer, after a commit."""
        if self._size() < WAL_BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="db-wal", daemon=True)
            self._thread.start()
        self._grown.set()

    def close(self) -> None:
        """Let the thread end. Does not wait; the last connection to close empties the log."""
        self._closing.set()
        self._grown.set()

    def _size(self) -> int:
        try:
            return os.stat(self._path + "-wal").st_size
        except FileNotFoundError:
            return 0

    def _work(self) -> None:
        import sqlite3

        conn = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        conn.execute("PRAGMA synchronous=FULL")
        while self._grown.wait() and not self._closing.is_set():
            self._grown.clear()
            with suppress(sqlite3.OperationalError):  # a full disk or an I/O error: the next commit meets it and says so
                conn.execute("PRAGMA busy_timeout=0")
                conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the bulk, beside readers and the writer
                conn.execute(f"PRAGMA busy_timeout={1000 if self._size() > WAL_LARGE_BYTES else 50}")
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the rest; the writer waits for this
            self._closing.wait(0.1)  # when readers keep the log from being emptied, it is not asked all the time
        conn.close()
