"""Options that several commands share: where settings come from."""

from collections.abc import Callable
from typing import Any

import click

from ikon.config import Settings, load


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--config and --data."""
    for option in (
        click.option("--data", help="Directory of everything this server keeps. [env: IKON_DATA]"),
        click.option("--config", help="Settings file, TOML. [env: IKON_CONFIG]"),
    ):
        command = option(command)
    return command


def settings(config: str | None, **overrides: Any) -> Settings:
    """Settings as file, environment and options say. Raises StartError."""
    return load(config, overrides)
