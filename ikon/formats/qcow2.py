"""qcow2 as QEMU's docs/interop/qcow2.txt describes it, and its relatives qcow and QED, which are never taken."""

from ikon.config import Formats
from ikon.formats.view import Match, View

MAGIC = b"QFI\xfb"
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
#: Header extensions that matter here; others are made to be passed over by who does not know them.
END, BACKING_FORMAT, EXTERNAL_DATA, ENCRYPTION = 0, 0xE2792ACA, 0x44415441, 0x0537BE77
#: Bytes from the start of the file within which the extensions have to end.
EXTENSIONS_END = 64 << 10
L1_BYTES, REFCOUNT_TABLE_BYTES, SNAPSHOTS = 32 << 20, 8 << 20, 65536


def inspect(view: View, rules: Formats) -> Match | None:
    """A qcow2 image, of version 2 or 3."""
    if view.has(b"QED\0"):
        return Match("qed", refusals=["QED images are not taken; convert it to qcow2"])
    if not view.has(MAGIC):
        return None
    (version,) = view.unpack(">I", 4)
    if version not in (2, 3):
        return Match("qcow", refusals=[f"version {version} is not taken, only 2 and 3; convert it"])
    match = Match("qcow2")
    view.take(0, 512)
    backing, backing_length, cluster_bits, size, encryption = view.unpack(">QIIQI", 8)
    match.limit(size, rules)
    match.refuse(backing or backing_length, "the image names a backing file; convert it into one that stands alone")
    match.refuse(encryption and not rules.qcow2_encrypted, "the image is encrypted, which this service does not allow")
    match.refuse(encryption > 2, f"encryption method {encryption} is unknown")
    incompatible, order, header = view.unpack(">Q16xII", 72) if version == 3 else (0, 4, 72)
    _features(match, view, rules, incompatible, header)
    match.refuse(order > 6, "refcounts are wider than 64 bits")
    match.refuse(
        version == 3 and (not 104 <= header <= EXTENSIONS_END or header % 8), f"the header length of {header} bytes is not possible"
    )
    if not 9 <= cluster_bits <= 21:
        match.refuse(True, f"clusters of 2^{cluster_bits} bytes are not possible, only of 2^9 to 2^21")
        return match
    _extensions(match, view, header, min(1 << cluster_bits, EXTENSIONS_END), encrypted=encryption != 0)
    _tables(match, view, cluster_bits, size, entry=16 if incompatible & EXTENDED_L2 else 8)
    return match


def _features(match: Match, view: View, rules: Formats, incompatible: int, header: int) -> None:
    match.refuse(incompatible & DATA_FILE, "the image keeps its data in an external data file; convert it into one that stands alone")
    match.refuse(incompatible & CORRUPT, "the image is marked corrupt; repair it with qemu-img check")
    match.refuse(incompatible & EXTENDED_L2 and not rules.qcow2_extended_l2, "extended L2 entries are not allowed by this service")
    unknown = incompatible & ~(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2)
    match.refuse(unknown, f"the image needs features that are unknown here (incompatible bits {unknown:#x})")
    kind = view.unpack(">B", 104)[0] if header > 104 else 0
    match.refuse(kind != bool(incompatible & COMPRESSION), f"compression type {kind} is not possible here")


def _extensions(match: Match, view: View, at: int, end: int, *, encrypted: bool) -> None:
    """Walk the header's extensions: one that names a file is refused even where no feature bit says that it counts."""
    while at + 8 <= end:
        kind, length = view.unpack(">II", at)
        if kind == END:
            return None
        match.refuse(kind == EXTERNAL_DATA, "a header extension names an external data file")
        match.refuse(kind == BACKING_FORMAT, "a header extension names the format of a backing file")
        match.refuse(kind == ENCRYPTION and not encrypted, "a header extension speaks of encryption, the header does not")
        at += 8 + (length + 7 & ~7)
        if at > end:
            return match.refuse(True, "a header extension is longer than the header may be")
    return match.refuse(end == EXTENSIONS_END, "the header extensions do not end within 64 KiB")


def _tables(match: Match, view: View, cluster_bits: int, size: int, entry: int) -> None:
    l1_entries, l1, refcounts, refcount_clusters, snapshots, snapshot_table = view.unpack(">IQQIIQ", 36)
    cluster = 1 << cluster_bits
    match.refuse(l1_entries * 8 > L1_BYTES, f"the L1 table of {l1_entries} entries is longer than 32 MiB")
    match.refuse(l1_entries * cluster * (cluster // entry) < size, "the L1 table is too short for the virtual size")
    match.refuse(
        refcount_clusters << cluster_bits > REFCOUNT_TABLE_BYTES or not refcount_clusters,
        "the length of the refcount table is not possible",
    )
    match.refuse(snapshots > SNAPSHOTS, f"{snapshots} internal snapshots are too many")
    for what, start, length in (
        ("L1 table", l1, l1_entries * 8),
        ("refcount table", refcounts, refcount_clusters << cluster_bits),
        ("snapshot table", snapshot_table if snapshots else cluster, snapshots * 40),
    ):
        if length:
            match.refuse(start % cluster or start < cluster, f"the {what} does not begin at a cluster of its own")
            match.refuse(view.beyond(start + length), f"the {what} lies beyond the end of the data: the image is cut short")
