"""Routes of jobs and of images' timelines, below `/ikon/v1`."""

from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from ikon.api.request import Request, json
from ikon.model.image import UUID, timestamp
from ikon.model.job import STATES
from ikon.model.listing import page_limit
from ikon.model.timeline import Entry
from ikon.problems import BadValue
from ikon.service import jobs, timeline
from ikon.service.jobs import Seen

#: Parameters of a list that a job's columns are compared with.
EQUAL = {"image": "image_id", "project": "project", "kind": "kind"}


async def browse(request: Request) -> Response:
    """GET /ikon/v1/jobs: jobs, newest first, by `state`, `image`, `project` and `kind`; `next` leads to the next page."""
    request.refuse_body()
    params, limits = dict(request.params()), request.kit.settings.limits
    for name in params:
        if name not in (*EQUAL, "state", "marker", "limit"):
            raise BadValue(f"{name:.60}: no such parameter. Allowed: {', '.join(EQUAL)}, state, marker, limit")
    states, marker = params.get("state", "").split(",") if params.get("state") else None, params.get("marker")
    for state in states or ():
        if state not in STATES:
            raise BadValue(f"state: {state:.60}. Allowed, parted by commas: {', '.join(STATES)}")
    if marker is not None and not UUID.fullmatch(marker):
        raise BadValue("marker: not the id of a job")
    for name in EQUAL:
        if "\0" in params.get(name, ""):
            raise BadValue(f"{name}: holds a NUL character")
    limit = page_limit(params.get("limit"), limits.page, limits.page_max)
    equal = {column: params[name] for name, column in EQUAL.items() if name in params}
    found = await jobs.browse(request.kit, request.ctx, states, equal, marker, limit)
    page: dict[str, Any] = {"jobs": [_job(each) for each in found]}
    if found and len(found) == limit:
        page["next"] = f"/ikon/v1/jobs?{urlencode(params | {'marker': found[-1].job.id})}"
    return json(page)


async def show(request: Request) -> Response:
    """GET /ikon/v1/jobs/{id}: one job."""
    request.refuse_body()
    return json(_job(await jobs.show(request.kit, request.ctx, request.segments["id"])))


async def retry(request: Request) -> Response:
    """POST /ikon/v1/jobs/{id}/retry: begin a failed job again at the step that failed."""
    request.refuse_body()
    return json(_job(await jobs.retry(request.kit, request.ctx, request.segments["id"])))


async def cancel(request: Request) -> Response:
    """POST /ikon/v1/jobs/{id}/cancel: end a job."""
    request.refuse_body()
    return json(_job(await jobs.cancel(request.kit, request.ctx, request.segments["id"])))


async def of_image(request: Request) -> Response:
    """GET /ikon/v1/images/{id}/timeline: what became of an image, and why; with `for_tenant=true` in the words for its owner."""
    request.refuse_body()
    wanted = dict(request.params()).get("for_tenant", "false")
    if wanted not in ("true", "false"):
        raise BadValue("for_tenant must be true or false")
    found = await timeline.show(request.kit, request.ctx, request.segments["id"], for_tenant=wanted == "true")
    shown = {"image": request.segments["id"], "status": found.status or "deleted", "for_tenant": found.tenant, "cut": found.cut}
    return json(shown | {"entries": [_entry(each) for each in found.entries], "now": _entry(found.now)})


def _entry(entry: Entry) -> dict[str, Any]:
    words: dict[str, Any] = msgspec.to_builtins(entry)
    return words if entry.at is None else words | {"at": timestamp(1000 * entry.at)}


def _job(seen: Seen) -> dict[str, Any]:
    job = seen.job
    return {
        "id": job.id,
        "kind": job.kind,
        "method": job.input.get("request", {}).get("method"),
        "stores": job.input.get("stores", []),
        "image": job.image_id,
        "project": job.project,
        "user": job.user,
        "state": job.state,
        "steps": list(seen.steps),
        "step": seen.steps[job.step] if job.step < len(seen.steps) else None,
        "attempt": job.attempt,
        "failures": job.failures,
        "cancel": job.cancel,
        "reason": job.reason,
        "queue": job.queue,
        "process": seen.owner or None,
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "created_at": timestamp(1000 * job.created),
        "started_at": None if job.started is None else timestamp(1000 * job.started),
        "finished_at": None if job.finished is None else timestamp(1000 * job.finished),
        "again_at": timestamp(1000 * job.not_before) if job.state == "waiting" else None,
    }
