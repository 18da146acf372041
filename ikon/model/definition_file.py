"""Files of metadata definitions, in the form that Glance loads, one namespace each; and how a file meets what is there."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from ikon.model.metadef import About, Entry, Namespace, Tree, check_distinct, parse_tree
from ikon.problems import BadRequest, BadValue

#: What becomes of a namespace that is there already: it is left alone; what it lacks is added; what it has is replaced too, where the file
#: has the same; it becomes what the file says, and nothing else.
Existing = Literal["skip", "merge", "prefer-new", "overwrite"]
Outcome = Literal["loaded", "skipped", "changed", "unchanged"]
#: Whose the namespaces of a file are that names no owner.
OWNER = "admin"
#: Characters of a file's name before it is cut; file systems take 255 bytes.
LONGEST = 240


def decode(text: bytes) -> Any:
    """The JSON of a file. Raises BadRequest with line and column, or the key that one object has twice, of which one would be lost."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_distinct, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise BadRequest(f"not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"not JSON: line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise BadRequest("not taken: nested too deep") from None
    except ValueError:
        raise BadRequest("not taken: a number has too many digits") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRequest(f"the key {twice[:80]!r} is in one object twice")
    return found


def _no_number(text: str) -> None:
    raise BadRequest(f"not JSON: {text} is no number of JSON")


def parse(body: Any) -> Tree:
    """The namespace of a file. Without owner it is admin's, and without visibility public: definitions that nobody sees serve nobody.

    Raises BadRequest, BadValue or ReadOnly naming the field, Conflict for a name that it has twice, QuotaExceeded.
    """
    tree = parse_tree({"visibility": "public", "owner": OWNER} | body if isinstance(body, dict) else body)
    check_distinct(tree.entries, tree.about.namespace)
    return tree


def form(namespace: Namespace, entries: Iterable[Entry]) -> dict[str, Any]:
    """A namespace as its file has it: what was not said is left out, everything that has a name is in order of names."""
    about = {name: value for name in About.__struct_fields__ if (value := getattr(namespace, name)) is not None}
    inside: dict[str, list[Entry]] = {"property": [], "object": [], "tag": [], "resource_type": []}
    for entry in sorted(entries, key=lambda entry: entry.name):
        inside[entry.kind].append(entry)
    lists = {"objects": inside["object"], "tags": inside["tag"], "resource_type_associations": inside["resource_type"]}
    filled = {key: [{"name": entry.name} | _said(entry) for entry in found] for key, found in lists.items() if found}
    properties = {entry.name: _said(entry) for entry in inside["property"]}
    return about | filled | ({"properties": properties} if properties else {})


def _said(entry: Entry) -> dict[str, Any]:
    said: dict[str, Any] = msgspec.to_builtins(entry.value)
    return said


def text(content: dict[str, Any]) -> bytes:
    """The one text of a file of this content: keys in order, so that what is equal has equal bytes."""
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def file_name(namespace: str) -> str:
    """The name of a namespace's file: no other namespace's, never hidden, and in the directory that it is written to."""
    name = quote(namespace, safe=":").replace("~", "%7E")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > LONGEST:
        name = f"{name[:150]}-{hashlib.sha256(namespace.encode()).hexdigest()}"
    return f"{name}.json"


def met(existing: Existing, before: Sequence[Entry], file: Sequence[Entry]) -> list[Entry]:
    """What is in a namespace after a file has met what is there."""
    old, new = ({(entry.kind, entry.name): entry for entry in entries} for entries in (before, file))
    return list({"skip": old, "merge": new | old, "prefer-new": old | new, "overwrite": new}[existing].values())


def existing(value: str) -> Existing:
    """What a caller wants to become of what is there. Raises BadValue."""
    try:
        checked: Existing = msgspec.convert(value, Existing)
    except msgspec.ValidationError:
        raise BadValue(f"existing: {value!r:.40} is not allowed; allowed: skip, merge, prefer-new, overwrite") from None
    return checked
