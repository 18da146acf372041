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
    """Run for ever. role: only while this process holds that role in the cluster."""
    name = run_once.__module__.rpartition(".")[2]
    while True:
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311  spreads load, guards nothing
        began = time.monotonic()
        try:
            if role and not await kit.db.write(instances.take_lease, role, kit.lease.id):
                continue
            found = await run_once(kit)
        except Problem as problem:
            log.get().warning("periodic run put off", process=name, because=str(problem))
            continue
        except Exception:
            log.get().exception("periodic run failed", process=name)
            continue
        if found.mended:
            log.get().info(
                "periodic run", process=name, looked=found.looked, mended=found.mended, took_ms=round(1000 * (time.monotonic() - began))
            )
