"""Events: what happened to an image or a definition, told in the transaction that did it. Those of an image are its timeline."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.context import Context
from ikon.db import deliveries, tables
from ikon.db.engine import now_ms_sql, proven_by
from ikon.model import event
from ikon.model.image import Image
from ikon.model.job import Job
from ikon.model.metadef import Entry, Namespace
from ikon.problems import Problem

t = tables.events
INSERT = sa.insert(t).values({c: bindparam(c.name) for c in t.c if c.name not in ("n", "at")} | {"at": now_ms_sql()})
#: Finds one event, and that of no other transaction, if a crash has its number given twice.
ITSELF = sa.select(t.c.n).where(*(t.c[name] == bindparam(name) for name in ("n", "image_id", "version", "kind", "request")))
#: The kind of an event, and what makes what sinks are told of it.
Told = tuple[str, Callable[[], str]]
#: Characters kept of a problem's text, and of what the operator alone is told about it.
WHY, BECAUSE = 1000, 300


class Event(msgspec.Struct, frozen=True):
    """One event. at: ms since 1970 by the database's clock. detail: what was recorded with it; a text alone stands under "text"."""

    kind: str
    at: int
    project: str | None
    user: str | None
    detail: dict[str, Any]


def add(conn: Connection, ctx: Context, kind: str, image: Image, detail: str | None = None) -> None:
    """Record that `kind` ("image.create", ...) happened to the image, whose version is the one it led to; sinks will be told of it."""
    itself = {"image_id": image.id, "version": image.version, "kind": kind, "request": ctx.request_id}
    written = conn.execute(INSERT, itself | {"project": ctx.project, "user": ctx.user, "detail": detail})
    key = written.inserted_primary_key
    if key is not None:
        proven_by(conn, ITSELF, itself | {"n": key[0]})
    _tell(conn, image.id, image.version, (kind, lambda: event.body(ctx, kind, image, detail, time.time_ns() // 1000)))


def defined(
    conn: Connection, ctx: Context, kind: str, namespace: Namespace, entry: Entry | None = None, name_old: str | None = None
) -> None:
    """Have sinks told that `kind` ("metadef_object.create", ...) happened to a namespace of metadata definitions, or to an entry in it."""
    _tell(conn, f"metadef-{namespace.n}", namespace.version, _defined(ctx, kind, namespace, entry, name_old))


def added(conn: Connection, ctx: Context, namespace: Namespace, entries: Sequence[tuple[str, Entry]]) -> None:
    """The same of many new entries, each with the kind of its event, in few statements."""
    _tell(conn, f"metadef-{namespace.n}", namespace.version, *(_defined(ctx, kind, namespace, entry, None) for kind, entry in entries))


def _defined(ctx: Context, kind: str, namespace: Namespace, entry: Entry | None, name_old: str | None) -> Told:
    return kind, functools.partial(event.definition_body, ctx, kind, namespace, entry, name_old, time.time_ns() // 1000)


def _tell(conn: Connection, subject: str, version: int, *told: Told) -> None:
    """subject: what the events are about; events of one subject are told in order."""
    sinks = conn.get_execution_options().get("sinks", ())
    said = [(kind, body()) for kind, body in told if any(sink.wants(kind) for sink in sinks)]
    for sink in sinks:
        if wanted := [(kind, body) for kind, body in said if sink.wants(kind)]:
            deliveries.add(conn, sink.name, subject, version, *wanted)


def failed(conn: Connection, ctx: Context, kind: str, image: Image, why: Problem, **facts: Any) -> None:
    """Record a failure with what tells its cause: the kind of problem, its text, and what only the operator is told of it."""
    add(conn, ctx, kind, image, _detail(why, facts))


def of_job(conn: Connection, job: Job, kind: str, why: Problem) -> None:
    """Record what befell a job at work on an image, which itself stays as it is."""
    if job.image_id is None:
        return
    image = tables.images
    version = sa.select(image.c.version).where(image.c.id == job.image_id).scalar_subquery()
    conn.execute(
        sa.insert(t).values(
            image_id=job.image_id,
            version=sa.func.coalesce(version, 0),
            at=now_ms_sql(),
            kind=kind,
            project=job.project or None,
            user=job.user,
            request=job.request_id,
            detail=_detail(why, job_facts(job)),
        )
    )


def job_facts(job: Job) -> dict[str, Any]:
    """What events say of the job that they are about."""
    return {"job": job.id, "method": job.input.get("request", {}).get("method", job.kind), "step": job.step, "attempt": job.attempt}


def _detail(why: Problem, facts: dict[str, Any]) -> str:
    because = getattr(why, "because", "") or (str(why.__cause__) if isinstance(why.__cause__, OSError) else "")
    said = {"problem": type(why).__name__, "why": str(why)[:WHY]} | ({"because": because[:BECAUSE]} if because else {})
    return msgspec.json.encode(said | facts).decode()


def latest(conn: Connection, image_id: str, limit: int) -> list[Event]:
    """The last events of an image, oldest first."""
    query = sa.select(t.c.kind, t.c.at, t.c.project, t.c.user, t.c.detail).where(t.c.image_id == image_id).order_by(t.c.n.desc())
    found = conn.execute(query.limit(limit)).all()
    return [Event(kind, at, project, user, _facts(detail)) for kind, at, project, user, detail in reversed(found)]


def _facts(detail: str | None) -> dict[str, Any]:
    return dict(msgspec.json.decode(detail)) if detail and detail.startswith("{") else {"text": detail} if detail else {}
