"""Routes about the service: stores, import methods, schemas."""

from typing import Any

from starlette.responses import Response

from ikon.api import schemas
from ikon.api.request import Request, json
from ikon.problems import Forbidden
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
        if store.read_only:
            entry["read-only"] = "true"
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
