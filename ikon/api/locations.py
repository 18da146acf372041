"""Routes of locations: `/v2/images/{id}/locations`."""

from starlette.responses import Response

from ikon.api import wire
from ikon.api.request import Request, empty, json
from ikon.model.locations import parse
from ikon.service import locations


async def add(request: Request) -> Response:
    """POST /v2/images/{id}/locations: name where a queued image's data is; a durable job verifies it."""
    new = parse(await request.json_body())
    await locations.add(request.kit, request.ctx, request.segments["id"], new)
    return empty(202)


async def browse(request: Request) -> Response:
    """GET /v2/images/{id}/locations: where an image's data is, for services and administrators."""
    request.refuse_body()
    return json(wire.locations(await locations.show(request.kit, request.ctx, request.segments["id"])))
