"""Routes of quotas: a project's own, as clients ask for them, and those of all projects, for administrators and this server's own user."""

from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from ikon.api.request import Request, empty, json
from ikon.model.quota import PROJECT, Quota, parse_own, to_wire
from ikon.problems import BadValue
from ikon.service import quotas


async def usage(request: Request) -> Response:
    """GET /v2/info/usage: what the caller's project holds and may hold, sizes in MiB; -1 is no limit. Empty where no quotas are kept."""
    request.refuse_body()
    found = await quotas.of_caller(request.kit, request.ctx)
    return json({"usage": to_wire(*found) if found else {}})


async def browse(request: Request) -> Response:
    """GET /ikon/v1/quotas: projects by id, a page behind the id `marker`; `next` leads to the next page."""
    request.refuse_body()
    marker = dict(request.params()).get("marker", "")
    if marker and not PROJECT.fullmatch(marker):
        raise BadValue("marker: a project's id has 1 to 255 characters, and no control characters")
    found = await quotas.browse(request.kit, request.ctx, marker)
    page: dict[str, Any] = {"quotas": [_entry(quota) for quota in found]}
    if found and len(found) == request.kit.settings.limits.page_max:
        page["next"] = f"/ikon/v1/quotas?{urlencode({'marker': found[-1].project})}"
    return json(page)


async def show(request: Request) -> Response:
    """GET /ikon/v1/quotas/{project}: what a project holds, its own limits, and those that hold for it."""
    request.refuse_body()
    return json(_entry(await quotas.show(request.kit, request.ctx, request.segments["project"])))


async def limit(request: Request) -> Response:
    """PUT /ikon/v1/quotas/{project}: limit a project by any of {"bytes", "staged_bytes", "images", "uploading"}: 0: not; null: as all."""
    await quotas.limit(request.kit, request.ctx, request.segments["project"], parse_own(await request.json_body()))
    return empty()


async def unlimit(request: Request) -> Response:
    """DELETE /ikon/v1/quotas/{project}: take a project's own limits back."""
    request.refuse_body()
    await quotas.unlimit(request.kit, request.ctx, request.segments["project"])
    return empty()


def _entry(quota: Quota) -> dict[str, Any]:
    """In bytes. `limits`: what holds; null: no limit; left out where only Keystone knows. `own`: null: none."""
    entry = {"project": quota.project, "usage": msgspec.to_builtins(quota.usage), "own": msgspec.to_builtins(quota.own)}
    return entry | ({"limits": msgspec.to_builtins(quota.limits)} if quota.limits else {})
