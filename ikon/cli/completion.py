"""`ikon completion`"""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete ikon's commands. For bash: eval "$(ikon completion bash)"."""
    from ikon.cli import root

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root, {}, "ikon", "_IKON_COMPLETE").source())
