"""`ikon db`: the database's schema."""

import click

from ikon.cli.options import settings, settings_options
from ikon.config import Settings
from ikon.db import index, schema
from ikon.db.engine import make_engine
from ikon.db.lease import lock_file
from ikon.db.tables import SCHEMA
from ikon.problems import StartError
from ikon.service import metadef_files


@click.group()
def db() -> None:
    """Look after the database's schema."""


@db.command()
@settings_options
@click.option("--database", help="Database URL. [env: IKON_DATABASE]")
def upgrade(config: str | None, data: str | None, database: str | None) -> None:
    """Bring the schema to what this version needs. Safe to repeat; servers may run meanwhile, except on SQLite."""
    chosen = settings(config, data=data, database=database)
    _alone(chosen)
    found = schema.upgrade(
        make_engine(chosen.database),
        lambda: click.echo("Another upgrade is at work: this one waits for its end", err=True),
        metadef_files.stock if chosen.metadefs.catalogue else None,
    )
    click.echo(f"The schema is at {found}")


@db.command()
@settings_options
@click.option("--database", help="Database URL. [env: IKON_DATABASE]")
@click.option("--lists", is_flag=True, help="Compare the index of lists with the images too; reads every image.")
@click.option(
    "--rebuild", is_flag=True, help="Make the index of lists anew; on SQLite no server may run, elsewhere nothing may be written."
)
def check(config: str | None, data: str | None, database: str | None, lists: bool, rebuild: bool) -> None:
    """Say whether the schema, the server and its user's rights there are what this version needs, and what to do; ends with 1 if not."""
    chosen = settings(config, data=data, database=database)
    absent = schema.is_absent(chosen.database)
    found = None if absent else schema.version(make_engine(chosen.database))
    click.echo(f"The schema is at {found or 'nothing: the database is empty'}; this version needs {SCHEMA}")
    wrong = [] if absent else [each for each in schema.look(make_engine(chosen.database)) if each.remedy]
    for finding in wrong:
        click.echo(f"{finding.what}: {finding.said}\n-> {finding.remedy}")
    if found != SCHEMA:
        click.echo(f"-> {schema.remedy(found)}")
    if wrong or found != SCHEMA:
        raise SystemExit(1)
    if rebuild:
        _alone(chosen)
        with make_engine(chosen.database).begin() as conn:
            click.echo(f"The index of lists was made anew of {index.rebuild(conn)} images")
    if lists:
        with make_engine(chosen.database).connect() as conn:
            seen, missing, surplus = index.compare(conn)
        click.echo(f"The index of lists has {missing} rows too few and {surplus} too many for {seen} images")
        if missing or surplus:
            click.echo("Run: ikon db check --rebuild")
            raise SystemExit(1)


def _alone(chosen: Settings) -> None:
    if chosen.database.startswith("sqlite:"):
        try:
            chosen.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"data: {chosen.data}: {error.strerror}. Name a directory that this user can write to") from None
        lock_file(chosen.run / "lock")
