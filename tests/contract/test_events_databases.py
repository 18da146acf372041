"""Events are told to those outside once they have happened, in order for each image, until they are heard; on every database."""

import dataclasses
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kombu import Connection, Exchange, Queue
from sqlalchemy import Connection as Database

from ikon.app import open_kit
from ikon.config import load
from ikon.context import Context
from ikon.db import deliveries, events, schema, tables
from ikon.db import images as rows
from ikon.db.deliveries import Delivery
from ikon.db.engine import make_engine
from ikon.events import senders
from ikon.kit import Kit
from ikon.model.image import parse_new
from ikon.model.patch import Change
from ikon.periodic import teller
from ikon.problems import BadRequest, StartError, Unavailable
from ikon.service import data, images
from tests.faults.world import Ikon, eventually
from tests.services.servers import Server, free_port
from tests.unit.cli.run import ikon

ALICE = Context("alice", "alpha", None, frozenset(("member", "reader")))


class Ear:
    """A sink that hears only while it likes to."""

    at_once = 1

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, int]] = []
        self.deaf_to: set[str] = set()

    async def send(self, delivery: Delivery) -> None:
        if delivery.image_id in self.deaf_to:
            raise Unavailable("I do not hear")
        self.heard.append((delivery.image_id, delivery.kind, delivery.version))

    def close(self) -> None:
        pass


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with open_kit(load(None, {"data": str(tmp_path), "database": database_url, "events": {"log": True}}, {})) as made:
        yield dataclasses.replace(made, senders={"log": Ear()})


async def new(kit: Kit, **fields: object) -> str:
    raw = {"disk_format": "raw", "container_format": "bare"} | fields
    return (await images.create(kit, ALICE, parse_new(raw))).id


async def rename(kit: Kit, image: str, name: str) -> None:
    await images.update(kit, ALICE, image, [Change("replace", "name", name)], None)


async def left(kit: Kit) -> list[Any]:
    return await kit.db.read(lambda conn: list(conn.execute(sa.select(tables.deliveries).order_by(tables.deliveries.c.n))))


def hurry(conn: Database) -> None:
    conn.execute(sa.update(tables.deliveries).values(not_before=0))


def age(conn: Database) -> None:
    conn.execute(sa.update(tables.deliveries).values(not_before=0, at=tables.deliveries.c.at - deliveries.PARKED_MS - 1))


async def test_what_happened_is_told_in_order_and_forgotten(kit: Kit) -> None:
    first, second = await new(kit), await new(kit)
    for name in "abc":
        await rename(kit, first, name)
    assert len(await left(kit)) == 5

    assert (await teller.run_once(kit, "log"))["events"].mended == 5

    heard = kit.senders["log"].heard  # type: ignore[attr-defined]
    assert [(kind, version) for image, kind, version in heard if image == first] == [
        ("image.create", 1), ("image.update", 2), ("image.update", 3), ("image.update", 4),
    ]  # fmt: skip
    assert [kind for image, kind, _ in heard if image == second] == ["image.create"]
    assert await left(kit) == []


async def test_what_did_not_happen_is_not_told(kit: Kit) -> None:
    image = await new(kit)

    def undone(conn: Database) -> None:
        locked = rows.lock(conn, image)
        assert locked is not None
        events.add(conn, ALICE, "image.update", locked)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await kit.db.write(undone)
    assert [row.kind for row in await left(kit)] == ["image.create"]


async def test_an_event_that_is_not_heard_holds_up_its_image_alone_and_comes_again(kit: Kit) -> None:
    ear: Ear = kit.senders["log"]  # type: ignore[assignment]
    first = await new(kit)
    ear.deaf_to.add(first)
    await rename(kit, first, "a")
    await teller.run_once(kit, "log")
    second = await new(kit)
    await teller.run_once(kit, "log")
    assert [image for image, _, _ in ear.heard] == [second]
    assert [row.kind for row in await left(kit)] == ["image.create", "image.update"]

    ear.deaf_to.clear()
    await kit.db.write(hurry)
    await teller.run_once(kit, "log")
    assert [kind for image, kind, _ in ear.heard if image == first] == ["image.create", "image.update"]


async def test_what_is_not_heard_for_a_day_is_parked_and_lets_the_rest_pass(kit: Kit) -> None:
    ear: Ear = kit.senders["log"]  # type: ignore[assignment]
    image = await new(kit)
    ear.deaf_to.add(image)
    await kit.db.write(age)
    await teller.run_once(kit, "log")
    [backlog] = await kit.db.read(deliveries.backlog)
    assert (backlog.sink, backlog.count, backlog.parked) == ("log", 1, 1)
    ear.deaf_to.clear()
    await rename(kit, image, "a")
    await teller.run_once(kit, "log")
    assert [kind for _, kind, _ in ear.heard] == ["image.update"]

    assert await kit.db.write(deliveries.unpark) == 1
    await teller.run_once(kit, "log")
    assert [kind for _, kind, _ in ear.heard] == ["image.update", "image.create"]


class Bus:
    """A consumer of notifications, as OpenStack's own are: a queue for each priority on the topic exchange."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(url)
        exchange = Exchange("glance", "topic", durable=False)
        names = ("notifications.info", "notifications.error")
        self._messages: list[dict[str, Any]] = []
        self._queues = [Queue(name, exchange, name, durable=False) for name in names]
        self._consumer = self._connection.Consumer(self._queues, callbacks=[self._take], accept=["json"])
        self._consumer.consume()

    def _take(self, body: dict[str, Any], message: Any) -> None:
        message.ack()
        self._messages.append(json.loads(body["oslo.message"]))

    def heard(self, count: int) -> list[dict[str, Any]]:
        until = time.monotonic() + 20
        while len(self._messages) < count and time.monotonic() < until:
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                continue
        found, self._messages = self._messages, []
        return found

    def close(self) -> None:
        self._consumer.cancel()
        for queue in self._queues:
            queue(self._connection.default_channel).delete()
        self._connection.close()


@pytest.fixture
def bus(rabbitmq: Server) -> Iterator[Bus]:
    made = Bus(rabbitmq.url())
    yield made
    made.close()


def on_bus(tmp_path: Path, port: int, *disabled: str) -> Any:
    events = {"notifications": f"rabbit://ikon:secret@127.0.0.1:{port}/", "disabled_notifications": list(disabled)}
    schema.upgrade(make_engine(f"sqlite:///{tmp_path}/ikon.db"))
    return load(None, {"data": str(tmp_path), "events": events}, {})


async def one(payload: bytes) -> AsyncIterator[bytes]:
    yield payload


@pytest.mark.slow
async def test_consumers_of_openstack_hear_of_an_image_in_the_form_that_they_know(tmp_path: Path, rabbitmq: Server, bus: Bus) -> None:
    async with open_kit(on_bus(tmp_path, rabbitmq.port, "image.prepare")) as kit:
        image = await new(kit, name="a1", tags=["x"])
        await data.upload(kit, ALICE, image, one(b"1234"), store=None, size=4)
        with pytest.raises(BadRequest):
            await data.upload(kit, ALICE, await new(kit), one(b"123"), store=None, size=4)
        await teller.run_once(kit, "notifications")
        assert await left(kit) == []
    heard = bus.heard(5)

    told = [(each["event_type"], each["payload"]["id"]) for each in heard if each["priority"] == "INFO"]
    assert [kind for kind, of in told if of == image] == ["image.create", "image.upload", "image.activate"]
    assert len(told) == 4
    [failure] = [each for each in heard if each["priority"] == "ERROR"]
    assert (failure["event_type"], failure["payload"]) == ("image.upload", "Size mismatch: expected 4 bytes, got 3 bytes")
    [activated] = [each for each in heard if each["event_type"] == "image.activate"]
    assert {"message_id", "timestamp"} < set(activated)
    assert activated["publisher_id"] == "image.localhost"
    assert (activated["payload"]["id"], activated["payload"]["status"], activated["payload"]["size"]) == (image, "active", 4)


@pytest.mark.slow
async def test_notifications_wait_for_a_bus_that_is_away(tmp_path: Path, rabbitmq: Server, bus: Bus) -> None:
    async with open_kit(on_bus(tmp_path, free_port())) as kit:
        await new(kit)
        assert (await teller.run_once(kit, "notifications"))["events"].mended == 0
        assert [row.tries for row in await left(kit)] == [1]
    async with open_kit(on_bus(tmp_path, rabbitmq.port)) as kit:
        await kit.db.write(hurry)
        assert (await teller.run_once(kit, "notifications"))["events"].mended == 1
    assert [each["event_type"] for each in bus.heard(1)] == ["image.create"]


def test_a_server_tells_what_happens_and_doctor_what_nobody_would_hear(tmp_path: Path) -> None:
    with Ikon(tmp_path, settings="[events]\nlog = true") as server:
        image = server.create()
        eventually(lambda: any('"image event"' in line and image in line for line in server.log.read_text().splitlines()))
        eventually(lambda: not server.rows("SELECT n FROM deliveries"))
        server.stop()
    with make_engine(server.database).begin() as conn:
        deliveries.add(conn, "notifications", image, 2, ("image.update", "{}"))
        age(conn)
        conn.execute(sa.update(tables.deliveries).values(parked=True))

    said = ikon("doctor", "--config", tmp_path / "ikon.toml")

    assert said.returncode == 1
    assert "events for notifications: 1 untold, 1 of them parked" in said.stdout
    assert "No setting below [events] names it" in said.stdout


def nobody(setting: str, url: str) -> Any:
    raise AssertionError("no webhook is configured")


def test_a_bus_that_cannot_be_used_is_refused_without_its_secret(tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        senders(load(None, {"data": str(tmp_path), "events": {"notifications": "nonsense://ikon:hush@rabbit/"}}, {}), nobody)
    assert "events.notifications" in str(refused.value)
    assert "hush" not in str(refused.value)
