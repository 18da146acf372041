"""JSON patches of images: from operations on the wire to changes of single attributes, and what those make of an image.

The wire knows two forms: `{"op": "add", "path": "/x", "value": 1}` (media type v2.1) and `{"add": "/x", "value": 1}` (v2.0).
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ikon.model.image import BASE, FORMATS, NULLABLE, Image, check_base, check_property, refuse_server_fields
from ikon.model.locations import Patch, parse_patch
from ikon.problems import BadRequest, Conflict, Forbidden, ReadOnly

#: Whether the caller may create, read, update or delete the property of a name.
May = Callable[[str, str], bool]

OPS = ("add", "remove", "replace")
MEDIA_TYPES = {
    "application/openstack-images-v2.1-json-patch": "2.1",
    "application/openstack-images-v2.0-json-patch": "2.0",
}


class Change(msgspec.Struct, frozen=True):
    """One operation on one attribute. strict: adding what is there already is a conflict (the older media type)."""

    op: str
    name: str
    value: Any = None
    strict: bool = False


def parse(body: Any, form: str) -> tuple[list[Change], list[Patch]]:
    """The changes that a patch in one of the two forms asks for, and those of locations.

    Raises BadRequest, BadValue or ReadOnly, naming the operation's path.
    """
    if not isinstance(body, list):
        raise BadRequest("Request body must be a JSON array of operation objects.")
    asked = [_operation(item, form) for item in body]
    return [each for each in asked if isinstance(each, Change)], [each for each in asked if isinstance(each, Patch)]


def _operation(item: Any, form: str) -> Change | Patch:
    if not isinstance(item, dict):
        raise BadRequest("Operations must be JSON objects.")
    op, path = _v21(item) if form == "2.1" else _v20(item)
    name, *inside = parts(path)
    if op != "remove" and "value" not in item:
        raise BadRequest(f'Operation "{op}" requires a member named "value".')
    if name == "locations":
        return parse_patch(op, inside, item.get("value"))
    if inside:
        raise BadRequest(f"Invalid JSON pointer for this resource: '{path}'")
    if name == "id":
        raise ReadOnly("Attribute 'id' is read-only.")
    refuse_server_fields(name)
    value = None
    if op != "remove":
        value = item["value"]
        if value is None and name in NULLABLE:
            return Change("remove", name)
        if name in BASE:
            value = getattr(check_base({name: value}), name)
        else:
            check_property(name, value)
    return Change(op, name, value, strict=form == "2.0" and op == "add")


def _v21(item: dict[str, Any]) -> tuple[str, Any]:
    if "op" not in item:
        raise BadRequest(f"Unable to find `op` in JSON Schema change. It must be one of the following: {', '.join(OPS)}.")
    if item["op"] not in OPS:
        raise BadRequest(f"Invalid operation: `{item['op']!s:.40}`. It must be one of the following: {', '.join(OPS)}.")
    if "path" not in item:
        raise BadRequest("Unable to find 'path' in JSON Schema change")
    return item["op"], item["path"]


def _v20(item: dict[str, Any]) -> tuple[str, Any]:
    found = [op for op in OPS if op in item]
    if not found:
        raise BadRequest(f"Operation objects must contain exactly one member named one of: {', '.join(OPS)}.")
    if len(found) > 1:
        raise BadRequest(f"Operation objects must contain only one member named one of: {', '.join(OPS)}.")
    return found[0], item[found[0]]


def parts(path: Any) -> list[str]:
    """The attribute that a JSON pointer names, and what inside it. Raises BadRequest for what is no pointer."""
    if not isinstance(path, str):
        raise BadRequest(f"Pointer `{path!r:.40}` is not a string.")
    if not path.startswith("/"):
        raise BadRequest(f'Pointer `{path}` does not start with "/".')
    if path != "/" and path.endswith("/"):
        raise BadRequest(f'Pointer `{path}` ends with "/".')
    if "//" in path:
        raise BadRequest(f'Pointer `{path}` contains adjacent "/".')
    if re.search(r"~(?![01])", path):
        raise BadRequest(f'Pointer `{path}` contains "~" that is not part of a recognized escape sequence.')
    return [part.strip().replace("~1", "/").replace("~0", "~") for part in path[1:].split("/")]


def apply(image: Image, changes: list[Change], *, admin: bool, may: May = lambda operation, name: True) -> Image:
    """The image as the changes leave it. may: what the caller may do with custom properties.

    Raises Conflict, Forbidden or ReadOnly; nothing is half changed, since the image is a new one.
    """
    fields: dict[str, Any] = {}
    properties = dict(image.properties)
    for change in changes:
        if change.name in BASE:
            _base(image, change, fields, admin=admin)
        else:
            _property(change, properties, may)
    return msgspec.structs.replace(image, **fields, properties=properties)


def _base(image: Image, change: Change, fields: dict[str, Any], *, admin: bool) -> None:
    name = change.name
    if change.op == "remove":
        raise Forbidden(f"Property {name} may not be removed.")
    if change.strict:
        raise Conflict(f"Property {name} already present.")
    if name == "owner" and not admin:
        raise Forbidden("Owner can't be updated by non admin.")
    if name in FORMATS and image.status not in ("queued", "importing"):
        raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
    fields[name] = change.value


def _property(change: Change, properties: dict[str, str], may: May) -> None:
    """What the caller may not read is not there: it cannot be changed, nor, so that an answer does not tell, be added."""
    seen = may("read", change.name)
    present = change.name in properties and seen
    operation = "delete" if change.op == "remove" else "update" if present else "create"
    if change.op != "add" and not present:
        raise Conflict(f"Property {change.name} does not exist.")
    if change.strict and present:
        raise Conflict(f"Property {change.name} already present.")
    if not seen or not may(operation, change.name):
        raise ReadOnly(f"Attribute '{change.name}' is reserved.")
    if change.op == "remove":
        del properties[change.name]
    else:
        properties[change.name] = change.value
