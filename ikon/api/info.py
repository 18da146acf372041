"""Routes about the service: stores, import methods, schemas; and of copies in stores."""

from typing import Any

from starlette.responses import Response

from ikon.api import schemas
from ikon.api.request import Request, empty, json
from ikon.model.imports import COPY
from ikon.model.imports import Request as Asked
from ikon.problems import BadValue, Forbidden
from ikon.service import copies, imports
from ikon.service import stores as service


async def import_methods(request: Request) -> Response:
    """GET /v2/info/import: the import methods on offer."""
    request.refuse_body()
    return json(
        {"import-methods": {"description": "Import methods available.", "type": "array", "value": request.kit.settings.imports.methods}}
    )


def _stores(request: Request) -> list[dict[str, Any]]:
    listed = []
    for name, store in request.kit.stores.all.items():
        entry: dict[str, Any] = {"id": name}
        if store.settings.description:
            entry["description"] = store.settings.description
        if name == request.kit.stores.default:
            entry["default"] = "true"  # a string, as clients read it
        listed.append(entry)
    return listed


async def stores(request: Request) -> Response:
    """GET /v2/info/stores: names of the stores, and which is the default."""
    request.refuse_body()
    return json({"stores": _stores(request)})


async def stores_detail(request: Request) -> Response:
    """GET /v2/info/stores/detail: kinds, weights and places too; for administrators."""
    request.refuse_body()
    details, listed = service.details(request.kit, request.ctx), _stores(request)
    for entry in listed:
        store = details[entry["id"]]
        entry |= {"type": store.settings.type, "weight": store.settings.weight, "properties": store.details()}
    return json({"stores": listed})


async def remove_from_store(request: Request) -> Response:
    """DELETE /v2/stores/{store}/{id}: take the copy out of one store, unless it is the last sound one."""
    request.refuse_body()
    await copies.remove(request.kit, request.ctx, request.segments["id"], request.segments["store"])
    return empty()


async def copy_to_store(request: Request) -> Response:
    """POST /ikon/v1/images/{id}/copies: one more copy, in the store that {"store": NAME} names; "wait": false: by a job, and says which."""
    body = await request.json_body()
    if not isinstance(body, dict) or not isinstance(body.get("store"), str) or not isinstance(body.get("wait", True), bool):
        raise BadValue("The body must be an object whose 'store' names a store; 'wait' may be true or false.")
    if body.get("wait", True):
        await copies.copy(request.kit, request.ctx, request.segments["id"], body["store"])
        return empty()
    asked = Asked(method=COPY, stores=(request.kit.stores.choose(body["store"]),))
    return json({"job": await imports.start(request.kit, request.ctx, request.segments["id"], asked)}, 202)


async def schema_image(request: Request) -> Response:
    """GET /v2/schemas/image: the JSON schema of a record."""
    request.refuse_body()
    return json(schemas.IMAGE)


async def schema_images(request: Request) -> Response:
    """GET /v2/schemas/images: the JSON schema of a list."""
    request.refuse_body()
    return json(schemas.IMAGES)


async def schema_member(request: Request) -> Response:
    """GET /v2/schemas/member: the JSON schema of a project that an image is shared with."""
    request.refuse_body()
    return json(schemas.MEMBER)


async def schema_members(request: Request) -> Response:
    """GET /v2/schemas/members: the JSON schema of a list of them."""
    request.refuse_body()
    return json(schemas.MEMBERS)


async def schema_task(request: Request) -> Response:
    """GET /v2/schemas/task: the JSON schema of a task."""
    request.refuse_body()
    return json(schemas.TASK)


async def schema_tasks(request: Request) -> Response:
    """GET /v2/schemas/tasks: the JSON schema of a list of them."""
    request.refuse_body()
    return json(schemas.TASKS)


async def tenants(request: Request) -> Response:
    """GET /v2/tenants: refused; clients that know no other endpoint look projects up here, and then take an id as given."""
    raise Forbidden("This service keeps no list of projects. Name a project by its id.")
