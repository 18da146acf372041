"""VHDX as [MS-VHDX] describes it: two headers, two region tables, and the metadata that they lead to."""

import struct
from typing import NamedTuple
from uuid import UUID

from ikon.config import Formats
from ikon.formats.view import EXTRA, Match, View

MAGIC = b"vhdxfile"
HEADERS, TABLES = (64 << 10, 128 << 10), (192 << 10, 256 << 10)
HEADER_BYTES, TABLE_BYTES, MIB = 4096, 64 << 10, 1 << 20
ENTRIES = 2047
BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
VIRTUAL_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
#: Physical sector size and the disk's id, which change nothing here.
OTHERS = tuple(UUID(text).bytes_le for text in ("cda348c7-445d-4471-9cc9-e9885251c556", "beca12ab-b2e6-4523-93ef-c309e000c746"))
ALONE = "the image names a parent; merge it into one that stands alone"


class Item(NamedTuple):
    """One entry of a table: where, how long, and the flags of the entry."""

    offset: int
    length: int
    flags: int


def inspect(view: View, rules: Formats) -> Match | None:
    """A VHDX image."""
    if not view.has(MAGIC):
        return None
    match = Match("vhdx")
    view.take(TABLES[1], TABLE_BYTES)
    _log(match, view)
    regions = _regions(match, view)
    if BAT not in regions or METADATA not in regions:
        match.refuse(True, "the region table lacks a region")
        return match
    for region in regions.values():
        match.refuse(
            region.offset < MIB or region.length < MIB or region.offset % MIB or region.length % MIB,
            "a region does not begin and end at a MiB of its own",
        )
        match.refuse(view.beyond(region.offset + region.length), "a region lies beyond the end of the data: the image is cut short")
    if match.refusals:
        return match
    metadata = regions[METADATA]
    match.wants = (metadata.offset, EXTRA)
    if view.extra_at == metadata.offset and len(view.extra) == EXTRA:
        _metadata(match, bytes(view.extra), rules, regions[BAT].length)
    return match


def _log(match: Match, view: View) -> None:
    """Refuse an image that was not closed in order: what it says now is not what it says once its log is replayed."""
    current: tuple[int, bytes] | None = None
    for at in HEADERS:
        header = view.take(at, HEADER_BYTES)
        if header[:4] == b"head" and struct.unpack_from("<I", header, 4)[0] == crc32c(header[:4] + bytes(4) + header[8:]):
            sequence = struct.unpack_from("<Q", header, 8)[0]
            match.refuse(current and current[0] == sequence and current[1][16:] != header[16:], "the two headers contradict each other")
            if current is None or sequence > current[0]:
                current = sequence, header
    if current is None:
        return match.refuse(True, "neither of the two headers is valid")
    log, log_version, version = struct.unpack_from("<16sHH", current[1], 48)
    match.refuse(any(log), "the log is not empty: open and close the image once with what made it")
    return match.refuse((log_version, version) != (0, 1), f"version {version} is unknown")


def _regions(match: Match, view: View) -> dict[bytes, Item]:
    """The regions, which both tables must name alike: without their checksums, none is believed more than the other."""
    first, second = (view.take(at, TABLE_BYTES) for at in TABLES)
    match.refuse(first != second, "the two region tables differ")
    count = struct.unpack_from("<I", first, 8)[0]
    if first[:4] != b"regi" or count > ENTRIES:
        match.refuse(True, "the region table is damaged")
        return {}
    regions: dict[bytes, Item] = {}
    for at in range(16, 16 + 32 * count, 32):
        name, offset, length, flags = struct.unpack_from("<16sQII", first, at)
        match.refuse(name in regions, "the region table names a region twice")
        match.refuse(name not in (BAT, METADATA) and flags & 1, "the image needs a region that is unknown here")
        regions[name] = Item(offset, length, flags)
    return regions


def _metadata(match: Match, table: bytes, rules: Formats, bat_length: int) -> None:
    count = struct.unpack_from("<H", table, 10)[0]
    if table[:8] != b"metadata" or count > ENTRIES:
        return match.refuse(True, "the metadata table is damaged")
    items: dict[bytes, Item] = {}
    for at in range(32, 32 + 32 * count, 32):
        name, offset, length, flags = struct.unpack_from("<16sIII", table, at)
        match.refuse(name in items, "the metadata table names an item twice")
        known = name in (FILE_PARAMETERS, VIRTUAL_SIZE, SECTOR_SIZE, PARENT_LOCATOR, *OTHERS)
        match.refuse(not known and flags & 4, "the image needs metadata that is unknown here")
        items[name] = Item(offset, length, flags)
    match.refuse(PARENT_LOCATOR in items, ALONE)
    for name, length in ((FILE_PARAMETERS, 8), (VIRTUAL_SIZE, 8), (SECTOR_SIZE, 4)):
        item = items.get(name)
        if item is None or item.length != length or not TABLE_BYTES <= item.offset <= len(table) - length:
            return match.refuse(True, "the metadata lacks an item, or has it in an odd place")
    block, flags = struct.unpack_from("<II", table, items[FILE_PARAMETERS].offset)
    (size,) = struct.unpack_from("<Q", table, items[VIRTUAL_SIZE].offset)
    (sector,) = struct.unpack_from("<I", table, items[SECTOR_SIZE].offset)
    match.limit(size, rules)
    match.refuse(flags & 2, ALONE)
    match.refuse(flags & ~3, f"file parameters {flags:#x} are unknown")
    match.refuse(sector not in (512, 4096), f"sectors of {sector} bytes are not possible")
    if not MIB <= block <= 256 * MIB or block & block - 1:
        return match.refuse(True, f"blocks of {block} bytes are not possible")
    return match.refuse(-(-size // block) * 8 > bat_length, "the block table is too short for the virtual size")


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC-32C of some KiB: 0.3 ms for a header of 4 KiB, twice in an image."""
    table, crc = CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
