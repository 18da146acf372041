"""Records of images elsewhere: what is taken over, and what no image service would say."""

import json
from typing import Any

import pytest

from ikon.model.remote import open_to, parse, taken_over
from ikon.problems import QuotaExceeded, RemoteNotActive, SourceBroken
from tests.unit.model.facts import IMAGE, image

PREFIXES = ["hw_", "trait:", "os_distro"]
SHA512, MD5 = "ab" * 64, "cd" * 16
RECORD: dict[str, Any] = {
    "id": IMAGE, "status": "active", "visibility": "public", "owner": "away", "name": "n", "size": 5, "checksum": MD5, "disk_format": "qcow2",
    "container_format": "bare", "os_hash_algo": "sha512", "os_hash_value": SHA512, "tags": ["t"], "min_disk": 3, "hw_bus": "virtio",
    "trait:X": "required", "os_distro": "debian", "colour": "red", "locations": [], "self": "/x", "os_glance_importing_to_stores": "",
}  # fmt: skip


def read(**changed: Any) -> Any:
    return parse(json.dumps(RECORD | changed).encode(), IMAGE, PREFIXES)


def test_formats_digest_and_chosen_properties_are_taken_from_a_record() -> None:
    remote = read()

    assert (remote.size, remote.digest) == (5, f"sha512:{SHA512}")
    assert remote.formats == {"disk_format": "qcow2", "container_format": "bare"}
    assert remote.properties == {"hw_bus": "virtio", "trait:X": "required", "os_distro": "debian"}
    assert parse(json.dumps(RECORD | {"id": IMAGE.upper()}).encode(), IMAGE, PREFIXES) == remote


def test_what_is_an_image_s_own_is_no_property_whatever_is_asked_for() -> None:
    everything = parse(
        json.dumps(RECORD | {"stores": "x", "deleted": "1", "direct_url": "file:///"}).encode(), IMAGE, list("abcdefghijklmnopqrstuvwxyz")
    )

    assert sorted(everything.properties) == ["colour", "hw_bus", "os_distro", "trait:X"]


@pytest.mark.parametrize(
    ("changed", "digest"),
    [
        ({"os_hash_value": SHA512.upper()}, f"sha512:{SHA512}"),
        ({"os_hash_algo": "sha256", "os_hash_value": "ef" * 32}, f"sha256:{'ef' * 32}"),
        ({"os_hash_algo": "whirlpool", "os_hash_value": "x"}, f"md5:{MD5}"),
        ({"os_hash_algo": None, "os_hash_value": None}, f"md5:{MD5}"),
        ({"os_hash_algo": None, "os_hash_value": None, "checksum": None}, None),
    ],
)
def test_of_the_digests_the_best_one_that_can_be_made_is_compared(changed: dict[str, Any], digest: str | None) -> None:
    assert read(**changed).digest == digest


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"id": "11111111-1111-4111-8111-111111111111"}, "not that of this image"),
    ({"id": [IMAGE]}, "not that of this image"),
    ({"size": -1}, "size"),
    ({"size": "5"}, "size"),
    ({"size": True}, "size"),
    ({"size": 1.5}, "size"),
    ({"size": 1 << 63}, "size"),
    ({"disk_format": None}, "disk_format"),
    ({"disk_format": ["raw"]}, "disk_format"),
    ({"disk_format": "<script>"}, "disk_format is not a format"),
    ({"container_format": "zzz"}, "container_format is zzz; taken are ami"),
    ({"os_hash_value": "ab"}, "digest"),
    ({"os_hash_value": "zz" * 64}, "digest"),
    ({"os_hash_value": SHA512 + "\n"}, "digest"),
    ({"os_hash_value": 5}, "digest"),
    ({"os_hash_algo": ["sha512"]}, "digest"),
    ({"os_hash_algo": "md5"}, "digest"),
    ({"hw_bus": 5}, "'hw_bus' cannot be kept"),
    ({"hw_bus": {"a": "b"}}, "'hw_bus' cannot be kept"),
    ({"hw_bus": "x" * 65_536}, "'hw_bus' cannot be kept"),
    ({"hw_bus": "\0"}, "'hw_bus' cannot be kept"),
    ({"hw_\ud800": "x"}, "JSON"),
    ({"hw_" + "x" * 256: "x"}, "cannot be kept"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "says"), HOSTILE, ids=lambda value: repr(value)[:40])
def test_a_record_that_says_what_cannot_be_is_refused_by_the_field(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(SourceBroken) as refused:
        read(**changed)

    assert says in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'"x"', b"null", b'{"id":', b"\xff\xfe", b"[" * 100_000, b'{"size":1e999}', b'{"id":"\xc3"}']
)
def test_what_is_no_record_is_refused(body: bytes) -> None:
    with pytest.raises(SourceBroken):
        parse(body, IMAGE, PREFIXES)


@pytest.mark.parametrize(("status", "says"), [("queued", "it is queued"), ("deactivated", "it is deactivated"), ("<b>", "unknown status"), (None, "unknown"), (["active"], "unknown")])  # fmt: skip
def test_only_active_images_are_taken(status: Any, says: str) -> None:
    with pytest.raises(RemoteNotActive) as refused:
        read(status=status)

    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("visibility", "owner", "admin", "open_"),
    [
        ("public", "away", False, True), ("community", "away", False, True), ("private", "home", False, True), ("private", "away", False, False),
        ("shared", "away", False, False), ("private", "away", True, True), ("private", None, False, False), ("private", "", False, False),
        ("everyone", "away", False, False), (None, "away", False, False),
    ],
)  # fmt: skip
def test_what_ikon_itself_sees_elsewhere_is_for_those_who_would_see_it_too(
    visibility: str | None, owner: str | None, admin: bool, open_: bool
) -> None:
    assert open_to(read(visibility=visibility, owner=owner), image(owner="home"), admin=admin) == open_
    assert not open_to(read(visibility="private", owner=None), image(owner=None), admin=False)


def anything(operation: str, name: str) -> bool:
    return True


def test_what_is_taken_over_wins_over_the_image_s_own_and_keeps_to_its_limit() -> None:
    mine = image(properties={"hw_bus": "ide", "mine": "1"})

    assert taken_over(mine, read(), 4, anything) == {
        "disk_format": "qcow2",
        "container_format": "bare",
        "properties": {"hw_bus": "virtio", "trait:X": "required", "os_distro": "debian", "mine": "1"},
    }
    with pytest.raises(QuotaExceeded):
        taken_over(mine, read(), 3, anything)


@pytest.mark.parametrize("forbidden", [("update", "hw_bus"), ("create", "trait:X"), ("read", "hw_bus"), ("read", "trait:X")])
def test_what_whoever_imports_may_not_write_or_see_is_not_taken_over(forbidden: tuple[str, str]) -> None:
    mine, name = image(properties={"hw_bus": "ide", "mine": "1"}), forbidden[1]
    whole = taken_over(mine, read(), 4, anything)["properties"]

    found = taken_over(mine, read(), 4, lambda *asked: asked != forbidden)["properties"]

    assert found == {
        key: value for key, value in (whole | mine.properties if name == "hw_bus" else whole).items() if key != "trait:X" or name != key
    }
