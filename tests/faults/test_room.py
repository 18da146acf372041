"""Room on a disk that is nearly full: who is refused and how they hear of it, what waits, and what a killed process leaves promised."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.wire.server import ADMIN, BYTES, MEMBER, Answer, Ikon, head

MIB = 1 << 20


@pytest.fixture
def server(tmp_path: Path, small_disk: Path) -> Iterator[Ikon]:
    """A server with the first store and the staging area on a disk of 8 MiB, which makes raw disks of what is imported."""
    stores = {"one": {"path": str(small_disk / "one")}, "two": {"path": str(tmp_path / "two")}}
    settings = {"staging": {"path": str(small_disk / "staging")}, "conversion": {"output_format": "raw"}}
    with Ikon(tmp_path / "ikon", stores=stores, **settings) as running:
        yield running
        assert running.unforeseen() == []


def half_sent(server: Ikon, size: int) -> socket.socket:
    """An upload into the first store that has begun, and goes no further."""
    image = server.create()["id"]
    connection = server.connect()
    connection.sendall(head("PUT", f"/v2/images/{image}/file", "Content-Type: application/octet-stream", f"Content-Length: {size}"))
    connection.sendall(bytes(100_000))
    eventually(lambda: server.show(image)["status"] == "saving")
    return connection


def upload(server: Ikon, size: int) -> Answer:
    return server.upload(server.create()["id"], bytes(size))


def imported(server: Ikon, data: bytes, state: str, **fields: Any) -> dict[str, Any]:
    """The job of an import, once it is in that state."""
    image = server.create(**fields)["id"]
    assert server.call("PUT", f"/v2/images/{image}/stage", data, BYTES).status == 204
    assert server.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}).status == 202
    found: list[dict[str, Any]] = []

    def is_so() -> bool:
        found[:] = server.get(f"/ikon/v1/jobs?image={image}", who=ADMIN).json["jobs"]
        return bool(found[0]["state"] == state)

    eventually(is_so)
    return found[0]


def test_room_that_was_promised_to_a_killed_server_is_free_at_its_next_start(server: Ikon, small_disk: Path) -> None:
    with half_sent(server, 6 * MIB):
        refused = upload(server, 5 * MIB)
        server.kill()
    server.start()

    assert (refused.status, refused.reason) == (413, "Request Entity Too Large")
    assert refused.message.startswith("Store one is too full for this: 5242880 bytes are asked for, ")
    assert "are promised to others. Its setting is [stores.one]" in refused.message
    assert str(small_disk) not in refused.message
    assert upload(server, 6 * MIB).status == 204


def test_an_import_without_room_says_so_in_its_task_and_goes_on_with_its_data_when_there_is_some(server: Ikon, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 * MIB))

    job = imported(server, bytes(3 * MIB), "failed")
    ballast.unlink()

    image = job["image"]
    task = server.get(f"/v2/images/{image}/tasks").json["tasks"][0]
    assert task["message"].startswith("Store one is too full for this: 3145728 bytes are asked for, ")
    assert str(small_disk) not in task["message"]
    assert server.show(image)["status"] == "uploading"
    assert server.post(f"/ikon/v1/jobs/{job['id']}/retry", who=ADMIN).status == 200
    eventually(lambda: server.show(image, who=MEMBER)["status"] == "active")


def test_an_import_that_would_fit_if_others_did_not_write_waits_for_them(server: Ikon) -> None:
    with half_sent(server, 4 * MIB):
        job = imported(server, bytes(3 * MIB), "waiting")

        assert "are promised to others" in job["reason"]
    eventually(lambda: server.show(job["image"])["status"] == "active", 60)


def test_a_conversion_without_room_for_its_result_does_not_begin(server: Ikon, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)

    job = imported(server, disk.read_bytes(), "failed", disk_format="qcow2")

    assert job["step"] == "convert"
    assert job["reason"].startswith("The staging area is too full for this: 67108864 bytes are asked for, ")
    assert "Its setting is [staging] path" in job["reason"]
