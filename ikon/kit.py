"""What a verb receives: the parts of the house, built in app.py, and by tests."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection

from ikon.config import Settings
from ikon.db.definitions import Known
from ikon.db.engine import Database
from ikon.db.lease import Lease
from ikon.events import Sender
from ikon.keystone import Keystone
from ikon.model.job import Job
from ikon.model.periodic import Report
from ikon.passwords import Passwords
from ikon.problems import Problem
from ikon.queue import Queue
from ikon.quota import Quotas
from ikon.signatures import Signatures
from ikon.stores.registry import Stores
from ikon.transfer.fetch import Fetcher
from ikon.transfer.intake import Intake
from ikon.transfer.outflow import Outflow


class Kinds(Protocol):
    """What verbs must know of the kinds of jobs, which are built on verbs."""

    def steps(self, job: Job) -> Sequence[str]:
        """Names of a job's steps, in order; none for a kind that this version does not know."""

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """Change what changes by a job's ending without its work done; its image's row is locked."""


@dataclass(frozen=True)
class Kit:
    """All that verbs, doors and periodic processes work with."""

    settings: Settings
    db: Database
    lease: Lease
    stores: Stores
    queue: Queue
    intake: Intake
    outflow: Outflow
    fetcher: Fetcher
    kinds: Kinds
    quotas: Quotas
    senders: Mapping[str, Sender] = field(default_factory=dict)
    passwords: Passwords = field(default_factory=Passwords)
    #: With identity "keystone".
    keystone: Keystone | None = None
    #: Where signatures of images are verified.
    signatures: Signatures | None = None
    #: What runs by itself, by name, to be run once more by hand.
    periodic: Mapping[str, Callable[["Kit"], Awaitable[Report]]] = field(default_factory=dict)
    #: Definitions of images' properties.
    definitions: Known = field(default_factory=Known)
