"""`ikon quota`: what projects hold and may hold. Speaks to the running server."""

import re
from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call
from ikon.model.quota import MOST, RESOURCES

UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
#: Words for limits that are no number.
UNLIMITED, DEFAULT = "unlimited", "default"


class Amount(click.ParamType[int | str]):
    """A limit: a number, of bytes with a unit if wanted, or a word."""

    name = "amount"

    def __init__(self, *, is_size: bool) -> None:
        self._units = UNITS if is_size else {"": 1}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or "default"; 0 is no limit."""
        if value in (UNLIMITED, DEFAULT):
            return 0 if value == UNLIMITED else DEFAULT
        match = re.fullmatch(r"([1-9][0-9]{0,18})\s*([A-Z]*)", str(value).upper())
        if match and match[2] in self._units and (amount := int(match[1]) * self._units[match[2]]) <= MOST:
            return amount
        units = ", or with KiB, MiB, GiB or TiB" if len(self._units) > 1 else ""
        return self.fail(f"{value!r} is no limit. Allowed: a number from 1 on{units}; {UNLIMITED}; {DEFAULT}: as all projects", param, ctx)


SIZE, COUNT = Amount(is_size=True), Amount(is_size=False)


@click.group()
def quota() -> None:
    """See what projects hold, and limit single ones; what holds for all is in the settings, [quota]."""


@quota.command(name="list")
@settings_options
def list_(config: str | None, data: str | None) -> None:
    """List projects: id, then bytes, staged bytes, images and uploads, each as held/limit, parted by tabs.

    A `*` marks a limit of the project's own; `-` is no limit, `?` one that Keystone sets.
    """
    chosen, path = settings(config, data=data), "/ikon/v1/quotas"
    while path:
        page: dict[str, Any] = call(chosen, "GET", path)
        for each in page["quotas"]:
            click.echo("\t".join([_harmless(each["project"]), *(_shown(each, name.name) for name in RESOURCES)]))
        path = page.get("next", "")


@quota.command()
@settings_options
@click.argument("project")
def show(config: str | None, data: str | None, project: str) -> None:
    """Show what PROJECT, an id, holds and may hold."""
    found = call(settings(config, data=data), "GET", _path(project))
    for each in RESOURCES:
        click.echo(f"{each.name + ':':14}{_shown(found, each.name)}")


@quota.command(name="set")
@settings_options
@click.argument("project")
@click.option("--bytes", "size", type=SIZE, help="Bytes of image data, every copy counted, as 500GiB.")
@click.option("--staged-bytes", type=SIZE, help="Bytes staged or fetched for imports.")
@click.option("--images", type=COUNT, help="Images.")
@click.option("--uploading", type=COUNT, help="Images uploaded, staged, imported or copied at once.")
def set_(
    config: str | None,
    data: str | None,
    project: str,
    size: int | str | None,
    staged_bytes: int | str | None,
    images: int | str | None,
    uploading: int | str | None,
) -> None:
    """Limit PROJECT, an id, by itself: to a number, `unlimited`, or `default`, which is as all others.

    It counts at once. What the project holds already stays, be it more.
    """
    given = {"bytes": size, "staged_bytes": staged_bytes, "images": images, "uploading": uploading}
    body = {name: None if amount == DEFAULT else amount for name, amount in given.items() if amount is not None}
    if not body:
        raise click.UsageError("Name a limit: --bytes, --staged-bytes, --images or --uploading")
    call(settings(config, data=data), "PUT", _path(project), body)
    click.echo(f"Project {project} is limited")


@quota.command()
@settings_options
@click.argument("project")
def unset(config: str | None, data: str | None, project: str) -> None:
    """Take the own limits of PROJECT, an id, back: those of the settings hold for it."""
    call(settings(config, data=data), "DELETE", _path(project))
    click.echo(f"Project {project} has no limits of its own")


def _path(project: str) -> str:
    return f"/ikon/v1/quotas/{quote(project, safe='')}"


def _shown(found: dict[str, Any], name: str) -> str:
    limit = found["limits"][name] if "limits" in found else "?"
    mark = "*" if found["own"][name] is not None else ""
    return f"{found['usage'][name]}/{'-' if limit is None else limit}{mark}"


def _harmless(text: str) -> str:
    """Text that users chose, with nothing in it that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
