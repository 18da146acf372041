"""What a step of a job is: work that can be repeated, in whichever process goes on with the job."""

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection

from ikon.kit import Kit
from ikon.model.job import Job

#: What the end of a step changes, in the transaction that records it, the image's row locked. Returns what later steps need to know.
Change = Callable[[Connection, Job], dict[str, Any]]


class Stopped(Exception):
    """The job must end here: it was cancelled, or taken away, or this process is stopping."""


class NotNow(Exception):
    """The step must wait for its turn, without failing and without a slot: in this queue, from which only those claim who have a turn."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue


class Work(Protocol):
    """A job at work, as its steps see it."""

    job: Job

    @property
    def certain(self) -> bool:
        """Whether the job is certain to be no other process's. While it is not, nothing of it moves: two would be at work on it."""

    def moved(self, done_bytes: int, total_bytes: int | None) -> None:
        """Say how far the step is; recorded now and then."""

    async def hold(self) -> None:
        """Stand still until the job is certain to be this process's. Called for every block. Raises Stopped when the job is to end here."""

    async def end(self, change: Change) -> None:
        """Record the step as finished, with all that it changes. Raises Stopped when the job is this process's no more."""


class Step(Protocol):
    """One step. It may be run again after any interruption, in another process too.

    One that fails leaves nothing behind but staged data that a next try can use, and properties, which are right for whatever is imported
    next: each attempt is undone where it ran, or by the reaper where its process is gone.
    """

    name: str

    async def run(self, kit: Kit, work: Work) -> None:
        """Do it, and call `work.end` as the last thing that can fail. Raises a Problem when it fails; Unavailable ones are tried again."""
