"""Connections to three databases, made to mean the same: what is equal, what is strict, what a transaction sees, how long things take."""

import os
import time
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from ikon.problems import StartError

CONNECT_S = 3
#: For a lock held by others, and for a client that stands still inside its transaction.
LOCK_WAIT_S = 5
#: For one statement on a server, for a whole transaction on SQLite.
STATEMENT_S = 10
#: The client's own patience with a silent server: longer than the server's, whose answer is clearer and frees the locks.
SILENCE_S = 15


def make_engine(url: str) -> sa.Engine:
    """An engine for sqlite:////path, mysql+pymysql://, mysql+mysqldb:// or postgresql+psycopg://, without limits of time on statements.

    For migrations and tools; a server uses `Database`. Keeps no connection: closing one closes it. On SQLite every transaction
    takes the write lock at its begin, and the file is made readable by its owner only. Raises StartError when the URL is of no use.
    """
    return engine(url, limits=False)


def engine(url: str, *, limits: bool, reads: bool = False) -> sa.Engine:
    """make_engine with choices. limits: statements, locks and silence end in time. reads: connections that cannot write.

    On servers a connection that reads commits each statement by itself: at READ COMMITTED each sees what was committed before it anyway,
    so that a transaction would cost two round trips and give no snapshot. On SQLite it is a transaction, and a snapshot.
    """
    options: dict[str, Any] = {}
    try:
        parsed = sa.make_url(url)
        kind = parsed.get_backend_name()
        if kind == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise StartError("database: SQLite needs the path of a file, as in sqlite:////var/lib/ikon/ikon.db")
            args: dict[str, Any] = {"isolation_level": None, "cached_statements": 512, "timeout": LOCK_WAIT_S}
        elif kind in ("mysql", "mariadb", "postgresql"):
            args = {"connect_timeout": CONNECT_S} | ({"charset": "utf8mb4"} if kind != "postgresql" else {})
            options = (
                {"isolation_level": "AUTOCOMMIT", "skip_autocommit_rollback": True} if reads else {"isolation_level": "READ COMMITTED"}
            )
        else:
            raise StartError(f"database: {kind} is not known. Use sqlite, mysql+pymysql, mysql+mysqldb or postgresql+psycopg")
        made = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args=args, hide_parameters=True, **options)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StartError(f"database: the URL cannot be used: {error}") from error
    if kind == "sqlite":
        _make_private(str(parsed.database))
        begin = "BEGIN" if reads else "BEGIN IMMEDIATE"
        sa.event.listen(made, "begin", lambda conn: raw(conn).execute(begin))
    prepare = {"sqlite": _prepare_sqlite, "postgresql": _prepare_postgresql}.get(kind, _prepare_mysql)
    sa.event.listen(made, "connect", lambda driver, record: prepare(driver, limits, reads))
    if limits and kind in ("mysql", "mariadb"):
        sa.event.listen(made, "connect", lambda driver, record: record.info.update(galera=_is_galera(driver)))
    if limits and made.driver in CONNECTORS:
        sa.event.listen(made, "do_connect", CONNECTORS[made.driver])
    return made


def raw(conn: Connection) -> Any:
    """The driver's own connection."""
    return conn.connection.dbapi_connection


def _make_private(path: str) -> None:
    """Make the file, where it is not there, for its owner only; SQLite gives its WAL the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"database: {path} cannot be opened: {error.strerror}") from error


def _prepare_sqlite(driver: Any, limits: bool, reads: bool) -> None:
    # isolation_level None and an explicit BEGIN: left to itself, Python's sqlite3 begins at the first write only, and then a savepoint's
    # RELEASE commits by itself and two SELECTs are no snapshot
    pragmas = ["journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={LOCK_WAIT_S * 1000}"]
    if limits:
        # mmap_size made no difference to reads (31.6 and 32.3 us a row), and turns an I/O error into SIGBUS: left off
        pragmas += ["cache_size=-16384", "temp_store=MEMORY", "wal_autocheckpoint=0"]  # who opens with limits copies the WAL back itself
    if reads:
        pragmas.append("query_only=ON")
    for pragma in pragmas:
        driver.execute(f"PRAGMA {pragma}").fetchall()


def _prepare_mysql(driver: Any, limits: bool, reads: bool) -> None:
    mariadb = "mariadb" in str(driver.get_server_info()).lower()
    # utf8mb4_bin would take 'a' and 'a ' for the same; a column's own collation wins over the connection's
    collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
    settings = ["sql_mode='STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'"]
    if limits:
        settings += [f"innodb_lock_wait_timeout={LOCK_WAIT_S}", f"lock_wait_timeout={LOCK_WAIT_S}"]  # a row's lock; LOCK TABLES
        if mariadb:
            settings += [f"idle_write_transaction_timeout={LOCK_WAIT_S}", f"max_statement_time={STATEMENT_S}"]
        else:
            settings.append(f"max_execution_time={STATEMENT_S * 1000}")
    with driver.cursor() as cursor:
        cursor.execute(f"SET NAMES utf8mb4 COLLATE {collation}")
        cursor.execute("SET SESSION " + ", SESSION ".join(settings))
        if reads:
            cursor.execute("SET SESSION TRANSACTION READ ONLY")


def _is_galera(driver: Any) -> bool:
    """Whether the server is a node of Galera, which may be behind the others; asked once for each connection."""
    with driver.cursor() as cursor:
        cursor.execute("SHOW VARIABLES LIKE 'wsrep_on'")
        row = cursor.fetchone()
    return row is not None and row[1] == "ON"


def _prepare_postgresql(driver: Any, limits: bool, reads: bool) -> None:
    settings = {"lock_timeout": f"{LOCK_WAIT_S}s", "idle_in_transaction_session_timeout": f"{LOCK_WAIT_S}s"} if limits else {}
    settings |= {"statement_timeout": f"{STATEMENT_S}s"} if limits else {}
    settings |= {"default_transaction_read_only": "on"} if reads else {}
    if settings:
        before, driver.autocommit = driver.autocommit, True  # what is SET in a transaction ends with its rollback
        driver.execute("; ".join(f"SET {name}='{value}'" for name, value in settings.items()))
        driver.autocommit = before


def _connect_psycopg(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
    """psycopg waits for an answer without end: a server that is stopped would hold the thread for ever."""
    import psycopg

    class Impatient(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._until(gen, time.monotonic() + SILENCE_S), *args, **kwargs)

        def _until(self, gen: Any, deadline: float) -> Any:
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted  # nothing is ready: ten times a second
                    if not ready and time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"no answer within {SILENCE_S} s")
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return Impatient.connect(*args, **kwargs)


def _connect_pymysql(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
    """PyMySQL's connect_timeout ends before the handshake, which its read_timeout bounds: a short one while it connects."""
    driver = dialect.loaded_dbapi.connect(*args, **kwargs | {"read_timeout": CONNECT_S, "write_timeout": SILENCE_S})
    driver._read_timeout = SILENCE_S
    return driver


def _connect_mysqldb(dialect: Any, record: Any, args: Any, kwargs: Any) -> Any:
    return dialect.loaded_dbapi.connect(*args, **kwargs | {"read_timeout": SILENCE_S, "write_timeout": SILENCE_S})


CONNECTORS = {"psycopg": _connect_psycopg, "pymysql": _connect_pymysql, "mysqldb": _connect_mysqldb}


class Line:
    """One thread's connection: opened when it is first needed, and again after it was lost."""

    def __init__(self, made: sa.Engine) -> None:
        self._engine = made
        self._sqlite = made.dialect.name == "sqlite"
        self._conn: Connection | None = None
        self._deadline = 0.0
        self._galera = self._wants_sync = False

    def connection(self) -> Connection:
        """The connection, with STATEMENT_S for what is done next on SQLite. Raises DBAPIError when the database cannot be reached."""
        if self._conn is None:
            try:
                self._conn = self._engine.connect()
            except DBAPIError as error:
                error.connection_invalidated = not self._sqlite  # whatever a server says to a new connection, it is as good as not there
                raise
            if self._sqlite:
                raw(self._conn).set_progress_handler(self._overdue, 50_000)  # instructions: about a ms of work
        if self._sqlite:
            self._deadline = time.monotonic() + STATEMENT_S
        self._galera = self._conn.info.get("galera", False)
        if self._galera and self._conn.info.get("synced", False) != self._wants_sync:
            self._conn.exec_driver_sql(f"SET SESSION wsrep_sync_wait={int(self._wants_sync)}")
            self._conn.info["synced"] = self._wants_sync
        return self._conn

    def catch_up(self) -> bool:
        """Have what is done next see all that other nodes of Galera have committed. False where there are none, or it was so already."""
        caught_up, self._wants_sync = self._wants_sync, self._galera
        return self._galera and not caught_up

    def relax(self) -> None:
        """What is done next need not wait for other nodes."""
        self._wants_sync = False

    def undo(self, *, drop: bool = False) -> None:
        """End the transaction without its changes. drop: close the connection too, as it must be when it is lost."""
        conn = self._conn
        if conn is None:
            return
        if not (drop or conn.invalidated):
            with suppress(DBAPIError):
                conn.rollback()
                return
        self._conn = None
        with suppress(Exception):  # whatever a broken connection says to being closed
            conn.invalidate()
            conn.close()

    def close(self) -> None:
        """Close the connection in good order."""
        self.undo()
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _overdue(self) -> bool:
        return time.monotonic() > self._deadline
