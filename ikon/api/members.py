"""Routes of sharing: `/v2/images/{id}/members`."""

from starlette.responses import Response

from ikon.api import wire
from ikon.api.request import Request, empty, json
from ikon.model.member import parse_project, parse_status
from ikon.service import members


async def browse(request: Request) -> Response:
    """GET /v2/images/{id}/members: the projects that an image is shared with; a member sees its own entry."""
    request.refuse_body()
    image_id = request.segments["id"]
    found = await members.browse(request.kit, request.ctx, image_id)
    shown = [wire.member(image_id, project, entry) for project, entry in found.items()]
    return json({"members": shown, "schema": "/v2/schemas/members"})


async def share(request: Request) -> Response:
    """POST /v2/images/{id}/members: share the image with the project that {"member": PROJECT} names."""
    project = parse_project(await request.json_body())
    image_id = request.segments["id"]
    return json(wire.member(image_id, project, await members.share(request.kit, request.ctx, image_id, project)))


async def show(request: Request) -> Response:
    """GET /v2/images/{id}/members/{project}: one project's entry."""
    request.refuse_body()
    image_id, project = request.segments["id"], request.segments["project"]
    return json(wire.member(image_id, project, await members.show(request.kit, request.ctx, image_id, project)))


async def answer(request: Request) -> Response:
    """PUT /v2/images/{id}/members/{project}: the project's answer, {"status": "accepted"}, "rejected" or "pending"."""
    status = parse_status(await request.json_body())
    image_id, project = request.segments["id"], request.segments["project"]
    return json(wire.member(image_id, project, await members.answer(request.kit, request.ctx, image_id, project, status)))


async def remove(request: Request) -> Response:
    """DELETE /v2/images/{id}/members/{project}: take the share back, or give one's own up."""
    request.refuse_body()
    await members.remove(request.kit, request.ctx, request.segments["id"], request.segments["project"])
    return empty()
