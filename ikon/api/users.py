"""Routes of the built-in users, for administrators and for the commands of this server's own user."""

from urllib.parse import urlencode

from starlette.responses import Response

from ikon.api.request import Request, empty, json
from ikon.model.image import timestamp
from ikon.model.user import CONTROL, parse_new, parse_password
from ikon.problems import BadValue, NotFound
from ikon.service import users


async def browse(request: Request) -> Response:
    """GET /ikon/v1/users: the users by name, a page behind the name `marker`; `next` leads to the next page."""
    request.refuse_body()
    marker = dict(request.params()).get("marker", "")
    if CONTROL.search(marker):
        raise BadValue("marker: a user's name holds no control character")
    found = await users.browse(request.kit, request.ctx, marker)
    listed = [
        {"name": user.name, "project": user.project, "roles": user.roles, "created_at": timestamp(1000 * user.created)} for user in found
    ]
    page: dict[str, object] = {"users": listed}
    if found and len(found) == request.kit.settings.limits.page_max:
        page["next"] = f"/ikon/v1/users?{urlencode({'marker': found[-1].name})}"
    return json(page)


async def add(request: Request) -> Response:
    """POST /ikon/v1/users: add a user by {"name", "project", "password", "roles"}."""
    await users.add(request.kit, request.ctx, parse_new(await request.json_body()))
    return empty()


async def set_password(request: Request) -> Response:
    """PUT /ikon/v1/users/{name}/password: replace a user's password by that of {"password"}."""
    await users.set_password(request.kit, request.ctx, _name(request), parse_password(await request.json_body()))
    return empty()


async def remove(request: Request) -> Response:
    """DELETE /ikon/v1/users/{name}: remove a user; the project keeps its images."""
    request.refuse_body()
    await users.remove(request.kit, request.ctx, _name(request))
    return empty()


def _name(request: Request) -> str:
    """The user that the path names. Raises NotFound for what no user's name can be, and databases refuse."""
    name = request.segments["name"]
    if CONTROL.search(name):
        raise NotFound
    return name
