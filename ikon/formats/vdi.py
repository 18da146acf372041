"""VDI: one header, a block map, blocks."""

from ikon.config import Formats
from ikon.formats.view import Match, View

SIGNATURE = b"\x7f\x10\xda\xbe"
AT = 64
DYNAMIC, STATIC, UNDO, DIFFERENCING = 1, 2, 3, 4


def inspect(view: View, rules: Formats) -> Match | None:
    """A VDI image."""
    if not view.has(SIGNATURE, AT):
        return None
    match = Match("vdi")
    version, header, kind = view.unpack("<III", 68)
    block_map, data, sector = view.unpack("<II12xI", 340)
    size, block, _, blocks, allocated = view.unpack("<QIIII", 368)
    link, parent = view.take(424, 16), view.take(440, 16)
    match.limit(size, rules)
    match.refuse(version != 0x10001, f"version {version:#x} is unknown")
    match.refuse(header < 0x180, f"the header length of {header} bytes is not possible")
    match.refuse(kind in (UNDO, DIFFERENCING) or any(link) or any(parent), "the image needs a parent; merge it into one that stands alone")
    match.refuse(kind not in (DYNAMIC, STATIC, UNDO, DIFFERENCING), f"image type {kind} is unknown")
    match.refuse(sector != 512, f"sectors of {sector} bytes are not possible")
    match.refuse(not 4096 <= block <= 256 << 20 or block & block - 1, f"blocks of {block} bytes are not possible")
    match.refuse(blocks * block < size or allocated > blocks, "the block map is too short for the virtual size")
    match.refuse(block_map < 512 or data < block_map + 4 * blocks, "the block map overlaps something else")
    match.refuse(view.beyond(data), "the block map lies beyond the end of the data: the image is cut short")
    return match
