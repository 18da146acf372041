"""VHD: a disk with a footer after it (fixed), or blocks between a footer and its copy (dynamic)."""

import struct

from ikon.config import Formats
from ikon.formats.view import HEAD, Match, View

COOKIE, SPARSE_COOKIE = b"conectix", b"cxsparse"
FOOTER, SPARSE = 512, 1024
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
NOWHERE = (1 << 64) - 1


def inspect(view: View, rules: Formats) -> Match | None:
    """A VHD image: by the copy of its footer at the start, or by the footer at the end."""
    start, end = view.has(COOKIE), view.tail[-FOOTER:].startswith(COOKIE) and len(view.tail) >= FOOTER
    if not start and not end:
        return None
    match = Match("vhd", whole_disk=not start)
    footer = view.take(0, FOOTER) if start else view.tail[-FOOTER:]
    version, data, size, kind = (struct.unpack_from(form, footer, at)[0] for form, at in ((">I", 12), (">Q", 16), (">Q", 48), (">I", 60)))
    match.limit(size, rules)
    match.refuse(not _sums_up(footer, 64), "the checksum of the footer is wrong")
    match.refuse(version != 0x10000, f"version {version:#x} is unknown")
    match.refuse(kind == DIFFERENCING, "a differencing disk needs its parent; merge it into one that stands alone")
    match.refuse(kind not in (FIXED, DYNAMIC, DIFFERENCING), f"disk type {kind} is unknown")
    if kind == FIXED:
        match.refuse(start, "a fixed disk has its footer at the end only")
        match.refuse(view.beyond(size + FOOTER), "the disk is cut short: the footer tells of more bytes")
        match.refuse(data != NOWHERE, "the footer of a fixed disk points to further headers")
        return match
    match.refuse(not start, "the copy of the footer at the start is missing")
    match.refuse(
        view.size is not None and view.tail[-FOOTER:] != footer, "the footer at the end is missing, or differs from the one at the start"
    )
    if start:
        match.refuse(any(footer[85:]), "the reserved part of the footer is not empty")
        _sparse(match, view, data, size)
    return match


def _sums_up(header: bytes, at: int) -> bool:
    """Whether the checksum at `at` is the complement of the sum of all other bytes."""
    return int.from_bytes(header[at : at + 4], "big") == ~(sum(header) - sum(header[at : at + 4])) & 0xFFFFFFFF


def _sparse(match: Match, view: View, at: int, size: int) -> None:
    """The header of a dynamic disk, which also is where a parent is named."""
    if at + SPARSE > HEAD:
        return match.refuse(True, "the dynamic header does not lie within the first 512 KiB")
    header = view.take(at, SPARSE)
    if not header.startswith(SPARSE_COOKIE):
        return match.refuse(True, "the dynamic header is missing")
    table, version, entries, block = struct.unpack_from(">QIII", header, 16)
    match.refuse(not _sums_up(header, 36), "the checksum of the dynamic header is wrong")
    match.refuse(version != 0x10000, f"dynamic header version {version:#x} is unknown")
    match.refuse(any(header[40:60]) or any(header[64:768]), "the image names a parent; merge it into one that stands alone")
    match.refuse(not 4096 <= block <= 256 << 20 or block & block - 1, f"blocks of {block} bytes are not possible")
    match.refuse(entries * block < size, "the block table is too short for the virtual size")
    return match.refuse(view.beyond(table + 4 * entries), "the block table lies beyond the end of the data: the image is cut short")
