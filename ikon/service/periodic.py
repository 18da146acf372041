"""What runs by itself, for operators: what it did last, and one more run now."""

from ikon import policy
from ikon.context import Context
from ikon.db import runs
from ikon.kit import Kit
from ikon.model.periodic import Report
from ikon.problems import NotFound


async def reports(kit: Kit, ctx: Context) -> list[Report]:
    """The last run of each process in the cluster. Raises Forbidden."""
    policy.require(ctx, "manage_periodic")
    return await kit.db.read(runs.last)


async def run(kit: Kit, ctx: Context, name: str) -> Report:
    """Have a process run now, here, and wait for its report. Raises Forbidden, NotFound, and what the run raises."""
    policy.require(ctx, "manage_periodic")
    if name not in kit.periodic:
        raise NotFound(f"No process of that name runs by itself. Those that do: {', '.join(kit.periodic)}")
    return await kit.periodic[name](kit)
