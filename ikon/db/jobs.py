"""Jobs: rows that are the truth about work, enqueued in the transaction that they serve and claimed by whoever has room.

A claim reads a few heads without locks, picks one and compares and sets: nobody waits for anybody. Fairness between projects is a number
stored when a job is enqueued: each project's n-th waiting job stands beside the others' n-th. Every write of a worker is fenced by the
attempt that it has claimed, and the end of a step by the step before it as well, so that an answer that was lost is not a step done twice.
"""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import events, instances, missing, tables
from ikon.db.engine import now_ms, now_ms_sql
from ikon.model.job import ANY, ENDED, Job, Limits, New
from ikon.problems import BadValue, Cancelled, Interrupted, Problem

t = tables.jobs
limits_t = tables.job_limits
COLUMNS = list(t.c)
#: Heads read at a claim, and how many of them are tried.
HEADS, TRIED = 16, 3
#: Bytes of a checkpoint.
CHECKPOINT_BYTES = 65_536
#: Where a job is queued again: a cancelled one anywhere, since nothing of it is left to do where its data is.
AGAIN = sa.case((t.c.cancel, ANY), else_=t.c.queue)


class Held(NamedTuple):
    """A job that a process is recorded to be at work on."""

    id: str
    attempt: int
    cancel: bool
    late: bool


def _job(row: Sequence[Any]) -> Job:
    fields = dict(zip((c.name for c in COLUMNS), row, strict=True))
    fields |= {"input": msgspec.json.decode(fields["input"]), "checkpoint": msgspec.json.decode(fields["checkpoint"] or "{}")}
    return Job(**fields | {"cancel": bool(fields["cancel"])})


def enqueue(conn: Connection, new: New) -> bool:
    """Add a job, in the transaction of what it serves; ring the workers only after the commit. False when it is there already."""
    waiting = (t.c.state == "queued", t.c.queue == new.queue, t.c.priority == new.priority)
    head = conn.execute(sa.select(t.c.turn).where(*waiting).order_by(t.c.turn).limit(1)).scalar()
    own = conn.execute(sa.select(t.c.turn).where(t.c.project == new.project, *waiting).order_by(t.c.turn.desc()).limit(1)).scalar()
    now = now_ms_sql()
    return missing.insert(
        conn,
        t,
        id=new.id,
        kind=new.kind,
        image_id=new.image_id,
        request_id=new.request_id,
        user=new.user,
        input=msgspec.json.encode(new.input).decode(),
        queue=new.queue,
        project=new.project,
        store=new.store,
        state="queued",
        priority=new.priority,
        turn=max((1 if head is None else head) - 1, own or 0) + 1,
        attempt=0,
        since=0,
        failures=0,
        step=0,
        not_before=0,
        deadline=_deadline(conn, new.deadline_s),
        cancel=False,
        total_bytes=new.total_bytes,
        created=now,
    )


def claim(
    conn: Connection,
    me: str,
    queues: Sequence[str],
    limits: Limits,
    held: Sequence[str],
    shuffle: random.Random,
    kinds: Sequence[str] | None = None,
) -> Job | None:
    """Take the job whose turn it is, fair between projects and within the limits. None when there is none to be had now.

    held: jobs that this process has a task for, which a paused process must not claim a second time. kinds: what it can do, None: all.
    """
    full_projects, full_stores = _full(conn, limits)
    heads: list[Any] = []
    for queue in queues:
        query = sa.select(t.c.priority, t.c.turn, t.c.id, t.c.attempt, t.c.project, t.c.store).where(
            t.c.state == "queued", t.c.queue == queue
        )
        query = query.where(t.c.kind.in_(kinds)) if kinds is not None else query
        query = query.where(t.c.project.not_in(full_projects)) if full_projects else query
        query = query.where(t.c.store.not_in(full_stores)) if full_stores else query
        heads += conn.execute(query.order_by(t.c.priority, t.c.turn, t.c.id).limit(HEADS)).all()
    heads = [head for head in sorted(heads) if head[2] not in held][:HEADS]
    first = [head for head in heads if head[:2] == heads[0][:2]]
    for _, _, job_id, attempt, project, store in shuffle.sample(first, min(TRIED, len(first))):
        if not _within(conn, limits, project, store):
            continue
        taken = sa.update(t).where(t.c.id == job_id, t.c.state == "queued", t.c.attempt == attempt, instances.alive(sa.literal(me)))
        now = now_ms_sql()
        if conn.execute(
            taken.values(state="running", attempt=attempt + 1, instance=me, started=sa.func.coalesce(t.c.started, now))
        ).rowcount:
            return get(conn, job_id)
    return None


def _full(conn: Connection, limits: Limits) -> tuple[list[str], list[str]]:
    """Projects and stores that have as many running jobs as they may."""
    if not limits.project and not limits.store:
        return [], []
    projects: Counter[str] = Counter()
    stores: Counter[str] = Counter()
    running = sa.select(t.c.project, t.c.store, sa.func.count()).where(t.c.state == "running").group_by(t.c.project, t.c.store)
    for project, store, count in conn.execute(running):
        projects[project] += count
        stores[store] += count
    return (
        [name for name, count in projects.items() if name and limits.project and count >= limits.project],
        [name for name, count in stores.items() if name and limits.store and count >= limits.store],
    )


def _within(conn: Connection, limits: Limits, project: str, store: str) -> bool:
    """Whether one more may run, exactly: rows of `job_limits` are touched, so that two claimers cannot both be the last."""
    asked = {
        f"{kind}:{name}": (column, name, most)
        for kind, column, name, most in (("p", t.c.project, project, limits.project), ("s", t.c.store, store, limits.store))
        if name and most
    }
    if not asked:
        return True
    for name in asked:
        missing.insert(conn, limits_t, name=name, n=0)
    rows = sa.select(limits_t.c.name).where(limits_t.c.name.in_(asked)).order_by(limits_t.c.name).with_for_update(skip_locked=True)
    if len(conn.execute(rows).all()) < len(asked):
        return False  # another claimer is at it
    conn.execute(sa.update(limits_t).where(limits_t.c.name.in_(asked)).values(n=limits_t.c.n + 1))  # on Galera only a write is certified
    counts = (
        conn.execute(sa.select(sa.func.count()).where(t.c.state == "running", column == name)).scalar_one() < most
        for column, name, most in asked.values()
    )
    return all(counts)


def get(conn: Connection, job_id: str) -> Job | None:
    """One job, or None."""
    row = conn.execute(sa.select(*COLUMNS).where(t.c.id == job_id)).first()
    return _job(row) if row else None


def of_image(conn: Connection, image_id: str, limit: int | None = None) -> list[Job]:
    """The jobs of an image, oldest first: all, or the last ones."""
    query = sa.select(*COLUMNS).where(t.c.image_id == image_id).order_by(t.c.created.desc(), t.c.id.desc()).limit(limit)
    return [_job(row) for row in reversed(conn.execute(query).all())]


def page(
    conn: Connection,
    marker: str | None,
    limit: int,
    states: Sequence[str] | None,
    equal: dict[str, str],
    *,
    ascending: bool,
    kinds: Sequence[str] | None = None,
) -> list[Job]:
    """Jobs behind the marker in order of their ids, which begin with their time; in these states, of these kinds, with these values.

    Raises BadValue for a marker that is no job.
    """
    query = sa.select(*COLUMNS).where(*(t.c[name] == value for name, value in equal.items()))
    if states is not None:
        query = query.where(t.c.state.in_(states))
    if kinds is not None:
        query = query.where(t.c.kind.in_(kinds))
    if marker is not None:
        if get(conn, marker) is None:
            raise BadValue(f"No task found with ID {marker}")
        query = query.where(t.c.id > marker if ascending else t.c.id < marker)
    return [_job(row) for row in conn.execute(query.order_by(t.c.id if ascending else t.c.id.desc()).limit(limit))]


def held(conn: Connection, me: str) -> list[Held]:
    """What a process is recorded to be at work on. One that it works on and that is missing here has been taken away."""
    late = sa.case((t.c.deadline < now_ms_sql(), 1), else_=0)
    rows = conn.execute(sa.select(t.c.id, t.c.attempt, t.c.cancel, late).where(t.c.instance == me, t.c.state == "running"))
    return [Held(job_id, attempt, bool(cancel), bool(is_late)) for job_id, attempt, cancel, is_late in rows]


def lock(conn: Connection, job: Job) -> Job | None:
    """The job's row, locked, if it is still this attempt's; None: it is ours no more."""
    row = conn.execute(sa.select(*COLUMNS).where(*_mine(job)).with_for_update()).first()
    return _job(row) if row else None


def end_step(conn: Connection, job: Job, step: int, checkpoint: dict[str, Any]) -> None:
    """Record that a step of a locked job is finished, in one transaction with all that it changes."""
    encoded = msgspec.json.encode(checkpoint).decode()
    if len(encoded) > CHECKPOINT_BYTES:
        raise ValueError(f"the checkpoint of job {job.id} has {len(encoded)} bytes")
    conn.execute(sa.update(t).where(*_mine(job)).values(step=step, checkpoint=encoded))


def route(conn: Connection, job: Job, queue: str) -> None:
    """From now on only processes that take from this queue can go on with a locked job."""
    conn.execute(sa.update(t).where(*_mine(job)).values(queue=queue))


def progress(conn: Connection, job: Job, done: int, total: int | None) -> bool:
    """Record how far a job is, in bytes. False when it is ours no more."""
    return conn.execute(sa.update(t).where(*_mine(job)).values(done_bytes=done, total_bytes=total)).rowcount == 1


def finish(conn: Connection, job: Job, state: str, *, result: str | None = None, reason: str | None = None) -> bool:
    """End a running job, in one transaction with what its end changes. False when it is ours no more."""
    ended = sa.update(t).where(*_mine(job))
    return conn.execute(ended.values(state=state, result=result, reason=reason, instance=None, finished=now_ms_sql())).rowcount == 1


def put_off(conn: Connection, job: Job, why: Problem, in_s: float) -> bool:
    """Have a job that failed tried again later, with the reason meanwhile. False when it is ours no more."""
    later = now_ms_sql() + round(1000 * in_s)
    waiting = sa.update(t).where(*_mine(job))
    waiting = waiting.values(state="waiting", instance=None, reason=str(why), failures=t.c.failures + 1, not_before=later)
    if not conn.execute(waiting).rowcount:
        return False
    events.of_job(conn, job, "image.job.put_off", why)
    return True


def waited_for_room(conn: Connection, job: Job) -> float:
    """Seconds since a job's step was first put off for want of room, 0 where it was not. The time is in the checkpoint."""
    held = get(conn, job.id)
    step, since = held.checkpoint.get("room", (None, 0)) if held else (None, 0)
    return (now_ms(conn) - since) / 1000 if step == job.step else 0.0


def await_room(conn: Connection, job: Job, why: Problem, in_s: float) -> bool:
    """Have a job's step tried again when others may have ended, as if it had not been begun. False when it is ours no more."""
    held = lock(conn, job)
    if held is None:
        return False
    now = now_ms(conn)
    noted = held.checkpoint.get("room", (None, 0))
    checkpoint = held.checkpoint | {"room": noted if noted[0] == job.step else (job.step, now)}
    end_step(conn, held, held.step, checkpoint)
    waiting = sa.update(t).where(*_mine(job)).values(state="waiting", instance=None, reason=str(why), since=t.c.since + 1)
    conn.execute(waiting.values(not_before=now + round(1000 * in_s)))
    events.of_job(conn, job, "image.job.put_off", why)
    return True


def hand_back(conn: Connection, job: Job, why: Problem | None = None) -> bool:
    """Let another process go on with a job. why: what befell it here, None: nothing. False when it is ours no more.

    An attempt that was left in good order does not speak against the job.
    """
    spared = int(why is None or isinstance(why, Interrupted))
    queued = sa.update(t).where(*_mine(job)).values(state="queued", queue=AGAIN, instance=None, since=t.c.since + spared)
    if not conn.execute(queued).rowcount:
        return False
    if why is not None:
        events.of_job(conn, job, "image.job.handed_back", why)
    return True


def await_turn(conn: Connection, job: Job, queue: str) -> bool:
    """Queue a job again that has to wait for a turn, as if it had not been begun. False when it is ours no more."""
    turn = sa.case((t.c.cancel, ANY), else_=queue)  # a cancelled one waits for none
    waiting = sa.update(t).where(*_mine(job)).values(state="queued", queue=turn, instance=None, since=t.c.since + 1)
    return conn.execute(waiting).rowcount == 1


def sweep(conn: Connection, limit: int, *, dead: bool) -> list[str]:
    """Queue again what is due and, if `dead`, what dead processes were at work on; returns the queues that have work by that."""
    ownerless = sa.and_(t.c.state == "running", ~instances.alive(t.c.instance))
    due = sa.and_(t.c.state == "waiting", t.c.not_before <= now_ms_sql())
    found = []
    for condition in (due, ownerless) if dead else (due,):
        for row in conn.execute(sa.select(*COLUMNS).where(condition).order_by(t.c.id).limit(limit)).all():
            job = _job(row)
            still = sa.update(t).where(t.c.id == job.id, t.c.state == job.state, t.c.attempt == job.attempt, condition)
            if conn.execute(still.values(state="queued", queue=AGAIN, instance=None)).rowcount:
                found.append(ANY if job.cancel else job.queue)
                if job.state == "running":
                    events.of_job(conn, job, "image.job.lost", instances.why_gone(conn, job.instance or ""))
    return found


def cancel(conn: Connection, job_id: str) -> str | None:
    """Ask for a job's end: one that nobody works on ends at once, another at its worker's next look. Returns its state then; None: gone."""
    waiting = sa.update(t).where(t.c.id == job_id, t.c.state.in_(("queued", "waiting")), t.c.step == 0)
    if not conn.execute(waiting.values(state="cancelled", instance=None, reason=str(Cancelled()), finished=now_ms_sql())).rowcount:
        conn.execute(sa.update(t).where(t.c.id == job_id, t.c.state.not_in(ENDED)).values(cancel=True))
        idle = sa.update(t).where(t.c.id == job_id, t.c.state.in_(("queued", "waiting")))
        conn.execute(idle.values(state="queued", queue=ANY))  # any worker ends it; its own node may be gone
    job = get(conn, job_id)
    return job.state if job is not None else None


def retry(conn: Connection, job_id: str, deadline_s: float | None = None) -> bool:
    """Begin a failed job again where it stopped. deadline_s: as in New. False when it is not there or has not failed."""
    job = get(conn, job_id)
    kept = {name: value for name, value in job.checkpoint.items() if name != "room"} if job else {}
    failed = sa.update(t).where(t.c.id == job_id, t.c.state == "failed")
    failed = failed.values(state="queued", failures=0, since=t.c.attempt, cancel=False, finished=None, deadline=_deadline(conn, deadline_s))
    return conn.execute(failed.values(checkpoint=msgspec.json.encode(kept).decode())).rowcount == 1


def expire(conn: Connection, keep_ms: int, limit: int) -> int:
    """Forget jobs that ended longer ago than that; returns how many."""
    over = sa.and_(t.c.finished <= now_ms(conn) - keep_ms, t.c.state.in_(ENDED))  # a plain number, for which every database has its index
    found = list(conn.execute(sa.select(t.c.id).where(over).order_by(t.c.finished).limit(limit)).scalars())
    return conn.execute(sa.delete(t).where(t.c.id.in_(found), over)).rowcount if found else 0


def _deadline(conn: Connection, deadline_s: float | None) -> int | None:
    return None if deadline_s is None else now_ms(conn) + round(1000 * deadline_s)


def _mine(job: Job) -> tuple[sa.ColumnElement[bool], ...]:
    return (t.c.id == job.id, t.c.state == "running", t.c.attempt == job.attempt)
