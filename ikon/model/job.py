"""What a job is: work that outlives the request that asked for it. Its states, and the pure rules about them."""

from typing import Any

from msgspec import Struct

#: Priorities: a user waits; normal; background.
USER, NORMAL, BACKGROUND = 3, 5, 7
#: A job that failed so often by itself, or that was begun so often, is not begun again: it may be what kills its workers.
MOST_FAILURES, MOST_ATTEMPTS = 5, 10
#: Seconds before the first retry: doubled with each failure, up to the second number.
RETRY_S = (5.0, 600.0)
#: Seconds that a step waits for room that is promised to others before that counts as a failure, and the longest pause in them.
ROOM_S, ROOM_AGAIN_S = 3600.0, 60.0
#: States in which a job has ended, and all.
ENDED = ("done", "failed", "cancelled")
STATES = ("queued", "running", "waiting", *ENDED)
#: Any process may run it; the same, but only when it has a turn to convert.
ANY, CONVERT = "any", "convert"


class New(Struct, frozen=True):
    """A job to be. id: chosen by the caller, so that a repeated insert is no second job. queue: which processes may run it.

    project and store: whose limits it counts against, "" for none. deadline_s: seconds from now until it is given up, None: never.
    """

    id: str
    kind: str
    image_id: str | None
    input: dict[str, Any]
    project: str = ""
    store: str = ""
    queue: str = ANY
    priority: int = NORMAL
    user: str | None = None
    request_id: str | None = None
    total_bytes: int | None = None
    deadline_s: float | None = None


class Job(Struct, frozen=True):
    """One job as the database holds it. Times are in ms since 1970 by the database's clock.

    attempt: how often it was claimed, which is what its writes are fenced by; since: how many of these do not count against it, as those
    before a person began it anew and those that were left in good order.
    failures: how often it failed by itself. step: steps that are finished. checkpoint: what the finished steps leave to the next ones.
    cancel: somebody wants it to end. reason: why it failed.
    """

    id: str
    kind: str
    image_id: str | None
    request_id: str | None
    user: str | None
    input: dict[str, Any]
    queue: str
    project: str
    store: str
    state: str
    priority: int
    turn: int
    attempt: int
    since: int
    failures: int
    step: int
    checkpoint: dict[str, Any]
    instance: str | None
    not_before: int
    deadline: int | None
    cancel: bool
    done_bytes: int | None
    total_bytes: int | None
    result: str | None
    reason: str | None
    created: int
    started: int | None
    finished: int | None


class Limits(Struct, frozen=True):
    """How many jobs may run at once for one project, and into one store; 0: any number."""

    project: int = 0
    store: int = 0


def may_try_again(job: Job) -> bool:
    """Whether a job that has just failed may be tried once more."""
    return job.failures + 1 < MOST_FAILURES and not is_worn_out(job)


def is_worn_out(job: Job) -> bool:
    """Whether a job was begun so often that it is likely to be what ends its workers."""
    return job.attempt - job.since >= MOST_ATTEMPTS


def node_queue(node: str) -> str:
    """The queue of jobs that need bytes which one node alone can reach."""
    return f"{ANY}@{node}"


def converting_queue(queue: str) -> str:
    """The queue in which jobs of a queue wait for a turn to convert."""
    return CONVERT + queue.removeprefix(CONVERT).removeprefix(ANY)


def plain_queue(queue: str) -> str:
    """The queue of jobs that wait for no turn, but may run where those of this one may."""
    return ANY + queue.removeprefix(CONVERT).removeprefix(ANY)


def retry_in_s(failures: int) -> float:
    """Seconds until a job that has failed so often is due again."""
    first, longest = RETRY_S
    return min(first * float(2 ** max(0, failures - 1)), longest)


def room_again_in_s(waited_s: float) -> float:
    """Seconds until a job that has waited for room so long already looks for it again."""
    return min(max(RETRY_S[0], waited_s / 4), ROOM_AGAIN_S)
