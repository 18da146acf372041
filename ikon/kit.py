"""What a verb receives: the parts of the house, built in app.py, and by tests."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ikon.config import Settings
from ikon.db.engine import Database
from ikon.db.lease import Lease
from ikon.model.periodic import Report
from ikon.passwords import Passwords
from ikon.queue import Queue
from ikon.stores.registry import Stores
from ikon.transfer.intake import Intake
from ikon.transfer.outflow import Outflow


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
    passwords: Passwords = field(default_factory=Passwords)
    #: What runs by itself, by name, to be run once more by hand.
    periodic: Mapping[str, Callable[["Kit"], Awaitable[Report]]] = field(default_factory=dict)
