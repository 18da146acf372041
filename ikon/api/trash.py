"""Routes of the trash, for administrators and for the commands of this server's own user."""

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from ikon.api.request import Request, empty, json
from ikon.model.image import timestamp
from ikon.model.trash import Trashed, marker, place
from ikon.service import trash


async def browse(request: Request) -> Response:
    """GET /ikon/v1/trash: deleted images that can be had back, those that stay longest first; `next` leads to the next page."""
    request.refuse_body()
    asked = dict(request.params()).get("marker")
    found = await trash.browse(request.kit, request.ctx, place(asked) if asked is not None else None)
    page: dict[str, Any] = {"images": [_entry(trashed) for trashed in found]}
    if found and len(found) == request.kit.settings.limits.page_max:
        page["next"] = f"/ikon/v1/trash?{urlencode({'marker': marker(found[-1])})}"
    return json(page)


async def restore(request: Request) -> Response:
    """POST /ikon/v1/trash/{id}/restore: have an image back as it was."""
    request.refuse_body()
    await trash.restore(request.kit, request.ctx, request.segments["id"])
    return empty()


async def purge(request: Request) -> Response:
    """DELETE /ikon/v1/trash/{id}: delete an image for good."""
    request.refuse_body()
    await trash.purge(request.kit, request.ctx, request.segments["id"])
    return empty()


async def purge_all(request: Request) -> Response:
    """DELETE /ikon/v1/trash: delete for good whatever is there now; says how many images that were."""
    request.refuse_body()
    return json({"purged": await trash.purge_all(request.kit, request.ctx)})


def _entry(trashed: Trashed) -> dict[str, Any]:
    image = trashed.image
    return {
        "id": image.id,
        "name": image.name,
        "owner": image.owner,
        "status": "pending_delete",
        "size": image.size,
        "stores": ",".join(image.stores),
        "created_at": timestamp(image.k),
        "deleted_at": timestamp(1000 * trashed.deleted),
        "purge_at": timestamp(1000 * trashed.due),
    }
