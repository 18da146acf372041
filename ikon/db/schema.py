"""The schema's version: what the database has, what this code needs, and the way from one to the other."""

from pathlib import Path

import sqlalchemy as sa

from ikon.db.tables import SCHEMA
from ikon.problems import StartError


def version(engine: sa.Engine) -> str | None:
    """The revision that the database is at; None when it is empty."""
    with engine.connect() as conn:
        if not sa.inspect(conn).has_table("alembic_version"):
            return None
        return conn.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def upgrade(engine: sa.Engine) -> str:
    """Bring the database to the schema of this code. Idempotent; returns the revision it is at."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as conn:
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    return SCHEMA


def require(engine: sa.Engine) -> None:
    """Make the schema of an empty SQLite database; refuse any other that is not at the version needed.

    Raises StartError with the command that helps.
    """
    found = version(engine)
    if found == SCHEMA:
        return
    if found is None and engine.dialect.name == "sqlite":
        upgrade(engine)
        return
    state = "is empty" if found is None else f"has schema {found}"
    raise StartError(f"database: {engine.url.render_as_string()} {state}, this version needs {SCHEMA}. Run: ikon db upgrade")
