"""The schema's version: what the database has, what this code needs, and the way from one to the other."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ikon.db import index
from ikon.db.tables import SCHEMA
from ikon.problems import StartError


@contextlib.contextmanager
def _reached(engine: sa.Engine) -> Iterator[None]:
    """Say in one line that the database cannot be worked with, and why."""
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise StartError(
            f"database: {engine.url.render_as_string()}: {reason}. Start the database, or correct the setting `database`"
        ) from error


def is_absent(url: str) -> bool:
    """Whether this is an SQLite database that nobody has made so far; opening it would."""
    return url.startswith("sqlite:") and not Path(sa.make_url(url).database or "").exists()


def version(engine: sa.Engine) -> str | None:
    """The revision that the database is at; None when it is empty. Raises StartError when the database cannot be reached."""
    with _reached(engine), engine.connect() as conn:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(engine: sa.Engine, stock: Callable[[sa.Connection], None] | None = None) -> str:
    """Bring the database to the schema of this code. Idempotent; returns the revision it is at. Raises StartError as `version` does.

    stock: fills an SQLite database that is made by this, in the same transaction.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _reached(engine), engine.begin() as conn:
        config.attributes["connection"] = conn
        new = not sa.inspect(conn).has_table("alembic_version")
        command.upgrade(config, "head")
        index.ensure(conn)
        if new and stock and engine.dialect.name == "sqlite":
            stock(conn)
    return SCHEMA


def require(engine: sa.Engine, stock: Callable[[sa.Connection], None] | None = None) -> None:
    """Make the schema of an empty SQLite database, and have `stock` fill it; refuse any other that is not at the version needed.

    Raises StartError with the command that helps.
    """
    found = version(engine)
    if found == SCHEMA:
        return
    if found is None and engine.dialect.name == "sqlite":
        upgrade(engine, stock)
        return
    state = "is empty" if found is None else f"has schema {found}"
    raise StartError(f"database: {engine.url.render_as_string()} {state}, this version needs {SCHEMA}. Run: ikon db upgrade")
