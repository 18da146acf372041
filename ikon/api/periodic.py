"""Routes of what runs by itself, for administrators and for the commands of this server's own user."""

from typing import Any

from starlette.responses import Response

from ikon.api.request import Request, json
from ikon.model.image import timestamp
from ikon.model.periodic import Report, told
from ikon.service import periodic


async def browse(request: Request) -> Response:
    """GET /ikon/v1/periodic: what each process that runs by itself did last."""
    request.refuse_body()
    return json({"runs": [_shown(report) for report in await periodic.reports(request.kit, request.ctx)]})


async def run(request: Request) -> Response:
    """POST /ikon/v1/periodic/{name}/run: have one run now; answers with its report."""
    request.refuse_body()
    return json(_shown(await periodic.run(request.kit, request.ctx, request.segments["name"])))


def _shown(report: Report) -> dict[str, Any]:
    parts = {kind: {"looked": part.looked, "mended": part.mended} for kind, part in report.parts.items()}
    ended = timestamp(1000 * report.at)
    return {
        "name": report.name,
        "ended_at": ended,
        "took_ms": report.took_ms,
        "failed": report.failed,
        "parts": parts,
        "said": told(report),
    }
