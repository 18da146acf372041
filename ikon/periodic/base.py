"""How a periodic process runs: again and again with some jitter, one runner where one is enough, and never the end of the server."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from ikon import log, metrics
from ikon.db import instances, runs
from ikon.kit import Kit
from ikon.model.periodic import Parts, Report, total
from ikon.problems import Problem

#: Seconds after which a run that mended nothing is recorded too: one every few seconds would be a commit each for no news.
QUIET_S = 60.0
UNFORESEEN = "a failure that nobody foresaw; the server's log shows it"


async def every(seconds: float, name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do something for ever, for the first time now. What fails is logged and comes again."""
    while True:
        try:
            await work()
        except Problem as problem:
            log.get().warning("periodic run put off", process=name, because=str(problem))
        except Exception:
            log.get().exception("periodic run failed", process=name)
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311  spreads load, guards nothing


class Process:
    """What runs every so many seconds, and once more when somebody asks.

    per_node: each node has a runner of its own, for what only it can reach; otherwise the cluster has one. at_once: the first run of a
    server does not wait for the role, for what its predecessor left.
    """

    def __init__(self, name: str, run: Callable[[Kit], Awaitable[Parts]], every_s: float, *, per_node: bool, at_once: bool) -> None:
        self.name, self._run, self._every_s, self._per_node, self._free = name, run, every_s, per_node, at_once
        self._one_at_a_time = asyncio.Lock()
        self._recorded_at = float("-inf")

    async def repeat(self, kit: Kit) -> None:
        """Run for ever, while this server process holds the role."""
        await every(self._every_s, self.name, lambda: self._turn(kit))

    async def _turn(self, kit: Kit) -> None:
        free, self._free = self._free, False
        if free or await kit.db.write(instances.take_lease, self._role(kit), kit.lease.id):
            await self._carry_out(kit, asked=False)

    async def run_once(self, kit: Kit) -> Report:
        """Run now, whoever holds the role; a run that is at work here is waited for. Raises what the run raises."""
        report = await self._carry_out(kit, asked=True)
        assert report is not None
        return report

    async def _carry_out(self, kit: Kit, *, asked: bool) -> Report | None:
        """Run, count and record; None when there is nothing to record."""
        async with self._one_at_a_time:
            began = time.monotonic()
            try:
                parts = await self._run(kit)
            except Exception as error:
                metrics.PERIODIC_FAILED.labels(self.name).inc()
                with contextlib.suppress(Problem):
                    await self._record(kit, began, {}, str(error) if isinstance(error, Problem) else UNFORESEEN)
                raise
            for kind, part in parts.items():
                metrics.PERIODIC_MENDED.labels(self.name, kind).inc(part.mended)
            metrics.PERIODIC_RAN.labels(self.name).set_to_current_time()
            if total(parts).mended:
                log.get().info("periodic run", process=self.name, **{kind: part.mended for kind, part in parts.items() if part.mended})
            elif not asked and time.monotonic() - self._recorded_at < QUIET_S:
                return None
            return await self._record(kit, began, parts, None)

    async def _record(self, kit: Kit, began: float, parts: Parts, failed: str | None) -> Report:
        report = await kit.db.write(runs.keep, self._role(kit), _ms_since(began), parts, failed)
        self._recorded_at = time.monotonic()
        return report

    def _role(self, kit: Kit) -> str:
        return f"{self.name}@{kit.lease.node}" if self._per_node else self.name


def _ms_since(began: float) -> int:
    return round(1000 * (time.monotonic() - began))
