"""What an image is said to be against what it is."""

import bz2
import gzip
import lzma

import pytest

from ikon.config import Formats
from tests.unit.formats.made import SIZE, SOUND, inspect, ova, qcow2, refusal, tar, vdi

DISKS = ("qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop")
PACKED = {
    "gzip": gzip.compress(b"disk"),
    "bzip2": bz2.compress(b"disk"),
    "xz": lzma.compress(b"disk"),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "lz4": b"\x04\x22\x4d\x18" + bytes(20),
    "zip": b"PK\x03\x04" + bytes(30),
    "lha": b"\x20\x10-lh5-" + bytes(30),
}
TAR = tar([("layer", b"data")])


@pytest.mark.parametrize("kind", SOUND)
def test_an_image_is_taken_as_its_own_format_and_as_raw_and_as_nothing_else(kind: str) -> None:
    own, data = SOUND[kind]
    for container in ("bare", "ovf", "aki", "ari", "ami"):
        taken = {disk for disk in (*DISKS, "raw") if not refusal(data, disk, container)}
        assert taken == {own, "raw"}
        other = next(disk for disk in DISKS if disk != own)
        found = "mbr" if kind == "vhd fixed" else inspect(data).format  # its footer is not waited for
        assert refusal(data, other, container) == f"Image disk_format {other} does not match stream data {found}"


def test_a_disk_with_a_guid_partition_table_may_be_called_by_that() -> None:
    (_, gpt), (_, mbr) = SOUND["gpt"], SOUND["mbr"]

    assert inspect(gpt, "gpt").virtual_size == len(gpt)
    assert refusal(mbr, "gpt") == "Image disk_format gpt does not match stream data mbr"


@pytest.mark.parametrize("kind", SOUND)
def test_raw_may_mean_raw(kind: str) -> None:
    own, data = SOUND[kind]
    plain = kind in ("raw", "mbr", "gpt")

    assert (refusal(data, "raw", rules=Formats(raw_means_raw=True)) == "") == plain
    assert refusal(data, own, rules=Formats(raw_means_raw=own != "raw")) == ""


@pytest.mark.parametrize("kind", SOUND)
def test_parts_of_a_machine_are_taken_as_they_are_and_have_no_virtual_size(kind: str) -> None:
    for part in ("aki", "ari", "ami"):
        assert inspect(SOUND[kind][1], part, part).virtual_size is None


@pytest.mark.parametrize("kind", SOUND)
def test_the_virtual_size_is_that_of_the_disk_inside_or_of_the_bytes(kind: str) -> None:
    own, data = SOUND[kind]

    assert inspect(data, own).virtual_size == (len(data) if own in ("raw", "iso") else SIZE)
    assert inspect(data, "raw").virtual_size == len(data)


@pytest.mark.parametrize("kind", SOUND)
def test_what_passes_as_raw_still_tells_the_size_of_the_disk_that_is_in_it(kind: str) -> None:
    disk_format, data = SOUND[kind]

    verdict = inspect(data, "raw")

    assert verdict.virtual_size == len(data)
    assert verdict.disk_bytes == (None if kind == "luks" else len(data) if disk_format in ("raw", "iso") else SIZE)


@pytest.mark.parametrize("kind", PACKED)
def test_compressed_data_is_recognised_and_not_opened(kind: str) -> None:
    for disk in ("qcow2", "raw", "vhd"):
        verdict = inspect(PACKED[kind], disk, "compressed")
        assert (verdict.format, verdict.virtual_size) == (kind, None)
    assert f"does not match stream data {kind}" in refusal(PACKED[kind], "qcow2")


@pytest.mark.parametrize("data", [qcow2(), b"", b"plain text " * 100, TAR])
def test_what_is_not_compressed_is_refused_as_compressed(data: bytes) -> None:
    assert f"Image container_format compressed does not match stream data {inspect(data).format}" in refusal(data, "raw", "compressed")


def test_an_archive_of_containers_is_opaque() -> None:
    for data in (TAR, gzip.compress(TAR)):
        for disk in ("raw", "qcow2"):
            assert inspect(data, disk, "docker").virtual_size is None
    assert "disk_format qcow2 does not match stream data raw" in refusal(b"noise" * 1000, "qcow2", "docker")


def test_without_require_match_only_what_is_dangerous_is_refused() -> None:
    rules = Formats(require_match=False)

    assert inspect(b"noise" * 1000, "qcow2", rules=rules).virtual_size is None
    assert inspect(vdi(), "qcow2", rules=rules).virtual_size is None
    assert inspect(b"noise" * 1000, "qcow2", "ova", rules=rules).virtual_size is None
    assert "does not match" in refusal(b"text" * 200_000 + b'createType="vmfs"', "vmdk", rules=rules)
    assert "qed" in refusal(b"QED\0" + bytes(1000), "qcow2", rules=rules)
    assert "the image names a backing file" in refusal(ova(qcow2()[:8] + b"\1" * 1000), "vmdk", "ova", rules=rules)
    assert "truncated" in refusal(qcow2()[:100], "qcow2", rules=rules)


def test_an_empty_image_is_raw() -> None:
    assert inspect(b"", "raw").virtual_size == 0
    assert refusal(b"", "qcow2") == "Image disk_format qcow2 does not match stream data raw"
