"""qcow2: which of its many freedoms an image may use."""

import pytest

from ikon.config import Formats
from tests.unit.formats.made import MIB, extension, inspect, put, qcow2, refusal

V2, V3 = qcow2(2), qcow2(3)


@pytest.mark.parametrize(
    "data, reason",
    [
        (put(V2, 8, ">QI", 512, 4), "names a backing file"),
        (put(V3, 8, ">QI", 512, 4), "names a backing file"),
        (put(V3, 8, ">Q", 1), "names a backing file"),
        (put(V3, 16, ">I", 1), "names a backing file"),
        (put(V3, 72, ">Q", 1 << 2), "external data file"),
        (qcow2(extensions=extension(0x44415441, b"/etc/passwd")), "a header extension names an external data file"),
        (qcow2(2, extensions=extension(0x44415441, b"/etc/passwd")), "a header extension names an external data file"),
        (qcow2(extensions=extension(0x6803F857, bytes(48))[:-8] + extension(0x44415441)), "a header extension names an external data file"),
        (qcow2(extensions=extension(0xE2792ACA, b"raw")), "names the format of a backing file"),
        (qcow2(extensions=extension(0x0537BE77, bytes(16))), "speaks of encryption"),
        (put(V3, 104, ">II", 7, 0xFFFFFFFF), "a header extension is longer than the header may be"),
        (put(V3, 72, ">Q", 1 << 1), "marked corrupt"),
        (put(V3, 72, ">Q", 1 << 4), "extended L2 entries are not allowed"),
        *((put(V3, 72, ">Q", 1 << bit), f"incompatible bits {1 << bit:#x}") for bit in (5, 6, 17, 31, 32, 63)),
        (put(V3, 72, ">Q", 1 << 3), "compression type 0 is not possible"),
        (put(put(V3, 100, ">I", 112), 104, ">B", 1), "compression type 1 is not possible"),
        (put(put(put(V3, 100, ">I", 112), 104, ">B", 2), 72, ">Q", 8), "compression type 2 is not possible"),
        *((put(V3, 32, ">I", method), "is encrypted") for method in (1, 2)),
        (put(V3, 32, ">I", 3), "encryption method 3 is unknown"),
        *((put(V3, 20, ">I", bits), f"clusters of 2^{bits} bytes are not possible") for bits in (0, 8, 22, 64, 0xFFFFFFFF)),
        *((put(V3, 100, ">I", length), f"header length of {length} bytes") for length in (0, 72, 103, 105, (64 << 10) + 8, 0xFFFFFFF8)),
        (put(V3, 96, ">I", 7), "refcounts are wider"),
        (put(V3, 36, ">I", (4 << 20) + 1), "longer than 32 MiB"),
        (put(V3, 36, ">I", 1), "too short for the virtual size"),
        (put(V3, 40, ">Q", 4096 * 4), "the L1 table lies beyond the end"),
        (put(V3, 40, ">Q", 512), "does not begin at a cluster of its own"),
        (put(V3, 48, ">Q", 0), "does not begin at a cluster of its own"),
        (put(V3, 48, ">Q", 1 << 62), "the refcount table lies beyond the end"),
        (put(V3, 56, ">I", 0), "the length of the refcount table"),
        (put(V3, 56, ">I", 4000), "the length of the refcount table"),
        (put(V3, 60, ">IQ", 1, 1 << 40), "the snapshot table lies beyond the end"),
        (put(V3, 60, ">I", 65537), "65537 internal snapshots"),
        (put(V3, 24, ">Q", (64 << 40) + 512), "over the limit of 65536 GiB"),
        (put(V3, 24, ">Q", 1 << 60), "over the limit of 65536 GiB"),
        *((put(V3, 4, ">I", version), f"version {version} is not taken") for version in (0, 1, 4, 0xFFFFFFFF)),
        (b"QED\0" + bytes(5000), "QED images are not taken"),
    ],
)
@pytest.mark.parametrize("disk_format, container_format", [("qcow2", "bare"), ("raw", "bare"), ("ari", "ari"), ("vmdk", "ovf")])
def test_an_image_is_refused_by_the_rule_whatever_it_is_said_to_be(
    data: bytes, reason: str, disk_format: str, container_format: str
) -> None:
    said = refusal(data, disk_format, container_format)

    assert said.startswith("Image failed safety checks: q")
    assert reason in said


@pytest.mark.parametrize(
    "data",
    [
        V2,
        V3,
        put(V3, 72, ">Q", 1),  # not closed in order
        put(put(put(V3, 100, ">I", 112), 104, ">B", 1), 72, ">Q", 8),  # zstd
        put(V3, 80, ">QQ", (1 << 64) - 1, (1 << 64) - 1),  # features that may be passed over
        qcow2(extensions=extension(0x6803F857, bytes(96))),
        qcow2(extensions=extension(0x23852875, bytes(24))),
        qcow2(extensions=extension(0x12345678, b"somebody's")),
        qcow2(extensions=b""),
        put(put(V3, 24, ">Q", 0), 36, ">I", 0),
    ],
)
def test_what_names_no_other_file_is_taken(data: bytes) -> None:
    assert refusal(data, "qcow2") == ""


def test_options_allow_what_they_name_and_nothing_else() -> None:
    subclusters, encrypted = put(put(V3, 72, ">Q", 1 << 4), 36, ">I", 4) + bytes(16), put(V3, 32, ">I", 2)

    assert refusal(subclusters, "qcow2", rules=Formats(qcow2_extended_l2=True)) == ""
    assert refusal(encrypted, "qcow2", rules=Formats(qcow2_encrypted=True)) == ""
    assert "extended L2" in refusal(subclusters, "qcow2", rules=Formats(qcow2_encrypted=True))
    assert "encrypted" in refusal(encrypted, "qcow2", rules=Formats(qcow2_extended_l2=True))
    assert "backing file" in refusal(
        put(V3, 8, ">Q", 512), "qcow2", rules=Formats(qcow2_extended_l2=True, qcow2_encrypted=True, require_match=False)
    )


def test_the_limit_of_the_virtual_size_is_a_setting() -> None:
    assert inspect(qcow2(size=4 * MIB), "qcow2", rules=Formats(virtual_size_max_gib=1)).virtual_size == 4 * MIB
    assert "over the limit of 1 GiB" in refusal(put(V3, 24, ">Q", (1 << 30) + 512), "qcow2", rules=Formats(virtual_size_max_gib=1))
