"""VMDK: one sparse extent with its descriptor inside. A descriptor is text that names files, so no word of it is taken on trust."""

import re
import struct

from ikon.config import Formats
from ikon.formats.view import HEAD, SECTOR, Match, View

MAGIC = b"KDMV"
#: Of the sparse header: version, flags, capacity, grain size, descriptor's offset and size, entries of a grain table, redundant grain
#: directory, grain directory, overhead (all offsets and sizes in sectors), unclean, end-of-line test, compression.
FIELDS = "<4xIIQQQQIQQQB4sH"
REDUNDANT_FLAG = 2
GD_AT_END = (1 << 64) - 1
LINES = 4096
#: What a descriptor may say, in lower case, beside its extent and `ddb.` lines about the virtual hardware.
VALUES = {
    key: re.compile(value)
    for key, value in {
        "version": r"\d{1,2}",
        "encoding": r'"[\w.-]+"',
        "cid": r"[0-9a-f]{1,8}",
        "parentcid": r"[0-9a-f]{1,8}",
        "isnativesnapshot": r'"(yes|no)"',
        "createtype": r'"\w+"',
    }.items()
}
#: Where a descriptor inside an image begins, and how far some read it, whatever the header says.
DESCRIPTOR_AT, DESCRIPTOR_READ = SECTOR, 20 * SECTOR
#: Words that may stand once in a descriptor, comments included: readers that search for them take the first they find.
ONCE = ("createtype", "parentcid")
NEVER = {b"parentfilenamehint": "names a parent", b"changetrackpath": "names a file that tracks changes"}
EXTENT = re.compile(rb'(RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+([A-Z0-9]+)\s+"([^"]*)"')
ALONE = "convert it to streamOptimized or monolithicSparse"


def inspect(view: View, rules: Formats) -> Match | None:
    """A VMDK image or descriptor."""
    if view.has(b"COWD"):
        return Match("vmdk", refusals=[f"an ESX sparse extent belongs to a descriptor elsewhere; {ALONE}"])
    if _is_text(view.head):
        return Match("vmdk", refusals=[f"the data is only a descriptor, which names other files; {ALONE}"])
    if not view.has(MAGIC):
        return None
    match = Match("vmdk")
    view.take(0, SECTOR)
    version, flags, capacity, grain, text_at, text_length, per_table, redundant, directory, _, _, line_ends, compression = view.unpack(
        FIELDS, 0
    )
    match.limit(capacity * SECTOR, rules)
    match.refuse(version not in (1, 2, 3), f"version {version} is unknown")
    match.refuse(line_ends != b"\n \r\n", "the header was damaged by a text conversion")
    match.refuse(compression > 1, f"compression {compression} is unknown")
    match.refuse(not capacity, "the header has no capacity, so the descriptor would count alone")
    match.refuse(per_table != 512, f"grain tables of {per_table} entries are not possible")
    if not 8 <= grain <= 1 << 15 or grain & grain - 1:
        match.refuse(True, f"grains of {grain} sectors are not possible")
        return match
    _descriptor(match, view, rules, text_at * SECTOR, text_length * SECTOR)
    tables = -(-capacity // (grain * 512)) * 4
    if directory == GD_AT_END:
        if view.size is not None:
            _footer(match, view, tables)
    else:
        _place(match, view, directory, tables, "grain directory")
    if flags & REDUNDANT_FLAG:
        _place(match, view, redundant, tables, "redundant grain directory")
    return match


def _place(match: Match, view: View, sector: int, length: int, what: str) -> None:
    match.refuse(not sector, f"the {what} has no place")
    match.refuse(view.beyond(sector * SECTOR + length), f"the {what} lies beyond the end of the data: the image is cut short")


def _footer(match: Match, view: View, tables: int) -> None:
    """The copy of the header, near the end, that knows where the grain directory is. It must say the same for the rest."""
    marker, footer = view.tail[-3 * SECTOR : -2 * SECTOR], view.tail[-2 * SECTOR : -SECTOR]
    if len(marker) < SECTOR or struct.unpack_from("<I", marker, 12) != (3,) or footer[:4] != MAGIC:
        return match.refuse(True, "the footer is missing: the image is cut short")
    header = view.head[:SECTOR]
    match.refuse(
        footer[:56] != header[:56] or footer[64:72] != header[64:72] or footer[73:] != header[73:], "the footer differs from the header"
    )
    directory = struct.unpack_from("<Q", footer, 56)[0]
    return _place(match, view, directory, tables, "grain directory")


def _is_text(head: bytearray) -> bool:
    """Whether a reader would take this for a descriptor: text with a createType, or comments and then a version."""
    end = head.find(0)
    text = bytes(head[:end] if end >= 0 else head)
    if re.match(rb"\s*#\s*disk\s+descriptorfile", text, re.IGNORECASE) or re.search(rb"createtype\s*=", text.lower()):
        return True
    lines = text[:4096].split(b"\n")
    first = next((line for line in lines if not re.match(rb"\s*(#|$)", line)), b"")
    return re.match(rb"\s*version\s*=\s*\d", first, re.IGNORECASE) is not None


def _descriptor(match: Match, view: View, rules: Formats, at: int, length: int) -> None:
    if not at or not length:
        return match.refuse(True, f"the image is one extent of several: it has no descriptor of its own; {ALONE}")
    if at != DESCRIPTOR_AT or at + length > HEAD:
        return match.refuse(True, "the descriptor does not lie behind the header, within the first 512 KiB")
    text, _, rest = view.take(at, max(length, DESCRIPTOR_READ)).partition(b"\0")
    match.refuse(len(text) >= length, "the descriptor has no end")
    left = rest[: length - len(text) - 1].strip(b"\0")
    # A CID with fewer digits, written in place, shortens the text: up to seven bytes of its old end stay where they were.
    match.refuse(left and not (len(left) < 8 and text.endswith(left)), "something follows the descriptor's end")
    text = text.replace(b"\r\n", b"\n")
    match.refuse(re.search(rb"[\x01-\x08\x0b-\x1f\x7f]", text), "the descriptor holds control characters")
    lower = text.lower()
    for word, meaning in NEVER.items():
        match.refuse(word in lower, f"the descriptor {meaning}; {ALONE}")
    lines = text.split(b"\n", LINES)
    match.refuse(len(lines) > LINES, f"the descriptor has more than {LINES} lines")
    keys, extents = _lines(match, lines[:LINES])
    for key in ONCE:
        match.refuse(lower.count(key.encode()) > (key in keys), f"the descriptor says {key} twice, or where it does not count")
    kind = keys.get("createtype", "").strip('"')
    match.refuse(
        kind not in rules.vmdk_allowed_types, f"createType {_shown(kind)} is not allowed, only {', '.join(rules.vmdk_allowed_types)}"
    )
    match.refuse(keys.get("parentcid", "ffffffff").lower() != "ffffffff", f"the descriptor names a parent; {ALONE}")
    return match.refuse(extents != 1, f"the descriptor has {extents} extents, not one")


def _lines(match: Match, lines: list[bytes]) -> tuple[dict[str, str], int]:
    """The keys of a descriptor, in lower case, and the number of its extents, each line checked."""
    keys: dict[str, str] = {}
    extents = 0
    for line in (line.strip() for line in lines):
        if not line or line.startswith(b"#"):
            continue
        name, equals, value = line.partition(b"=")
        key = name.decode("latin-1").strip().lower()
        if line.upper().startswith((b"RW", b"RDONLY", b"NOACCESS")):
            extents += 1
            _extent(match, line)
        elif equals and (key in VALUES or key.startswith("ddb.")):
            match.refuse(key in keys, f"the descriptor says {_shown(key)} twice")
            keys[key] = text = value.decode("latin-1").strip()
            match.refuse(key in VALUES and not VALUES[key].fullmatch(text.lower()), f"the descriptor says {key}={_shown(text)}")
        else:
            match.refuse(True, f"the descriptor has a line that is not understood: {_shown(line.decode('latin-1'))}")
    return keys, extents


def _extent(match: Match, line: bytes) -> None:
    found = EXTENT.fullmatch(line)
    if not found or (found[1], found[3]) != (b"RW", b"SPARSE"):
        return match.refuse(True, f"an extent is not one sparse extent inside this file; {ALONE}")
    return match.refuse(not found[4] or b"/" in found[4] or b"\\" in found[4], f"an extent names a file elsewhere; {ALONE}")


def _shown(text: str) -> str:
    """Foreign text as an answer may hold it."""
    return ascii(text[:40])
