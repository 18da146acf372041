"""Mutated images: no answer but a verdict or a refusal, the same for any cut, and nothing taken that the rules do not allow.

What a taken image may hold is read again here, by other code, straight from its bytes.
"""

import json
import random
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ikon.config import Formats
from ikon.problems import ImageRefused
from tests.unit.formats import made
from tests.unit.formats.made import KIB, MIB

LIMIT = Formats().virtual_size_max_gib << 30
NUMBERS = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    21,
    22,
    63,
    64,
    0x7F,
    0x80,
    0xFF,
    0x200,
    0xFFFF,
    1 << 20,
    1 << 31,
    (1 << 32) - 1,
    1 << 46,
    1 << 63,
    (1 << 64) - 1,
]
#: Pieces of one format that may turn up in another.
PIECES = [b"QFI\xfb\0\0\0\3", b"\x44\x41\x54\x41\0\0\0\4", b"KDMV", b"conectix", b"cxsparse", b"\x7f\x10\xda\xbe", b"\1CD001", b"LUKS\xba\xbe\0\1", b"\x55\xaa",
          b'createType="vmfs"\n', b'parentFileNameHint="x"\n', b"RW 1 FLAT \"/etc/passwd\" 0\n", b"parentCID=0\n", b"ustar\0", b"../", b"http://", b"<!DOCTYPE"]  # fmt: skip


class Kind:
    """One format under mutation: a sound image, the stretches of it that matter, what makes checksums right again, what must then hold."""

    def __init__(
        self,
        data: bytes,
        disk: str,
        places: list[tuple[int, int]],
        holds: Callable[[bytes], bool],
        mend: Callable[[bytearray], None] | None = None,
        container: str = "bare",
        rounds: int = 1_000_000,
    ) -> None:
        self.data, self.disk, self.places, self.holds, self.mend, self.container, self.rounds = (
            data,
            disk,
            places,
            holds,
            mend,
            container,
            rounds,
        )


def qcow2_holds(data: bytes) -> bool:
    version, backing, length = struct.unpack_from(">IQI", data, 4)
    features = struct.unpack_from(">Q", data, 72)[0] if version == 3 else 0
    return version in (2, 3) and backing == length == 0 and features & ~9 == 0 and data[32:36] == bytes(4) and _no_data_file(data, version)


def _no_data_file(data: bytes, version: int) -> bool:
    at = struct.unpack_from(">I", data, 100)[0] if version == 3 else 72
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">II", data, at)
        if kind == 0:
            return True
        if kind in (0x44415441, 0xE2792ACA):
            return False
        at += 8 + (length + 7) // 8 * 8
    return True


def vmdk_holds(data: bytes) -> bool:
    at, size = struct.unpack_from("<QQ", data, 28)
    text = data[at * 512 : (at + size) * 512].lower()
    types = re.findall(rb"createtype\s*=\s*\"?(\w*)", text)
    extents = re.findall(rb"^\s*(?:rw|rdonly|noaccess)\b.*", text, re.MULTILINE)
    return (
        struct.unpack_from("<Q", data, 12)[0] > 0
        and types in ([b"streamoptimized"], [b"monolithicsparse"])
        and [re.match(rb'rw\s+\d+\s+sparse\s+"[^"/\\]+"$', extent.strip()) is not None for extent in extents] == [True]
        and not re.search(rb"parentfilenamehint|changetrackpath|parentcid\s*=\s*(?!f{8})", text)
    )


def vhd_holds(data: bytes) -> bool:
    kind = struct.unpack_from(">I", data, 60 if data.startswith(b"conectix") else len(data) - 512 + 60)[0]
    return kind == 2 or (kind == 3 and data[-512:] == data[:512] and not any(data[512 + 40 : 512 + 56]))


def vdi_holds(data: bytes) -> bool:
    return struct.unpack_from("<I", data, 76)[0] in (1, 2) and not any(data[424:456])


def vhdx_holds(data: bytes) -> bool:
    return struct.unpack_from("<I", data, 2 * MIB + 64 * KIB + 4)[0] & ~1 == 0 and b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45" not in data


def plain_holds(data: bytes) -> bool:
    return True


def mend_vhd(data: bytearray) -> None:
    for at in (0, len(data) - 512):
        if data[at : at + 8] == b"conectix":
            data[at : at + 512] = made.summed(bytes(data[at : at + 512]), 64)
    if data[512:520] == b"cxsparse":
        data[512:1536] = made.summed(bytes(data[512:1536]), 36)


def mend_vhdx(data: bytearray) -> None:
    for at in (64 * KIB, 128 * KIB):
        header = bytes(data[at : at + 4]) + bytes(4) + bytes(data[at + 8 : at + 4096])
        struct.pack_into("<I", data, at + 4, made.crc32c(header))
    data[256 * KIB : 320 * KIB] = data[192 * KIB : 256 * KIB]


def mend_tar(data: bytearray) -> None:
    for at in (0, 1024):
        header = data[at : at + 512]
        header[148:156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(header)


SMALL_VHD = bytes(64 * KIB) + made.vhd_footer(2, size=64 * KIB)
KINDS = {
    "qcow2 v2": Kind(made.qcow2(2), "qcow2", [(0, 72), (72, 64)], qcow2_holds),
    "qcow2 v3": Kind(made.qcow2(extensions=made.extension(0x6803F857, bytes(48))), "qcow2", [(4, 100), (4, 200)], qcow2_holds),
    "vmdk": Kind(made.vmdk(), "vmdk", [(4, 76), (512, 300)], vmdk_holds),
    "vmdk streamed": Kind(made.streamed_vmdk(), "vmdk", [(4, 76), (512, 300), (11264, 1100)], vmdk_holds),
    "vhd dynamic": Kind(made.vhd_dynamic(), "vhd", [(8, 80), (512, 100), (1088, 100), (2048, 90)], vhd_holds, mend_vhd),
    "vhd fixed": Kind(SMALL_VHD, "vhd", [(0, 520), (64 * KIB, 100)], vhd_holds, mend_vhd),
    "vdi": Kind(made.vdi(), "vdi", [(64, 24), (340, 130)], vdi_holds),
    "vhdx": Kind(made.vhdx(), "vhdx", [(64 * KIB, 90), (192 * KIB, 90), (2 * MIB, 200), (2 * MIB + 64 * KIB, 40)], vhdx_holds, mend_vhdx, rounds=20_000),
    "iso": Kind(made.iso(made.mbr()), "iso", [(0, 600), (32 * KIB, 100)], plain_holds),
    "gpt": Kind(made.gpt()[: 64 * KIB], "raw", [(440, 200)], plain_holds),
    "luks": Kind(made.luks(), "raw", [(0, 600)], plain_holds),
    "ploop": Kind(made.ploop(), "ploop", [(0, 64)], plain_holds),
    "ova": Kind(made.ova(made.streamed_vmdk()), "vmdk", [(0, 360), (512, 130), (1024, 360), (1536, 90), (2048, 300)], plain_holds, mend_tar, "ova"),
}  # fmt: skip


def mutate(kind: Kind, rng: random.Random) -> bytes:
    data = bytearray(kind.data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start, length = rng.choice(kind.places)
        at = min(start + rng.randrange(length), len(data) - 8)
        how = rng.randrange(5)
        if how == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[at] = rng.randrange(256)
        elif how in (2, 3):
            form = rng.choice((">I", "<I", ">Q", "<Q", ">H", "<H"))
            at &= ~3 if how == 2 else ~0
            struct.pack_into(form, data, at, rng.choice(NUMBERS) % (1 << 8 * struct.calcsize(form)))
        else:
            piece = rng.choice(PIECES)
            data[at : at + len(piece)] = piece
    if kind.mend and rng.random() < 0.8:
        kind.mend(data)
    if rng.random() < 0.02:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def verdict(kind: Kind, data: bytes, disk: str, block: int) -> Any:
    try:
        return made.inspect(data, disk, kind.container, block=block)
    except ImageRefused as problem:
        return str(problem)


def run(name: str, rounds: int, seed: int) -> None:
    kind, rng = KINDS[name], random.Random(f"{seed} {name}")
    taken = 0
    for number in range(rounds):
        data = mutate(kind, rng)
        disk = kind.disk if number % 4 else "raw"
        found = verdict(kind, data, disk, 256 * KIB)
        if not isinstance(found, str):
            taken += 1
            assert found.virtual_size is None or 0 <= found.virtual_size <= LIMIT
            assert found.format != kind.disk or kind.holds(data), f"seed {seed}, round {number}"
        if number % 16 == 0:
            assert found == verdict(kind, data, disk, rng.randrange(500, 300_000)), f"seed {seed}, round {number}"
    print(f"{name}: {rounds} mutations, {taken} taken")
    assert 0 < taken < rounds


@pytest.mark.parametrize("name", KINDS)
def test_mutated_images_are_judged_by_the_rules(name: str) -> None:
    run(name, 60 if name == "vhdx" else 1000, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name, form", [("qcow2 v2", "qcow2"), ("qcow2 v3", "qcow2"), ("vmdk", "vmdk"), ("vmdk streamed", "vmdk")])
def test_what_is_taken_leads_a_reader_to_no_other_file(name: str, form: str, tmp_path: Path) -> None:
    kind, rng, path = KINDS[name], random.Random(f"qemu {name}"), tmp_path / "image"
    opened = asked = 0
    while asked < 150:
        data = mutate(kind, rng)
        if data == kind.data or isinstance(verdict(kind, data, kind.disk, 256 * KIB), str):
            continue
        asked += 1
        path.write_bytes(data)
        told = subprocess.run(["qemu-img", "info", "-f", form, "--output=json", path], capture_output=True, check=False)
        if told.returncode == 0:
            opened += 1
            info = json.loads(told.stdout)
            details = info.get("format-specific", {}).get("data", {})
            assert "backing-filename" not in info
            assert "data-file" not in details
            assert {extent["filename"] for extent in details.get("extents", ())} <= {str(path)}
    print(f"{name}: qemu-img was asked {asked} times, opened {opened}, and named no other file")
    assert opened > 20


@pytest.mark.full
@pytest.mark.parametrize("name", KINDS)
def test_a_million_mutations_of_each_format_are_judged_by_the_rules(name: str) -> None:
    run(name, KINDS[name].rounds, seed=random.SystemRandom().randrange(1 << 32))
