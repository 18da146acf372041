"""Tells those outside of events, in order for each image, until they have heard. Each sink has a teller, so that none waits for another.

One process of the cluster at a time is the teller of a sink.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable

from ikon import log
from ikon.db import deliveries, instances
from ikon.db.deliveries import Delivery
from ikon.kit import Kit
from ikon.model.periodic import Found, Parts
from ikon.problems import Unavailable

#: Seconds between two runs, and seconds after which a run leaves the rest to the next one.
EVERY_S, RUN_S = 1.0, 60.0
#: Events told in one go, each of another image.
BATCH = 100


def role(sink: str) -> str:
    """What a sink's teller is called."""
    return f"teller-{sink}"


def of(sink: str) -> Callable[[Kit], Awaitable[Parts]]:
    """A sink's teller."""
    return functools.partial(run_once, sink=sink)


async def run_once(kit: Kit, sink: str) -> Parts:
    """Tell a sink all that is due. At a failure it is left alone until the next run; the event that it failed at comes again later."""
    heard: list[bool] = []
    until = time.monotonic() + RUN_S
    # the first one alone: a sink that is down is asked once a run
    while all(heard) and time.monotonic() < until and (found := await kit.db.read(deliveries.due, sink, BATCH if heard else 1)):
        if not await kit.db.write(instances.take_lease, role(sink), kit.lease.id):
            break
        heard += await _tell_all(kit, found)
    return {"events": Found(len(heard), sum(heard))}


async def _tell_all(kit: Kit, batch: list[Delivery]) -> list[bool]:
    """Tell some events side by side, no more after one that is not heard. Whether each was, of those that were tried."""
    heard: list[bool] = []
    waiting = iter(batch)

    async def tell() -> None:
        for delivery in waiting:
            heard.append(await _tell(kit, delivery))
            if not all(heard):
                return

    abreast = (tell() for _ in range(kit.senders[batch[0].sink].at_once))
    for ended in await asyncio.gather(*abreast, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
    return heard


async def _tell(kit: Kit, delivery: Delivery) -> bool:
    await kit.lease.held()
    if not await kit.db.read(deliveries.is_left, delivery.n):
        return True  # this process was paused, and another has told it
    try:
        await kit.senders[delivery.sink].send(delivery)
    except Unavailable as problem:
        parked = await kit.db.write(deliveries.put_off, delivery)
        if parked:
            log.get().error("event parked", sink=delivery.sink, image=delivery.image_id, kind=delivery.kind, because=str(problem))
        elif not delivery.tries:
            log.get().warning("event not told yet", sink=delivery.sink, image=delivery.image_id, kind=delivery.kind, because=str(problem))
        return False
    await kit.db.write(deliveries.told, delivery.n)
    return True
