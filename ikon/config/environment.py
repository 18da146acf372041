"""Settings from environment variables."""

import re
from typing import Any, get_origin

import msgspec
from msgspec import Struct

from ikon.config.messages import help_of, plain
from ikon.config.settings import Settings
from ikon.problems import StartError

#: Beginnings of variables that are ours; `IKON_QUOTA__BYTES` sets `[quota] bytes`.
PREFIX = "IKON_"


def put(raw: dict[str, Any], origin: dict[str, str], name: str, text: str) -> None:
    """Set what an environment variable says, read as the type of its field. A name that is no setting is an error."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    if parts[0] == "regions" and len(parts) > 1:
        _put_region(raw, name, parts[1], "__".join(parts[2:]), text)
        return
    kind: Any = Settings
    for depth, part in enumerate(parts):
        known = {f.name: f.type for f in msgspec.structs.fields(kind)} if isinstance(kind, type) and issubclass(kind, Struct) else {}
        if part not in known:
            stem = PREFIX + "".join(f"{outer.upper()}__" for outer in parts[:depth])
            names = ", ".join(stem + key.upper() for key in sorted(known)) or "none below this"
            raise StartError(f"environment: {name} is no setting. Known: {names}")
        kind = plain(known[part])
    try:
        given = [p.strip() for p in text.split(",") if p.strip()] if get_origin(kind) is list else text
        value = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise StartError(f"environment: {name}={text!r}: {error}. {help_of(Settings, parts)}{_inside(name, kind)}") from None
    origin[parts[0]] = f"from {name}"
    for part in parts[:-1]:
        raw = raw.setdefault(part, {})
    raw[parts[-1]] = value


def _put_region(raw: dict[str, Any], name: str, region: str, key: str, text: str) -> None:
    """Set one text of a region that the file names: its password, which a file may not be the place for."""
    regions = raw.get("regions", {})
    found = [table for given, table in regions.items() if in_environment(given) == region] if isinstance(regions, dict) else []
    if key not in ("url", "user", "password") or len(found) != 1 or not isinstance(found[0], dict):
        names = (
            ", ".join(f"{PREFIX}REGIONS__{in_environment(given).upper()}__PASSWORD" for given in regions) or "none without [regions.NAME]"
        )
        raise StartError(f"environment: {name} is no setting. Known: url, user and password of regions that the file names, as {names}")
    found[0][key] = text


def in_environment(region: str) -> str:
    """A region's name as a variable writes it, in lower case."""
    return re.sub(r"[^a-z0-9]", "_", region.lower())


def _inside(name: str, kind: Any) -> str:
    """Where to go with a table, which no single variable can hold."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return f" Set one key of it, as in {name}__{msgspec.structs.fields(kind)[0].name.upper()}"
    return " Write it into the settings file" if get_origin(kind) is dict else ""
