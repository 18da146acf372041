"""Locations under misfortune: who is first, what is left of a server that dies, and images that come back from the trash."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.wire.server import ADMIN, PATIENCE_S, Ikon
from tests.wire.shelf import Shelf

pytestmark = pytest.mark.slow

DATA = bytes(range(256)) * 8_200  # 2 MiB and a bit


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    with Shelf().open() as shelf:
        shelf.data["disk.raw"] = DATA
        yield shelf


@pytest.fixture(scope="module")
def ikon(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(
        tmp_path_factory.mktemp("ikon"),
        stores={"one": {}, "web": {"type": "http"}},
        egress={"allowed_networks": ["127.0.0.1/32"], "allowed_ports": [shelf.port]},
        show_locations=True,
        trash={"keep_s": 600},
    ) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def add(ikon: Ikon, image_id: str, url: str) -> int:
    return ikon.post(f"/v2/images/{image_id}/locations", {"url": url}).status


def active(ikon: Ikon, image_id: str) -> None:
    """Wait until it is."""
    end = time.monotonic() + PATIENCE_S
    while ikon.show(image_id)["status"] != "active":
        assert time.monotonic() < end, ikon.get(f"/v2/images/{image_id}/tasks").body
        time.sleep(0.02)


def test_of_several_who_add_a_location_at_once_one_does(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(lambda n: add(ikon, image_id, shelf.url(f"disk.raw?{n}")), range(8)))

    assert answers == [202, *[409] * 7]
    active(ikon, image_id)
    assert len(ikon.show(image_id)["locations"]) == 1


def test_of_patches_at_once_each_counts(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])

    def patched(n: int) -> int:
        value = {"url": shelf.url(f"disk.raw?{n}"), "metadata": {}}
        return ikon.patch(image_id, [{"op": "add", "path": "/locations/-", "value": value}]).status

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(patched, range(8)))

    assert answers == [200] * 8
    assert len(ikon.show(image_id)["locations"]) == 8


@pytest.mark.parametrize("way", ["request", "patch"])
def test_a_server_that_dies_while_it_verifies_does_it_again(ikon: Ikon, shelf: Shelf, way: str) -> None:
    image_id, before = str(ikon.create()["id"]), len(shelf.asked)
    shelf.gate.clear()
    try:
        if way == "request":
            assert add(ikon, image_id, shelf.url("disk.raw")) == 202
        else:
            value = {"url": shelf.url("disk.raw"), "metadata": {}}
            assert ikon.patch(image_id, [{"op": "add", "path": "/locations/-", "value": value}]).status == 200
        end = time.monotonic() + PATIENCE_S
        while len(shelf.asked) == before:
            assert time.monotonic() < end
            time.sleep(0.01)
        ikon.kill()
    finally:
        shelf.gate.set()
    ikon.start()

    [task] = ikon.get(f"/v2/images/{image_id}/tasks").json["tasks"]
    assert ikon.ended(task["id"])["state"] == "done"
    assert ikon.download(image_id).body == DATA


def test_an_image_comes_back_from_the_trash_with_its_location_if_the_source_has_it_still(ikon: Ikon, shelf: Shelf) -> None:
    ids = [str(ikon.create()["id"]) for _ in range(2)]
    for image_id in ids:
        assert add(ikon, image_id, shelf.url(f"{image_id}.raw", DATA)) == 202
        active(ikon, image_id)
        assert ikon.delete(image_id).status == 204
    del shelf.data[f"{ids[1]}.raw"]

    answers = [ikon.post(f"/ikon/v1/trash/{image_id}/restore", who=ADMIN).status for image_id in ids]

    assert answers == [204, 409]
    assert ikon.download(ids[0]).body == DATA
    assert ikon.call("DELETE", f"/ikon/v1/trash/{ids[1]}", who=ADMIN).status == 204


def test_a_default_store_that_takes_no_data_is_refused_at_the_start(tmp_path: Path) -> None:
    server = Ikon(tmp_path, stores={"web": {"type": "http"}, "one": {}})

    with pytest.raises(AssertionError, match=r"default_store = 'web': the store is read-only. Allowed: one"):
        server.start()
