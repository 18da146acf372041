"""Room on a disk that is nearly full: who is refused and how they hear of it, what waits, and what a killed process leaves promised."""

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.wire.server import ADMIN, BYTES, MEMBER, Answer, Ikon, head

pytestmark = pytest.mark.slow

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
    hint = "Try again later, choose another store, or ask the operator for room"
    assert refused.message == f"Store one has no room for the 5242880 bytes that are asked for. {hint}"
    [said] = [line for line in server.said().splitlines() if '"no room"' in line]
    assert "are promised to others; its setting is [stores.one]" in json.loads(said)["because"]
    assert upload(server, 6 * MIB).status == 204


def test_an_import_without_room_says_so_in_its_task_and_goes_on_with_its_data_when_there_is_some(server: Ikon, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 * MIB))

    job = imported(server, bytes(3 * MIB), "failed")
    ballast.unlink()

    image = job["image"]
    task = server.get(f"/v2/images/{image}/tasks").json["tasks"][0]
    assert task["message"].startswith("Store one has no room for the 3145728 bytes that are asked for. Choose another store")
    causes = {
        for_tenant: server.get(f"/ikon/v1/images/{image}/timeline?for_tenant={for_tenant}", who=ADMIN).json["now"]["cause"]
        for for_tenant in ("true", "false")
    }
    assert causes["true"] == "A disk is full: Store one has no room for the 3145728 bytes that are asked for"
    assert "bytes are free; its setting is [stores.one]" in causes["false"]
    assert server.show(image)["status"] == "uploading"
    assert server.post(f"/ikon/v1/jobs/{job['id']}/retry", who=ADMIN).status == 200
    eventually(lambda: server.show(image, who=MEMBER)["status"] == "active")


def test_an_import_that_would_fit_if_others_did_not_write_waits_for_them(server: Ikon) -> None:
    with half_sent(server, 4 * MIB):
        job = imported(server, bytes(3 * MIB), "waiting")

        assert "has no room for the 3145728 bytes that are asked for. Try again later" in job["reason"]
    eventually(lambda: server.show(job["image"])["status"] == "active", 60)


def test_a_conversion_without_room_for_its_result_does_not_begin(server: Ikon, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)

    job = imported(server, disk.read_bytes(), "failed", disk_format="qcow2")

    assert job["step"] == "convert"
    assert job["reason"].startswith("The staging area has no room for the 67108864 bytes that are asked for. ")
