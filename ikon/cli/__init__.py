"""`ikon ...`: one file for each group of commands. A command's help text is its page in the reference."""

import sys

import click

from ikon import __version__
from ikon.problems import StartError

GROUPS = {
    "serve": "ikon.cli.serve:serve",
    "worker": "ikon.cli.worker:worker",
    "db": "ikon.cli.db:db",
    "image": "ikon.cli.image:image",
    "trash": "ikon.cli.trash:trash",
    "metadefs": "ikon.cli.metadefs:metadefs",
    "user": "ikon.cli.user:user",
    "policy": "ikon.cli.policy:policy",
    "quota": "ikon.cli.quota:quota",
    "jobs": "ikon.cli.jobs:jobs",
    "why": "ikon.cli.why:why",
    "periodic": "ikon.cli.periodic:periodic",
    "doctor": "ikon.cli.doctor:doctor",
    "completion": "ikon.cli.completion:completion",
}


class Lazy(click.Group):
    """Imports a command when it is asked for, so that `ikon --help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return list(GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of this name."""
        if name not in GROUPS:
            return None
        module, _, attribute = GROUPS[name].partition(":")
        __import__(module)
        command: click.Command = getattr(sys.modules[module], attribute)
        return command


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="ikon")
def root() -> None:
    """Ikon: an image service for clouds. `ikon serve` starts it; the OpenStack clients use it."""


def main() -> None:
    """The `ikon` command. A setting that is wrong ends it with 2 and one line that says what is allowed."""
    try:
        root()
    except StartError as error:
        click.echo(f"ikon: {error}", err=True)
        sys.exit(2)
