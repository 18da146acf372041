"""`ikon why`: what became of an image. Speaks to the running server."""

from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call

PARTS = ("cause", "effect", "remedy", "kept")


@click.command()
@settings_options
@click.argument("image_id")
@click.option("--for-tenant", is_flag=True, help="A text to hand on: without names of hosts, paths and other tenants.")
def why(config: str | None, data: str | None, image_id: str, for_tenant: bool) -> None:
    """Tell what became of image IMAGE_ID: what happened when, why, what it led to, what to do, and what was kept.

    Deleted images have a timeline too.
    """
    query = "?for_tenant=true" if for_tenant else ""
    found: dict[str, Any] = call(settings(config, data=data), "GET", f"/ikon/v1/images/{quote(image_id, safe='')}/timeline{query}")
    click.echo(f"Image {found['image']} is {found['status']}")
    if found["cut"]:
        click.echo("(earlier entries are left out)")
    for entry in found["entries"]:
        click.echo(f"{entry['at']}  {entry['what']}{f', by {by}' if (by := entry.get('by')) else ''}")
        _tell(entry)
    click.echo(f"Now  {found['now']['what']}")
    _tell(found["now"])


def _tell(entry: dict[str, Any]) -> None:
    for part in PARTS:
        if words := entry.get(part):
            click.echo(f"    {part + ':':7} {words}")
