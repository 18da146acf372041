"""Staging, import and tasks: what they do, what they refuse, and what is left behind."""

import gzip
import hashlib
import io
import json
import lzma
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.unit.formats import made as made_of
from tests.wire.server import ADMIN, BYTES, MEMBER, READER, STRANGER, UNFORESEEN, Answer, Ikon, Persona

pytestmark = pytest.mark.slow

DATA = bytes(range(256)) * 5000
DIRECT = {"method": {"name": "glance-direct"}}
WAIT_S = 30.0


@pytest.fixture(scope="module")
def ikon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("imports"), egress={"allowed_networks": ["127.0.0.0/8"]}) as server:
        yield server
        assert not [word for word in UNFORESEEN if word in server.said()]


@pytest.fixture(scope="module")
def unpacking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("unpacking"), imports={"decompress": True}) as server:
        yield server


@pytest.fixture(scope="module")
def converting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("converting"), conversion={"output_format": "qcow2"}) as server:
        yield server


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.raw", data)
    return made.getvalue()


def stage(ikon: Ikon, image: str, data: bytes, who: Persona = MEMBER) -> Answer:
    return ikon.call("PUT", f"/v2/images/{image}/stage", data, BYTES, who=who)


def start(ikon: Ikon, image: str, body: Any, who: Persona = MEMBER, **headers: str) -> Answer:
    return ikon.call("POST", f"/v2/images/{image}/import", json.dumps(body).encode(), headers, who=who)


def ended(ikon: Ikon, image: str, who: Persona = MEMBER) -> dict[str, Any]:
    """The image's record once nothing is at work on it."""
    end = time.monotonic() + WAIT_S
    while True:
        record: dict[str, Any] = ikon.show(image, who=who)
        if "os_glance_import_task" not in record and record["status"] not in ("importing", "saving"):
            return record
        assert time.monotonic() < end, record
        time.sleep(0.02)


def staged_files(ikon: Ikon) -> list[str]:
    return [path.name for path in (ikon.directory / "data" / "staging").iterdir()]


def new(ikon: Ikon, **fields: Any) -> str:
    return str(ikon.create(**{"disk_format": "raw", "container_format": "bare"} | fields)["id"])


def test_staged_data_is_imported_into_every_store_and_staging_is_empty_again(ikon: Ikon) -> None:
    image = new(ikon)
    assert stage(ikon, image, DATA).status == 204
    waiting = ikon.show(image)
    assert (waiting["status"], waiting["size"], waiting["checksum"]) == ("uploading", len(DATA), None)
    assert ikon.download(image).status == 204

    answer = start(ikon, image, DIRECT | {"all_stores": True})

    assert (answer.status, answer.body) == (202, b"")
    record = ended(ikon, image)
    assert (record["status"], record["stores"], record["size"]) == ("active", "one,two", len(DATA))
    assert record["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    assert (record["os_glance_importing_to_stores"], record["os_glance_failed_import"]) == ("", "")
    assert "os_glance_importing_to_stores" not in waiting
    for store in ("one", "two"):
        assert ikon.get(f"/v2/images/{image}/file?prefer={store}").body == DATA
    assert not [name for name in staged_files(ikon) if name.startswith(image)]


def test_an_empty_image_is_imported(ikon: Ikon) -> None:
    image = new(ikon)
    assert stage(ikon, image, b"").status == 204
    assert start(ikon, image, DIRECT).status == 202
    assert ended(ikon, image)["size"] == 0


def test_an_active_image_is_copied_into_more_stores(ikon: Ikon) -> None:
    image = new(ikon)
    assert ikon.upload(image, DATA).status == 204

    assert start(ikon, image, {"method": {"name": "copy-image"}, "stores": ["two"]}, who=ADMIN).status == 202

    record = ended(ikon, image)
    assert (record["status"], record["stores"]) == ("active", "one,two")
    assert ikon.get(f"/v2/images/{image}/file?prefer=two").body == DATA
    again = start(ikon, image, {"method": {"name": "copy-image"}, "stores": ["two"]}, who=ADMIN)
    assert (again.status, "already present at store 'two'" in again.message) == (400, True)
    assert start(ikon, image, {"method": {"name": "copy-image"}, "all_stores": True}, who=ADMIN).status == 202


def test_what_is_not_of_its_format_is_refused_and_the_image_waits_for_other_data(ikon: Ikon) -> None:
    image = new(ikon, disk_format="qcow2")
    assert stage(ikon, image, DATA).status == 204
    assert start(ikon, image, DIRECT).status == 202

    record = ended(ikon, image)

    assert (record["status"], record["size"], record["os_glance_failed_import"]) == ("queued", None, "one")
    task = ikon.get(f"/v2/images/{image}/tasks").json["tasks"][0]
    assert task["status"] == "failure"
    assert "does not match stream data raw" in task["message"]
    eventually(lambda: not [name for name in staged_files(ikon) if name.startswith(image)])
    assert stage(ikon, image, made_of.qcow2()).status == 204
    assert start(ikon, image, DIRECT).status == 202
    assert ended(ikon, image)["status"] == "active"


def test_a_store_that_fails_fails_the_import_unless_others_may_do(tmp_path: Path) -> None:
    with Ikon(tmp_path) as ikon:
        (ikon.directory / "two").rmdir()
        for must_succeed, status, stores in ((True, "uploading", None), (False, "active", "one")):
            image = new(ikon)
            assert stage(ikon, image, DATA).status == 204
            assert start(ikon, image, DIRECT | {"stores": ["one", "two"], "all_stores_must_succeed": must_succeed}).status == 202
            if must_succeed:
                eventually(lambda image=image: "failed" in ikon.get(f"/v2/images/{image}/tasks").json["tasks"][0]["message"])
                assert [path.name for path in (ikon.directory / "one").iterdir()] == []
                (ikon.directory / "two").mkdir()  # the step is tried again by itself
                assert ended(ikon, image)["stores"] == "one,two"
                assert ikon.call("DELETE", f"/v2/images/{image}").status == 204
                (ikon.directory / "two").rmdir()
            else:
                record = ended(ikon, image)
                assert (record["status"], record["stores"], record["os_glance_failed_import"]) == (status, stores, "two")


def test_a_deletion_ends_a_running_import_and_leaves_nothing(ikon: Ikon) -> None:
    image = new(ikon)
    assert stage(ikon, image, DATA * 20).status == 204
    assert start(ikon, image, DIRECT | {"all_stores": True}).status == 202

    assert ikon.call("DELETE", f"/v2/images/{image}").status == 204

    eventually(
        lambda: (
            not [
                path
                for store in ("one", "two", "data/staging")
                for path in (ikon.directory / store).iterdir()
                if path.name.startswith(image)
            ]
        )
    )


REFUSED: list[tuple[Any, int, str]] = [
    ([], 400, "method"),
    ({}, 400, "method"),
    ({"method": None}, 400, "name"),
    ({"method": "glance-direct"}, 400, "name"),
    ({"method": {}}, 400, "name"),
    ({"method": {"name": 5}}, 400, "name"),
    ({"method": {"name": "zz"}}, 400, "Unknown import method name 'zz'"),
    (DIRECT | {"all_stores": "yes"}, 400, "'all_stores' must be boolean value only"),
    (DIRECT | {"all_stores_must_succeed": 1}, 400, "'all_stores_must_succeed' must be boolean value only"),
    (DIRECT | {"stores": []}, 400, "stores"),
    (DIRECT | {"stores": "one"}, 400, "stores"),
    (DIRECT | {"stores": [1]}, 400, "stores"),
    (DIRECT | {"stores": ["one"], "all_stores": True}, 400, "All_stores parameter can't be used"),
    (DIRECT | {"stores": ["nope"]}, 409, "Store for identifier nope not found"),
    (DIRECT | {"stores": ["os_glance_staging_store"]}, 409, "not found"),
    (DIRECT, 409, "needs to be staged"),
    ({"method": {"name": "web-download"}}, 400, "uri"),
    ({"method": {"name": "web-download", "uri": 5}}, 400, "uri"),
    ({"method": {"name": "web-download", "uri": "ftp://example.org/x"}}, 400, "does not pass filtering"),
    ({"method": {"name": "web-download", "uri": "http://10.0.0.1/x"}}, 400, "does not pass filtering"),
    ({"method": {"name": "web-download", "uri": "http://example.org/x", "digest": "sha256:12"}}, 400, "digest"),
    ({"method": {"name": "copy-image"}, "stores": ["two"]}, 409, "Only images with status active"),
]


@pytest.mark.parametrize(("body", "status", "says"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_a_request_that_cannot_be_is_refused_and_changes_nothing(ikon: Ikon, body: Any, status: int, says: str) -> None:
    image = new(ikon)
    before = ikon.show(image)

    answer = start(ikon, image, body)

    assert (answer.status, says in answer.message) == (status, True), answer.message
    assert ikon.show(image) == before
    assert ikon.get(f"/v2/images/{image}/tasks").json == {"tasks": []}


def test_a_request_needs_formats_and_one_import_at_a_time(ikon: Ikon) -> None:
    image = new(ikon, container_format=None)
    assert stage(ikon, image, DATA).status == 204
    assert "'container_format' needs to be set before import" in start(ikon, image, DIRECT).message
    assert start(ikon, image, DIRECT, **{"x-image-meta-store": "one"}).status == 409
    both = start(ikon, new(ikon), DIRECT | {"stores": ["one"]}, **{"x-image-meta-store": "one"})
    assert (both.status, "both specified" in both.message) == (400, True)


def test_staged_images_take_no_upload_and_no_second_stage(ikon: Ikon) -> None:
    image = new(ikon)
    assert stage(ikon, image, DATA).status == 204
    assert stage(ikon, image, DATA).status == 409
    assert ikon.upload(image, DATA).status == 409
    assert ikon.call("PUT", f"/v2/images/{image}/stage", b"x", {"Content-Type": "text/plain"}).status == 415


def test_tasks_are_for_the_owner_and_secrets_in_urls_for_nobody(ikon: Ikon) -> None:
    image = new(ikon, visibility="public", owner="home", who=ADMIN)
    asked = {"method": {"name": "web-download", "uri": "http://127.0.0.1:80/image?signature=secret"}}
    assert start(ikon, image, asked, who=ADMIN).status == 202
    assert ended(ikon, image, who=ADMIN)["status"] == "queued"

    seen = ikon.get(f"/v2/images/{image}/tasks", who=READER)
    everything = ikon.get("/v2/tasks?status=failure&limit=1000", who=ADMIN)

    assert seen.status == 200
    assert seen.json["tasks"][0]["input"]["import_req"]["method"]["uri"] == "http://127.0.0.1:80/image"
    assert ikon.get(f"/v2/images/{image}/tasks", who=STRANGER).status == 403
    job = seen.json["tasks"][0]["id"]
    assert job in [task["id"] for task in everything.json["tasks"]]
    shown = ikon.get(f"/v2/tasks/{job}", who=ADMIN)
    assert (shown.status, shown.json["status"], shown.json["type"]) == (200, "failure", "api_image_import")
    assert b"secret" not in seen.body + everything.body + shown.body + ikon.log.read_bytes()


@pytest.mark.parametrize(
    ("query", "status"),
    [("status=done", 400), ("type=x", 400), ("type=import", 200), ("limit=x", 400), ("limit=-1", 400), ("limit=0", 200), ("marker=x", 400),
     ("marker=00000000-0000-4000-8000-000000000000", 400), ("sort_key=x", 400), ("sort_dir=up", 400), ("whatever=1", 200)],
)  # fmt: skip
def test_a_list_of_tasks_takes_what_the_contract_says(ikon: Ikon, query: str, status: int) -> None:
    assert ikon.get(f"/v2/tasks?{query}", who=ADMIN).status == status


def test_a_list_of_tasks_is_walked_in_both_directions(ikon: Ikon) -> None:
    for _ in range(3):
        image = new(ikon)
        assert stage(ikon, image, b"x").status == 204
        assert start(ikon, image, DIRECT).status == 202
        ended(ikon, image)
    for direction in ("asc", "desc"):
        walked, path = [], f"/v2/tasks?limit=2&sort_dir={direction}"
        while path:
            page = ikon.get(path, who=ADMIN).json
            walked += [task["id"] for task in page["tasks"]]
            path = page.get("next")
        assert walked == sorted(walked, reverse=direction == "desc")
        assert len(walked) == len(set(walked)) >= 3
    assert ikon.call("DELETE", f"/v2/tasks/{walked[0]}", who=ADMIN).status == 405


def test_imported_images_are_given_properties_unless_the_role_is_exempt(tmp_path: Path) -> None:
    with Ikon(tmp_path, imports={"inject": {"nightly": "yes"}}) as ikon:
        for who, has in ((MEMBER, True), (ADMIN, False)):
            image = new(ikon, who=who)
            assert stage(ikon, image, DATA, who=who).status == 204
            assert start(ikon, image, DIRECT, who=who).status == 202
            assert ("nightly" in ended(ikon, image, who=who)) == has


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zipped, lambda data: data], ids=["gzip", "xz", "zip", "not at all"])
def test_packed_data_is_unpacked_where_the_operator_wants_it(unpacking: Ikon, pack: Callable[[bytes], bytes]) -> None:
    image = new(unpacking)
    assert stage(unpacking, image, pack(DATA)).status == 204
    assert start(unpacking, image, DIRECT).status == 202
    record = ended(unpacking, image)
    assert (record["status"], record["size"], record["checksum"]) == ("active", len(DATA), hashlib.md5(DATA).hexdigest())


def test_a_bomb_is_refused_and_its_data_is_not_kept(unpacking: Ikon) -> None:
    image = new(unpacking)
    assert stage(unpacking, image, gzip.compress(bytes(300_000_000))).status == 204
    assert start(unpacking, image, DIRECT).status == 202
    record = ended(unpacking, image)
    assert (record["status"], record["size"]) == ("queued", None)
    assert "200 times its size" in unpacking.get(f"/v2/images/{image}/tasks").json["tasks"][0]["message"]
    eventually(lambda: not staged_files(unpacking))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["raw", "vmdk", "vdi", "vhdx"])
def test_disks_are_converted_to_the_format_that_the_operator_wants(converting: Ikon, form: str, tmp_path: Path) -> None:
    source, kept = tmp_path / f"disk.{form}", tmp_path / "kept.qcow2"
    plain = tmp_path / "plain"
    plain.write_bytes(DATA + bytes(1 << 20) + DATA)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, plain, source], check=True)
    image = new(converting, disk_format=form)
    assert stage(converting, image, source.read_bytes()).status == 204
    assert start(converting, image, DIRECT).status == 202

    record = ended(converting, image)

    assert (record["status"], record["disk_format"]) == ("active", "qcow2")
    kept.write_bytes(converting.download(image).body)
    subprocess.run(["qemu-img", "compare", "-f", form, "-F", "qcow2", source, kept], check=True, stdout=subprocess.DEVNULL)
    assert record["virtual_size"] >= plain.stat().st_size


@pytest.mark.slow
def test_a_killed_server_goes_on_with_its_imports(tmp_path: Path) -> None:
    with Ikon(tmp_path) as ikon:
        made = [new(ikon) for _ in range(6)]
        for n, image in enumerate(made):
            assert stage(ikon, image, bytes([n]) * 30_000_000).status == 204
        for image in made:
            assert start(ikon, image, DIRECT | {"all_stores": True}).status == 202
        for _ in range(3):
            time.sleep(0.3)
            ikon.kill()
            ikon.start()
        for n, image in enumerate(made):
            record = ended(ikon, image)
            assert (record["status"], record["stores"]) == ("active", "one,two")
            assert record["checksum"] == hashlib.md5(bytes([n]) * 30_000_000).hexdigest()
        eventually(lambda: not staged_files(ikon))
        eventually(lambda: [len(list((ikon.directory / store).iterdir())) for store in ("one", "two")] == [len(made)] * 2)
