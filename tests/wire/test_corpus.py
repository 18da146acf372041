"""Real images of every kind, as the tools of the trade make them, sound and abused: every sound one gets in, no abused one does."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ikon.config import Formats
from tests.unit.formats import made
from tests.wire.server import Ikon

pytestmark = pytest.mark.slow
SETTINGS: dict[str, str] = {}  # a server of its own, in whose stores nothing else lies
SUFFIXES = {".qcow2": "qcow2", ".vmdk": "vmdk", ".vhd": "vhd", ".vhdx": "vhdx", ".vdi": "vdi", ".iso": "iso", ".hds": "ploop"}
PACKED = (".gz", ".bz2", ".xz", ".zst")
#: Sound for whoever has the other files that they need; refused here like those of hostile/.
NOT_ALONE = {"backing.qcow2", "datafile.qcow2", "flat.vmdk", "split.vmdk", "split-s001.vmdk", "disk.qed"}
#: Taken only where an option allows it, and raw extents that are called after the disk that they are part of.
ALLOWED = {"extended.qcow2": Formats(qcow2_extended_l2=True), "encrypted.qcow2": Formats(qcow2_encrypted=True)}
EXTENTS = {"flat-flat.vmdk", "data.bin"}
#: In hostile/, but nothing against them as such: a raw disk of no bytes, a disk of qcow2's bytes, a medium with a partition table, data that is
#: dangerous to unpack only, and one that is too large for this machine.
HARMLESS = {"empty", "qcow2-named.raw", "iso-and-mbr.iso", "bomb.gz", "sparse-1T.raw"}


class Sample(NamedTuple):
    """A file and what it is uploaded as."""

    path: Path
    disk: str
    container: str

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(scope="module")
def sound(images: Path) -> list[Sample]:
    paths = [*sorted((images / "small").iterdir()), *sorted((images / "boot").iterdir())]
    return [_own(path) for path in paths if path.name not in NOT_ALONE | ALLOWED.keys() | EXTENTS]


@pytest.fixture(scope="module")
def hostile(images: Path) -> list[Sample]:
    paths = [path for path in sorted((images / "hostile").iterdir()) if path.name not in HARMLESS]
    return [_own(path) for path in (*paths, *(images / "small" / name for name in sorted(NOT_ALONE | ALLOWED.keys())))]


def _own(path: Path) -> Sample:
    parts = {"aki.bin": "aki", "ami.ext4": "ami", "kernel": "aki", "initrd": "ari"}
    if part := parts.get(path.name):
        return Sample(path, part, part)
    if path.suffix == ".ova":
        return Sample(path, "vmdk", "ova")
    if path.suffix == ".ovf":
        return Sample(path, "raw", "ovf")
    if path.suffix in PACKED:
        return Sample(path, "raw", "docker" if "docker" in path.name else "compressed")
    return Sample(path, SUFFIXES.get(path.suffix, "raw"), "bare")


def _virtual_size(sample: Sample) -> int | None:
    """What the image's own tool says; the bytes themselves for what that does not know."""
    if sample.container not in ("bare", "ovf", "ova"):
        return None
    if sample.disk in ("raw", "iso"):
        return sample.path.stat().st_size
    if sample.container == "ova":
        return 4 << 20  # of the disk inside, as the script made it
    form = {"vhd": "vpc", "ploop": "parallels"}.get(sample.disk, sample.disk)
    told = subprocess.run(["qemu-img", "info", "-f", form, "--output=json", sample.path], capture_output=True, check=True).stdout
    return int(json.loads(told)["virtual-size"])


def pieces(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 300_000] for at in range(0, len(data), 300_000))


def test_every_sound_image_is_active_with_the_virtual_size_that_its_tool_tells(ikon: Ikon, sound: list[Sample]) -> None:
    for sample in sound:
        for chunked in (False, True):
            image_id = str(ikon.create(disk_format=sample.disk, container_format=sample.container)["id"])
            answer = ikon.upload(image_id, pieces(sample.data) if chunked else sample.data)
            assert answer.status == 204, f"{sample}: {answer.message}"
            record = ikon.show(image_id)
            assert (record["status"], record["virtual_size"]) == ("active", _virtual_size(sample)), sample
            ikon.delete(image_id)
    print(f"{len(sound)} sound images, {2 * len(sound)} uploads: 0 refused")
    assert len(sound) >= 22


def test_no_hostile_image_gets_in_whatever_it_is_said_to_be(ikon: Ikon, hostile: list[Sample]) -> None:
    uploads = 0
    for sample in hostile:
        ways = {(sample.disk, sample.container)}
        if sample.container == "bare":
            ways |= {("raw", "bare"), (sample.disk, "ovf"), ("aki", "aki"), ("raw", "docker"), ("vmdk", "ova"), ("raw", "compressed")}
        for disk, container in sorted(ways):
            image_id = str(ikon.create(disk_format=disk, container_format=container)["id"])
            for chunked in (False, True):
                answer = ikon.upload(image_id, pieces(sample.data) if chunked else sample.data)
                assert answer.status == 415, f"{sample} as {disk}, {container}: {answer.status}"
                assert "Image failed safety checks: " in answer.message or "does not match stream data" in answer.message
                uploads += 1
            ikon.delete(image_id)
    print(f"{len(hostile)} hostile images, {uploads} uploads: 0 accepted")
    assert len(hostile) >= 40
    assert not [path for path in ikon.files() if path.is_file()]


def test_real_images_are_judged_alike_for_every_size_of_blocks(sound: list[Sample], hostile: list[Sample]) -> None:
    judged = 0
    for path, disk, container in (*sound, *hostile):
        data = path.read_bytes()
        sizes = [size for size in (1, 13, 4096, 65_521, 1 << 20, 64 << 20) if len(data) // size < 150_000]
        found = {made.refusal(data, disk, container, block=size) or str(made.inspect(data, disk, container, block=size)) for size in sizes}
        assert len(found) == 1, (path, found)
        judged += len(sizes)
    print(f"{judged} readings")


def test_options_allow_the_images_that_they_are_for(images: Path) -> None:
    for name, rules in ALLOWED.items():
        data = (images / "small" / name).read_bytes()
        assert made.inspect(data, "qcow2", rules=rules).virtual_size == 4 << 20
        assert made.refusal(data, "qcow2") != ""


def test_qcow2_as_raw_is_a_disk_of_its_bytes_unless_raw_means_raw(images: Path) -> None:
    data = (images / "hostile/qcow2-named.raw").read_bytes()

    assert made.inspect(data, "raw").virtual_size == len(data)
    assert "does not match stream data qcow2" in made.refusal(data, "raw", rules=Formats(raw_means_raw=True))
