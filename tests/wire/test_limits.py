"""How much a project may hold, and how large an image may be, however it is sent."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.wire.server import ADMIN, Ikon, Persona, head, someone

SETTINGS = {"quota": {"bytes": 10_000}, "limits": {"image_bytes": 8_000, "properties": 3, "tags": 2, "page": 2, "page_max": 4}}


def chunked(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 700] for at in range(0, len(data), 700))


def held(ikon: Ikon, who: Persona, most: int = 10_000) -> int:
    """Bytes that a project holds, found by what still fits: an upload of the rest does, and one byte more does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        image_id = str(ikon.create(who=who)["id"])
        fits = ikon.upload(image_id, b"x" * min(middle, 8_000), who=who).status == 204
        ikon.delete(image_id, who=who)
        low, high = (middle, high) if fits else (low, middle - 1)
        if middle > 8_000:
            break
    return most - low


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("size", [8_001, 20_000_000])
def test_an_image_over_the_size_limit_is_refused_and_stays_queued(ikon: Ikon, size: int, in_chunks: bool) -> None:
    who = someone()
    image_id = str(ikon.create(who=who)["id"])
    data = b"x" * size

    answer = ikon.upload(image_id, chunked(data) if in_chunks else data, who=who)

    assert (answer.status, answer.reason) == (413, "Request Entity Too Large")
    assert answer.message.startswith("The incoming image is too large")
    assert ikon.show(image_id)["status"] == "queued"
    assert ikon.upload(image_id, b"x" * 8_000, who=who).status == 204


def test_an_announced_size_over_the_limit_is_refused_before_a_byte_is_stored_or_asked_for(ikon: Ikon) -> None:
    who = someone()
    image_id = str(ikon.create(who=who)["id"])
    lines = ("Content-Type: application/octet-stream", "Content-Length: 8001", "Expect: 100-continue")

    said = ikon.upload(image_id, b"x" * 100, {"x-openstack-image-size": "8001"}, who=who)
    waited = ikon.raw(head("PUT", f"/v2/images/{image_id}/file", *lines, who=who))

    assert [(answer.status, "too large" in answer.message) for answer in (said, waited)] == [(413, True)] * 2
    assert (ikon.show(image_id)["status"], [path for path in ikon.files() if path.name.startswith(image_id)]) == ("queued", [])


def test_uploads_that_race_for_the_last_of_a_quota_never_pass_it(ikon: Ikon) -> None:
    who, data = someone(), b"x" * 3_000
    image_ids = [str(ikon.create(who=who)["id"]) for _ in range(8)]

    def put(at: int) -> int:
        return ikon.upload(image_ids[at], chunked(data) if at % 2 else data, who=who).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(put, range(8)))

    sizes = [ikon.show(image_id)["size"] for image_id in image_ids]
    assert (set(statuses) <= {204, 413}, statuses.count(204) >= 1) == (True, True)
    assert sizes == [3_000 if status == 204 else None for status in statuses]
    assert statuses.count(204) <= 3


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_project_holds_no_more_than_its_quota_and_the_image_stays_queued(ikon: Ikon, in_chunks: bool) -> None:
    who = someone()
    ikon.active(b"x" * 6_000, who=who)
    image_id = str(ikon.create(who=who)["id"])

    def put(size: int) -> int:
        data = b"x" * size
        answer = ikon.upload(image_id, chunked(data) if in_chunks else data, who=who)
        assert answer.status == 204 or answer.message.startswith("Image exceeds the storage quota: The size of the data"), answer
        return answer.status

    assert (put(4_001), put(8_000)) == (413, 413)
    assert ikon.show(image_id)["status"] == "queued"
    assert put(4_000) == 204


def test_what_is_deleted_makes_room_and_other_projects_do_not_count(ikon: Ikon) -> None:
    who = someone()
    first = ikon.active(b"x" * 8_000, who=who)
    ikon.active(b"x" * 8_000, who=someone())
    second = str(ikon.create(who=who)["id"])

    assert ikon.upload(second, b"x" * 3_000, who=who).status == 413
    ikon.delete(first, who=who)
    assert ikon.upload(second, b"x" * 3_000, who=who).status == 204


def test_failed_uploads_take_no_room(ikon: Ikon) -> None:
    who = someone()
    image_id = str(ikon.create(who=who)["id"])
    for _ in range(5):
        assert ikon.upload(image_id, chunked(b"x" * 5_000), {"x-openstack-image-size": "6000"}, who=who).status == 400
        assert ikon.upload(image_id, chunked(b"x" * 8_001), who=who).status == 413

    assert held(ikon, who, 8_000) == 0


def test_every_copy_counts(ikon: Ikon) -> None:
    who = someone()
    image_id = ikon.active(b"x" * 6_000, who=who)

    answer = ikon.post(f"/ikon/v1/images/{image_id}/copies", {"store": "two"}, who=ADMIN)
    job = ikon.ended(answer.json["job"])

    assert (job["state"], ikon.show(image_id)["stores"]) == ("failed", "one")
    assert job["reason"].startswith("Image exceeds the storage quota")


def test_properties_and_tags_have_limits_of_their_own(ikon: Ikon) -> None:
    assert ikon.try_create({"a": "", "b": "", "c": "", "d": ""}).status == 413
    assert ikon.try_create({"tags": ["a", "b", "c"]}).status == 413
    created = ikon.try_create({"a": "", "b": "", "c": "", "tags": ["a", "b"]})

    assert created.status == 201
    for operation in ({"path": "/d", "value": ""}, {"path": "/tags", "value": ["a", "b", "c"]}):
        assert ikon.patch(created.json["id"], [{"op": "add"} | operation]).status == 413


def test_pages_have_their_length_and_their_largest(ikon: Ikon) -> None:
    who = someone()
    for _ in range(5):
        ikon.create(who=who)

    assert [len(page) for page in ikon.walk(who=who)] == [2, 2, 1]
    assert [len(page) for page in ikon.walk("?limit=100", who=who)] == [4, 1]
    assert ikon.browse("?limit=100", who=who).json["next"].startswith("/v2/images?limit=100&marker=")
