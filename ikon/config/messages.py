"""What a person is told of a setting that is wrong: key, what was given, why not, what is allowed."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

#: Settings whose values no message repeats, beside those with "secret" or "password" in their name.
SECRETS = ("broker", "database", "events.notifications")


def explain(error: msgspec.ValidationError, raw: Any, kind: Any, origin: Mapping[str, str], where: str = "") -> str:
    """One line for a person: key, what was given, why not, what is allowed. `where` names the table that `raw` came from."""
    text = str(error)
    match = re.search(r" - at `\$\.?(.*)`$", text)
    path = [part for part in re.sub(r"\[[^]]*\]", "", match[1]).split(".") if part] if match else []
    text = text[: match.start()] if match else text
    unknown, missing = re.search(r"unknown field `(.+)`", text), re.search(r"missing required field `(.+)`", text)
    if unknown:
        path, allowed = [*path, unknown[1]], _known(kind, path)
    else:
        path += [missing[1]] if missing else []
        allowed = help_of(kind, path)
    given = raw
    for part in path:
        given = given.get(part) if isinstance(given, Mapping) else given
    key = ".".join(filter(None, [where, *path]))
    shown = "..." if re.search(r"secret|password", key) or key in SECRETS else repr(given)
    said = "is missing" if missing else "is no setting" if unknown else f"= {shown}"  # what is misspelled may be a secret
    source = origin.get(path[0] if path else "", "")
    return f"config: {key} {said}{source and f' ({source})'}: {text}. {allowed}".rstrip()


def _known(kind: Any, path: list[str]) -> str:
    for part in path:
        kind = plain(next((f.type for f in msgspec.structs.fields(kind) if f.name == part), kind))
    return f"Known keys here: {', '.join(sorted(f.name for f in msgspec.structs.fields(kind)))}"


def help_of(kind: Any, path: list[str]) -> str:
    """The sentence of help of the setting that a path leads to, and which words are allowed."""
    text = ""
    for part in path:
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            break
        found = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), None)
        text = next((m.description for m in getattr(found, "__metadata__", ()) if m.description), "")
        kind = plain(found)
    if get_origin(kind) is Literal:
        text += f" Allowed: {', '.join(get_args(kind))}"
    return text


def plain(kind: Any) -> Any:
    """A field's type without its bounds and its sentence of help."""
    return getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind
