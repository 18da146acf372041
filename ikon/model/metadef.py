"""Metadata definitions: what keys, types and limits images, flavors, volumes and the like may have, and the rules of what callers may say.

A namespace holds entries of four kinds: properties, objects (groups of properties), tags, and the resource types that it applies to. The
structs are the forms: their fields have the names of the wire, and what was not given is left out again.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ikon.context import Context
from ikon.model.image import check_text, schema_problem
from ikon.model.listing import page_limit
from ikon.problems import BadRequest, BadValue, Conflict, QuotaExceeded, ReadOnly

Kind = Literal["object", "property", "tag", "resource_type"]
Visibility = Literal["public", "private"]
Type = Literal["array", "boolean", "integer", "number", "object", "string"]
Name = Annotated[str, Meta(min_length=1, max_length=80)]
Count = Annotated[int, Meta(ge=0)]

#: Set by the server alone; a request that names one is refused.
READ_ONLY = frozenset(("created_at", "updated_at", "self", "schema"))
#: Entries of one kind in a namespace; bytes of all their definitions: what one answer shows.
MOST_ENTRIES, MOST_BYTES = 1000, 4 << 20
#: Orders that a list of namespaces may have; the first is the default.
SORT_KEYS = ("created_at", "updated_at", "id", "namespace", "display_name", "description", "visibility", "protected", "owner")
TAG_SORT_KEYS = ("created_at", "updated_at", "id", "name")


class Items(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the items of an array may be."""

    type: Type | UnsetType = UNSET
    enum: list[Any] | UnsetType = UNSET


class Property(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel", kw_only=True):
    """One property: what it is called, what its values may be. Its key stands outside. Defaults and enumerations are kept as text."""

    title: str
    type: Type
    description: str | UnsetType = UNSET
    operators: list[str] | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET
    minimum: int | float | UnsetType = UNSET
    maximum: int | float | UnsetType = UNSET
    min_length: Count | UnsetType = UNSET
    max_length: Count | UnsetType = UNSET
    pattern: str | UnsetType = UNSET
    enum: list[Any] | UnsetType = UNSET
    readonly: bool | UnsetType = UNSET
    default: Any = UNSET
    items: Items | UnsetType = UNSET
    min_items: Count | UnsetType = UNSET
    max_items: Count | UnsetType = UNSET
    unique_items: bool | UnsetType = UNSET
    additional_items: bool | UnsetType = UNSET


class Object(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A group of properties. required: keys of those that must be set together."""

    description: str | UnsetType = UNSET
    required: list[str] | UnsetType = UNSET
    properties: dict[Name, Property] | UnsetType = UNSET


class Tag(Struct, frozen=True, forbid_unknown_fields=True):
    """A word; it has nothing but its name."""


class Association(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """That a namespace applies to a resource type. prefix: what its keys begin with there, separator included.

    properties_target: which of several sets of properties of such a resource is meant.
    """

    prefix: Annotated[str, Meta(max_length=80)] | UnsetType = UNSET
    properties_target: Annotated[str, Meta(max_length=80)] | UnsetType = UNSET


Value = Object | Property | Tag | Association
TYPES: dict[Kind, type[Value]] = {"object": Object, "property": Property, "tag": Tag, "resource_type": Association}
#: What error messages call the schema of each kind.
SCHEMAS: dict[Kind, str] = {"object": "object", "property": "property", "tag": "tag", "resource_type": "resource_type_association"}


class Entry(Struct, frozen=True):
    """Something in a namespace, as it is kept. created, updated: microseconds, 0 before it is kept."""

    kind: Kind
    name: str
    value: Value
    created: int = 0
    updated: int = 0


class About(Struct, frozen=True, forbid_unknown_fields=True):
    """What callers say of a namespace itself. owner None: the caller's project."""

    namespace: Name
    display_name: Annotated[str, Meta(max_length=80)] | None = None
    description: Annotated[str, Meta(max_length=500)] | None = None
    visibility: Visibility = "private"
    protected: bool = False
    owner: Annotated[str, Meta(max_length=255)] | None = None


class Namespace(Struct, frozen=True):
    """A namespace as it is kept. n: its number, never given twice, in order of creation. created, updated: microseconds.

    version: counts the changes of it and of its entries.
    """

    n: int
    namespace: str
    display_name: str | None
    description: str | None
    visibility: str
    protected: bool
    owner: str | None
    created: int
    updated: int
    version: int


class Tree(Struct, frozen=True):
    """A checked namespace with its entries."""

    about: About
    entries: list[Entry]


class Listing(Struct, frozen=True):
    """A checked request for a list. sort: a name of SORT_KEYS or TAG_SORT_KEYS. resource_types: any of these, None: whatever."""

    limit: int
    marker: str | None
    sort: str
    ascending: bool
    visibility: str | None = None
    resource_types: tuple[str, ...] | None = None


def visible(ctx: Context, namespace: Namespace) -> bool:
    """Whether the namespace exists for this caller at all: an operator's, one's own, or public."""
    return ctx.admin or namespace.visibility == "public" or (ctx.project is not None and namespace.owner == ctx.project)


def size(entry: Entry) -> int:
    """Bytes that count against MOST_BYTES."""
    return len(entry.name.encode()) + len(msgspec.json.encode(entry.value))


def check_room(kind: Kind, count: int, size_bytes: int) -> None:
    """Raises QuotaExceeded for more entries of a kind, or more bytes in all, than a namespace may hold."""
    if count > MOST_ENTRIES:
        raise QuotaExceeded(f"A namespace holds {MOST_ENTRIES} entries of the kind {kind} at most. Attempted: {count}")
    if size_bytes > MOST_BYTES:
        raise QuotaExceeded(f"The definitions of a namespace have {MOST_BYTES} bytes at most. Attempted: {size_bytes}")


# Requests


def parse_tree(body: Any) -> Tree:
    """A namespace, with the entries that it names. Raises BadRequest, BadValue or ReadOnly naming the field, QuotaExceeded."""
    fields = _fields(body, "namespace")
    if nulls := [name for name, value in fields.items() if value is None]:
        raise schema_problem(f"{nulls[0][:80]}: null is no value; leave the field out", "namespace")
    entries = [
        *_inner(fields, "object", "objects"),
        *(_keyed(name, item) for name, item in _mapping(fields, "properties").items()),
        *_inner(fields, "tag", "tags"),
        *_inner(fields, "resource_type", "resource_type_associations"),
    ]
    about = _convert(fields, About, "namespace")
    check_name("namespace", about.namespace, "namespace")
    whole = sum(map(size, entries))
    for kind, count in Counter(entry.kind for entry in entries).items():
        check_room(kind, count, whole)
    return Tree(about, entries)


def parse_entry(kind: Kind, body: Any) -> Entry:
    """One entry with its name. Raises BadRequest, BadValue or ReadOnly naming the field."""
    return _named(kind, _fields(body, SCHEMAS[kind]), SCHEMAS[kind])


def parse_tag(name: str) -> Entry:
    """The tag of a name that stands in a path. Raises BadValue."""
    return parse_entry("tag", {"name": name})


def parse_tags(body: Any) -> list[Entry]:
    """{"tags": [{"name": ...}]}. Raises BadRequest, BadValue, QuotaExceeded."""
    fields = _fields(body, "tags")
    if "tags" not in fields:
        raise schema_problem("Object missing required field `tags`", "tags")
    tags = _list(fields, "tags", "tags")
    if fields:
        raise schema_problem(f"Object contains unknown field `{next(iter(fields))[:80]}`", "tags")
    check_room("tag", len(tags), 0)
    return [_named("tag", item, "tags", f"tags[{at}]: ") for at, item in enumerate(tags)]


def parse_listing(params: list[tuple[str, str]], page: int, page_max: int) -> Listing:
    """Read the query of a list of namespaces. Other parameters mean nothing. Raises BadValue naming the parameter."""
    last = dict(params)
    visibility = last.get("visibility")
    if visibility is not None and visibility not in get_args(Visibility):
        raise BadValue(f"Invalid visibility value: {visibility}. It must be one of the following: {', '.join(get_args(Visibility))}.")
    types = last.get("resource_types")
    wanted = tuple(dict.fromkeys(name for name in types.split(",") if "\0" not in name)) if types else None
    return msgspec.structs.replace(_page(last, page, page_max, SORT_KEYS), visibility=visibility, resource_types=wanted)


def parse_tag_listing(params: list[tuple[str, str]], page_max: int) -> Listing:
    """Read the query of a list of tags, which holds all of them unless it says otherwise. Raises BadValue naming the parameter."""
    return _page(dict(params), page_max, page_max, TAG_SORT_KEYS)


def _page(last: dict[str, str], page: int, page_max: int, keys: tuple[str, ...]) -> Listing:
    sort, direction = last.get("sort_key", keys[0]), last.get("sort_dir", "desc")
    if sort not in keys:
        raise BadValue(f"Invalid sort key: {sort}. It must be one of the following: {', '.join(keys)}.")
    if direction not in ("asc", "desc"):
        raise BadValue(f"Invalid sort direction: {direction}. It must be one of the following: asc, desc.")
    return Listing(page_limit(last.get("limit"), page, page_max), last.get("marker"), sort, direction == "asc")


def check_name(field: str, name: str, schema: str) -> None:
    """Raises BadValue for a name that no path could say: clients take "." and ".." for parts of a path, and many servers any slash."""
    if "/" in name or name in (".", ".."):
        raise schema_problem(
            f"{field}: {name!r} cannot be part of a path; allowed: 1 to 80 characters without '/', not '.' or '..'", schema
        )


def check_distinct(entries: Sequence[Entry], namespace: str) -> None:
    """Raises Conflict when two entries of one kind have one name."""
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.kind, entry.name) in seen:
            raise exists(entry.kind, entry.name, namespace)
        seen.add((entry.kind, entry.name))


def exists(kind: Kind, name: str, namespace: str) -> Conflict:
    """That an entry of this name is there already."""
    if kind == "resource_type":
        of = f"The metadata definition resource-type association of resource-type={name} to namespace={namespace}"
        return Conflict(f"{of} already exists.")
    what = "A metadata tag" if kind == "tag" else f"A metadata definition {kind}"
    return Conflict(f"{what} with name={name} already exists in namespace={namespace}.")


def _fields(body: Any, schema: str) -> dict[str, Any]:
    """The fields of a body, cleaned, if none of them is the server's."""
    if not isinstance(body, dict):
        raise BadRequest(f"Unexpected body type. Expected an object that matches schema '{schema}'.")
    if schema != "tags" and (named := READ_ONLY & body.keys()):
        raise ReadOnly(f"Attribute '{min(named)}' is read-only.")
    return dict(_cleaned(body, schema, ""))


def _cleaned(value: Any, schema: str, where: str) -> Any:
    """A JSON value whose texts can be kept, and whose whole numbers are integers: JSON has one kind of number, 1.0 is 1."""
    if isinstance(value, str):
        check_text(where, value, schema)
    elif isinstance(value, list):
        return [_cleaned(item, schema, where) for item in value]
    elif isinstance(value, dict):
        for name in value:
            check_text(where or name[:40], name, schema)
        return {name: _cleaned(item, schema, where or name[:40]) for name, item in value.items()}
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) >= 2**63:
            raise schema_problem(f"{where}: a number beyond 64 bits", schema)
        return int(value) if value == int(value) else value
    return value


def _inner(fields: dict[str, Any], kind: Kind, field: str) -> list[Entry]:
    """The entries in a list of a namespace; what the server says of them is let pass, so that what was read can be sent again."""
    found = []
    for at, item in enumerate(_list(fields, field)):
        said = {name: value for name, value in item.items() if name not in READ_ONLY} if isinstance(item, dict) else item
        found.append(_named(kind, said, "namespace", f"{field}[{at}]: "))
    return found


def _list(fields: dict[str, Any], name: str, schema: str = "namespace") -> list[Any]:
    found = fields.pop(name, [])
    if not isinstance(found, list):
        raise schema_problem(f"{name}: Expected an array", schema)
    return found


def _mapping(fields: dict[str, Any], name: str) -> dict[str, Any]:
    found = fields.pop(name, {})
    if not isinstance(found, dict):
        raise schema_problem(f"{name}: Expected an object", "namespace")
    return found


def _named(kind: Kind, body: Any, schema: str, where: str = "") -> Entry:
    """An entry that says its name itself."""
    if not isinstance(body, dict):
        raise schema_problem(f"{where}Expected an object", schema)
    fields = dict(body)
    if "name" not in fields:
        raise schema_problem(f"{where}Object missing required field `name`", schema)
    name = fields.pop("name")
    return Entry(kind, _name(name, schema, where), _value(kind, fields, schema, where))


def _keyed(name: str, body: Any) -> Entry:
    """A property whose name is its key."""
    where = f"properties: {name[:80]}: "
    return Entry(
        "property", _name(name, "namespace", where), _value("property", _without_name(name, body, "namespace", where), "namespace", where)
    )


def _name(name: Any, schema: str, where: str) -> str:
    found: str = _convert(name, Name, schema, f"{where}name: ")
    check_name(f"{where}name", found, schema)
    return found


def _without_name(key: str, body: Any, schema: str, where: str) -> Any:
    """A property below a key, which is its name: it need not say it, and must not say another."""
    if isinstance(body, dict) and "name" in body:
        if body["name"] != key:
            raise schema_problem(f"{where}name: {body['name']!r:.90} is not its key", schema)
        return {field: value for field, value in body.items() if field != "name"}
    return body


def _value(kind: Kind, fields: Any, schema: str, where: str) -> Value:
    if kind == "object" and isinstance(inner := fields.get("properties"), dict):
        fields["properties"] = {
            key: _as_property(
                _without_name(key, item, schema, f"{where}properties: {key[:80]}: "), schema, f"{where}properties: {key[:80]}: "
            )
            for key, item in inner.items()
        }
    if kind == "property":
        return _as_property(fields, schema, where)
    value: Value = _convert(fields, TYPES[kind], schema, where)
    if isinstance(value, Object) and value.required is not UNSET:
        _check_unique("required", value.required, schema, where)
    return value


def _as_property(fields: Any, schema: str, where: str) -> Property:
    found: Property = _convert(fields, Property, schema, where)
    if found.required is not UNSET:
        _check_unique("required", found.required, schema, where)
    items = (
        found.items
        if found.items is UNSET or found.items.enum is UNSET
        else Items(found.items.type, _texts(found.items.enum, schema, where))
    )
    return msgspec.structs.replace(
        found,
        default=UNSET if found.default in (None, UNSET) else _as_text(found.default),
        enum=found.enum if found.enum is UNSET else _texts(found.enum, schema, where),
        items=items,
    )


def _texts(values: list[Any], schema: str, where: str) -> list[str]:
    for value in values:
        if not isinstance(value, (str, int, float)):
            raise schema_problem(f"{where}enum: {value!r:.60} is no text, number or boolean", schema)
    return [_as_text(value) for value in values]


def _as_text(value: Any) -> str:
    """A value of a property as text, which is how properties have it; what has a structure is written as JSON."""
    if isinstance(value, (list, dict)):
        return msgspec.json.encode(value).decode()
    return str(value)


def _check_unique(field: str, values: list[str], schema: str, where: str) -> None:
    if len(set(values)) < len(values):
        raise schema_problem(f"{where}{field}: has non-unique elements", schema)


def _convert(value: Any, form: Any, schema: str, where: str = "") -> Any:
    """The value in this form. Raises BadValue with msgspec's sentence, the field in front and, for an enumeration, what is allowed."""
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        field = path.strip(".`")
        hints = {"type": Type, "items.type": Type, "visibility": Visibility}
        hint = f"; allowed: {', '.join(get_args(hints[field]))}" if field in hints else ""
        raise schema_problem(f"{where}{f'{field}: ' if field else ''}{text[:300]}{hint}", schema) from None
