"""Locations: images whose data stays at a URL, named by a request of its own or by a patch, and read only once it was verified."""

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wire.server import MEMBER, PATIENCE_S, Answer, Ikon, Persona
from tests.wire.shelf import Shelf

DATA = bytes(range(256)) * 12_345  # 3 MiB and a bit
SHA512, MD5 = hashlib.sha512(DATA).hexdigest(), hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SERVICE = Persona("services", "service")


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    with Shelf().open() as shelf:
        shelf.data["disk.raw"] = DATA
        yield shelf


@pytest.fixture(scope="module")
def ikon(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    settings: dict[str, Any] = {
        "stores": {"one": {"weight": 20}, "two": {"weight": 10}, "web": {"type": "http", "description": "Elsewhere"}},
        "egress": {"allowed_networks": ["127.0.0.1/32"], "allowed_ports": [80, shelf.port]},
        "show_locations": True,
        "show_direct_url": True,
    }
    with Ikon(tmp_path_factory.mktemp("ikon"), **settings) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def add(ikon: Ikon, image_id: str, url: Any, who: Persona = MEMBER, **more: Any) -> Answer:
    return ikon.post(f"/v2/images/{image_id}/locations", {"url": url} | more, who=who)


def tasks(ikon: Ikon, image_id: str) -> list[dict[str, Any]]:
    """The image's tasks, once all have ended."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = list(ikon.get(f"/v2/images/{image_id}/tasks").json["tasks"])
        if found and all(task["status"] in ("success", "failure") for task in found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def added(ikon: Ikon, url: str, **more: Any) -> str:
    """The id of an image whose data is at a URL, verified."""
    image_id = str(ikon.create()["id"])
    assert add(ikon, image_id, url, **more).status == 202
    assert [task["status"] for task in tasks(ikon, image_id)] == ["success"]
    return image_id


def test_an_image_is_served_from_where_it_is(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("disk.raw"))

    shown, answer = ikon.show(image_id), ikon.download(image_id)
    assert (shown["status"], shown["size"], shown["checksum"], shown["os_hash_value"]) == ("active", len(DATA), MD5, SHA512)
    assert (shown["stores"], shown["direct_url"], shown["virtual_size"]) == ("web", shelf.url("disk.raw"), len(DATA))
    assert (answer.status, answer.body) == (200, DATA)


def patch(ikon: Ikon, image_id: str, *operations: Any, who: Persona = MEMBER) -> Answer:
    return ikon.patch(image_id, list(operations), who=who)


def plus(url: str, at: str = "-", **more: Any) -> dict[str, Any]:
    return {"op": "add", "path": f"/locations/{at}", "value": {"url": url, "metadata": {}} | more}


def test_a_patch_makes_an_image_active_at_once_and_serves_it_once_it_is_verified(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])

    answer = patch(ikon, image_id, plus(shelf.url("disk.raw"), metadata={"foo": "bar"}))

    assert (answer.status, answer.json["status"], answer.json["size"]) == (200, "active", len(DATA))
    assert answer.json["locations"] == [{"url": shelf.url("disk.raw"), "metadata": {"foo": "bar", "store": "web"}}]
    assert [task["status"] for task in tasks(ikon, image_id)] == ["success"]
    assert ikon.download(image_id).body == DATA
    assert ikon.show(image_id)["os_hash_value"] is None
