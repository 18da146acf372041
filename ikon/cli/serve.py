"""`ikon serve`"""

import click

from ikon.cli.options import settings, settings_options


@click.command()
@settings_options
@click.option("--listen", help="Address to serve on, HOST:PORT. [env: IKON_LISTEN]")
@click.option("--identity", help="Who callers are: none, headers, users or keystone. [env: IKON_IDENTITY]")
@click.option("--workers", type=int, help="Server processes; more than 1 needs MariaDB or PostgreSQL. [env: IKON_WORKERS]")
@click.option("--database", help="Database URL; without it SQLite in the data directory. [env: IKON_DATABASE]")
def serve(
    config: str | None, data: str | None, listen: str | None, identity: str | None, workers: int | None, database: str | None
) -> None:
    """Serve images until SIGTERM.

    Without options everything is kept under ./ikon-data, and http://127.0.0.1:9292 is served to this machine alone.
    """
    from ikon import app

    chosen = settings(config, data=data, listen=listen, identity=identity, workers=workers, database=database)
    app.serve(chosen, lambda: click.echo(app.greeting(chosen)))
