"""`ikon image`: what the OpenStack clients have no command for. Speaks to the running server."""

import click

from ikon.cli.jobs import follow
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
    """Put one more copy of image IMAGE_ID into STORE, by a job, and show how it gets on.

    Returns when the copy is whole and checked, with 1 when it fails. The job goes on when this command is ended: ikon jobs watch.
    """
    chosen = settings(config, data=data)
    job = call(chosen, "POST", f"/ikon/v1/images/{image_id}/copies", {"store": store})["job"]
    click.echo(f"Job {job} copies")
    last = follow(chosen, job)
    if last["state"] != "done":
        raise click.ClickException(f"Job {job} is {last['state']}: {last['reason']}")
    click.echo(f"Image {image_id} is in store {store}")
