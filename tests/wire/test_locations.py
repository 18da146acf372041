"""Locations: images whose data stays at a URL, named by a request of its own or by a patch, and read only once it was verified."""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.wire.server import ADMIN, MEMBER, PATIENCE_S, READER, STRANGER, UNUSED_ID, Answer, Ikon, Persona
from tests.wire.shelf import Shelf
from tests.wire.test_recorded import qcow2

DATA = bytes(range(256)) * 12_345  # 3 MiB and a bit
SHA512, MD5 = hashlib.sha512(DATA).hexdigest(), hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SERVICE = Persona("services", "service")
#: A service that is a member of the project.
INSIDER = Persona("home", "member,reader,service")


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


def tasks(ikon: Ikon, image_id: str, who: Persona = MEMBER) -> list[dict[str, Any]]:
    """The image's tasks, once all have ended."""
    end = time.monotonic() + PATIENCE_S
    while True:
        found = list(ikon.get(f"/v2/images/{image_id}/tasks", who=who).json["tasks"])
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


def patch(ikon: Ikon, image_id: str, *operations: Any, who: Persona = MEMBER) -> Answer:
    return ikon.patch(image_id, list(operations), who=who)


def plus(url: str, at: str = "-", **more: Any) -> dict[str, Any]:
    return {"op": "add", "path": f"/locations/{at}", "value": {"url": url, "metadata": {}} | more}


def locations(ikon: Ikon, image_id: str, who: Persona = ADMIN) -> Answer:
    return ikon.get(f"/v2/images/{image_id}/locations", who=who)


# A request of its own


def test_an_image_is_served_from_where_it_is(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("disk.raw"))

    shown, answer = ikon.show(image_id), ikon.download(image_id)
    assert (shown["status"], shown["size"], shown["checksum"], shown["os_hash_value"]) == ("active", len(DATA), MD5, SHA512)
    assert (shown["stores"], shown["direct_url"], shown["virtual_size"]) == ("web", shelf.url("disk.raw"), len(DATA))
    assert (answer.status, answer.body) == (200, DATA)
    assert locations(ikon, image_id).json == shown["locations"] == [{"url": shelf.url("disk.raw"), "metadata": {"store": "web"}}]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(("first", "last"), [(0, 9), (1_048_570, 1_048_590), (3_000_000, len(DATA) - 1)])
def test_a_part_is_what_that_part_is_even_of_a_source_that_knows_no_parts(
    ikon: Ikon, shelf: Shelf, first: int, last: int, ranges: bool
) -> None:
    image_id, shelf.ranges = added(ikon, shelf.url("disk.raw")), ranges

    try:
        answer = ikon.download(image_id, {"Range": f"bytes={first}-{last}"})
    finally:
        shelf.ranges = True

    assert (answer.status, answer.body) == (206, DATA[first : last + 1])


def test_data_is_shown_with_the_digest_that_it_was_added_with(ikon: Ikon, shelf: Shelf) -> None:
    value = hashlib.sha256(DATA).hexdigest()
    image_id = added(ikon, shelf.url("disk.raw"), validation_data={"os_hash_algo": "sha256", "os_hash_value": value.upper()})

    shown = ikon.show(image_id)
    assert (shown["os_hash_algo"], shown["os_hash_value"], shown["checksum"]) == ("sha256", value, MD5)


@pytest.mark.parametrize("again", [add, lambda ikon, image_id, url: patch(ikon, image_id, plus(url))], ids=["request", "patch"])
def test_what_is_not_what_it_should_be_is_never_served_and_another_try_is_free(
    ikon: Ikon, shelf: Shelf, again: Callable[[Ikon, str, str], Answer]
) -> None:
    image_id = str(ikon.create()["id"])
    wrong = {"os_hash_algo": "sha512", "os_hash_value": "beefdead" * 16}
    assert add(ikon, image_id, shelf.url("disk.raw"), validation_data=wrong).status == 202

    [task] = tasks(ikon, image_id)

    assert (task["status"], task["type"]) == ("failure", "location_import")
    assert "sha512 digest" in task["message"]
    shown = ikon.show(image_id)
    assert (shown["status"], shown["checksum"], shown["os_hash_value"], shown["stores"]) == ("queued", None, None, "web")
    assert ikon.download(image_id).status == 204
    assert again(ikon, image_id, shelf.url("disk.raw")).status in (200, 202)
    assert [task["status"] for task in tasks(ikon, image_id)] == ["failure", "success"]
    assert (ikon.download(image_id).body, len(ikon.show(image_id)["locations"])) == (DATA, 1)


def test_data_of_one_s_own_takes_the_place_of_a_location_that_was_refused(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])
    assert add(ikon, image_id, shelf.url("none")).status == 202
    assert [task["status"] for task in tasks(ikon, image_id)] == ["failure"]

    assert ikon.upload(image_id, b"my own").status == 204

    shown = ikon.show(image_id)
    assert (shown["stores"], len(shown["locations"]), ikon.download(image_id).body) == ("one", 1, b"my own")


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("none", {}, "404"),
        ("disk.qcow2", {"disk_format": "qcow2"}, "backing"),
        ("disk.raw", {"disk_format": "qcow2"}, "qcow2"),
    ],
)
def test_a_location_is_refused_for_what_is_there_and_the_task_says_so(
    ikon: Ikon, shelf: Shelf, name: str, fields: dict[str, str], said: str
) -> None:
    shelf.data["disk.qcow2"] = qcow2(b"/etc/passwd")
    image_id = str(ikon.create(**fields)["id"])

    assert add(ikon, image_id, shelf.url(name)).status == 202

    [task] = tasks(ikon, image_id)
    assert (task["status"], ikon.show(image_id)["status"]) == ("failure", "queued")
    assert said in task["message"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"[]",
        {},
        {"url": None},
        {"url": 5},
        {"url": "http://x/" + "a" * 2000},
        {"url": "http://x/\u00e9"},
        {"url": "URL", "validation_data": None},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512"}},
        {"url": "URL", "validation_data": {"os_hash_value": "aa"}},
        {"url": "URL", "validation_data": {"os_hash_algo": "crc", "os_hash_value": "aa"}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha512", "os_hash_value": "z" * 128}},
        {"url": "URL", "validation_data": {"os_hash_algo": "sha256", "os_hash_value": "a" * 128}},
        {"url": "URL", "validation_data": {"os_hash_algo": "md5", "os_hash_value": "a" * 32, "checksum": "a" * 32}},
        {"url": "http://10.1.1.1/x"},
        {"url": "http://127.0.0.1:19999/x"},
        {"url": "http://169.254.169.254/"},
        {"url": "http://"},
    ],
)
def test_a_location_that_cannot_be_is_a_bad_request(ikon: Ikon, shelf: Shelf, body: Any) -> None:
    image_id = str(ikon.create()["id"])
    if isinstance(body, dict) and body.get("url") == "URL":
        body = body | {"url": shelf.url("disk.raw")}

    answer = ikon.post(f"/v2/images/{image_id}/locations", body)

    assert (answer.status, ikon.show(image_id)["status"]) == (400, "queued")


def test_only_an_image_without_data_takes_a_location_and_only_with_its_formats(ikon: Ikon, shelf: Shelf) -> None:
    url, bare = shelf.url("disk.raw"), str(ikon.create(disk_format=None)["id"])

    assert add(ikon, ikon.active(b"x"), url).message.endswith("if image status is active.")
    assert add(ikon, ikon.active(b"x"), url).status == 409
    assert add(ikon, bare, url).status == 400


@pytest.mark.parametrize(
    ("who", "posts", "gets"),
    [
        (MEMBER, 202, 403),
        (READER, 403, 403),
        (STRANGER, 404, 404),
        (ADMIN, 202, 200),
        (SERVICE, 404, 404),
        (Persona("home", ""), 404, 404),
    ],
)
def test_who_may_name_a_location_and_who_may_learn_it(ikon: Ikon, shelf: Shelf, who: Persona, posts: int, gets: int) -> None:
    image_id = str(ikon.create()["id"])

    assert locations(ikon, image_id, who).status == gets
    assert add(ikon, image_id, shelf.url("disk.raw"), who=who).status == posts
    assert add(ikon, UNUSED_ID, shelf.url("disk.raw"), who=who).status == 404


def test_a_service_learns_the_locations_of_open_images(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create(visibility="community")["id"])

    assert locations(ikon, image_id, SERVICE).json == []
    assert add(ikon, image_id, shelf.url("disk.raw"), who=SERVICE).status == 202
    assert locations(ikon, image_id, STRANGER).status == 403


@pytest.mark.parametrize("url", ["file:///etc/passwd", "rbd://a/b/c/d", "gopher://x", "nonsense"])
@pytest.mark.parametrize("who", [MEMBER, ADMIN])
def test_users_name_http_urls_alone(ikon: Ikon, url: str, who: Persona) -> None:
    answer = add(ikon, str(ikon.create()["id"]), url, who=who)

    assert answer.status == 403
    assert "http store must be enabled to use location API by normal user." in answer.message


def test_other_projects_learn_nothing_of_where_data_is(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("disk.raw"))
    ikon.patch(image_id, [{"op": "replace", "path": "/visibility", "value": "community"}])

    shown = ikon.show(image_id, who=STRANGER)

    assert not {"locations", "direct_url", "stores"} & shown.keys()
    assert ikon.download(image_id, who=STRANGER).body == DATA


# A patch


def test_a_patch_makes_an_image_active_at_once_and_serves_it_once_it_is_verified(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])

    answer = patch(ikon, image_id, plus(shelf.url("disk.raw"), metadata={"foo": "bar"}))

    assert (answer.status, answer.json["status"], answer.json["size"]) == (200, "active", len(DATA))
    assert answer.json["locations"] == [{"url": shelf.url("disk.raw"), "metadata": {"foo": "bar", "store": "web"}}]
    assert [task["status"] for task in tasks(ikon, image_id)] == ["success"]
    assert ikon.download(image_id).body == DATA
    assert ikon.show(image_id)["os_hash_value"] is None


def test_what_a_patch_says_of_data_is_shown_and_data_that_is_not_so_is_not_served(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])
    said = {"checksum": "1" * 32, "os_hash_algo": "sha512", "os_hash_value": "deadbeef" * 16}
    assert patch(ikon, image_id, plus(shelf.url("disk.raw"), validation_data=said)).status == 200

    [task] = tasks(ikon, image_id)

    shown, answer = ikon.show(image_id), ikon.download(image_id)
    assert task["status"] == "failure"
    assert (shown["status"], shown["checksum"], shown["os_hash_value"]) == ("active", "1" * 32, "deadbeef" * 16)
    assert (len(shown["locations"]), "direct_url" in shown, answer.status) == (1, False, 503)


def test_a_further_location_of_the_same_data_is_read_when_the_first_is_gone(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("first", DATA))
    assert patch(ikon, image_id, plus(shelf.url("disk.raw"))).status == 200
    assert [task["status"] for task in tasks(ikon, image_id)] == ["success", "success"]

    del shelf.data["first"]

    assert ikon.download(image_id).body == DATA
    assert ikon.download(image_id, {"Range": "bytes=2000000-2000009"}).body == DATA[2_000_000:2_000_010]


def test_a_further_location_of_other_data_is_not_read(ikon: Ikon, shelf: Shelf) -> None:
    image_id = ikon.active(DATA)
    other = shelf.url("other", DATA[:-1] + b"!")
    assert patch(ikon, image_id, plus(other)).status == 200

    [task] = tasks(ikon, image_id)

    assert task["status"] == "failure"
    assert "not the image's data" in task["message"]
    assert ikon.download(image_id, query="?prefer=web").body == DATA
    assert patch(ikon, image_id, plus(shelf.url("shorter", DATA[:-1]))).status == 400


def test_locations_are_replaced_by_themselves_alone_with_other_metadata(ikon: Ikon, shelf: Shelf) -> None:
    image_id, url = str(ikon.create()["id"]), shelf.url("disk.raw")
    both = [{"url": url, "metadata": {"a": "b"}}, {"url": f"{url}#new", "metadata": {"store": "one", "n": 1}}]

    def replace(value: Any) -> Answer:
        return patch(ikon, image_id, {"op": "replace", "path": "/locations", "value": value})

    assert replace([]).status == 403
    answer = replace(both)
    assert (answer.status, answer.json["stores"]) == (200, "web")
    shown = answer.json["locations"]
    assert [each["metadata"] for each in shown] == [{"a": "b", "store": "web"}, {"n": 1, "store": "web"}]
    shown[0]["metadata"]["date"] = "today"
    assert replace(shown).json["locations"] == shown
    assert [replace(value).status for value in (shown[:1], [*shown[:1], {"url": f"{url}#3", "metadata": {}}], [])] == [400, 400, 403]
    assert ikon.show(image_id)["locations"] == shown


def test_locations_are_removed_by_administrators_but_for_the_last(ikon: Ikon, shelf: Shelf) -> None:
    image_id, url = str(ikon.create()["id"]), shelf.url("disk.raw")
    assert patch(ikon, image_id, plus(url), plus(f"{url}?2")).status == 200

    def remove(at: str, who: Persona = ADMIN) -> Answer:
        return patch(ikon, image_id, {"op": "remove", "path": f"/locations/{at}"}, who=who)

    assert [remove("0", MEMBER).status, remove("9").status, remove("-").status, remove("x").status] == [403, 400, 400, 400]
    assert [each["url"] for each in remove("0").json["locations"]] == [f"{url}?2"]
    assert remove("0").status == 403


def test_bytes_of_ours_stay_until_a_location_is_known_to_have_them(ikon: Ikon, shelf: Shelf) -> None:
    image_id = ikon.active(DATA)
    shelf.gate.clear()
    try:
        assert patch(ikon, image_id, plus(shelf.url("disk.raw"))).status == 200
        refused = patch(ikon, image_id, {"op": "remove", "path": "/locations/0"}, who=ADMIN)
        from_store = ikon.call("DELETE", f"/v2/stores/one/{image_id}", who=ADMIN)
    finally:
        shelf.gate.set()
    assert [refused.status, from_store.status] == [409, 403]
    assert [task["status"] for task in tasks(ikon, image_id)] == ["success"]

    assert ikon.call("DELETE", f"/v2/stores/one/{image_id}", who=ADMIN).status == 204

    assert (ikon.show(image_id)["stores"], ikon.download(image_id).body) == ("web", DATA)


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (plus("URL", "-1"), 400),
        (plus("URL", "x"), 400),
        (plus("file:///etc/passwd"), 400),
        (plus("swift+config://x/y"), 400),
        (plus("nonsense"), 400),
        (plus(""), 400),
        (plus("http://"), 400),
        (plus("http://127.0.0.1:1/x"), 400),
        (plus("URL/none"), 400),
        (plus("URL?" + "a" * 250), 400),
        (plus("URL", metadata=None), 400),
        (plus("URL", metadata={"os_glance_x": "y"}), 400),
        (plus("URL", metadata={"x": "y" * 70_000}), 400),
        (plus("URL", validation_data={}), 400),
        (plus("URL", validation_data={"os_hash_algo": "sha512"}), 400),
        (plus("URL", validation_data={"os_hash_algo": "sha512", "os_hash_value": "a" * 128, "x": "y"}), 400),
        (plus("URL", validation_data={"os_hash_algo": "sha256", "os_hash_value": "a" * 64}), 409),
        (plus("URL", validation_data={"os_hash_algo": "sha512", "os_hash_value": "z" * 128}), 409),
        (plus("URL", validation_data={"os_hash_algo": "sha512", "os_hash_value": "aa"}), 409),
        (plus("URL", validation_data={"os_hash_algo": "sha512", "os_hash_value": "a" * 128, "checksum": "z" * 32}), 409),
        ({"op": "replace", "path": "/locations/0", "value": {}}, 400),
        ({"op": "replace", "path": "/locations", "value": {}}, 400),
        ({"op": "add", "path": "/locations", "value": []}, 400),
        ({"op": "remove", "path": "/locations"}, 400),
        ({"op": "remove", "path": "/locations/0"}, 403),
    ],
)
def test_a_patch_that_cannot_be_changes_nothing(ikon: Ikon, shelf: Shelf, operation: dict[str, Any], status: int) -> None:
    image_id = str(ikon.create()["id"])
    text = json.dumps(operation).replace("URL/none", shelf.url("none")).replace("URL", shelf.url("disk.raw"))

    answer = patch(ikon, image_id, {"op": "replace", "path": "/name", "value": "new"}, json.loads(text))

    shown = ikon.show(image_id)
    assert (answer.status, shown["status"], shown["name"], shown["locations"]) == (status, "queued", None, [])


def test_an_image_has_a_number_of_locations_and_each_url_once(ikon: Ikon, shelf: Shelf) -> None:
    image_id, url = str(ikon.create()["id"]), shelf.url("disk.raw")
    before = len(shelf.asked)

    assert patch(ikon, image_id, *(plus(f"{url}?{n}") for n in range(11))).status == 413
    assert len(shelf.asked) == before
    assert patch(ikon, image_id, plus(url)).status == 200
    assert "already exists" in patch(ikon, image_id, plus(url)).message
    assert patch(ikon, image_id, plus(url)).status == 400


@pytest.mark.parametrize(("who", "status"), [(READER, 403), (STRANGER, 404), (SERVICE, 404)])
def test_nobody_has_a_url_asked_for_who_may_not_add_it(ikon: Ikon, shelf: Shelf, who: Persona, status: int) -> None:
    image_id, before = str(ikon.create()["id"]), len(shelf.asked)

    assert patch(ikon, image_id, plus(shelf.url("disk.raw")), who=who).status == status
    assert len(shelf.asked) == before


# Nothing is whole that is not


def test_nothing_is_served_before_it_is_verified(ikon: Ikon, shelf: Shelf) -> None:
    image_id, other = str(ikon.create()["id"]), str(ikon.create()["id"])
    shelf.gate.clear()
    try:
        assert add(ikon, image_id, shelf.url("disk.raw")).status == 202
        assert patch(ikon, other, plus(shelf.url("disk.raw"))).status == 200
        importing, active = ikon.show(image_id), ikon.show(other)
        early, told = ikon.download(image_id), ikon.download(other)
        twice = add(ikon, image_id, shelf.url("disk.raw"))
    finally:
        shelf.gate.set()

    assert (importing["status"], active["status"], early.status, twice.status) == ("importing", "active", 204, 409)
    assert (told.status, told.headers["Retry-After"], "verified" in told.message) == (503, "5", True)
    assert [tasks(ikon, each)[0]["status"] for each in (image_id, other)] == ["success", "success"]
    assert [ikon.download(each).body == DATA for each in (image_id, other)] == [True, True]


@pytest.mark.parametrize("now", [None, DATA[:-1], DATA + b"more", b"?" + DATA[1:]])
def test_a_source_that_has_changed_is_told_before_the_first_byte(ikon: Ikon, shelf: Shelf, now: bytes | None) -> None:
    image_id = added(ikon, shelf.url("changing", DATA))
    del shelf.data["changing"]
    if now is not None:
        shelf.data["changing"] = now

    answer = ikon.download(image_id)

    assert answer.status == 503
    assert "No intact copy" in answer.message


def test_a_source_that_changes_further_on_breaks_the_connection(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("changing", DATA))
    shelf.data["changing"] = DATA[:-1] + b"?"

    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ikon.download(image_id)


def test_what_comes_from_a_store_goes_on_from_a_store_where_the_source_has_changed(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("changing", DATA))
    assert ikon.copy(image_id, "two").status == 202
    shelf.data["changing"] = DATA[:-1] + b"?"

    assert ikon.download(image_id, query="?prefer=web").body == DATA


def test_nobody_is_asked_any_more_for_a_patch_that_was_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow, socket.create_server(("127.0.0.1", 0)) as wrong:
        ports = [server.getsockname()[1] for server in (slow, wrong)]
        egress = {"allowed_networks": ["127.0.0.1/32"], "allowed_ports": ports}
        with Ikon(tmp_path, stores={"one": {}, "web": {"type": "http"}}, egress=egress, show_locations=True) as server:
            image_id = str(server.create()["id"])
            operations = [plus(f"http://127.0.0.1:{port}/x") for port in ports]
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(patch, server, image_id, *operations)
                (held, _), (refused, _) = slow.accept(), wrong.accept()
                with held, refused:
                    assert b"GET /x" in held.recv(4096)
                    refused.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    assert asked.result(PATIENCE_S).status == 400
                    held.settimeout(20)  # the store's read_s is longer
                    with contextlib.suppress(ConnectionResetError):
                        assert held.recv(1) == b""


# Files that a service has put into a store


def put(ikon: Ikon, name: str, data: bytes = DATA) -> tuple[Path, str]:
    """A file in store `one` that Ikon did not write, and its URL."""
    path = ikon.directory / "one" / name
    path.write_bytes(data)
    return path, f"file://{path}"


def hand_over(ikon: Ikon, image_id: str, url: str, **more: Any) -> Answer:
    """POST of a location by a service."""
    return add(ikon, image_id, url, INSIDER, **more)


def test_a_service_hands_a_file_over_which_is_the_image_s_from_then_on(ikon: Ikon) -> None:
    image_id, (path, url) = str(ikon.create()["id"]), put(ikon, "snapshot")

    assert hand_over(ikon, image_id, url).status == 202

    assert [task["status"] for task in tasks(ikon, image_id)] == ["success"]
    assert (ikon.download(image_id).body, ikon.show(image_id)["stores"]) == (DATA, "one")
    assert hand_over(ikon, str(ikon.create()["id"]), url).status == 409
    assert ikon.delete(image_id).status == 204
    assert not path.exists()


def test_where_a_store_lies_on_the_server_is_told_to_services_and_administrators(ikon: Ikon) -> None:
    image_id, (_, url) = str(ikon.create()["id"]), put(ikon, "told")
    assert hand_over(ikon, image_id, url).status == 202

    told = [tasks(ikon, image_id, who)[0]["input"].get("loc_url") for who in (ADMIN, INSIDER, MEMBER)]

    assert told == [url, url, None]


def test_a_file_that_is_refused_is_left_as_it_was(ikon: Ikon, shelf: Shelf) -> None:
    image_id, (path, url) = str(ikon.create()["id"]), put(ikon, "wrong", b"not this")

    assert hand_over(ikon, image_id, url, validation_data={"os_hash_algo": "sha512", "os_hash_value": SHA512}).status == 202

    assert [task["status"] for task in tasks(ikon, image_id)] == ["failure"]
    shown = ikon.show(image_id)
    assert (shown["status"], shown["locations"], "stores" in shown) == ("queued", [], False)
    assert ikon.delete(image_id).status == 204
    assert path.read_bytes() == b"not this"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "file://ONE/../two/x", "file://ONE/.hidden", "file://ONE/a.part", "file://ONE/sub/x"]
)
def test_no_service_names_what_is_not_right_in_a_store(ikon: Ikon, url: str) -> None:
    image_id = str(ikon.create()["id"])

    answer = hand_over(ikon, image_id, url.replace("ONE", str(ikon.directory / "one")))

    assert (answer.status, ikon.show(image_id)["status"]) == (400, "queued")


def test_no_service_names_what_ikon_has_made(ikon: Ikon) -> None:
    [own] = ikon.show(ikon.active(DATA))["locations"]

    assert hand_over(ikon, str(ikon.create()["id"]), own["url"]).status == 400


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "nothing"])
def test_what_is_no_file_is_not_taken(ikon: Ikon, kind: str) -> None:
    image_id, path = str(ikon.create()["id"]), ikon.directory / "one" / f"a-{kind}"
    {
        "link": lambda: path.symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(path),
        "directory": path.mkdir,
        "nothing": lambda: None,
    }[kind]()

    assert hand_over(ikon, image_id, f"file://{path}").status == 202

    [task] = tasks(ikon, image_id)
    assert (task["status"], task["message"]) == ("failure", "There is no file at the location")
    assert (path.exists() or path.is_symlink()) is (kind != "nothing")


# Copies of others


def test_a_copy_from_a_location_is_a_real_one(ikon: Ikon, shelf: Shelf) -> None:
    image_id = added(ikon, shelf.url("leaving", DATA))

    assert ikon.copy(image_id, "two").status == 202
    del shelf.data["leaving"]

    assert (ikon.show(image_id)["stores"], ikon.download(image_id).body) == ("web,two", DATA)
    assert ikon.call("DELETE", f"/v2/stores/web/{image_id}", who=ADMIN).status == 204
    assert ikon.show(image_id)["stores"] == "two"


def test_nothing_is_written_into_a_store_that_is_read_only(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])
    into = {"method": {"name": "web-download", "uri": shelf.url("disk.raw")}, "stores": ["web"]}

    assert ikon.upload(image_id, b"x", {"X-Image-Meta-Store": "web"}).status == 400
    assert ikon.post(f"/v2/images/{image_id}/import", into).status == 409
    assert ikon.copy(ikon.active(b"x"), "web").status == 400
    everywhere = ikon.post(f"/v2/images/{ikon.active(b'x')}/import", {"method": {"name": "copy-image"}, "all_stores": True}, who=ADMIN)
    assert everywhere.status == 202
    [web] = [store for store in ikon.get("/v2/info/stores").json["stores"] if store["id"] == "web"]
    assert web == {"id": "web", "description": "Elsewhere", "read-only": "true"}


def test_an_image_with_a_location_is_deleted_and_the_source_is_left_alone(ikon: Ikon, shelf: Shelf) -> None:
    image_id, before = added(ikon, shelf.url("disk.raw")), len(shelf.asked)

    assert ikon.act(image_id, "deactivate").status == 204
    assert ikon.download(image_id).status == 403
    assert ikon.act(image_id, "reactivate").status == 204
    assert ikon.delete(image_id).status == 204

    assert (ikon.get(f"/v2/images/{image_id}").status, len(shelf.asked)) == (404, before)


def test_an_image_is_deleted_while_its_location_is_verified(ikon: Ikon, shelf: Shelf) -> None:
    image_id, other = str(ikon.create()["id"]), str(ikon.create()["id"])
    shelf.gate.clear()
    try:
        assert add(ikon, image_id, shelf.url("disk.raw")).status == 202
        assert patch(ikon, other, plus(shelf.url("disk.raw"))).status == 200
        jobs = [job["id"] for job in ikon.get("/ikon/v1/jobs", who=ADMIN).json["jobs"] if job["image"] in (image_id, other)]
        assert [ikon.delete(each).status for each in (image_id, other)] == [204, 204]
    finally:
        shelf.gate.set()

    assert [ikon.ended(job)["state"] for job in jobs] == ["cancelled", "cancelled"]


def test_a_location_that_was_away_is_verified_when_its_job_is_tried_again(ikon: Ikon, shelf: Shelf) -> None:
    image_id = str(ikon.create()["id"])
    assert add(ikon, image_id, shelf.url("late")).status == 202
    [task] = tasks(ikon, image_id)
    assert task["status"] == "failure"
    shelf.data["late"] = DATA

    assert ikon.post(f"/ikon/v1/jobs/{task['id']}/retry", who=ADMIN).status == 200

    assert ikon.ended(task["id"])["state"] == "done"
    assert ikon.download(image_id).body == DATA
    assert "a location was added" in ikon.get(f"/ikon/v1/images/{image_id}/timeline").body.decode()
