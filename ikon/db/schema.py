"""The schema's version: what the database has, what this code needs, and the way from one to the other."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ikon.db import checks, index
from ikon.db.checks import Finding
from ikon.db.tables import SCHEMA
from ikon.problems import StartError

#: One number for the upgrade of every database of PostgreSQL, which keeps such locks apart by database.
LOCK = 0x696B6F6E
#: On MariaDB, where a change of a table cannot be undone: what an upgrade that broke off has made already is passed over.
REPEATABLE = (
    (re.compile(r"\A\s*(CREATE TABLE|CREATE (?:UNIQUE )?INDEX|ALTER TABLE \S+ ADD COLUMN)\s+(?!IF )"), r"\1 IF NOT EXISTS "),
    (re.compile(r"\A\s*(DROP TABLE|DROP INDEX|ALTER TABLE \S+ DROP COLUMN)\s+(?!IF )"), r"\1 IF EXISTS "),
)


@contextlib.contextmanager
def _reached(engine: sa.Engine) -> Iterator[Connection]:
    """A connection. Where it cannot be had, or not be worked with, one line says why and what to do."""
    remedy = "Start the database, or correct the setting `database`"
    try:
        with engine.connect() as conn:
            remedy = "Run: ikon db check"
            yield conn
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise StartError(f"database: {engine.url.render_as_string()}: {reason}. {remedy}") from error


def is_absent(url: str) -> bool:
    """Whether this is an SQLite database that nobody has made so far; opening it would."""
    return url.startswith("sqlite:") and not Path(sa.make_url(url).database or "").exists()


def version(engine: sa.Engine) -> str | None:
    """The revision that the database is at; None when it is empty. Raises StartError when the database cannot be reached."""
    with _reached(engine) as conn:
        return _version(conn)


def _version(conn: Connection) -> str | None:
    if not sa.inspect(conn).has_table("alembic_version"):
        return None
    return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def look(engine: sa.Engine) -> list[Finding]:
    """What `checks.look` finds. Raises StartError as `version` does."""
    with _reached(engine) as conn:
        return checks.look(conn)


def remedy(found: str | None) -> str:
    """What to do about the schema that a database has; empty when it is the one needed."""
    if found == SCHEMA:
        return ""
    return "It was made by a newer Ikon: install that version here too" if found is not None and found > SCHEMA else "Run: ikon db upgrade"


def upgrade(engine: sa.Engine, waits: Callable[[], None] = lambda: None, stock: Callable[[Connection], None] | None = None) -> str:
    """Bring the database to the schema of this code. Idempotent, and to be repeated where it broke off; returns the revision it is at.

    One at a time: waits is called once before another upgrade is waited for. Raises StartError as `version` does, and when the schema is
    newer than this code. stock: fills an SQLite database that is made by this, in the same transaction.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _reached(engine) as conn, conn.begin():
        wait_turn(conn, waits)
        found = _version(conn)
        if found is not None and found > SCHEMA:
            raise StartError(f"database: {engine.url.render_as_string()} has schema {found}, this version needs {SCHEMA}. {remedy(found)}")
        if getattr(conn.dialect, "is_mariadb", False):
            sa.event.listen(conn, "before_cursor_execute", _repeatable, retval=True)
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
        index.ensure(conn)
        if found is None and stock and conn.dialect.name == "sqlite":
            stock(conn)
    return SCHEMA


def wait_turn(conn: Connection, waits: Callable[[], None]) -> None:
    """Have this connection be the only one that upgrades, until it is closed. On SQLite its transaction has the whole database."""
    if conn.dialect.name == "postgresql":
        if not conn.execute(sa.select(sa.func.pg_try_advisory_lock(LOCK))).scalar():
            waits()
            conn.execute(sa.select(sa.func.pg_advisory_lock(LOCK)))
    elif conn.dialect.name != "sqlite":
        name = sa.func.concat("ikon ", sa.func.md5(sa.func.database()))
        if conn.execute(sa.select(sa.func.get_lock(name, 0))).scalar() != 1:
            waits()
            conn.execute(sa.select(sa.func.get_lock(name, 86_400)))


def _repeatable(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool) -> tuple[str, Any]:
    for form, repeatable in REPEATABLE:
        statement = form.sub(repeatable, statement)
    return statement, parameters


def require(engine: sa.Engine, stock: Callable[[Connection], None] | None = None) -> None:
    """Make the schema of an empty SQLite database, and have `stock` fill it; refuse any other that is not at the version needed.

    Raises StartError with the command that helps.
    """
    found = version(engine)
    if found == SCHEMA:
        return
    if found is None and engine.dialect.name == "sqlite":
        upgrade(engine, stock=stock)
        return
    state = "is empty" if found is None else f"has schema {found}"
    raise StartError(f"database: {engine.url.render_as_string()} {state}, this version needs {SCHEMA}. {remedy(found)}")
