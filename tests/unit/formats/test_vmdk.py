"""VMDK: a descriptor may not name anything, in any of the ways that a reader might understand."""

import time

import pytest

from ikon.config import Formats
from tests.unit.formats.made import DESCRIPTOR, SIZE, inspect, put, refusal, streamed_vmdk, vmdk

STREAMED = streamed_vmdk()


def changed(old: str, new: str) -> bytes:
    assert old in DESCRIPTOR
    return vmdk(DESCRIPTOR.replace(old, new))


EXTENT = 'RW 8192 SPARSE "disk.vmdk"'


@pytest.mark.parametrize(
    "data, reason",
    [
        (DESCRIPTOR.encode(), "only a descriptor"),
        (DESCRIPTOR.lower().encode(), "only a descriptor"),
        (b"# anything\n\n  # more\nversion=1\n" + b"CID=1\n", "only a descriptor"),
        (b"version = 3\n", "only a descriptor"),
        (b"any text, however long\n" * 10_000 + b'createType="vmfs"\n', "only a descriptor"),
        (b"\n \n# Disk DescriptorFile\n", "only a descriptor"),
        (b"COWD" + bytes(2000), "ESX sparse extent"),
        *(
            (vmdk(kind=kind), f"createType '{kind}' is not allowed")
            for kind in ("monolithicFlat", "vmfs", "fullDevice", "custom", "twoGbMaxExtentSparse", "monolithicsparse")
        ),
        (changed('createType="{kind}"', ""), "createType '' is not allowed"),
        (changed('createType="{kind}"', 'createType="monolithicSparse"\ncreateType="monolithicFlat"'), "says createtype twice"),
        (changed('createType="{kind}"', '# createType="monolithicFlat"\ncreateType="monolithicSparse"'), "says createtype twice"),
        (changed('createType="{kind}"', 'createType="monolithicSparse"\n CREATETYPE = "monolithicFlat"'), "says createtype twice"),
        (changed("version=1", "version=1\nversion=1"), "says 'version' twice"),
        (changed('ddb.adapterType = "ide"', 'ddb.adapterType = "ide"\nddb.ADAPTERTYPE="x"'), "says 'ddb.adaptertype' twice"),
        (changed(EXTENT, 'RW 8192 FLAT "/etc/passwd" 0'), "an extent is not one sparse extent"),
        (changed(EXTENT, 'RW 8192 SPARSE "/etc/passwd"'), "an extent names a file elsewhere"),
        (changed(EXTENT, 'RW 8192 SPARSE "..\\\\x"'), "an extent names a file elsewhere"),
        (changed(EXTENT, 'RW 8192 SPARSE ""'), "an extent names a file elsewhere"),
        (changed(EXTENT, 'RDONLY 8192 SPARSE "disk.vmdk"'), "an extent is not one sparse extent"),
        (changed(EXTENT, "RW 8192 ZERO"), "an extent is not one sparse extent"),
        (changed(EXTENT, EXTENT + " 0"), "an extent is not one sparse extent"),
        (changed(EXTENT, f"{EXTENT}\n{EXTENT}"), "the descriptor has 2 extents"),
        (changed(EXTENT, f'{EXTENT}\n   rw 1 FLAT "/dev/sda" 0'), "the descriptor has 2 extents"),
        (changed(EXTENT, ""), "the descriptor has 0 extents"),
        (changed("parentCID=ffffffff", "parentCID=12345678"), "names a parent"),
        (changed("CID=1234abcd\n", "CID=1234abcd"), "the descriptor says cid='1234abcdparentCID=ffffffff'"),
        (changed("#DDB", 'ddb.x = "parentCID=1"'), "says parentcid twice"),
        (changed("version=1", "version=one"), "the descriptor says version='one'"),
        (changed('createType="{kind}"', "createType={kind}"), "says createtype="),
        (changed("parentCID=ffffffff", "parentCID=ffffffff\n#parentCID=1"), "says parentcid twice"),
        (changed("#DDB", 'parentFileNameHint="/etc/passwd"'), "names a parent"),
        (changed("#DDB", '#parentFileNameHint="/etc/passwd"'), "names a parent"),
        (changed("#DDB", 'changeTrackPath="x-ctk.vmdk"'), "names a file that tracks changes"),
        (changed("#DDB", "surprise"), "a line that is not understood: 'surprise'"),
        (changed("#DDB", "otherKey=1"), "a line that is not understood: 'otherKey=1'"),
        (changed("#DDB", "#DDB\0version=2"), "something follows the descriptor's end"),
        (vmdk(f"{DESCRIPTOR}\0{DESCRIPTOR[-8:]}"), "something follows the descriptor's end"),
        (changed("#DDB", '# a\rcreate="x"'), "control characters"),
        (vmdk("\n" * 5000), "more than 4096 lines"),
        (put(vmdk(), 12, "<Q", 0), "the descriptor would count alone"),
        (put(vmdk(), 12, "<Q", 1 << 60), "over the limit"),
        (put(vmdk(), 28, "<Q", 0), "one extent of several"),
        *((put(vmdk(), 28, "<Q", sector), "the descriptor does not lie behind the header") for sector in (2, 21, 1 << 30)),
        (put(vmdk(), 36, "<Q", (1 << 20) // 512 + 1), "within the first 512 KiB"),
        (put(vmdk(DESCRIPTOR.ljust(512, "#") + '\nparentFileNameHint="x"'), 36, "<Q", 1), "the descriptor has no end"),
        (vmdk(DESCRIPTOR + "#" * 11_000), "the descriptor has no end"),
        (put(vmdk(), 4, "<I", 4), "version 4 is unknown"),
        (put(vmdk(), 73, "4s", b"\n\n\n\n"), "damaged by a text conversion"),
        (put(vmdk(), 77, "<H", 2), "compression 2 is unknown"),
        (put(vmdk(), 44, "<I", 0), "grain tables of 0 entries"),
        *((put(vmdk(), 20, "<Q", grain), f"grains of {grain} sectors") for grain in (0, 1, 129, 1 << 40)),
        (put(vmdk(), 56, "<Q", 0), "the grain directory has no place"),
        (put(vmdk(), 56, "<Q", 24), "the grain directory lies beyond the end"),
        (put(vmdk(), 48, "<Q", 1 << 50), "the redundant grain directory lies beyond the end"),
        (STREAMED[:-512], "the footer is missing"),
        (STREAMED + bytes(512), "the footer is missing"),
        (put(STREAMED, -1024 + 12, "<Q", 1), "the footer differs from the header"),
        (put(STREAMED, -1024 + 28, "<Q", 9), "the footer differs from the header"),
        (put(STREAMED, -1024 + 56, "<Q", 1 << 40), "the grain directory lies beyond the end"),
        (put(STREAMED, -1024 + 56, "<Q", (1 << 64) - 1), "the grain directory lies beyond the end"),
    ],
)
@pytest.mark.parametrize("disk_format, container_format", [("vmdk", "bare"), ("raw", "bare"), ("ami", "ami")])
def test_an_image_is_refused_by_the_rule_whatever_it_is_said_to_be(
    data: bytes, reason: str, disk_format: str, container_format: str
) -> None:
    said = refusal(data, disk_format, container_format)

    assert said.startswith("Image failed safety checks: vmdk: ")
    assert reason in said


@pytest.mark.parametrize(
    "data",
    [vmdk(), STREAMED, vmdk(DESCRIPTOR.replace("\n", "\r\n")), vmdk(kind="streamOptimized"), changed("parentCID=ffffffff", "parentCID=FFFFFFFF"),
     changed("#DDB", 'encoding="UTF-8"\nisNativeSnapshot="no"\nddb.longContentID = "a=b"')],
)  # fmt: skip
def test_what_is_one_sparse_extent_is_taken(data: bytes) -> None:
    assert inspect(data, "vmdk").virtual_size == SIZE


def test_the_allowed_types_are_a_setting_that_opens_no_door_to_other_files() -> None:
    rules = Formats(vmdk_allowed_types=["monolithicSparse", "custom"])

    assert refusal(vmdk(kind="custom"), "vmdk", rules=rules) == ""
    assert "createType 'streamOptimized' is not allowed" in refusal(STREAMED, "vmdk", rules=rules)
    assert "only a descriptor" in refusal(DESCRIPTOR.replace("{kind}", "custom").encode(), "vmdk", rules=rules)
    assert "not one sparse extent" in refusal(vmdk(DESCRIPTOR.replace(EXTENT, 'RW 8192 FLAT "x" 0'), kind="custom"), "vmdk", rules=rules)


def test_a_descriptor_full_of_faults_costs_little_and_is_answered_shortly() -> None:
    data = put(vmdk("\n".join(f"fault{n}" for n in range(4000)).ljust(400_000, "\n")), 36, "<Q", 1000) + bytes(200_000)
    began = time.thread_time()

    said = refusal(data, "vmdk")

    assert "fault0" in said
    assert len(said) < 1000
    assert time.thread_time() - began < 0.5  # measured 0.01


@pytest.mark.parametrize("digits", range(1, 9))
def test_a_cid_of_fewer_digits_may_leave_the_end_of_the_longer_text_behind(digits: int) -> None:
    """As qemu-img does, which writes the new text over the old one, with one NUL behind it."""
    shorter = DESCRIPTOR.replace("1234abcd", "1234abcd"[:digits])

    written = shorter + "\0" + DESCRIPTOR[len(shorter) + 1 :]

    assert inspect(vmdk(written), "vmdk").virtual_size == SIZE
