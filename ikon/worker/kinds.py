"""What a kind of job is, and which kinds there are."""

from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Connection

from ikon.model.job import Job
from ikon.problems import Problem
from ikon.steps.base import Step


class Kind(Protocol):
    """A kind of job."""

    def steps(self, job: Job) -> Sequence[Step]:
        """What is done, in order."""

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """What it changes that a job will not be done, in the transaction that ends it, its image's row locked."""
