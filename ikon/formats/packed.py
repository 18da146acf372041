"""Archives and compressed data: recognised by how they begin, never opened here. What an OVA holds is looked at by ova.py."""

from ikon.config import Formats
from ikon.formats.view import Match, View

#: By their first bytes.
MAGICS = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
    "lz4": b"\x04\x22\x4d\x18",
    "zip": b"PK\x03\x04",
}
#: What container format `compressed` may hold.
COMPRESSED = frozenset((*MAGICS, "lha"))


def inspect(view: View, rules: Formats) -> Match | None:
    """Compressed data or a tar archive."""
    for name, magic in MAGICS.items():
        if view.has(magic):
            return Match(name)
    if view.has(b"-lh", 2) and view.has(b"-", 6):
        return Match("lha")
    if view.has(b"ustar", 257) and checksum_is_right(view.head[:512]):
        return Match("tar")
    return None


def checksum_is_right(header: bytes | bytearray) -> bool:
    """Whether the sum in a tar header of 512 bytes is that of its bytes."""
    text = bytes(header[148:156]).strip(b" \0")
    if len(header) < 512 or not text.isdigit() or not set(text) <= set(b"01234567"):
        return False
    return int(text, 8) == sum(header) - sum(header[148:156]) + 8 * 32
