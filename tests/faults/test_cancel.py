"""An upload is cancelled wherever it can be: at each of its waits, and at any turn of the loop. It is undone, or it has happened."""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from ikon import config
from ikon.app import open_kit, prepare
from ikon.context import Context
from ikon.db import copies, usage
from ikon.kit import Kit
from ikon.model.image import New, Writable
from ikon.model.quota import Usage
from ikon.problems import ClientGone
from ikon.service import data, images
from tests.contract.test_verbs_databases import copying
from tests.faults.conftest import Say
from tests.faults.world import MIB, noise

CTX = Context(user="u", project="p", roles=frozenset(("admin", "member", "reader")))
DATA = noise(MIB + 4321)


class CancelledAt:
    """Runs a coroutine, and cancels the task that it runs in when it waits for the k-th time."""

    def __init__(self, work: Coroutine[Any, Any, Any], k: int) -> None:
        self._work, self._k, self.waits = work, k, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        failure: BaseException | None = None
        while True:
            try:
                waiting = inner.send(None) if failure is None else inner.throw(failure)
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self._k:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waiting
                failure = None
            except BaseException as error:
                failure = error


@pytest.fixture
async def kit(tmp_path: Path) -> AsyncIterator[Kit]:
    """A kit on SQLite and two stores, with a quota, so that reserving more is a wait of its own."""
    stores = {name: {"type": "file", "path": str(tmp_path / name)} for name in ("one", "two")}
    settings = config.load(None, {"data": str(tmp_path), "stores": stores, "quota": {"bytes": 1 << 40}}, {})
    lock = prepare(settings)
    try:
        async with open_kit(settings) as opened:
            yield opened
    finally:
        if lock is not None:
            os.close(lock)


async def body(cut_after: int | None = None) -> AsyncIterator[bytes]:
    """The data as a client sends it, perhaps cut after some pieces."""
    for number, at in enumerate(range(0, len(DATA), 200_000)):
        if number == cut_after:
            raise ClientGone("gone")
        await asyncio.sleep(0)
        yield DATA[at : at + 200_000]


async def create(kit: Kit) -> str:
    """A queued image."""
    return (await images.create(kit, CTX, New(None, Writable(disk_format="raw", container_format="bare"), {}, owner_given=False))).id


def upload(kit: Kit, image: str, size: int | None) -> Coroutine[Any, Any, None]:
    return data.upload(kit, CTX, image, body(), store=None, size=size)


async def look(kit: Kit, image: str) -> str:
    """The image's status, once it is sure that nothing else contradicts it."""
    shown = await images.show(kit, CTX, image)
    rows = await kit.db.read(copies.of_image, image)
    files = {path for name in ("one", "two") for path in os.listdir(f"{kit.settings.data}/{name}") if path.startswith(image)}
    assert {row.state for row in rows} <= {"ready"}
    assert files == {row.url.rpartition("/")[2] for row in rows}
    assert len(kit.intake.attempts) == 0
    assert kit.intake.budget.used == 0
    if shown.status == "queued":
        assert not rows
        assert shown.reason or shown.version == 1  # cancelled before anything was recorded
    else:
        assert shown.status == "active"
        assert [row.store for row in rows] == shown.stores
        for store in shown.stores:
            async with data.download(kit, CTX, image, [store]) as (_, reader):
                assert b"".join([block async for block in reader.blocks()]) == DATA
    charged, counted = await kit.db.read(charges)
    assert charged == counted
    return shown.status


def charges(conn: Connection) -> tuple[Usage | None, Usage]:
    """What the project is charged with, and what its images and copies add up to."""
    return usage.look(conn, "p")[0], usage.count(conn, "p")


def open_files(kit: Kit) -> list[str]:
    """Files of the stores that this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [link for link in links if link.startswith((f"{kit.settings.data}/one", f"{kit.settings.data}/two"))]


@pytest.mark.parametrize("size", [len(DATA), None], ids=["length", "chunked"])
async def test_an_upload_cancelled_at_any_wait_is_undone_or_has_happened(size: int | None, kit: Kit, say: Say) -> None:
    await asyncio.wait_for(upload(kit, await create(kit), size), 10)
    outcomes = []
    for k in range(1, 100):
        image = await create(kit)
        work = CancelledAt(upload(kit, image, size), k)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(run(work), 10)
        outcomes.append(await look(kit, image))
        if work.waits < k:
            break
    assert outcomes[0] == "queued"
    assert outcomes[-2:] == ["active", "active"]  # cancelled in the last COMMIT, and not cancelled
    assert "active" not in outcomes[: outcomes.index("active")]
    assert not open_files(kit)
    say(f"cancelled at each of {len(outcomes) - 1} waits: {', '.join(outcomes)}")


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_an_upload_cancelled_at_any_turn_of_the_loop_is_undone_or_has_happened(twice: bool, kit: Kit, say: Say) -> None:
    chance, outcomes = random.Random(7), []
    for number in range(60):
        image = await create(kit)
        task = asyncio.ensure_future(upload(kit, image, None if number % 2 else len(DATA)))
        for _ in range(number if number < 30 else chance.randrange(400)):
            await asyncio.sleep(0)
        if number >= 30:
            await asyncio.sleep(chance.uniform(0, 0.03))
        task.cancel()
        if twice:
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        outcomes.append(await look(kit, image))
    await asyncio.sleep(0.1)
    assert not open_files(kit)
    say(f"cancelled at 60 instants: {outcomes.count('queued')} undone, {outcomes.count('active')} had happened")


async def test_an_upload_cut_after_any_piece_is_undone_with_the_reason(kit: Kit) -> None:
    for cut_after in range(-(-len(DATA) // 200_000)):
        for size in (len(DATA), None):
            image = await create(kit)
            with pytest.raises(ClientGone):
                await data.upload(kit, CTX, image, body(cut_after), store=None, size=size)
            assert await look(kit, image) == "queued"
            assert (await images.show(kit, CTX, image)).reason == "gone"


async def test_a_copy_cancelled_at_any_wait_is_undone_or_has_happened(kit: Kit, say: Say) -> None:
    outcomes = []
    for k in range(1, 200):
        image = await create(kit)
        await upload(kit, image, None)
        job = await copying(kit, CTX, image, "two")
        work = CancelledAt(job.left[0].run(kit, job), k)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(run(work), 10)
        assert await look(kit, image) == "active"
        outcomes.append(len(await kit.db.read(copies.of_image, image)))
        if work.waits < k:
            break
    assert outcomes[0] == 1
    assert outcomes[-2:] == [2, 2]
    say(f"a copy cancelled at each of {len(outcomes) - 1} waits: {outcomes.count(1)} undone, {outcomes.count(2) - 1} had happened")


async def run(work: CancelledAt) -> Any:
    return await work
