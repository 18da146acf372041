"""How a periodic process runs: again and again with some jitter, one runner where one is enough, and never the end of the server."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ikon import log
from ikon.db import instances
from ikon.kit import Kit
from ikon.problems import Problem


class Found(NamedTuple):
    """What one run looked at, and what it mended."""

    looked: int
    mended: int


Run = Callable[[Kit], Awaitable[Found]]


async def every(seconds: float, kit: Kit, run_once: Run, *, role: str | None = None) -> None:
    """Run for ever, for the first time now. role: only while this process holds that role in the cluster, but for the first time: what its
    predecessor left need not wait."""
    await _run(kit, run_once)
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311  spreads load, guards nothing
        await _run(kit, run_once, role)


async def _run(kit: Kit, run_once: Run, role: str | None = None) -> None:
    name, began = run_once.__module__.rpartition(".")[2], time.monotonic()
    try:
        if role and not await kit.db.write(instances.take_lease, role, kit.lease.id):
            return
        found = await run_once(kit)
    except Problem as problem:
        log.get().warning("periodic run put off", process=name, because=str(problem))
    except Exception:
        log.get().exception("periodic run failed", process=name)
    else:
        if found.mended:
            log.get().info(
                "periodic run", process=name, looked=found.looked, mended=found.mended, took_ms=round(1000 * (time.monotonic() - began))
            )
