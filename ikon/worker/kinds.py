"""What a kind of job is, and which kinds there are."""

from collections.abc import Mapping, Sequence
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


class Kinds:
    """The kinds of jobs as verbs know them: see ikon.kit.Kinds."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds

    def steps(self, job: Job) -> list[str]:
        """Names of a job's steps, in order; none for a kind that this version does not know."""
        return [step.name for step in self._kinds[job.kind].steps(job)] if job.kind in self._kinds else []

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """See Kind."""
        self._kinds[job.kind].gave_up(conn, job, why)
