"""An image's formats are changed while its data is being looked at: what was looked at as one thing never becomes another."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.misfortune import Misfortune, build
from tests.faults.world import BYTES, MIB, Ikon, eventually, noise
from tests.unit.formats.made import ova, put, qcow2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ikon, Misfortune]]:
    place = tmp_path_factory.mktemp("patched")
    misfortune = Misfortune(build(place), place / "misfortune")
    with Ikon(place / "ikon", env=misfortune.env) as ikon:
        yield ikon, misfortune


def tasks(ikon: Ikon, image: str) -> Any:
    return ikon.call("GET", f"/v2/images/{image}/tasks").json["tasks"]


def begin(ikon: Ikon, image: str) -> None:
    assert ikon.call("POST", f"/v2/images/{image}/import", json.dumps({"method": {"name": "glance-direct"}}).encode()).status == 202


@pytest.mark.parametrize(
    ("before", "after", "data", "becomes"),
    [
        # an archive is opened as OVA and as nothing else: this one holds a disk with a backing file
        (("raw", "docker"), ("vmdk", "ova"), ova(put(qcow2(), 8, ">QI", 512, 13)) + bytes(MIB), "names a backing file"),
        (("raw", "bare"), ("qcow2", "bare"), noise(MIB), "does not match stream data raw"),
        (("qcow2", "bare"), ("raw", "bare"), qcow2() + bytes(MIB), "active"),
    ],
    ids=["an archive to look into", "another format", "a right one"],
)
def test_formats_that_change_while_data_is_looked_at_are_judged_before_the_image_is_active(
    before: tuple[str, str], after: tuple[str, str], data: bytes, becomes: str, world: tuple[Ikon, Misfortune]
) -> None:
    ikon, misfortune = world
    image = ikon.create(disk_format=before[0], container_format=before[1])
    assert ikon.call("PUT", f"/v2/images/{image}/stage", data, BYTES).status == 204
    misfortune.hang("fsync", "/one/")
    begin(ikon, image)
    eventually(misfortune.struck, 30)
    assert ikon.patch(image, disk_format=after[0], container_format=after[1]).status == 200
    misfortune.relent()

    eventually(lambda: ikon.show(image)["status"] == "uploading", 30)
    assert "formats were changed" in tasks(ikon, image)[0]["message"]
    assert not ikon.files()

    begin(ikon, image)
    eventually(lambda: ikon.show(image)["status"] != "importing", 30)
    if becomes == "active":
        assert ikon.show(image)["status"] == "active"
    else:
        assert becomes in tasks(ikon, image)[1]["message"]
        assert ikon.show(image)["status"] == "queued"
    assert ikon.delete(image).status == 204
    eventually(lambda: not ikon.files() and not list((ikon.directory / "staging").iterdir()), 30)
