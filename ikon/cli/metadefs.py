"""`ikon metadefs`: metadata definitions as files. Speaks to the running server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call, harmless
from ikon.config import Settings
from ikon.model import definition_file
from ikon.problems import Problem

URL = "/ikon/v1/metadefs"
#: The common definitions that come with Ikon.
CATALOGUE = Path(__file__).parents[1] / "catalogue"


@click.group()
def metadefs() -> None:
    """Load, export, list and remove metadata definitions, in the files that Glance knows: one namespace each, JSON."""


@metadefs.command()
@settings_options
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--merge", is_flag=True, help="Add to namespaces that are there what they lack; what is there stays as it is.")
@click.option("--prefer-new", is_flag=True, help="The same, but where both have something, take the file's.")
@click.option("--overwrite", is_flag=True, help="Make namespaces that are there what their files say, and nothing else.")
def load(config: str | None, data: str | None, paths: tuple[Path, ...], merge: bool, prefer_new: bool, overwrite: bool) -> None:
    """Load the files PATHS, of a directory all that end with .json; without PATHS the common definitions that come with Ikon.

    A namespace that is there already is left alone, unless an option says otherwise. Each comes in whole or not at all. All files are
    checked first; if one is broken, none is loaded, what is wrong with each is said, and the command ends with 1.
    """
    if prefer_new and overwrite:
        raise click.UsageError("--prefer-new and --overwrite exclude each other")
    existing = "overwrite" if overwrite else "prefer-new" if prefer_new else "merge" if merge else "skip"
    files = _read(paths or (CATALOGUE,))
    chosen = settings(config, data=data)
    for path, content in files.items():
        try:
            outcome = call(chosen, "POST", f"{URL}?existing={existing}", content)["outcome"]
        except click.ClickException as error:
            raise click.ClickException(f"{path}: {error.message}") from None
        click.echo(f"{outcome}\t{content['namespace']}")


def _read(paths: tuple[Path, ...]) -> dict[Path, dict[str, Any]]:
    """The sound contents of all files. Ends with 1 when one is not sound, and names each that is not."""
    found: dict[Path, dict[str, Any]] = {}
    by_name: dict[str, Path] = {}
    broken = []
    for path in _files(paths):
        try:
            content = definition_file.decode(path.read_bytes())
            name = definition_file.parse(content).about.namespace
        except OSError as error:
            broken.append(f"{path}: {error.strerror}")
        except Problem as problem:
            broken.append(f"{path}: {problem}")
        else:
            if name in by_name:
                broken.append(f"{path}: namespace: {name} is in {by_name[name]} too")
            by_name[name] = path
            found[path] = content
    if broken:
        raise click.ClickException("\n".join(["nothing is loaded:", *broken]))
    return found


def _files(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise click.ClickException(f"{path}: no file in this directory ends with .json")
        yield from found


@metadefs.command()
@settings_options
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.argument("names", nargs=-1)
def export(config: str | None, data: str | None, directory: Path, names: tuple[str, ...]) -> None:
    """Write the namespaces NAMES, or all, into DIRECTORY, one file each, over those of the same names.

    What is equal has equal bytes, so that a version control system shows what has changed.
    """
    chosen = settings(config, data=data)
    wanted = names or [each["namespace"] for each in _all(chosen)]
    for name in wanted:
        content = definition_file.text(call(chosen, "GET", _url(name)))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _write(directory / definition_file.file_name(name), content)
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from None
    click.echo(f"{len(wanted)} namespaces are in {directory}")


def _write(path: Path, content: bytes) -> None:
    """A file that is whole whenever it is there."""
    beside = path.with_name(f".{path.name[:200]}.new")
    beside.write_bytes(content)
    os.replace(beside, path)


@metadefs.command(name="list")
@settings_options
def list_(config: str | None, data: str | None) -> None:
    """List all namespaces: name, visibility, protected or free, owner, numbers of properties, objects and tags; parted by tabs."""
    for each in _all(settings(config, data=data)):
        counts = (str(each[kind]) for kind in ("properties", "objects", "tags"))
        fields = (each["namespace"], each["visibility"], "protected" if each["protected"] else "free", each["owner"] or "", *counts)
        click.echo("\t".join(harmless(field) for field in fields))


@metadefs.command()
@settings_options
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Whatever is there now.")
@click.option("--protected", is_flag=True, help="Protected ones too.")
def remove(config: str | None, data: str | None, names: tuple[str, ...], everything: bool, protected: bool) -> None:
    """Remove the namespaces NAMES with all that is in them, one after the other."""
    if everything == bool(names):
        raise click.UsageError("Name namespaces, or --all")
    chosen = settings(config, data=data)
    for name in names or [each["namespace"] for each in _all(chosen) if protected or not each["protected"]]:
        call(chosen, "DELETE", f"{_url(name)}?protected={str(protected).lower()}")
        click.echo(f"Namespace {name} is removed")


def _all(chosen: Settings) -> Iterator[dict[str, Any]]:
    path = URL
    while path:
        page = call(chosen, "GET", path)
        yield from page["namespaces"]
        path = page.get("next", "")


def _url(name: str) -> str:
    return f"{URL}/{quote(name, safe='')}"
