"""Routes of copies of an image's data in stores."""

from starlette.responses import Response

from ikon.api.request import Request, empty, json
from ikon.model.imports import COPY
from ikon.model.imports import Request as Asked
from ikon.problems import BadValue
from ikon.service import copies, imports


async def add(request: Request) -> Response:
    """POST /ikon/v1/images/{id}/copies: one more copy, in the store that {"store": NAME} names, by a job; says which."""
    body = await request.json_body()
    if not isinstance(body, dict) or not isinstance(body.get("store"), str):
        raise BadValue("The body must be an object whose 'store' names a store.")
    asked = Asked(method=COPY, stores=(request.kit.stores.choose(body["store"]),))
    return json({"job": await imports.start(request.kit, request.ctx, request.segments["id"], asked)}, 202)


async def remove(request: Request) -> Response:
    """DELETE /v2/stores/{store}/{id}: take the copy out of one store, unless it is the last sound one."""
    request.refuse_body()
    await copies.remove(request.kit, request.ctx, request.segments["id"], request.segments["store"])
    return empty()
