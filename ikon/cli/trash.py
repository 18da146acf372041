"""`ikon trash`: deleted images that can be had back. Speaks to the running server."""

from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call, harmless


@click.group()
def trash() -> None:
    """Take deleted images back, or delete them for good, while `[trash] keep_s` keeps them."""


@trash.command(name="list")
@settings_options
def list_(config: str | None, data: str | None) -> None:
    """List deleted images: id, project, bytes, when deleted, when purged, name; parted by tabs."""
    chosen, path = settings(config, data=data), "/ikon/v1/trash"
    while path:
        page: dict[str, Any] = call(chosen, "GET", path)
        for each in page["images"]:
            fields = [each["id"], each["owner"] or "", str(each["size"]), each["deleted_at"], each["purge_at"], each["name"] or ""]
            click.echo("\t".join(harmless(field) for field in fields))
        path = page.get("next", "")


@trash.command()
@settings_options
@click.argument("image")
def restore(config: str | None, data: str | None, image: str) -> None:
    """Take IMAGE, an id, back as it was: properties, tags, members, visibility and data."""
    call(settings(config, data=data), "POST", f"/ikon/v1/trash/{_segment(image)}/restore")
    click.echo(f"Image {image} is back")


@trash.command()
@settings_options
@click.argument("image", required=False)
@click.option("--all", "everything", is_flag=True, help="Whatever is in the trash now.")
def purge(config: str | None, data: str | None, image: str | None, everything: bool) -> None:
    """Delete IMAGE, an id, for good. Its bytes go now, or as soon as their store allows."""
    if everything == (image is not None):
        raise click.UsageError("Name one image, or --all")
    chosen = settings(config, data=data)
    if everything:
        click.echo(f"{call(chosen, 'DELETE', '/ikon/v1/trash')['purged']} images are purged")
    else:
        call(chosen, "DELETE", f"/ikon/v1/trash/{_segment(image or '')}")
        click.echo(f"Image {image} is purged")


def _segment(image: str) -> str:
    return quote(image, safe="")
