"""Routes of metadata definitions: `/v2/metadefs`."""

import hashlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from ikon.api.metadef_schemas import SCHEMAS
from ikon.api.request import Request, empty, json
from ikon.model.image import timestamp
from ikon.model.metadef import (
    Entry,
    Kind,
    Listing,
    Namespace,
    parse_entry,
    parse_listing,
    parse_tag,
    parse_tag_listing,
    parse_tags,
    parse_tree,
)
from ikon.problems import NotFound
from ikon.service import metadefs

ROOT = "/v2/metadefs/namespaces"
#: What `X-Openstack-Append` says when it means yes.
YES = ("true", "t", "yes", "y", "on", "1")


def _path(*names: str) -> str:
    """The path of a namespace, or of something in it. A colon stays as it is, as every path may have it."""
    return "/".join([ROOT, *(quote(name, safe=":") for name in names)])


def _answer(request: Request, value: Any) -> Response:
    """A JSON answer with its digest as entity tag; nothing but that for who has it already: dashboards read the same again and again."""
    body = msgspec.json.encode(value)
    tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, headers={"ETag": tag}, media_type="application/json")


# Shapes


def _times(of: Namespace | Entry) -> dict[str, Any]:
    return {"created_at": timestamp(of.created), "updated_at": timestamp(of.updated)}


def _namespace(namespace: Namespace) -> dict[str, Any]:
    names = ("namespace", "display_name", "description", "visibility", "protected", "owner")
    said = {name: value for name in names if (value := getattr(namespace, name)) is not None}
    return said | _times(namespace) | {"self": _path(namespace.namespace), "schema": "/v2/schemas/metadefs/namespace"}


def _association(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, **msgspec.to_builtins(entry.value), **_times(entry)}


def _object(namespace: str, entry: Entry, *, prefix: str = "", whole: bool = True) -> dict[str, Any]:
    """prefix: what keys begin with. whole: with what was not given, as reading shows it."""
    said = msgspec.to_builtins(entry.value)
    if whole:
        said = {"required": [], "properties": {}} | said
    if prefix:
        said["required"] = [prefix + key for key in said["required"]]
        said["properties"] = {prefix + key: each for key, each in said["properties"].items()}
    links = {"self": _path(namespace, "objects", entry.name), "schema": "/v2/schemas/metadefs/object"}
    return {"name": entry.name, **said, **_times(entry), **links}


def _filled(namespace: Namespace, entries: Sequence[Entry], resource_type: str | None) -> dict[str, Any]:
    """A namespace with what is in it. resource_type: where keys are shown as resources of this type have them."""
    types, properties, objects, tags = _parted(entries)
    prefix = next((metadefs.prefix_of(entry) for entry in types if entry.name == resource_type), "")
    shown = {
        "resource_type_associations": [_association(entry) for entry in types],
        "properties": {prefix + entry.name: entry.value for entry in _by_name(properties)},
        "objects": [_object(namespace.namespace, entry, prefix=prefix) for entry in _by_name(objects)],
        "tags": [{"name": entry.name} for entry in reversed(tags)],
    }
    return _namespace(namespace) | {name: value for name, value in shown.items() if value}


def _made(namespace: Namespace, entries: Sequence[Entry]) -> dict[str, Any]:
    """A new namespace with what was sent to be in it, as it was sent."""
    types, properties, objects, tags = _parted(entries)
    named = {"resource_type_associations": types, "objects": objects, "tags": tags}
    shown = {name: [{"name": entry.name, **msgspec.to_builtins(entry.value)} for entry in group] for name, group in named.items()}
    shown |= {"properties": {entry.name: entry.value for entry in properties}}  # type: ignore[dict-item]
    return _namespace(namespace) | {name: value for name, value in shown.items() if value}


def _by_name(entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.name)


def _parted(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Resource types, properties, objects and tags apart."""
    return [[entry for entry in entries if entry.kind == kind] for kind in ("resource_type", "property", "object", "tag")]


# Namespaces


async def browse(request: Request) -> Response:
    """GET /v2/metadefs/namespaces: a page of the namespaces that the caller sees, each with its resource types."""
    request.refuse_body()
    params, limits = request.params(), request.kit.settings.limits
    found, marker = await metadefs.browse(request.kit, request.ctx, parse_listing(params, limits.page, limits.page_max))
    kept = [(name, value) for name, value in params if name != "marker"]
    page = {"namespaces": [_filled(*each, None) for each in found], "first": _link(kept), "schema": "/v2/schemas/metadefs/namespaces"}
    if marker is not None:
        page["next"] = _link([*kept, ("marker", marker)])
    return _answer(request, page)


def _link(params: list[tuple[str, str]]) -> str:
    return f"{ROOT}?{urlencode(params)}" if params else ROOT


async def create(request: Request) -> Response:
    """POST /v2/metadefs/namespaces: a namespace, with the objects, properties, tags and resource types in it, all or nothing."""
    tree = parse_tree(await request.json_body())
    namespace, entries = await metadefs.create(request.kit, request.ctx, tree)
    location = str(request.base_url).rstrip("/") + _path(namespace.namespace)
    return json(_made(namespace, entries), 201, {"Location": location})


async def show(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}: all of it; `?resource_type=` puts the prefix of that type before the keys."""
    request.refuse_body()
    filled = await metadefs.show(request.kit, request.ctx, request.segments["namespace"])
    return _answer(request, _filled(*filled, dict(request.params()).get("resource_type")))


async def replace(request: Request) -> Response:
    """PUT /v2/metadefs/namespaces/{namespace}: other fields, those left out at their defaults; what is in it stays."""
    about = parse_tree(await request.json_body()).about
    return json(_namespace(await metadefs.replace(request.kit, request.ctx, request.segments["namespace"], about)))


async def remove(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}: with all that is in it."""
    request.refuse_body()
    await metadefs.remove(request.kit, request.ctx, request.segments["namespace"])
    return empty()


# What is in them


async def _entries(request: Request, kind: Kind) -> list[Entry]:
    request.refuse_body()
    return await metadefs.browse_entries(request.kit, request.ctx, request.segments["namespace"], kind)


async def _entry(request: Request, kind: Kind, resource_type: str | None = None) -> Entry:
    request.refuse_body()
    segments = request.segments
    return await metadefs.show_entry(request.kit, request.ctx, segments["namespace"], kind, segments["name"], resource_type)


async def _added(request: Request, kind: Kind) -> Entry:
    new = parse_entry(kind, await request.json_body())
    return await metadefs.add(request.kit, request.ctx, request.segments["namespace"], new)


async def _replaced(request: Request, kind: Kind) -> Entry:
    new = parse_entry(kind, await request.json_body())
    return await metadefs.replace_entry(request.kit, request.ctx, request.segments["namespace"], request.segments["name"], new)


async def _removed(request: Request, kind: Kind) -> Response:
    request.refuse_body()
    await metadefs.remove_entry(request.kit, request.ctx, request.segments["namespace"], kind, request.segments["name"])
    return empty()


async def _cleared(request: Request, kind: Kind) -> Response:
    request.refuse_body()
    await metadefs.clear(request.kit, request.ctx, request.segments["namespace"], kind)
    return empty()


async def browse_objects(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/objects: all of them, by name."""
    namespace, found = request.segments["namespace"], _by_name(await _entries(request, "object"))
    return _answer(request, {"objects": [_object(namespace, entry) for entry in found], "schema": "v2/schemas/metadefs/objects"})


async def add_object(request: Request) -> Response:
    """POST /v2/metadefs/namespaces/{namespace}/objects: one more."""
    return json(_object(request.segments["namespace"], await _added(request, "object"), whole=False), 201)


async def show_object(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/objects/{name}: one of them."""
    return _answer(request, _object(request.segments["namespace"], await _entry(request, "object")))


async def replace_object(request: Request) -> Response:
    """PUT /v2/metadefs/namespaces/{namespace}/objects/{name}: another in its place, its name too."""
    return json(_object(request.segments["namespace"], await _replaced(request, "object"), whole=False))


async def remove_object(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/objects/{name}: one of them."""
    return await _removed(request, "object")


async def clear_objects(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/objects: all of them."""
    return await _cleared(request, "object")


def _property(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, **msgspec.to_builtins(entry.value)}


async def browse_properties(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/properties: all of them, by name."""
    found = _by_name(await _entries(request, "property"))
    return _answer(request, {"properties": {entry.name: _property(entry) for entry in found}})


async def add_property(request: Request) -> Response:
    """POST /v2/metadefs/namespaces/{namespace}/properties: one more."""
    return json(_property(await _added(request, "property")), 201)


async def show_property(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/properties/{name}: one of them; `?resource_type=`: the name has the prefix of that type."""
    return _answer(request, _property(await _entry(request, "property", dict(request.params()).get("resource_type"))))


async def replace_property(request: Request) -> Response:
    """PUT /v2/metadefs/namespaces/{namespace}/properties/{name}: another in its place, its name too."""
    return json(_property(await _replaced(request, "property")))


async def remove_property(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/properties/{name}: one of them."""
    return await _removed(request, "property")


async def clear_properties(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/properties: all of them."""
    return await _cleared(request, "property")


def _tag(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, **_times(entry)}


async def browse_tags(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/tags: a page of them, newest first where nothing else is said."""
    listing = parse_tag_listing(request.params(), request.kit.settings.limits.page_max)
    found = _page(await _entries(request, "tag"), listing)
    return _answer(request, {"tags": [{"name": entry.name} for entry in found]})


def _page(tags: list[Entry], listing: Listing) -> list[Entry]:
    """As many tags as wanted, in order behind the marker. Raises NotFound for a marker that is none of them."""

    def order(entry: Entry) -> tuple[Any, ...]:
        first = {"name": entry.name, "updated_at": entry.updated}.get(listing.sort, 0)
        return first, entry.created, entry.name

    ordered = sorted(tags, key=order, reverse=not listing.ascending)
    if listing.marker is not None:
        at = next((at for at, entry in enumerate(ordered) if entry.name == listing.marker), None)
        if at is None:
            raise NotFound(f"Could not find metadata tag {listing.marker}")
        ordered = ordered[at + 1 :]
    return ordered[: listing.limit]


async def set_tags(request: Request) -> Response:
    """POST /v2/metadefs/namespaces/{namespace}/tags: these in place of all there are; with `X-Openstack-Append: True` beside them."""
    new = parse_tags(await request.json_body())
    append = request.headers.get("x-openstack-append", "").strip().lower() in YES
    await metadefs.set_tags(request.kit, request.ctx, request.segments["namespace"], new, append=append)
    return json({"tags": [{"name": entry.name} for entry in new]}, 201)


async def clear_tags(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/tags: all of them."""
    return await _cleared(request, "tag")


async def add_tag(request: Request) -> Response:
    """POST /v2/metadefs/namespaces/{namespace}/tags/{name}: one more."""
    request.refuse_body()
    new = parse_tag(request.segments["name"])
    return json(_tag(await metadefs.add(request.kit, request.ctx, request.segments["namespace"], new)), 201)


async def show_tag(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/tags/{name}: one of them."""
    return _answer(request, _tag(await _entry(request, "tag")))


async def replace_tag(request: Request) -> Response:
    """PUT /v2/metadefs/namespaces/{namespace}/tags/{name}: another name."""
    return json(_tag(await _replaced(request, "tag")))


async def remove_tag(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/tags/{name}: one of them."""
    return await _removed(request, "tag")


async def browse_associations(request: Request) -> Response:
    """GET /v2/metadefs/namespaces/{namespace}/resource_types: those that it applies to."""
    return _answer(request, {"resource_type_associations": [_association(entry) for entry in await _entries(request, "resource_type")]})


async def add_association(request: Request) -> Response:
    """POST /v2/metadefs/namespaces/{namespace}/resource_types: one more; a type that nobody named before is known from then on."""
    return json(_association(await _added(request, "resource_type")), 201)


async def remove_association(request: Request) -> Response:
    """DELETE /v2/metadefs/namespaces/{namespace}/resource_types/{name}: it applies to that no more."""
    return await _removed(request, "resource_type")


async def browse_resource_types(request: Request) -> Response:
    """GET /v2/metadefs/resource_types: every resource type that a namespace ever applied to."""
    request.refuse_body()
    found = await metadefs.resource_types(request.kit, request.ctx)
    listed = [{"name": name, "created_at": timestamp(created), "updated_at": timestamp(updated)} for name, created, updated in found]
    return _answer(request, {"resource_types": listed})


async def schema(request: Request) -> Response:
    """GET /v2/schemas/metadefs/{name}: the JSON schema of a namespace, object, property, tag or resource type, or of a list of them."""
    request.refuse_body()
    if request.segments["name"] not in SCHEMAS:
        raise NotFound
    return json(SCHEMAS[request.segments["name"]])
