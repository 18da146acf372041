"""Conversions at once: those that have no turn wait in the queue, where they keep nobody from a slot and can be ended."""

import contextlib
import fcntl
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.wire.server import ADMIN, BYTES, MEMBER, Ikon

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A qcow2 image."""
    path = tmp_path_factory.mktemp("disk") / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"], check=True)
    return path.read_bytes()


@pytest.fixture(scope="module")
def ikon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    conversion, jobs = {"output_format": "raw", "at_once": 1}, {"slots": 2}
    with Ikon(tmp_path_factory.mktemp("ikon"), conversion=conversion, jobs=jobs) as server:
        yield server
        assert server.unforeseen() == []


@contextlib.contextmanager
def turn_taken(ikon: Ikon) -> Iterator[None]:
    """Another process of the node converts."""
    with (Path(ikon.directory) / "data/run/convert.0").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield


def job(ikon: Ikon, image: str) -> dict[str, Any]:
    """The image's newest job."""
    return dict(ikon.get(f"/ikon/v1/jobs?image={image}", who=ADMIN).json["jobs"][0])


def begun(ikon: Ikon, disk: bytes) -> str:
    """An image whose import has begun."""
    image = str(ikon.create(disk_format="qcow2")["id"])
    assert ikon.call("PUT", f"/v2/images/{image}/stage", disk, BYTES).status == 204
    assert ikon.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}).status == 202
    return image


def test_conversions_wait_for_their_turn_without_a_slot(ikon: Ikon, disk: bytes) -> None:
    other = ikon.active(b"data")
    with turn_taken(ikon):
        images = [begun(ikon, disk) for _ in range(4)]
        eventually(lambda: all((at := job(ikon, image))["queue"].startswith("convert@") and at["state"] == "queued" for image in images))
        assert ikon.post(f"/v2/images/{other}/import", {"method": {"name": "copy-image"}, "stores": ["two"]}, who=ADMIN).status == 202
        eventually(lambda: job(ikon, other)["state"] == "done")
        assert {job(ikon, image)["step"] for image in images} == {"convert"}

    eventually(lambda: all(job(ikon, image)["state"] == "done" for image in images))
    for image in images:
        record = ikon.show(image)
        assert (record["status"], record["disk_format"], record["size"]) == ("active", "raw", 4 << 20)
        assert job(ikon, image)["queue"].startswith("any@")


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
def test_a_job_that_waits_for_its_turn_can_be_ended(ikon: Ikon, disk: bytes, how: str) -> None:
    with turn_taken(ikon):
        image = begun(ikon, disk)
        eventually(lambda: job(ikon, image)["queue"].startswith("convert@"))
        if how == "cancelled":
            assert ikon.post(f"/ikon/v1/jobs/{job(ikon, image)['id']}/cancel", who=ADMIN).status == 200
        else:
            assert ikon.delete(image, who=MEMBER).status == 204
        eventually(lambda: job(ikon, image)["state"] == "cancelled")


def test_a_job_converts_into_what_was_set_when_it_came(ikon: Ikon, disk: bytes) -> None:
    settings = ikon.config.read_text()
    with turn_taken(ikon):
        image, of_before = begun(ikon, disk), begun(ikon, disk)
        eventually(lambda: all(job(ikon, each)["queue"].startswith("convert@") for each in (image, of_before)))
        ikon.stop()
    with contextlib.closing(sqlite3.connect(ikon.directory / "data/ikon.db")) as database, database:
        database.execute("UPDATE jobs SET input = json_remove(input, '$.output_format') WHERE image_id = ?", (of_before,))
    ikon.config.write_text(settings.replace('output_format = "raw"', 'output_format = ""'))
    ikon.start()
    eventually(lambda: all(job(ikon, each)["state"] in ("done", "failed") for each in (image, of_before)))
    ikon.stop()
    ikon.config.write_text(settings)
    ikon.start()

    records = [ikon.show(each) for each in (image, of_before)]
    assert [(record["status"], record["disk_format"]) for record in records] == [("active", "raw"), ("active", "qcow2")]
