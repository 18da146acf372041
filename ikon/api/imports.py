"""Routes of staging, import and tasks: `/v2/images/{id}/stage`, `/import` and `/tasks`, `/v2/tasks`."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.responses import Response

from ikon import policy, protection
from ikon.api.data import announced, require_octets
from ikon.api.request import Request, empty, json
from ikon.context import Context
from ikon.model.image import BASE, timestamp
from ikon.model.imports import LOCATION, parse
from ikon.model.job import Job
from ikon.model.tasks import KINDS, POSTED, STATES, parse_new_task
from ikon.model.tasks import parse as parse_tasks
from ikon.service import imports


async def stage(request: Request) -> Response:
    """PUT /v2/images/{id}/stage: keep the data until its import."""
    require_octets(request)
    await imports.stage(request.kit, request.ctx, request.segments["id"], request.blocks(), size=announced(request))
    return empty()


async def start(request: Request) -> Response:
    """POST /v2/images/{id}/import: bring staged or fetched data, or an active image's, into stores; a durable job does it."""
    body, store = await request.json_body(), request.headers.get("x-image-meta-store")
    asked = parse(body, store, request.kit.settings.imports.methods)
    await imports.start(request.kit, request.ctx, request.segments["id"], asked)
    return empty(202)


async def of_image(request: Request) -> Response:
    """GET /v2/images/{id}/tasks: what was done, and is being done, to bring data into the image."""
    request.refuse_body()
    found = await imports.tasks(request.kit, request.ctx, request.segments["id"])
    keep_s = request.kit.settings.jobs.keep_s
    return json({"tasks": [_raw(job, keep_s, request.ctx) for job in found]})


async def browse(request: Request) -> Response:
    """GET /v2/tasks: all tasks, for administrators."""
    params = request.params()
    limits = request.kit.settings.limits
    asked = parse_tasks(params, limits.page, limits.page_max)
    found = await imports.all_tasks(request.kit, request.ctx, asked)
    kept = [(name, value) for name, value in params if name != "marker"]
    keep_s = request.kit.settings.jobs.keep_s
    page = {"tasks": [_stub(job, keep_s) for job in found], "first": _link(kept), "schema": "/v2/schemas/tasks"}
    if found and len(found) == asked.limit:
        page["next"] = _link([*kept, ("marker", found[-1].id)])
    return json(page)


async def post(request: Request) -> Response:
    """POST /v2/tasks: make an image of what a URL gives, for administrators."""
    new = parse_new_task(await request.json_body())
    job = await imports.post_task(request.kit, request.ctx, new)
    return json(_task(job, request), 201, {"Location": request.link(f"v2/tasks/{job.id}")})


async def show(request: Request) -> Response:
    """GET /v2/tasks/{id}: one task, for administrators."""
    return json(_task(await imports.task(request.kit, request.ctx, request.segments["id"]), request))


def _task(job: Job, request: Request) -> dict[str, Any]:
    return {
        **_stub(job, request.kit.settings.jobs.keep_s),
        "input": _input(job, request.ctx),
        "message": job.reason or "",
        "result": _result(job),
        "image_id": job.image_id,
        "request_id": job.request_id,
        "user_id": job.user,
    }


def _link(params: list[tuple[str, str]]) -> str:
    return f"/v2/tasks?{urlencode(params)}" if params else "/v2/tasks"


def _stub(job: Job, keep_s: int) -> dict[str, Any]:
    expires = {"expires_at": timestamp(1000 * (job.finished + 1000 * keep_s))} if job.finished else {}
    return {
        "id": job.id,
        "type": _type(job),
        "status": STATES[job.state],
        "owner": job.project,
        "created_at": timestamp(1000 * job.created),
        "updated_at": timestamp(1000 * _updated(job)),
        **expires,
        "self": f"/v2/tasks/{job.id}",
        "schema": "/v2/schemas/task",
    }


def _raw(job: Job, keep_s: int, ctx: Context) -> dict[str, Any]:
    """A task as an image's own list shows it: times with microseconds and without a zone."""
    return {
        "id": job.id,
        "type": _type(job),
        "status": STATES[job.state],
        "owner": job.project,
        "expires_at": _moment(ended + 1000 * keep_s) if (ended := job.finished) else None,
        "created_at": _moment(job.created),
        "updated_at": _moment(_updated(job)),
        "deleted_at": None,
        "deleted": False,
        "image_id": job.image_id,
        "request_id": job.request_id,
        "user_id": job.user,
        "input": _input(job, ctx),
        "result": _result(job),
        "message": job.reason or _progress(job),
    }


def _type(job: Job) -> str:
    return next(kind for kind, kinds in KINDS.items() if job.kind in kinds)


def _updated(job: Job) -> int:
    return job.finished or job.started or job.created


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def _progress(job: Job) -> str:
    return f"Copied {(job.done_bytes or 0) >> 20} MiB"


def _result(job: Job) -> dict[str, Any] | None:
    return {"image_id": job.image_id} if job.state == "done" else None


def _input(job: Job, ctx: Context) -> dict[str, Any]:
    """The request as it was made, as far as ctx may know it: no property that it may not read, and no path of this machine's.

    Of a URL only where it leads, for its rest may be a secret.
    """
    asked = job.input["request"]
    if job.kind == POSTED:
        shown: dict[str, Any] = {"import_from": _bare(asked["uri"]), **job.input["task"]}
        if "image_properties" in shown:
            fields = shown["image_properties"]
            shown["image_properties"] = {
                name: fields[name] for name in fields if name in (*BASE, "id") or protection.may(ctx, "read", name)
            }
        return shown
    if job.kind == LOCATION:
        said = {name: asked[name] for name in ("validation_data",) if name in asked}
        is_told = not asked["uri"].startswith("file:") or policy.allows(ctx, "fetch_image_location")
        return {"image_id": job.image_id} | ({"loc_url": _bare(asked["uri"])} if is_told else {}) | said
    method = {"name": asked["method"]}
    if asked.get("uri"):
        method["uri"] = _bare(asked["uri"])
    for name, field in (("glance_region", "region"), ("glance_image_id", "remote_id"), ("glance_service_interface", "interface")):
        if asked.get(field):
            method[name] = asked[field]
    return {"image_id": job.image_id, "import_req": {"method": method}, "backend": job.input["stores"]}


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
