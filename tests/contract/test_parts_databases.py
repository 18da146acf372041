"""What a failed web-download has fetched is kept for its time and no longer, on every database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import copies, schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.periodic import Found
from ikon.periodic import reaper
from ikon.service import data
from ikon.service import images as verbs
from ikon.stores.registry import STAGING
from ikon.transfer.intake import Bounds
from tests.contract.test_verbs_databases import ALICE, kit_on, new, stream, upload

PART = b"the beginning of a disk" * 1000


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


async def kept(kit: Kit, state: str) -> tuple[str, str]:
    """A queued image, and a copy of what a failed web-download has left staged: a part, or all."""
    image = await new(kit)
    attempt = data.new_attempt(kit, image.id, STAGING)
    keep = copies.keep_part if state == "part" else copies.finish
    async with kit.intake.undoing(ALICE, attempt):
        await kit.db.write(copies.intend, data.record(kit, attempt, 0))
        facts = await kit.intake.take_in(attempt, stream(PART), Bounds(None, 1 << 30))
        assert await kit.db.write(keep, attempt.copy_id, kit.lease.id, facts.size)
    return image.id, attempt.copy_id


def staged_files(kit: Kit) -> list[str]:
    return [path.name for path in Path(kit.settings.staging.path).iterdir()]


def set_age(conn: Connection, copy_id: str, seconds: int) -> None:
    older = sa.update(tables.copies).where(tables.copies.c.id == copy_id)
    conn.execute(older.values(verified_at=tables.copies.c.verified_at - 1000 * seconds))


@pytest.mark.parametrize("state", copies.STAGED)
async def test_what_a_failed_web_download_left_is_kept_for_its_time_and_then_goes(kit: Kit, state: str) -> None:
    image, copy_id = await kept(kit, state)
    keep_s = kit.settings.staging.keep_s

    await kit.db.write(set_age, copy_id, keep_s - 600)
    early = (await reaper.run_once(kit))["staging"]
    found = await kit.db.read(copies.get, copy_id)
    there = staged_files(kit)
    await kit.db.write(set_age, copy_id, 601)
    late = (await reaper.run_once(kit))["staging"]

    assert (early, late) == (Found(0, 0), Found(1, 1))
    assert found is not None
    assert (found.state, found.size, there) == (state, len(PART), [f"{image}.{copy_id}"])
    assert staged_files(kit) == []
    assert await kit.db.read(copies.get, copy_id) is None


async def test_an_upload_or_a_deletion_takes_a_part_with_it(kit: Kit) -> None:
    first, _ = await kept(kit, "part")
    second, _ = await kept(kit, "part")

    await upload(kit, await verbs.show(kit, ALICE, first), b"other data")
    await verbs.delete(kit, ALICE, second)
    await reaper.run_once(kit)

    assert staged_files(kit) == []


async def test_only_who_writes_a_copy_keeps_its_part(kit: Kit) -> None:
    _, copy_id = await kept(kit, "part")

    assert not await kit.db.write(copies.keep_part, copy_id, kit.lease.id, 5)
    assert not await kit.db.write(copies.keep_part, "unknown", kit.lease.id, 5)
    copy = await kit.db.read(copies.get, copy_id)
    assert copy is not None
    assert copy.size == len(PART)
