"""`ikon worker`"""

import click
import msgspec

from ikon.cli.options import settings, settings_options


@click.command()
@settings_options
@click.option("--slots", type=click.IntRange(min=1), help="Jobs at once; otherwise as the setting jobs.slots says.")
def worker(config: str | None, data: str | None, slots: int | None) -> None:
    """Work on imports and other jobs until SIGTERM, and serve nobody.

    Any number of workers may run, on any machine that reaches the database and the stores. On SQLite the server does the jobs itself.
    """
    from ikon import app

    chosen = settings(config, data=data)
    if slots is not None:
        chosen = msgspec.structs.replace(chosen, jobs=msgspec.structs.replace(chosen.jobs, slots=slots))
    app.work(chosen)
