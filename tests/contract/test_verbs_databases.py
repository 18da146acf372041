"""What the verbs and the queries under them do is the same on every database; each write is rehearsed, so that one that cannot be repeated fails."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from ikon.config import load
from ikon.context import Context
from ikon.db import copies, images, instances, jobs, schema, tables, usage
from ikon.db.engine import Database, make_engine
from ikon.db.lease import Lease
from ikon.kit import Kit
from ikon.model.image import parse_new
from ikon.model.imports import COPY, Request
from ikon.model.job import ANY, Limits
from ikon.model.listing import parse
from ikon.model.patch import Change
from ikon.model.periodic import total
from ikon.model.quota import Usage
from ikon.periodic import heartbeat, reaper
from ikon.problems import BadValue, ImageDeleted, ImageExists, ImageNotFound, QuotaExceeded, StatusConflict
from ikon.queue import Queue
from ikon.quota import Quotas
from ikon.service import copies as copies_verbs
from ikon.service import data, imports
from ikon.service import images as verbs
from ikon.stores.registry import open_stores
from ikon.transfer.fetch import Fetcher
from ikon.transfer.intake import Intake
from ikon.transfer.outflow import Outflow
from ikon.worker.handlers.imports import KINDS
from ikon.worker.kinds import Kinds
from ikon.worker.loop import Running
from tests.faults.world import noise

ALICE = Context("alice", "alpha", None, frozenset(("member", "reader")))
ADMIN = Context("root", "ops", None, frozenset(("admin", "member", "reader")))
QUOTA = 10_000_000


@contextlib.asynccontextmanager
async def kit_on(url: str, directory: Path, node: str = "here", quota: int = QUOTA) -> AsyncIterator[Kit]:
    """One process's kit on a database that may be shared, its stores in a directory that may be shared. quota: bytes."""
    stores = {name: {"type": "file", "path": str(directory / name)} for name in ("one", "two")}
    settings = load(None, {"data": str(directory / "data"), "database": url, "stores": stores, "node": node, "quota": {"bytes": quota}}, {})
    quotas = Quotas(settings.quota)
    db = Database(settings.database, rehearse=True, around=quotas.around())
    lease = Lease(db, node, settings.run)
    await lease.start()
    fetcher = Fetcher(settings)
    opened = open_stores(settings, fetcher.begin)
    intake, outflow = Intake(db, opened, lease, 8 << 20), Outflow(db, opened, node)
    try:
        yield Kit(settings, db, lease, opened, Queue(), intake, outflow, fetcher, Kinds(KINDS), quotas)
    finally:
        await db.close()


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


async def new(kit: Kit, who: Context = ALICE, **fields: object) -> images.Image:
    return await verbs.create(kit, who, parse_new({"disk_format": "raw", "container_format": "bare"} | fields))


async def stream(content: bytes, step: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), step):
        yield content[at : at + step]


async def upload(
    kit: Kit, image: images.Image, content: bytes | AsyncIterable[bytes], size: int | None = None, store: str | None = None
) -> None:
    blocks = stream(content) if isinstance(content, bytes) else content
    await data.upload(kit, ALICE, image.id, blocks, store=store, size=size)


async def copying(kit: Kit, who: Context, image_id: str, store: str) -> Running:
    """A job, at work here, that copies an image into a store: its step is yet to be run."""
    await imports.start(kit, who, image_id, Request(COPY, stores=(store,)))
    await kit.lease.renew()
    job = await kit.db.write(jobs.claim, kit.lease.id, [ANY], Limits(), [], random.Random(1), ["copy"])
    assert job is not None
    assert job.image_id == image_id
    return Running(kit, job, KINDS[job.kind], kit.lease.steady_since)


async def copy(kit: Kit, who: Context, image_id: str, store: str) -> None:
    running = await copying(kit, who, image_id, store)
    await running.left[0].run(kit, running)


async def read(kit: Kit, image: images.Image, prefer: list[str]) -> bytes:
    async with data.download(kit, ALICE, image.id, prefer) as (_, reader):
        return b"".join([block async for block in reader.blocks()])


def rows(url: str, table: sa.Table) -> list[tuple[object, ...]]:
    with make_engine(url).connect() as conn:
        return [tuple(row) for row in conn.execute(sa.select(table))]


async def names(kit: Kit, query: list[tuple[str, str]]) -> list[str | None]:
    """Names on all pages, three images each."""
    found: list[str | None] = []
    marker: list[tuple[str, str]] = []
    while page := await verbs.browse(kit, ALICE, parse([*query, *marker], 3, 3)):
        found += [image.name for image in page]
        marker = [("marker", page[-1].id)]
    return found


async def test_text_is_kept_found_and_ordered_by_byte(kit: Kit) -> None:
    given = ["b", "a ", "a", "A", "é", "e\u0301", "🐧", "", None, "a\t"]
    for name in given:
        image = await new(kit, name=name, **{"key ": name or "-", "KEY": "x", "key": "y"})
        assert await verbs.show(kit, ALICE, image.id) == image
    ordered = [None, *sorted((name for name in given if name is not None), key=lambda name: name.encode())]
    assert await names(kit, [("sort", "name:asc")]) == ordered
    assert await names(kit, [("sort", "name:desc")]) == ordered[::-1]
    assert await names(kit, []) == given[::-1]
    for name in ("a", "a ", "A", "é", "🐧"):
        assert await names(kit, [("name", name)]) == [name]
    assert await names(kit, [("key ", "🐧")]) == ["🐧"]


async def test_an_image_lives_its_whole_life(kit: Kit, database_url: str) -> None:
    content = noise(2_500_000)
    image = await new(kit, owner="alpha")
    await upload(kit, image, content)
    assert await read(kit, image, []) == content
    await copy(kit, ADMIN, image.id, "two")
    assert (await verbs.show(kit, ALICE, image.id)).stores == ["one", "two"]
    assert (await kit.db.read(usage.look, "alpha"))[0] == Usage(2 * len(content), 0, 1, 0)
    await copies_verbs.remove(kit, ADMIN, image.id, "one")
    assert await read(kit, image, []) == content
    await verbs.deactivate(kit, ALICE, image.id)
    await verbs.reactivate(kit, ALICE, image.id)
    changed = await verbs.update(kit, ALICE, image.id, [Change("add", "key", "value")], None)
    assert (changed.properties, changed.size, changed.version) == ({"key": "value"}, len(content), 9)
    await verbs.delete(kit, ALICE, image.id)
    with pytest.raises(ImageNotFound):
        await verbs.show(kit, ALICE, image.id)
    with pytest.raises(ImageExists):
        await new(kit, id=image.id)
    assert rows(database_url, tables.copies) == rows(database_url, tables.block_digests) == rows(database_url, tables.images) == []
    assert (await kit.db.read(usage.look, "alpha"))[0] == Usage()
    kinds = [row[4] for row in rows(database_url, tables.events)]
    assert kinds == ["image.create", "image.prepare", "image.activate", "image.import"] + ["image.update"] * 5 + ["image.delete"]


async def test_images_of_one_microsecond_get_places_of_their_own(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "now_us", lambda: 1_700_000_000_000_000)
    made = await asyncio.gather(*(new(kit, name=str(n)) for n in range(5)))
    assert sorted(image.k for image in made) == [1_700_000_000_000_000 + n for n in range(5)]


async def test_a_project_that_is_full_is_full_to_the_byte(kit: Kit, database_url: str) -> None:
    await upload(kit, await new(kit), noise(6_000_000), 6_000_000)
    late = await new(kit)
    for size in (4_000_001, None):
        with pytest.raises(QuotaExceeded):
            await upload(kit, late, noise(4_000_001), size)
        assert (await verbs.show(kit, ALICE, late.id)).status == "queued"
    await kit.db.write(usage.doubt)
    await upload(kit, late, noise(4_000_000))
    assert rows(database_url, tables.usage) == [("alpha", QUOTA, 0, 2, 0, None, None, None, None)]
    assert await kit.db.read(usage.count, "alpha") == Usage(QUOTA, 0, 2, 0)


async def test_a_delete_ends_a_running_upload(kit: Kit, database_url: str) -> None:
    image = await new(kit)

    async def deleted_meanwhile() -> AsyncIterator[bytes]:
        yield noise(100_000)
        await verbs.delete(kit, ALICE, image.id)
        await asyncio.sleep(30)
        yield b"never"

    with pytest.raises(ImageDeleted):
        await upload(kit, image, deleted_meanwhile())
    assert rows(database_url, tables.copies) == []


async def test_what_a_dead_process_left_is_taken_over_once(kit: Kit, database_url: str, tmp_path: Path) -> None:
    image = await new(kit)
    attempt = data.new_attempt(kit, image.id, "one")
    row = msgspec.structs.replace(data.record(kit, attempt, 5), instance="ghost")
    await kit.db.write(instances.enlist, "ghost", "elsewhere", alone=False)
    await kit.db.write(data._begin, ALICE, attempt, row, 5, QUOTA, await kit.intake.rooms.measure("one"))
    assert (await heartbeat.run_once(kit)).mended == total(await reaper.run_once(kit)).mended == 0
    with pytest.raises(StatusConflict):
        await upload(kit, image, b"early")
    await kit.db.write(instances.retire, "ghost")
    taken = await asyncio.gather(*(kit.db.write(copies.claim_ownerless, row) for _ in range(4)))
    assert sorted(taken) == [False, False, False, True]
    assert total(await reaper.run_once(kit)).mended == 1
    assert rows(database_url, tables.copies) == []


async def test_one_process_at_a_time_holds_a_role(kit: Kit) -> None:
    for name in ("left", "right"):
        await kit.db.write(instances.enlist, name, "elsewhere", alone=False)
    assert await kit.db.write(instances.take_lease, "another role", "left")
    asked = ("left", "right") * 3
    took = await asyncio.gather(*(kit.db.write(instances.take_lease, "role", name) for name in asked))
    (holder,) = {name for name, got in zip(asked, took, strict=True) if got}
    other = "right" if holder == "left" else "left"
    await kit.db.write(instances.retire, holder)
    assert await kit.db.write(instances.take_lease, "role", other)


async def test_a_marker_must_be_seen_to_be_used(kit: Kit) -> None:
    hidden = await new(kit, ADMIN, visibility="private")
    with pytest.raises(BadValue, match="No image found"):
        await verbs.browse(kit, ALICE, parse([("marker", hidden.id)], 3, 3))
