"""The loop of a worker: claim while there is room, run steps, record each with its fence, give up what is not ours any more."""

import asyncio
import random
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from ikon import log
from ikon.db import images, jobs
from ikon.kit import Kit
from ikon.model.job import (
    ANY,
    ENDED,
    ROOM_S,
    Job,
    Limits,
    converting_queue,
    is_worn_out,
    may_try_again,
    node_queue,
    plain_queue,
    retry_in_s,
    room_again_in_s,
)
from ikon.problems import (
    Cancelled,
    ImageDeleted,
    Interrupted,
    OutcomeUnknown,
    OutOfTime,
    Problem,
    RoomPromised,
    ServerFailed,
    Unavailable,
    WornOut,
)
from ikon.steps.base import Change, NotNow, Step, Stopped
from ikon.steps.convert import turns
from ikon.threads import GIVES_WAY
from ikon.worker.kinds import Kind

T = TypeVar("T")
#: Seconds between looks without a ring, and between two looks after the jobs at work.
LOOK_S, BEAT_S = 10.0, 3.0
#: Seconds until the next looks after a ring that brought nothing: on a cluster of databases a job may not have come here yet.
AGAIN_S = (0.1, 0.5, 2.0)
#: Jobs that are queued again at one look.
SWEPT = 200
TAKEN_AWAY, LATE = "taken away", "its time is over"
CANCELLED, OUT_OF_TIME, WORN_OUT = Cancelled(), OutOfTime(), WornOut()


class Running:
    """One job at work in this process. stopped: why it must end, once it must."""

    def __init__(self, kit: Kit, job: Job, kind: Kind, steady_since: float) -> None:
        self.job, self.kind = job, kind
        self.stopped: str | None = None
        self.progress: tuple[int, int | None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._kit, self._steady_since = kit, steady_since
        self._seen = asyncio.Event()

    @property
    def left(self) -> Sequence[Step]:
        """The steps that are still to be done."""
        return self.kind.steps(self.job)[self.job.step :]

    @property
    def certain(self) -> bool:
        """See Work."""
        return self._kit.lease.certain and self._steady_since == self._kit.lease.steady_since

    def is_ours(self, steady_since: float) -> None:
        """The database has just said so, while the lease was unbroken since then."""
        self._steady_since = steady_since
        self._seen.set()

    def moved(self, done_bytes: int, total_bytes: int | None) -> None:
        """See Work."""
        self.progress = (done_bytes, total_bytes)

    async def hold(self) -> None:
        """See Work."""
        if not self.certain:
            log.get().info("job stands still", job=self.job.id, attempt=self.job.attempt)
            while not self.certain:
                self._seen.clear()
                await self._seen.wait()
            log.get().info("job goes on", job=self.job.id, attempt=self.job.attempt)
        if self.stopped is not None:
            raise Stopped(self.stopped)

    async def end(self, change: Change) -> None:
        """See Work."""
        number, last = self.job.step + 1, len(self.left) == 1
        await self._kit.lease.held()
        try:
            after = await self._kit.db.write(_end_step, self.job, number, change, last=last)
        except OutcomeUnknown:
            after = await self._kit.db.read(jobs.get, self.job.id)
            if after is not None and after.attempt == self.job.attempt and after.step < number:
                raise
            if after is not None and (after.attempt != self.job.attempt or after.state not in ("running", "done")):
                after = None  # whoever has it now goes on with what we have ended, or ended it again
        if after is None:
            self.stopped = TAKEN_AWAY
            raise Stopped(TAKEN_AWAY)
        self.job = after

    def stop(self, why: str) -> None:
        """End it at its next await."""
        if self.stopped is None and self.task is not None:
            self.stopped = why
            self.task.cancel()


class Worker:
    """Runs jobs of some kinds in this process, at most `slots` at once."""

    def __init__(self, kit: Kit, kinds: Mapping[str, Kind], slots: int, limits: Limits, *, gives_way: bool = False) -> None:
        """gives_way: to requests that are served by the same process."""
        self._kit, self._kinds, self._slots, self._limits = kit, kinds, slots, limits
        self._gives_way = gives_way
        self._queues = (ANY, node_queue(kit.lease.node))
        self._converting = tuple(converting_queue(queue) for queue in self._queues)
        self._running: dict[str, Running] = {}
        self._claiming = asyncio.Lock()  # while it is free, what is recorded as ours is known here
        self._random = random.Random()  # noqa: S311  spreads claims, guards nothing
        self._unrecorded: dict[str, Problem] = {}  # why jobs failed here while the database could not be told
        self._stopping = False

    async def run(self) -> None:
        """Work until `stop`, then hand back what is not finished."""
        if self._slots:
            self._kit.queue.listen(self._queues + self._converting, lambda: len(self._running) < self._slots and not self._stopping)
        again: list[float] = []
        async with asyncio.TaskGroup() as group:
            beat = group.create_task(self._beat())
            while not self._stopping:
                found = await _guarded(self._look(group))
                rung = await self._kit.queue.wait(again.pop(0) if again else LOOK_S * self._random.uniform(0.7, 1.3))
                again = list(AGAIN_S) if rung else [] if found else again
            for running in self._running.values():
                running.stop("this process stops")
            beat.cancel()

    def stop(self) -> None:
        """Take no more jobs, and end those that run where another process can go on."""
        self._stopping = True
        self._kit.queue.wake()

    async def _look(self, group: asyncio.TaskGroup) -> bool:
        """Queue again what nobody works on, then claim until there is no room or no work. Whether there was any."""
        job: Job | None = None
        for queue in set(await self._kit.db.write(jobs.sweep, SWEPT, dead=self._kit.lease.may_sweep())):
            self._kit.queue.ring(queue)
        while len(self._running) < self._slots and not self._stopping:
            await self._kit.lease.held()
            with turns(self._kit).take() as has_turn:
                queues = self._queues + self._converting if has_turn else self._queues
            async with self._claiming:
                steady = self._kit.lease.steady_since
                found = await self._kit.db.write(
                    jobs.claim, self._kit.lease.id, queues, self._limits, list(self._running), self._random, list(self._kinds)
                )
                if found is None:
                    return job is not None
                job = found
                running = self._running[job.id] = Running(self._kit, job, self._kinds[job.kind], steady)
            log.get().info("job begun", job=job.id, kind=job.kind, image=job.image_id, attempt=job.attempt)
            running.task = group.create_task(self._carry_out(running))
        if job is not None:
            self._kit.queue.ring(job.queue)  # there may be more, for others
        return job is not None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await _guarded(self.heartbeat())

    async def heartbeat(self) -> None:
        """Learn which jobs were cancelled or taken away, hand back those that nobody here runs, and record progress."""
        async with self._claiming:
            steady = self._kit.lease.steady_since
            recorded = {(held.id, held.attempt): held for held in await self._kit.db.read(jobs.held, self._kit.lease.id)}
            self._unrecorded = {job_id: why for job_id, why in self._unrecorded.items() if any(job_id == held for held, _ in recorded)}
            known = list(self._running.values())
            for job_id, attempt in recorded:
                if job_id not in self._running:
                    await self._hand_back(job_id, attempt, self._unrecorded.pop(job_id, None))  # None: the answer to our claim was lost
        for running in known:
            held = recorded.get((running.job.id, running.job.attempt))
            if held is None:
                job = await self._kit.db.read(jobs.get, running.job.id)
                if job is None or job.attempt != running.job.attempt or job.state not in ENDED:
                    running.stop(TAKEN_AWAY)
                continue
            running.is_ours(steady)
            if held.cancel:
                running.stop("cancelled")
            elif held.late:
                running.stop(LATE)
            elif running.progress is not None:
                done, total = running.progress
                running.progress = None
                await self._kit.db.write(jobs.progress, running.job, done, total)

    async def _hand_back(self, job_id: str, attempt: int, why: Problem | None) -> None:
        job = await self._kit.db.read(jobs.get, job_id)
        if job is not None and job.attempt == attempt and await self._kit.db.write(jobs.hand_back, job, why):
            self._kit.queue.ring(job.queue)

    async def _carry_out(self, running: Running) -> None:
        """Run a job to its end, or to where another process can go on. Never raises: the worker goes on."""
        job = running.job
        GIVES_WAY.set(self._gives_way)
        try:
            if job.cancel or is_worn_out(job):
                await self._give_up(running, CANCELLED if job.cancel else WORN_OUT)
            else:
                while running.left:
                    await running.left[0].run(self._kit, running)
                log.get().info("job done", job=job.id, kind=job.kind, image=job.image_id)
        except (asyncio.CancelledError, Stopped):
            await self._stopped(running)
        except NotNow as wait:
            await self._await_turn(running, wait.queue)
        except Problem as problem:
            await self._failed(running, problem)
        except Exception:
            log.get().exception("job failed", job=job.id, kind=job.kind)
            await self._failed(running, ServerFailed())
        finally:
            self._running.pop(job.id, None)
            self._kit.queue.wake()

    async def _failed(self, running: Running, problem: Problem) -> None:
        """Try again later what may go better then; end what will not."""
        job = running.job
        log.get().warning("job step failed", job=job.id, kind=job.kind, step=job.step, attempt=job.attempt, because=str(problem))
        try:
            some = self._random.uniform(0.75, 1.25)
            waited_s = await self._kit.db.read(jobs.waited_for_room, job) if isinstance(problem, RoomPromised) else ROOM_S
            if waited_s < ROOM_S:
                await self._kit.db.write(jobs.await_room, job, problem, room_again_in_s(waited_s) * some)
            elif isinstance(problem, Unavailable) and may_try_again(job):
                await self._kit.db.write(jobs.put_off, job, problem, retry_in_s(job.failures + 1) * some)
            else:
                await self._give_up(running, problem)
        except Problem as error:
            self._unrecorded[job.id] = problem
            log.get().warning("job left as it is", job=job.id, because=str(error))  # the heartbeat hands it back

    async def _await_turn(self, running: Running, queue: str) -> None:
        log.get().info("job let go", job=running.job.id, attempt=running.job.attempt, because="it waits for its turn")
        try:
            await self._kit.db.write(jobs.await_turn, running.job, queue)
        except Problem as error:
            log.get().warning("job left as it is", job=running.job.id, because=str(error))

    async def _stopped(self, running: Running) -> None:
        """Somebody has cancelled the job, or taken it away, or this process ends."""
        log.get().info("job let go", job=running.job.id, attempt=running.job.attempt, because=running.stopped)
        try:
            if running.stopped == "cancelled":
                await self._give_up(running, CANCELLED)
            elif running.stopped == LATE:
                await self._give_up(running, OUT_OF_TIME)
            elif running.stopped != TAKEN_AWAY:
                await self._hand_back(running.job.id, running.job.attempt, Interrupted())
        except Problem as error:
            log.get().warning("job left as it is", job=running.job.id, because=str(error))

    async def _give_up(self, running: Running, why: Problem) -> None:
        """End the job for good."""
        await self._kit.lease.held()
        await self._kit.db.write(_end, running.job, running.kind, why)
        log.get().warning("job given up", job=running.job.id, kind=running.job.kind, because=str(why))


async def _guarded(work: Awaitable[T]) -> T | None:
    """What work returns; None when it failed, which the log says: the worker goes on, whatever happens."""
    try:
        return await work
    except Problem as problem:
        log.get().warning("jobs not looked after", because=str(problem))
    except Exception:
        log.get().exception("looking after jobs failed")
    return None


def _end_step(conn: Connection, job: Job, number: int, change: Change, *, last: bool) -> Job | None:
    """Record a finished step with all that it changes, and after the last one the end of the job. None: it is ours no more."""
    _lock_image(conn, job)
    held = jobs.lock(conn, job)
    if held is None:
        return None
    if held.step == number:
        return held  # our own commit went through, and its answer was lost
    if held.queue != plain_queue(held.queue):
        jobs.route(conn, held, plain_queue(held.queue))  # it waits for no turn any more
    after = change(conn, job)
    jobs.end_step(conn, job, number, {**job.checkpoint, **after})
    if last:
        jobs.finish(conn, job, "done")
    return jobs.get(conn, job.id)


def _end(conn: Connection, job: Job, kind: Kind, why: Problem) -> None:
    _lock_image(conn, job)
    unwanted = isinstance(why, (Cancelled, ImageDeleted))
    if jobs.finish(conn, job, "cancelled" if unwanted else "failed", reason=str(why)):
        kind.gave_up(conn, job, why)


def _lock_image(conn: Connection, job: Job) -> None:
    """Images are locked before jobs, as by whoever enqueues and cancels."""
    if job.image_id is not None:
        images.lock(conn, job.image_id)
