"""`ikon image`: what the OpenStack clients have no command for. Speaks to the running server."""

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call


@click.group()
def image() -> None:
    """Work on images beyond what the OpenStack clients do."""


@image.command()
@settings_options
@click.argument("image_id")
@click.argument("store")
def copy(config: str | None, data: str | None, image_id: str, store: str) -> None:
    """Put one more copy of image IMAGE_ID into STORE. Returns when the copy is whole and checked."""
    call(settings(config, data=data), "POST", f"/ikon/v1/images/{image_id}/copies", {"store": store})
    click.echo(f"Image {image_id} is in store {store}")
