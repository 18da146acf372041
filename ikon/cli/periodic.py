"""`ikon periodic`: what runs by itself. Speaks to the running server."""

from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call


@click.group()
def periodic() -> None:
    """Look at what runs by itself (reaper, updater, tellers of events), or have it run now."""


@periodic.command(name="list")
@settings_options
def list_(config: str | None, data: str | None) -> None:
    """List the last run of each: name, when it ended, what it did; parted by tabs."""
    for each in call(settings(config, data=data), "GET", "/ikon/v1/periodic")["runs"]:
        _tell(each)


@periodic.command()
@settings_options
@click.argument("name")
def run(config: str | None, data: str | None, name: str) -> None:
    """Have NAME (reaper, updater, teller-log, teller-notifications, teller-webhook) run now, and wait for what it did."""
    _tell(call(settings(config, data=data), "POST", f"/ikon/v1/periodic/{quote(name, safe='')}/run"))


def _tell(report: dict[str, Any]) -> None:
    click.echo(f"{report['name']}\t{report['ended_at']}\t{report['said']}")
