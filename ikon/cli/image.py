"""`ikon image`: what the OpenStack clients have no command for. Speaks to the running server."""

import shlex
from urllib.parse import quote

import click

from ikon.cli.jobs import follow
from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call, harmless


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


@image.command()
@settings_options
@click.argument("image_ids", nargs=-1, required=True)
@click.option("--fix", is_flag=True, help="Propose the commands that mend what can be mended without asking anybody. Changes nothing.")
def lint(config: str | None, data: str | None, image_ids: tuple[str, ...], fix: bool) -> None:
    """Hold the properties of images IMAGE_IDS against the metadata definitions: misspelt names, wrong types, values that are not allowed,
    what is required and missing; each with what to do. Ends with 1 when something is found.
    """
    chosen, count = settings(config, data=data), 0
    for image_id in image_ids:
        answer = call(chosen, "GET", f"/ikon/v1/images/{quote(image_id, safe='')}/lint")
        for finding in answer["findings"]:
            click.echo(f"{answer['image']}: {harmless(finding['problem'])}; {harmless(finding['remedy'])}")
        if fix:
            for command in _commands(answer["image"], [finding["fix"] for finding in answer["findings"]]):
                click.echo(f"  {command}")
        count += len(answer["findings"])
    click.echo(f"{count} found in {len(image_ids)} images")
    if count:
        raise SystemExit(1)


def _commands(image_id: str, fixes: list[list[dict[str, str]]]) -> list[str]:
    """The changes as commands of the OpenStack client: first what is set, so that nothing is lost between."""
    options: dict[str, list[str]] = {"set": [], "unset": []}
    for fix in fixes:
        if all(text.isprintable() for change in fix for text in change.values()):  # a terminal obeys the rest
            for change in fix:
                name = change["path"][1:].replace("~1", "/").replace("~0", "~")
                verb, text = ("unset", name) if change["op"] == "remove" else ("set", f"{name}={change['value']}")
                options[verb] += ["--property", shlex.quote(text)]
    return [f"openstack image {verb} {' '.join(given)} {image_id}" for verb, given in options.items() if given]
