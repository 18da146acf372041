"""A location is verified by the one worker whose job it is, on every database."""

import random
from pathlib import Path

import pytest

from ikon.context import Context
from ikon.db import copies, jobs, schema
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.job import ANY, Job, Limits, node_queue
from ikon.model.locations import New
from ikon.problems import LeaseLost
from ikon.service import images, locations
from ikon.worker.handlers.imports import KINDS
from ikon.worker.loop import Running
from tests.contract.test_verbs_databases import kit_on, new
from tests.faults.world import noise

SERVICE = Context("compute", "alpha", None, frozenset(("member", "reader", "service")))
FIRST = b"\x01" * 32768


async def claim(kit: Kit) -> Job:
    await kit.lease.renew()
    job = await kit.db.write(jobs.claim, kit.lease.id, [ANY, node_queue("here")], Limits(), [], random.Random(1))
    assert job is not None
    return job


async def test_a_worker_whose_job_was_taken_away_before_it_began_undoes_nothing_of_another_s(database_url: str, tmp_path: Path) -> None:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as kit:
        image, path = await new(kit), Path(kit.settings.stores["one"]["path"]) / "disk.raw"
        path.write_bytes(noise(1000))
        await locations.add(kit, SERVICE, image.id, New(f"file://{path}"))
        late = await claim(kit)
        assert await kit.db.write(jobs.hand_back, late)
        assert (await claim(kit)).attempt == late.attempt + 1
        copy_id = late.input["copy"]
        await kit.db.write(copies.add_digests, image.id, copy_id, 0, FIRST)

        with pytest.raises(LeaseLost):
            await KINDS[late.kind].steps(late)[0].run(kit, Running(kit, late, KINDS[late.kind], kit.lease.steady_since))

        assert await kit.db.read(copies.digests, image.id, copy_id, 0) == FIRST
        assert (await images.show(kit, SERVICE, image.id)).status == "importing"
