"""What the bytes of an image may be, over the wire: what is sound gets in with its virtual size, what is not leaves nothing behind."""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator

import pytest

from tests.unit.formats import made
from tests.wire.server import Ikon

HOSTILE = made.put(made.qcow2(), 8, ">QI", 512, 13)


def pieces(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def refused(ikon: Ikon) -> float:
    lines = ikon.get("/metrics").body.decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("ikon_images_refused_total{"))


def nothing_is_left(ikon: Ikon, image_id: str) -> bool:
    end = time.monotonic() + 10
    while ikon.show(image_id)["status"] != "queued" or any(path.name.startswith(image_id) for path in ikon.files()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return ikon.show(image_id)["size"] is None and ikon.show(image_id)["virtual_size"] is None


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", made.SOUND)
def test_a_sound_image_is_active_with_its_virtual_size(ikon: Ikon, kind: str, chunked: bool) -> None:
    disk_format, data = made.SOUND[kind]
    image_id = str(ikon.create(disk_format=disk_format)["id"])

    answer = ikon.upload(image_id, pieces(data) if chunked else data)

    assert answer.status == 204, answer
    record = ikon.show(image_id)
    assert record["status"] == "active"
    assert record["virtual_size"] == (len(data) if disk_format in ("raw", "iso") else made.SIZE)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    "disk_format, container_format",
    [
        ("qcow2", "bare"),
        ("raw", "bare"),
        ("vmdk", "bare"),
        ("qcow2", "ovf"),
        ("aki", "aki"),
        ("ari", "ari"),
        ("ami", "ami"),
        ("raw", "docker"),
    ],
)
def test_a_backing_file_is_refused_whatever_the_image_is_said_to_be(
    ikon: Ikon, disk_format: str, container_format: str, chunked: bool
) -> None:
    image_id = str(ikon.create(disk_format=disk_format, container_format=container_format)["id"])
    before = refused(ikon)

    answer = ikon.upload(image_id, pieces(HOSTILE) if chunked else HOSTILE)

    assert (answer.status, answer.reason) == (415, "Unsupported Media Type")
    assert "Image failed safety checks: qcow2: the image names a backing file" in answer.message
    assert nothing_is_left(ikon, image_id)
    assert refused(ikon) == before + 1


@pytest.mark.parametrize("data, found", [(b"", "raw"), (b"noise " * 100_000, "raw"), (made.vdi(), "vdi"), (b"QFI", "raw")])
def test_data_of_another_format_is_refused_by_name(ikon: Ikon, data: bytes, found: str) -> None:
    image_id = str(ikon.create(disk_format="qcow2")["id"])

    answer = ikon.upload(image_id, data)

    assert answer.status == 415
    assert f"Image disk_format qcow2 does not match stream data {found}" in answer.message
    assert nothing_is_left(ikon, image_id)
    assert ikon.upload(image_id, made.qcow2()).status == 204


def test_a_disk_inside_an_ova_is_looked_at(ikon: Ikon) -> None:
    image_id = str(ikon.create(disk_format="vmdk", container_format="ova")["id"])

    answer = ikon.upload(image_id, made.ova(made.DESCRIPTOR.encode()))

    assert answer.status == 415
    assert "the data is only a descriptor, which names other files" in answer.message
    assert ikon.upload(image_id, made.ova()).status == 204
    assert ikon.show(image_id)["virtual_size"] == made.SIZE


def test_what_was_found_is_kept_in_the_timeline(ikon: Ikon) -> None:
    taken, refused = ikon.active(made.qcow2(), disk_format="raw"), str(ikon.create(disk_format="qcow2")["id"])
    ikon.upload(refused, HOSTILE)

    with contextlib.closing(sqlite3.connect(ikon.directory / "data/ikon.db")) as db:
        details = dict(db.execute("SELECT image_id, detail FROM events WHERE image_id IN (?, ?) AND detail IS NOT NULL", (taken, refused)))
    assert details[taken] == "the data is qcow2"
    assert json.loads(details[refused])["why"].startswith("Image failed safety checks: qcow2: the image names a backing file")


def test_a_refused_upload_ends_long_before_its_data_does(ikon: Ikon) -> None:
    image_id = str(ikon.create(disk_format="qcow2")["id"])
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 4096 * made.MIB:
            sent += made.MIB
            yield bytes(made.MIB)

    try:
        status = ikon.upload(image_id, endless()).status
    except (BrokenPipeError, ConnectionResetError):
        status = 415  # the answer came, then the server stopped reading: this client only looks after it has sent all

    assert status == 415
    assert sent < 512 * made.MIB
    assert nothing_is_left(ikon, image_id)
