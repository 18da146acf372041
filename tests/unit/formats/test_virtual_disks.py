"""VHD, VHDX, VDI and Parallels: no parent, no contradiction, nothing beyond the end."""

import struct

import pytest

from ikon.formats.vhdx import BAT, METADATA, PARENT_LOCATOR, crc32c
from tests.unit.formats.made import (
    KIB,
    MIB,
    SIZE,
    inspect,
    mbr,
    ploop,
    put,
    refusal,
    summed,
    vdi,
    vhd_dynamic,
    vhd_fixed,
    vhd_footer,
    vhdx,
    vhdx_header,
)

VHD = vhd_dynamic()


def vhd_header(at: int, form: str, *values: object) -> bytes:
    """A dynamic disk with other numbers in its second header, whose checksum is right again."""
    return VHD[:512] + summed(put(VHD[512:1536], at, form, *values), 36) + VHD[1536:]


def vhd_footers(at: int, form: str, *values: object) -> bytes:
    """A dynamic disk with other numbers in both footers, whose checksums are right again."""
    footer = summed(put(VHD[:512], at, form, *values), 64)
    return footer + VHD[512:-512] + footer


VHDS = [
    (vhd_dynamic(kind=4), "a differencing disk needs its parent"),
    (bytes(SIZE) + vhd_footer(4), "a differencing disk needs its parent"),
    (vhd_footers(60, ">I", 5), "disk type 5 is unknown"),
    (vhd_footers(12, ">I", 0x20000), "version 0x20000 is unknown"),
    (put(VHD, 64, ">I", 1), "the checksum of the footer is wrong"),
    (put(vhd_fixed(), -512 + 64, ">I", 1), "the checksum of the footer is wrong"),
    (put(VHD, 512 + 36, ">I", 1), "the checksum of the dynamic header is wrong"),
    (put(VHD, -512 + 20, ">I", 1), "the footer at the end is missing, or differs"),
    (VHD[:-512], "the footer at the end is missing, or differs"),
    (VHD[512:], "the copy of the footer at the start is missing"),
    (VHD[:-512] + vhd_footer(2), "the footer at the end is missing, or differs"),
    (vhd_footers(300, ">I", 1), "the reserved part of the footer is not empty"),
    (vhd_footers(510, "2s", b"\x55\xaa"), "the reserved part of the footer is not empty"),
    (vhd_header(40, ">I", 1), "names a parent"),
    (vhd_header(64, ">I", 1), "names a parent"),
    (vhd_header(576, "4s", b"W2ku"), "names a parent"),
    (vhd_header(0, "8s", b"cxspars "), "the dynamic header is missing"),
    (vhd_header(24, ">I", 0x20000), "dynamic header version"),
    (vhd_header(32, ">I", 3 * MIB), "blocks of 3145728 bytes"),
    (vhd_header(32, ">I", 0), "blocks of 0 bytes"),
    (vhd_header(28, ">I", 1), "too short for the virtual size"),
    (vhd_header(16, ">Q", 1 << 40), "the block table lies beyond the end"),
    (vhd_footers(16, ">Q", 1 << 40), "the dynamic header does not lie within the first 512 KiB"),
    (vhd_footers(48, ">Q", 1 << 60), "over the limit"),
    (vhd_fixed()[512:], "the disk is cut short"),
    (vhd_footer(2) + bytes(SIZE) + vhd_footer(2), "a fixed disk has its footer at the end only"),
    (bytes(SIZE) + vhd_footer(2, data=512), "points to further headers"),
    (vhd_fixed(b"conectix"), "the checksum of the footer is wrong"),
]
VHDX = vhdx()
VHDXS = [
    (vhdx(flags=2), "names a parent"),
    (vhdx(more_items=[PARENT_LOCATOR]), "names a parent"),
    (vhdx(flags=4), "file parameters 0x4 are unknown"),
    (vhdx(more_items=[b"?" * 16]), "metadata that is unknown"),
    (vhdx(more_items=[struct.pack("16s", b"?"), struct.pack("16s", b"?")]), "names an item twice"),
    (vhdx(more_regions=[struct.pack("<16sQII", b"?" * 16, 3 * MIB, MIB, 1)]), "a region that is unknown"),
    (vhdx(more_regions=[struct.pack("<16sQII", BAT, 3 * MIB, MIB, 1)]), "names a region twice"),
    (vhdx(size=(1 << 60)), "over the limit"),
    (put(VHDX, 128 * KIB, "4096s", vhdx_header(3, log=b"l" * 16)), "the log is not empty"),
    (put(VHDX, 128 * KIB, "4096s", vhdx_header(1, log=b"l" * 16)), "the two headers contradict each other"),
    (put(put(VHDX, 64 * KIB, "<I", 0), 128 * KIB, "<I", 0), "neither of the two headers is valid"),
    (put(put(VHDX, 64 * KIB + 100, "<I", 1), 128 * KIB + 100, "<I", 1), "neither of the two headers is valid"),
    (put(VHDX, 256 * KIB + 40, "<I", 1), "the two region tables differ"),
    (put(put(VHDX, 192 * KIB, "4s", b"xxxx"), 256 * KIB, "4s", b"xxxx"), "the region table is damaged"),
    (put(put(VHDX, 192 * KIB + 8, "<I", 2048), 256 * KIB + 8, "<I", 2048), "the region table is damaged"),
    (put(put(VHDX, 192 * KIB + 8, "<I", 1), 256 * KIB + 8, "<I", 1), "lacks a region"),
    (put(put(VHDX, 192 * KIB + 32, "<Q", 512), 256 * KIB + 32, "<Q", 512), "a MiB of its own"),
    (put(put(VHDX, 192 * KIB + 40, "<I", 0), 256 * KIB + 40, "<I", 0), "a MiB of its own"),
    (put(put(VHDX, 192 * KIB + 32, "<Q", 1 << 40), 256 * KIB + 32, "<Q", 1 << 40), "a region lies beyond the end"),
    (VHDX[: 2 * MIB + 100 * KIB], "a region lies beyond the end"),
    (put(VHDX, 2 * MIB, "8s", b"metadatx"), "the metadata table is damaged"),
    (put(VHDX, 2 * MIB + 10, "<H", 2), "lacks an item"),
    (put(VHDX, 2 * MIB + 32 + 16, "<I", 128 * KIB - 4), "lacks an item, or has it in an odd place"),
    (put(VHDX, 2 * MIB + 64 * KIB, "<I", 3 * MIB), "blocks of 3145728 bytes"),
    (put(VHDX, 2 * MIB + 64 * KIB + 16, "<I", 513), "sectors of 513 bytes"),
    (vhdx(size=1 << 40), "the block table is too short"),
]
VDI = vdi()
VDIS = [
    *((vdi(kind), "needs a parent") for kind in (3, 4)),
    (put(VDI, 424, "<I", 1), "needs a parent"),
    (put(VDI, 452, "<I", 1), "needs a parent"),
    (vdi(5), "image type 5 is unknown"),
    (put(VDI, 68, "<I", 0x20001), "version 0x20001 is unknown"),
    (put(VDI, 72, "<I", 0x100), "header length of 256 bytes"),
    (put(VDI, 360, "<I", 4096), "sectors of 4096 bytes"),
    (put(VDI, 376, "<I", 1000), "blocks of 1000 bytes"),
    (put(VDI, 384, "<I", 3), "the block map is too short"),
    (put(VDI, 388, "<I", 5), "the block map is too short"),
    (put(VDI, 340, "<I", 0), "overlaps something else"),
    (put(VDI, 344, "<I", 512), "overlaps something else"),
    (put(VDI, 344, "<I", 1 << 30), "beyond the end"),
    (put(VDI, 368, "<Q", 1 << 62), "over the limit"),
    (put(VDI, 0, "4s", b"QFI\xfb"), "several formats at once: qcow, vdi"),
]
PLOOPS = [(put(ploop(), 16, "<I", 3), "version 3 is unknown"), (put(ploop(), 36, "<Q", 1 << 60), "over the limit")]


@pytest.mark.parametrize(
    "disk_format, data, reason",
    [(name, *case) for name, cases in {"vhd": VHDS, "vhdx": VHDXS, "vdi": VDIS, "ploop": PLOOPS}.items() for case in cases],
)
@pytest.mark.parametrize("as_raw", [False, True])
def test_an_image_is_refused_by_the_rule_whatever_it_is_said_to_be(disk_format: str, data: bytes, reason: str, as_raw: bool) -> None:
    said = refusal(data, "raw" if as_raw else disk_format)

    assert said.startswith("Image failed safety checks: ")
    assert reason in said


@pytest.mark.parametrize(
    "disk_format, data",
    [
        ("vhd", vhd_fixed()),
        ("vhd", vhd_fixed(mbr())),
        ("vhdx", vhdx(flags=1)),
        ("vhdx", put(VHDX, 64 * KIB, "<I", 0)),
        ("vhdx", put(VHDX, 64 * KIB, "4096s", vhdx_header(1, log=b"l" * 16))),
        ("vdi", vdi(2)),
        ("ploop", ploop()),
    ],
)
def test_what_stands_alone_is_taken_with_its_virtual_size(disk_format: str, data: bytes) -> None:
    assert inspect(data, disk_format).virtual_size == SIZE


def test_a_vhdx_whose_metadata_comes_last_is_taken() -> None:
    table = bytearray(VHDX[192 * KIB : 256 * KIB])
    for at in range(16, 80, 32):
        name = bytes(table[at : at + 16])
        struct.pack_into("<Q", table, at + 16, 3 * MIB if name == METADATA else 2 * MIB)
    data = bytearray(VHDX)
    data[192 * KIB : 256 * KIB] = data[256 * KIB : 320 * KIB] = table
    data[2 * MIB : 3 * MIB], data[3 * MIB : 4 * MIB] = VHDX[3 * MIB :], VHDX[2 * MIB : 3 * MIB]

    assert inspect(bytes(data), "vhdx").virtual_size == SIZE


def test_the_checksum_of_vhdx_is_crc_32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
