"""This process as an instance with a lease: its id, its proof of life on this node, and whether it may still act on what it owns."""

import fcntl
import os
import time
import uuid
from pathlib import Path

from ikon.db import instances
from ikon.db.engine import Database
from ikon.problems import DatabaseDown, StartError

#: Seconds between renewals, and seconds after the last one that succeeded until this process holds still.
RENEW_S, STILL_S = 5.0, 20.0


def boottime() -> float:
    """Seconds since boot, suspend included: the only clock of this machine that a lease is measured by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One server process among those that share a database."""

    def __init__(self, db: Database, node: str, run: Path) -> None:
        self.id, self.node = str(uuid.uuid4()), node
        self._db, self._run = db, run
        self._alone = db.dialect == "sqlite"
        self._renewed = boottime()
        #: Since when it was renewed without a break: another value means that what was owned may have been taken meanwhile.
        self.steady_since = self._renewed
        self._lock: int | None = None

    async def start(self) -> None:
        """Enlist, with a file whose lock ends with this process, however it ends."""
        self._run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock_file(self._run / self.id)
        await self._db.write(instances.enlist, self.id, self.node, alone=self._alone)
        self._renewed = self.steady_since = boottime()

    async def renew(self) -> None:
        """Prolong the lease. A row that is gone is made again: what was owned has been taken, what comes is ours."""
        if self._alone:
            return
        asked = boottime()
        if not await self._db.write(instances.renew, self.id):
            await self._db.write(instances.enlist, self.id, self.node, alone=False)
        if asked - self._renewed > 2 * RENEW_S + 1:
            self.steady_since = asked
        self._renewed = asked

    @property
    def certain(self) -> bool:
        """Whether nobody can have taken what this process owns since it last heard from the database."""
        return self._alone or boottime() - self._renewed < STILL_S

    async def held(self) -> None:
        """Return only while the lease is certain. Called before anything is published, deleted or ended. Raises DatabaseDown."""
        if self.certain:
            return
        await self.renew()
        if not self.certain:
            raise DatabaseDown("The server has lost touch with its database", retry_after_s=5)

    def may_sweep(self) -> bool:
        """Whether this process has itself reached the database without a break for two heartbeats: after an outage nobody is dead."""
        now = boottime()
        return self._alone or (now - self._renewed < 2 * RENEW_S and now - self.steady_since >= 2 * RENEW_S)

    def dead_on_this_node(self, recorded: list[str]) -> list[str]:
        """Which of the instances recorded on this node have ended: their lock file is here and nobody holds it."""
        return [instance for instance in recorded if instance != self.id and _is_free(self._run / instance)]

    async def end(self) -> None:
        """Leave: nothing is owned any more."""
        await self._db.write(instances.retire, self.id)
        self.drop_file(self.id)

    def drop_file(self, instance: str) -> None:
        """Remove the lock file of an instance that has ended."""
        (self._run / instance).unlink(missing_ok=True)


def lock_file(path: Path) -> int:
    """Make and lock a file for as long as this process lives. Raises StartError when another process holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise StartError(
            f"data: another server is running on {path.parent.parent}. End it first, or name another directory with --data"
        ) from None
    return fd


def _is_free(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # not here: its process may live on another machine of the same name
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
