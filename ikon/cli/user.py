"""`ikon user`: built-in users. Speaks to the running server."""

import sys
from typing import Any
from urllib.parse import quote

import click

from ikon.cli.options import settings, settings_options
from ikon.cli.remote import call
from ikon.model.user import ROLES

#: Bytes read of standard input: more than any password has.
MOST = 8192
password_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it.")


@click.group()
def user() -> None:
    """Give people users of their own, for a server with identity "users"."""


@user.command()
@settings_options
@click.argument("name")
@click.option("--project", required=True, help="The project that the user works in; its name is its id.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=["member"],
    show_default=True,
    type=click.Choice(ROLES),
    help="May be repeated. admin implies manager, that member, that reader.",
)
@password_stdin
def add(config: str | None, data: str | None, name: str, project: str, roles: tuple[str, ...], password_stdin: bool) -> None:
    """Add user NAME to a project."""
    chosen = settings(config, data=data)
    body = {"name": name, "project": project, "roles": roles, "password": _password(password_stdin)}
    call(chosen, "POST", "/ikon/v1/users", body)
    click.echo(f"User {name} may work in project {project} as {', '.join(roles)}")


@user.command(name="list")
@settings_options
def list_(config: str | None, data: str | None) -> None:
    """List the users: name, project and roles, parted by tabs."""
    chosen, path = settings(config, data=data), "/ikon/v1/users"
    while path:
        page: dict[str, Any] = call(chosen, "GET", path)
        for each in page["users"]:
            click.echo(f"{each['name']}\t{each['project']}\t{','.join(each['roles'])}")
        path = page.get("next", "")


@user.command()
@settings_options
@click.argument("name")
def remove(config: str | None, data: str | None, name: str) -> None:
    """Remove user NAME at once. Images belong to the project, and stay."""
    call(settings(config, data=data), "DELETE", f"/ikon/v1/users/{quote(name, safe='')}")
    click.echo(f"User {name} is removed")


@user.command()
@settings_options
@click.argument("name")
@password_stdin
def passwd(config: str | None, data: str | None, name: str, password_stdin: bool) -> None:
    """Give user NAME another password. The old one ends at once."""
    chosen = settings(config, data=data)
    call(chosen, "PUT", f"/ikon/v1/users/{quote(name, safe='')}/password", {"password": _password(password_stdin)})
    click.echo(f"User {name} has a new password")


def _password(from_stdin: bool) -> str:
    """The password, asked for twice on a terminal, or all of standard input but the end of its last line."""
    if not from_stdin:
        if not sys.stdin.isatty():
            raise click.UsageError("There is no terminal to ask for a password: give it on standard input, with --password-stdin")
        asked: str = click.prompt("Password", hide_input=True, confirmation_prompt="The same again")
        return asked
    try:
        text = sys.stdin.buffer.read(MOST).decode()
    except UnicodeDecodeError:
        raise click.UsageError("The password on standard input is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
