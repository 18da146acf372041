"""Reads settings: one TOML file, overridden by environment and command line."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from ikon.config.checks import completed
from ikon.config.environment import PREFIX, put
from ikon.config.imports import Region
from ikon.config.messages import explain
from ikon.config.settings import Settings
from ikon.problems import StartError

S = TypeVar("S", bound=Struct)


def load(file: str | None, overrides: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a TOML file, the environment and the command line, the later ones stronger. Overrides that are None do not count.

    Raises StartError, naming the key, where it came from and what is allowed.
    """
    environ = os.environ if environ is None else environ
    file = file or environ.get(PREFIX + "CONFIG")
    raw: dict[str, Any] = _file(file) if file else {}
    origin = dict.fromkeys(raw, f"in {file}")
    for name, text in environ.items():
        if name.startswith(PREFIX) and name != PREFIX + "CONFIG":
            put(raw, origin, name, text)
    for key, value in overrides.items():
        if value is not None:
            raw[key] = value
            origin[key] = f"from --{key.replace('_', '-')}"
    regions = raw.get("regions")
    for name, table in regions.items() if isinstance(regions, dict) else ():
        _convert(table, Region, {}, f"regions.{name}")  # one by one: of a whole table the error does not say whose it is
    return completed(_convert(raw, Settings, origin))


def _convert(raw: Any, kind: type[S], origin: Mapping[str, str], where: str = "") -> S:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise StartError(explain(error, raw, kind, origin, where)) from None


def _file(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"config: cannot read {file}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"config: {file} is not valid TOML: {error}") from None
