"""Routes of image records: `/v2/images`, `/v2/images/{id}` and its actions."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from ikon.api import wire
from ikon.api.request import Request, empty, json
from ikon.model.image import Image, parse_new
from ikon.model.listing import parse as parse_listing
from ikon.model.patch import MEDIA_TYPES
from ikon.model.patch import parse as parse_patch
from ikon.problems import NotFound, UnsupportedMediaType
from ikon.service import images, lint, locations


async def create(request: Request) -> Response:
    """POST /v2/images: a new record, queued until data comes."""
    new = parse_new(await request.json_body())
    warnings = await lint.before_create(request.kit, request.ctx, new.properties)
    image = await images.create(request.kit, request.ctx, new)
    headers = {
        "Location": request.link(f"v2/images/{image.id}"),
        "OpenStack-image-import-methods": ",".join(request.kit.settings.imports.methods),
        "OpenStack-image-store-ids": ",".join(request.kit.stores.all),
        "ETag": etag(image.version),
    }
    return json(await _record(request, image), 201, headers | _warned(warnings))


async def show(request: Request) -> Response:
    """GET /v2/images/{id}: one record."""
    request.refuse_body()
    image = await images.show(request.kit, request.ctx, request.segments["id"])
    return json(await _record(request, image), headers={"ETag": etag(image.version)})


async def browse(request: Request) -> Response:
    """GET /v2/images: a page of the records that the caller sees, filtered and sorted."""
    params = request.params()
    limits = request.kit.settings.limits
    listing = parse_listing(params, limits.page, limits.page_max)
    found = await images.browse(request.kit, request.ctx, listing)
    kept = [(name, value) for name, value in params if name != "marker"]
    page = {"images": await _records(request, found), "first": _link(kept), "schema": "/v2/schemas/images"}
    if found and len(found) == listing.limit:
        page["next"] = _link([*kept, ("marker", found[-1].id)])
    return json(page)


async def _records(request: Request, found: Sequence[Image]) -> list[dict[str, Any]]:
    places = await images.places(request.kit, request.ctx, found)
    settings = request.kit.settings
    return [wire.located(wire.image(request.ctx, image), places.get(image.id), settings) for image in found]


async def _record(request: Request, image: Image) -> dict[str, Any]:
    return (await _records(request, [image]))[0]


def _link(params: list[tuple[str, str]]) -> str:
    return f"/v2/images?{urlencode(params)}" if params else "/v2/images"


async def update(request: Request) -> Response:
    """PATCH /v2/images/{id}: change attributes, properties and tags by JSON patch; If-Match guards against other writers."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        allowed = ", ".join(sorted(MEDIA_TYPES))
        raise UnsupportedMediaType(f"Image PATCH expects Content-Type one of: {allowed}.", headers={"Accept-Patch": allowed})
    changes, places = parse_patch(await request.json_body(), MEDIA_TYPES[media_type])
    if_match = request.headers.get("if-match", "*")
    versions = None if if_match == "*" else [tag.strip().strip('"') for tag in if_match.split(",")]
    warnings = await lint.before_update(request.kit, request.ctx, request.segments["id"], changes)
    if places:
        image = await locations.patch(request.kit, request.ctx, request.segments["id"], changes, places, versions)
    else:
        image = await images.update(request.kit, request.ctx, request.segments["id"], changes, versions)
    return json(await _record(request, image), headers={"ETag": etag(image.version)} | _warned(warnings))


async def look(request: Request) -> Response:
    """GET /ikon/v1/images/{id}/lint: what in its properties does not fit the metadata definitions that the caller sees, and what to do."""
    request.refuse_body()
    image, findings = await lint.look(request.kit, request.ctx, request.segments["id"])
    return json({"image": image.id, "findings": findings})


def _warned(warnings: Sequence[str]) -> dict[str, str]:
    """Warnings in the form of RFC 7234, 5.5."""
    return {"Warning": ", ".join(f'299 ikon "{_quoted(text)}"' for text in warnings)} if warnings else {}


def _quoted(text: str) -> str:
    """A text inside the quotes of a header: printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text).replace("\\", "\\\\").replace('"', '\\"')


async def delete(request: Request) -> Response:
    """DELETE /v2/images/{id}: the record goes at once, the bytes soon after."""
    request.refuse_body()
    await images.delete(request.kit, request.ctx, request.segments["id"])
    return empty()


async def act(request: Request) -> Response:
    """POST /v2/images/{id}/actions/{action}: deactivate or reactivate."""
    verb = {"deactivate": images.deactivate, "reactivate": images.reactivate}.get(request.segments["action"])
    if verb is None:
        raise NotFound
    request.refuse_body()
    await verb(request.kit, request.ctx, request.segments["id"])
    return empty()


def etag(value: int | str) -> str:
    """A version, or the digest of data, as an entity tag."""
    return f'"{value}"'
