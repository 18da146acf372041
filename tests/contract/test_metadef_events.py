"""Every change of a definition is told of, once it has happened, in order for each namespace; on every database."""

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ikon.app import open_kit
from ikon.config import load
from ikon.db import schema, tables
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.metadef import parse_entry, parse_tree
from ikon.periodic import teller
from ikon.problems import Conflict
from ikon.service import metadefs
from tests.contract.test_events_databases import Ear
from tests.contract.test_verbs_databases import ADMIN


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with open_kit(load(None, {"data": str(tmp_path), "database": database_url, "events": {"log": True}}, {})) as made:
        yield dataclasses.replace(made, senders={"log": Ear()})


async def change_everything(kit: Kit) -> None:
    inner = {"objects": [{"name": "o"}], "properties": {"p": {"title": "T", "type": "string"}}}
    await metadefs.create(
        kit, ADMIN, parse_tree({"namespace": "NS", "tags": [{"name": "t"}], "resource_type_associations": [{"name": "T"}]} | inner)
    )
    with pytest.raises(Conflict):
        await metadefs.add(kit, ADMIN, "NS", parse_entry("tag", {"name": "t"}))
    await metadefs.set_tags(kit, ADMIN, "NS", [parse_entry("tag", {"name": name}) for name in "ab"], append=True)
    await metadefs.replace_entry(kit, ADMIN, "NS", "a", parse_entry("tag", {"name": "c"}))
    await metadefs.remove_entry(kit, ADMIN, "NS", "resource_type", "T")
    for kind in ("object", "property", "tag"):
        await metadefs.clear(kit, ADMIN, "NS", kind)
    await metadefs.replace(kit, ADMIN, "NS", parse_tree({"namespace": "New"}).about)
    await metadefs.remove(kit, ADMIN, "New")


async def test_each_change_is_told_of_once_and_in_order(kit: Kit) -> None:
    await change_everything(kit)
    ear = kit.senders["log"]
    assert isinstance(ear, Ear)
    bodies = await kit.db.read(
        lambda conn: [json.loads(body) for (body,) in conn.execute(sa.select(tables.deliveries.c.body).order_by(tables.deliveries.c.n))]
    )

    await teller.run_once(kit, "log")

    assert [(kind.removeprefix("metadef_"), version) for _, kind, version in ear.heard] == [
        ("namespace.create", 1), ("object.create", 1), ("property.create", 1), ("tag.create", 1), ("resource_type.create", 1),
        ("tag.create", 2), ("tag.create", 2), ("tag.update", 3), ("resource_type.delete", 4), ("namespace.delete_objects", 5),
        ("namespace.delete_properties", 6), ("namespace.delete_tags", 7), ("namespace.update", 8), ("namespace.delete", 9),
    ]  # fmt: skip
    assert len({subject for subject, _, _ in ear.heard}) == 1
    assert [(body["payload"].get("name"), body["payload"].get("name_old")) for body in bodies][7] == ("c", "a")
    assert [body["payload"]["namespace"] for body in bodies[-2:]] == ["New", "New"]
    assert bodies[-2]["payload"]["namespace_old"] == "NS"


async def test_many_entries_are_told_of_in_no_more_statements_than_one(tmp_path: Path) -> None:
    database_url, counts = f"sqlite:///{tmp_path}/ikon.db", {1: 0, 200: 0}
    schema.upgrade(make_engine(database_url))

    def executed(conn: Any, cursor: Any, statement: str, *more: Any) -> None:
        counts[many] += "INTO deliveries" in statement

    async with open_kit(load(None, {"data": str(tmp_path), "database": database_url, "events": {"log": True}}, {})) as kit:
        sa.event.listen(sa.Engine, "before_cursor_execute", executed)
        for many in counts:
            tags = [{"name": f"t{n}"} for n in range(many)]
            await metadefs.create(kit, ADMIN, parse_tree({"namespace": f"NS{many}", "tags": tags}))
        sa.event.remove(sa.Engine, "before_cursor_execute", executed)

    assert counts == {1: 2, 200: 2}  # one for the namespace, one for all that is in it


async def test_the_log_tells_of_them_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/ikon.db"
    schema.upgrade(make_engine(url))
    async with open_kit(load(None, {"data": str(tmp_path), "database": url, "events": {"log": True}}, {})) as made:
        await metadefs.create(made, ADMIN, parse_tree({"namespace": "NS", "tags": [{"name": "a-tag"}]}))
        await teller.run_once(made, "log")

    told = [line for line in capsys.readouterr().out.splitlines() if "definition event" in line]
    assert len(told) == 2
    assert "kind=metadef_tag.create" in told[1] and "name=a-tag" in told[1] and "namespace=NS" in told[1]
