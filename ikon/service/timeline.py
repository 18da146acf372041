"""An image's timeline: what the database knows of what became of it, looked up and put into words."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from ikon import policy
from ikon.context import Context
from ikon.db import copies, events, images, instances, jobs
from ikon.db.copies import Copy
from ikon.db.engine import now_ms
from ikon.db.events import Event
from ikon.kit import Kit
from ikon.model import timeline as model
from ikon.model.image import Image
from ikon.model.job import Job
from ikon.model.timeline import Entry, Fact
from ikon.problems import ImageNotFound
from ikon.service.images import reachable

#: Events and jobs that are looked at: the latest ones.
MOST = 200


class Timeline(NamedTuple):
    """An image's timeline. status: None once it is deleted. now: how things stand. cut: whether earlier entries are left out."""

    status: str | None
    entries: list[Entry]
    now: Entry
    tenant: bool
    cut: bool


async def show(kit: Kit, ctx: Context, image_id: str, *, for_tenant: bool) -> Timeline:
    """The timeline of an image, of a deleted one too, for its owner's project and administrators.

    for_tenant: in the words for its owner, which others than administrators always get. Raises ImageNotFound, Forbidden.
    """
    return await kit.db.read(_show, kit, ctx, image_id, tenant=for_tenant or not ctx.admin)


def _show(conn: Connection, kit: Kit, ctx: Context, image_id: str, *, tenant: bool) -> Timeline:
    found = events.latest(conn, image_id, MOST + 1)
    image, owner = _seen(conn, ctx, image_id, found)
    done = {job.id: job for job in jobs.of_image(conn, image_id, MOST)}
    kept = copies.of_image(conn, image_id)
    facts = [_fact(event, owner, done, kit) for event in found[-MOST:]]
    now = _now(conn, kit, image, done, kept, facts)
    entries, standing = [model.explain(fact, tenant=tenant) for fact in facts], model.explain(now, tenant=tenant)
    if tenant:
        own, hidden = [image_id, *done], _hidden(kit, owner, found, kept)
        entries, standing = [model.discreet(entry, own, hidden) for entry in entries], model.discreet(standing, own, hidden)
    return Timeline(image.status if image else None, entries, standing, tenant, len(found) > MOST)


def _seen(conn: Connection, ctx: Context, image_id: str, found: Sequence[Event]) -> tuple[Image | None, str | None]:
    """The image, None if it is deleted, and its owner. Raises ImageNotFound, Forbidden."""
    if images.get(conn, image_id) is not None:
        image = reachable(conn, ctx, image_id)
        policy.require(ctx, "get_image_timeline", image)
        return image, image.owner
    owners = [event.detail.get("owner") for event in found if event.kind == "image.delete"]
    if not owners or not (ctx.admin or (ctx.project is not None and ctx.project == owners[-1])):
        raise ImageNotFound(image_id)
    policy.require(ctx, "get_image_timeline")
    return None, owners[-1]


def _fact(event: Event, owner: str | None, done: dict[str, Job], kit: Kit) -> Fact:
    detail: dict[str, Any] = event.detail
    job = done.get(detail.get("job", ""))
    said = detail.get("text") or " ".join(detail[name] for name in ("member_id", "status") if name in detail)
    return Fact(
        kind=event.kind,
        at=event.at,
        by=" of project ".join(filter(None, (event.user, event.project))),
        ours=owner is not None and event.project == owner,
        problem=detail.get("problem", ""),
        why=detail.get("why", ""),
        because=detail.get("because", ""),
        text=said,
        job=detail.get("job", ""),
        method=detail.get("method", ""),
        step=_step(kit, job, detail.get("step", 0)),
        attempt=detail.get("attempt", 0),
        store=detail.get("store", ""),
        was=detail.get("was", ""),
        kept=detail.get("kept"),
    )


def _step(kit: Kit, job: Job | None, number: int) -> str:
    steps = kit.kinds.steps(job) if job else []
    return steps[number] if number < len(steps) else ""


def _now(conn: Connection, kit: Kit, image: Image | None, done: dict[str, Job], kept: Sequence[Copy], facts: Sequence[Fact]) -> Fact:
    job = done.get(image.importing.job or "") if image else None
    has_data = image is not None and image.status in ("active", "deactivated")
    bad = next((copy.store for copy in kept if copy.state in ("suspect", "bad") and has_data), None)
    if job is None:
        taking = [instances.state(conn, copy.instance) for copy in kept if copy.state == "writing"]
        return model.now(image, None, facts, step="", owner=taking[-1] if taking else "", seconds=0, suspect=bad)
    clock, node = now_ms(conn), job.queue.partition("@")[2]
    owner = instances.state(conn, job.instance) if job.state == "running" else ""
    if job.state == "queued":
        owner = "nowhere" if node and not instances.serves(conn, node) else "unheard" if kit.queue.unheard else ""
    ms = job.not_before - clock if job.state == "waiting" else clock - job.created
    step = _step(kit, job, job.step)
    return model.now(image, job, facts, step=step, owner=owner, seconds=max(0, round(ms / 1000)), suspect=bad, node=node)


def _hidden(kit: Kit, owner: str | None, found: Sequence[Event], kept: Sequence[Copy]) -> list[str]:
    """Names of machines, and of other projects and their users, that stand in the facts."""
    others = [event for event in found if event.project != owner]
    names = [kit.settings.node, *(copy.node for copy in kept), *(event.project for event in others), *(event.user for event in others)]
    return [name for name in (*names, *(event.detail.get("member_id") for event in found)) if name and name != owner]
