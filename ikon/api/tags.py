"""Routes of tags: `/v2/images/{id}/tags/{tag}`."""

from starlette.responses import Response

from ikon.api.request import Request, empty
from ikon.model.image import check_base
from ikon.problems import NotFound
from ikon.service import tags


async def add(request: Request) -> Response:
    """PUT /v2/images/{id}/tags/{tag}: tag the image."""
    request.refuse_body()
    await tags.add(request.kit, request.ctx, request.segments["id"], _tag(request))
    return empty()


async def remove(request: Request) -> Response:
    """DELETE /v2/images/{id}/tags/{tag}: take the tag off."""
    request.refuse_body()
    await tags.remove(request.kit, request.ctx, request.segments["id"], _tag(request))
    return empty()


def _tag(request: Request) -> str:
    """The tag that the path names. Raises BadValue, and NotFound for one with a slash, which only a patch can set and remove."""
    tag = request.segments["tag"]
    if "/" in tag:
        raise NotFound
    return check_base({"tags": [tag]}).tags[0]
