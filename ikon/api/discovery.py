"""Routes outside `/v2`: which versions there are, whether the server is well, what it counts."""

import asyncio

import sqlalchemy as sa
from sqlalchemy import Connection
from starlette.responses import Response

from ikon import metrics
from ikon.api.request import Request, json
from ikon.problems import Problem

#: Minor versions that clients may look for. They change nothing: every path answers under each of them.
CURRENT = "2.17"
SUPPORTED = ["2.15", *(f"2.{minor}" for minor in range(13, -1, -1))]
MINORS = {f"v{version}" for version in (CURRENT, *SUPPORTED)}
READY_S = 2.0


def _versions(request: Request, status: int) -> Response:
    href = request.link("v2/")

    def entry(version: str, state: str) -> dict[str, object]:
        return {"id": f"v{version}", "status": state, "links": [{"rel": "self", "href": href}]}

    return json({"versions": [entry(CURRENT, "CURRENT"), *(entry(version, "SUPPORTED") for version in SUPPORTED)]}, status)


async def choices(request: Request) -> Response:
    """GET /: the versions of the API; clients begin here, and expect 300."""
    return _versions(request, 300)


async def versions(request: Request) -> Response:
    """GET /versions: the same, with 200."""
    return _versions(request, 200)


async def health(request: Request) -> Response:
    """GET /healthcheck: the process answers."""
    return _health(request, [])


async def ready(request: Request) -> Response:
    """GET /healthcheck/ready: it can work, or the reasons why not."""
    reasons = []
    try:
        await asyncio.wait_for(request.kit.db.read(_ask), READY_S)
    except (Problem, TimeoutError):
        reasons.append("the database does not answer")
    for name, store in request.kit.stores.all.items():
        try:
            await asyncio.wait_for(store.usage(), READY_S)
        except (Problem, TimeoutError):
            reasons.append(f"store {name} does not answer")
    return _health(request, reasons)


def _ask(conn: Connection) -> None:
    conn.execute(sa.text("SELECT 1"))


def _health(request: Request, reasons: list[str]) -> Response:
    status = 503 if reasons else 200
    if "application/json" in request.headers.get("accept", ""):
        return json({"detailed": False, "reasons": reasons or ["OK"]}, status)
    return Response("\n".join(reasons) or "OK", status, media_type="text/plain")


async def show_metrics(request: Request) -> Response:
    """GET /metrics: what is counted, in Prometheus's text format."""
    return Response(metrics.render(), media_type=metrics.MEDIA_TYPE)
