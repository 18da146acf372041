"""Bytes that are a disk or a medium as they stand: partition tables, ISO 9660, LUKS, and Parallels' images, which pass unopened."""

from ikon.config import Formats
from ikon.formats.view import SECTOR, Match, View

PROTECTIVE = 0xEE
ISO_AT = 0x8001


def _is_iso(view: View) -> bool:
    return view.has(b"CD001", ISO_AT)


def iso(view: View, rules: Formats) -> Match | None:
    """A CD or DVD image, which may begin with a partition table too, to start from a stick."""
    if not _is_iso(view):
        return None
    match = Match("iso", whole_disk=True)
    view.take(0x8000, 2048)
    return match


def partitions(view: View, rules: Formats) -> Match | None:
    """A disk with a partition table: "gpt" with a protective one, else "mbr". A boot sector without partitions is none."""
    if not view.has(b"\x55\xaa", 510):
        return None
    entries = [view.unpack("<B3xB3xII", at) for at in range(446, 510, 16)]
    used = [entry for entry in entries if entry[1]]
    if not used or any(boot & 0x7F for boot, *_ in entries):
        return None
    protective = [entry for entry in used if entry[1] == PROTECTIVE]
    match = Match("gpt" if protective else "mbr", whole_disk=True)
    if protective and rules.gpt_strict and not _is_iso(view):
        match.refuse(len(used) > 1, "the protective MBR has further partitions")
        _spans(match, view, *protective[0][2:])
    return match


def _spans(match: Match, view: View, start: int, count: int) -> None:
    """The protective partition must cover the disk as the GPT's header describes it, in sectors of 512 or 4096 bytes."""
    sector = next((size for size in (SECTOR, 4096) if view.has(b"EFI PART", size)), None)
    if sector:
        (other_header,) = view.unpack("<Q", sector + 32)
        match.refuse(start != 1 or start + count <= min(other_header, 0xFFFFFFFF), "the protective MBR does not span the disk")


def luks(view: View, rules: Formats) -> Match | None:
    """An encrypted disk: what is inside is for its consumer to check."""
    if not view.has(b"LUKS\xba\xbe"):
        return None
    match = Match("luks")
    (version,) = view.unpack(">H", 6)
    match.refuse(version not in (1, 2), f"version {version} is unknown")
    view.take(0, 592)
    return match


def parallels(view: View, rules: Formats) -> Match | None:
    """A Parallels or ploop image."""
    if not view.has(b"WithoutFreeSpace") and not view.has(b"WithouFreSpacExt"):
        return None
    match = Match("ploop")
    (version,) = view.unpack("<I", 16)
    (sectors,) = view.unpack("<Q" if view.has(b"WithouFreSpacExt") else "<I", 36)
    view.take(0, 64)
    match.limit(sectors * SECTOR, rules)
    match.refuse(version != 2, f"version {version} is unknown")
    return match
