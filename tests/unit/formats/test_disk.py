"""Raw disks, media and what passes unopened; and two formats in one."""

import gzip

import pytest

from ikon.config import Formats
from tests.unit.formats.made import SIZE, gpt, inspect, iso, luks, mbr, put, qcow2, refusal, vdi, vhd_footer, vmdk

#: What a partition table may look like without a word against it.
TABLES = [
    mbr(),
    mbr((0, 0x83, 63, 100), (0, 0x82, 200, 100), (0, 5, 300, 100)),
    gpt(),
    gpt(span=0xFFFFFFFF),
    mbr((0x80, 0xEE, 1, SIZE // 512 - 1)),
    mbr((0, 0xEE, 1, 17)),
    put(gpt(), 446, "<B", 0x80),
    gpt() + bytes(1 << 20),
]


@pytest.mark.parametrize("data", TABLES)
def test_a_partitioned_disk_is_raw(data: bytes) -> None:
    verdict = inspect(data, "raw", rules=Formats(raw_means_raw=True))

    assert verdict.format in ("mbr", "gpt")
    assert verdict.virtual_size == len(data)


@pytest.mark.parametrize(
    "data, reason",
    [
        (gpt((0, 0x83, 2048, 4096)), "the protective MBR has further partitions"),
        (gpt((0, 0xEE, 1, 4096)), "the protective MBR has further partitions"),
        (gpt(span=4096), "the protective MBR does not span the disk"),
        (put(gpt(), 446 + 8, "<I", 2), "the protective MBR does not span the disk"),
    ],
)
def test_a_protective_mbr_that_does_not_protect_is_refused_unless_allowed(data: bytes, reason: str) -> None:
    assert f"gpt: {reason}" in refusal(data)
    assert refusal(data, rules=Formats(gpt_strict=False)) == ""
    assert refusal(iso(data), "iso") == ""


@pytest.mark.parametrize("data", [b"\xeb\x3c\x90".ljust(510, b"x") + b"\x55\xaa", bytes(510) + b"\x55\xaa"], ids=["boot code", "nothing"])
def test_a_boot_sector_without_partitions_is_raw(data: bytes) -> None:
    assert inspect(data + bytes(10_000)).format == "raw"


@pytest.mark.parametrize("version, taken", [(0, False), (1, True), (2, True), (3, False)])
def test_luks_passes_as_raw_if_its_version_is_known(version: int, taken: bool) -> None:
    assert (refusal(luks(version)) == "") == taken


@pytest.mark.parametrize(
    "data, names",
    [
        (iso(qcow2()), "qcow2, iso"),
        (iso(vmdk()), "vmdk, iso"),
        (iso(vdi()), "vdi, iso"),
        (iso(luks()), "iso, luks"),
        (iso(gzip.compress(b"x")), "iso, gzip"),
        (put(qcow2(), 446, "64s2s", mbr()[446:510], b"\x55\xaa"), "qcow2, mbr"),
        (put(luks(), 446, "64s2s", mbr()[446:510], b"\x55\xaa"), "luks, mbr"),
        (qcow2() + bytes(SIZE) + vhd_footer(2), "qcow2, vhd"),
        (iso() + bytes(SIZE) + vhd_footer(2), "vhd, iso"),
        (gzip.compress(bytes(1000)) + bytes(SIZE) + vhd_footer(2), "vhd, gzip"),
    ],
)
def test_two_formats_in_one_are_refused_as_either_and_as_raw(data: bytes, names: str) -> None:
    for disk_format in ("raw", "aki"):
        assert f"Image failed safety checks: the data is of several formats at once: {names}" == refusal(data, disk_format)
    for disk_format in ("iso", "qcow2", "vhd", "vmdk", "vdi"):
        assert refusal(data, disk_format).startswith("Image ")


def test_a_qcow2_image_that_lies_on_a_cd_is_just_a_file() -> None:
    cd = iso() + qcow2() + bytes(2048)

    assert inspect(cd, "iso").format == "iso"


def test_a_raw_disk_with_the_footer_of_a_fixed_vhd_is_a_vhd() -> None:
    disk = mbr() + vhd_footer(2)

    assert inspect(disk, "vhd").format == inspect(disk, "raw").format == "vhd"
    assert "disk_format raw does not match stream data vhd" in refusal(disk, "raw", rules=Formats(raw_means_raw=True))
