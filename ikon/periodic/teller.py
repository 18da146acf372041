"""Tells those outside of events, in order for each image, until they have heard. One process of the cluster at a time does it."""

from ikon import log
from ikon.db import deliveries, instances
from ikon.db.deliveries import Delivery
from ikon.kit import Kit
from ikon.model.periodic import Found, Parts
from ikon.problems import Unavailable

#: Seconds between two runs.
EVERY_S = 1.0
#: Events told in one go.
BATCH = 100


async def run_once(kit: Kit) -> Parts:
    """Tell all that is due. A sink that fails is left alone until the next run; the event that it failed at comes again later."""
    looked = told = 0
    names = list(kit.senders)
    while names and (found := await kit.db.read(deliveries.due, names, BATCH)):
        if not await kit.db.write(instances.take_lease, "teller", kit.lease.id):
            break
        for delivery in found:
            if delivery.sink in names:
                looked += 1
                if await _tell(kit, delivery):
                    told += 1
                else:
                    names.remove(delivery.sink)
    return {"events": Found(looked, told)}


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
