"""How much projects may hold: by the settings and their own rows, or by Keystone. What they hold is counted in db/usage.py."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from ikon import config
from ikon.db.engine import Around, Lacking
from ikon.db.usage import Given, Rules, counting
from ikon.model.quota import RESOURCES, Limits, from_wire

#: Seconds for which limits of elsewhere may let a project have more without being asked for anew, and projects remembered.
FRESH_S, KEPT = 1.0, 10_000


class Quotas:
    """The limits that hold in this process. Belongs to one event loop."""

    def __init__(self, chosen: config.Quota, ask: Callable[[str], Awaitable[dict[str, int]]] | None = None) -> None:
        """ask: Keystone for the limits of a project, where it sets them. Raises Unavailable."""
        self.kept = is_kept(chosen)
        self.defaults = Limits(*(getattr(chosen, each.name) or None for each in RESOURCES))
        self.elsewhere = ask is not None
        self._ask = ask
        self._known: OrderedDict[str, tuple[float, Limits]] = OrderedDict()  # the oldest first
        self._asked: dict[str, asyncio.Task[Limits]] = {}

    def around(self) -> Around | None:
        """What transactions that write run in; None where no quotas are kept."""
        return counting(Rules(self.defaults, self._found if self._ask else None)) if self.kept else None

    async def learn(self, project: str, *, anew: bool) -> Limits:
        """The limits of a project, asked for now; who asks at the same time hears the same. anew: not those that are known.

        Raises Unavailable.
        """
        if not anew and (known := self._fresh(project)):
            return known
        if project not in self._asked:
            self._asked[project] = asyncio.create_task(self._learn(project))
            self._asked[project].add_done_callback(lambda _: self._asked.pop(project, None))
        return await asyncio.shield(self._asked[project])

    async def _learn(self, project: str) -> Limits:
        assert self._ask is not None
        limits = from_wire(await self._ask(project))
        self._known[project] = (time.monotonic(), limits)
        self._known.move_to_end(project)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return limits

    def _found(self, project: str, given: Given, *, enough: Callable[[Limits], bool]) -> Limits:
        """On a database thread: what was learned for this very change, or lately if that is enough. Raises Lacking."""
        if project in given:
            return given[project]
        known = self._fresh(project)
        if known is not None and enough(known):
            return known
        raise Lacking(project, lambda: self.learn(project, anew=known is not None))  # nobody is refused by what may be different by now

    def _fresh(self, project: str) -> Limits | None:
        at, limits = self._known.get(project, (0.0, None))
        return limits if time.monotonic() - at < FRESH_S else None


def is_kept(chosen: config.Quota) -> bool:
    """Whether what projects hold is counted."""
    return chosen.counted or chosen.from_keystone or any(getattr(chosen, each.name) for each in RESOURCES)
