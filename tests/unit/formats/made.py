"""The smallest sound image of each format, written byte by byte, and ways to break one."""

import io
import struct
import tarfile
from collections.abc import Sequence

from ikon.config import Formats
from ikon.formats.inspector import Inspector, Verdict
from ikon.formats.vhdx import BAT, FILE_PARAMETERS, METADATA, OTHERS, SECTOR_SIZE, VIRTUAL_SIZE, crc32c
from ikon.problems import ImageRefused

KIB, MIB = 1 << 10, 1 << 20
SIZE = 4 * MIB  #: of every disk here
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=1234abcd
parentCID=ffffffff
createType="{kind}"

# Extent description
RW 8192 SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.adapterType = "ide"
"""
OVF = b'<?xml version="1.0" encoding="UTF-8"?>\n<Envelope><References><File id="f" href="disk.vmdk"/></References></Envelope>\n'


def put(data: bytes, at: int, form: str, *values: object) -> bytes:
    """The same data with other numbers somewhere; a negative place counts from the end."""
    changed = bytearray(data)
    struct.pack_into(form, changed, at if at >= 0 else len(data) + at, *values)
    return bytes(changed)


def qcow2(version: int = 3, *, size: int = SIZE, extensions: bytes = b"") -> bytes:
    """Clusters of 4 KiB: header, refcount table, refcount block, L1 table."""
    cluster = 4096
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, 0, 0, 12, size, 0, 2, 3 * cluster, cluster, 1, 0, 0)
    if version == 3:
        header += struct.pack(">QQQII", 0, 0, 0, 4, 104)
    data = (header + extensions).ljust(cluster, b"\0")
    data += struct.pack(">Q", 2 * cluster).ljust(cluster, b"\0") + struct.pack(">4H", 1, 1, 1, 1).ljust(cluster, b"\0")
    return data + bytes(16)


def extension(kind: int, text: bytes = b"") -> bytes:
    """A header extension of qcow2, and the mark of their end."""
    return struct.pack(">II", kind, len(text)) + text.ljust(-(-len(text) // 8) * 8, b"\0") + bytes(8)


def vmdk_header(*, directory: int, flags: int = 3, compression: int = 0) -> bytes:
    """The first sector of a sparse VMDK."""
    redundant = 21 if flags & 2 else 0
    fields = (b"KDMV", 1, flags, SIZE // 512, 128, 1, 20, 512, redundant, directory, 24, 0, b"\n \r\n", compression)
    return struct.pack("<4sIIQQQQIQQQB4sH", *fields).ljust(512, b"\0")


def vmdk(descriptor: str = DESCRIPTOR, *, kind: str = "monolithicSparse") -> bytes:
    """Header, descriptor of 20 sectors, two grain directories that are empty."""
    text = descriptor.replace("{kind}", kind).encode("latin-1")
    return vmdk_header(directory=22) + text.ljust(20 * 512, b"\0") + bytes(3 * 512)


def streamed_vmdk() -> bytes:
    """As an exporter writes it that cannot seek back: the grain directory is known from the footer."""
    first = vmdk_header(directory=(1 << 64) - 1, flags=0x30001, compression=1)
    text = DESCRIPTOR.replace("{kind}", "streamOptimized").encode()
    marker = struct.pack("<QII", 1, 0, 3).ljust(512, b"\0")
    return first + text.ljust(20 * 512, b"\0") + bytes(512) + marker + put(first, 56, "<Q", 21) + bytes(512)


def summed(header: bytes, at: int) -> bytes:
    """A VHD header with its checksum at this place."""
    header = put(header, at, ">I", 0)
    return put(header, at, ">I", ~sum(header) & 0xFFFFFFFF)


def vhd_footer(kind: int, *, size: int = SIZE, data: int = (1 << 64) - 1) -> bytes:
    """The footer of a VHD: 2 fixed, 3 dynamic, 4 differencing."""
    fields = (b"conectix", 2, 0x10000, data, 0, b"win ", 0x50003, 0x5769326B, size, size, 8, 16, 63, kind, 0, b"u" * 16)
    return summed(struct.pack(">8sIIQI4sIIQQHBBII16s", *fields).ljust(512, b"\0"), 64)


def vhd_fixed(body: bytes = b"") -> bytes:
    """A disk of SIZE and the footer."""
    return body.ljust(SIZE, b"\0") + vhd_footer(2)


def vhd_dynamic(*, kind: int = 3, parent: bytes = b"") -> bytes:
    """Footer, dynamic header, block table of two blocks that are not there, footer."""
    footer = vhd_footer(kind, data=512)
    header = struct.pack(">8sQQIIII", b"cxsparse", (1 << 64) - 1, 1536, 0x10000, 2, 2 * MIB, 0) + parent
    return footer + summed(header.ljust(1024, b"\0"), 36) + b"\xff" * 512 + footer


def vhdx_header(sequence: int, *, log: bytes = bytes(16)) -> bytes:
    """One of the two headers of a VHDX, checksum and all."""
    rest = struct.pack("<Q16s16s16sHHIQ", sequence, b"a" * 16, b"b" * 16, log, 0, 1, MIB, MIB)
    header = (b"head" + bytes(4) + rest).ljust(4096, b"\0")
    return put(header, 4, "<I", crc32c(header))


def vhdx(*, flags: int = 0, size: int = SIZE, more_items: Sequence[bytes] = (), more_regions: Sequence[bytes] = ()) -> bytes:
    """Identifier, headers, region tables; metadata at 2 MiB, block table at 3 MiB."""
    regions = [struct.pack("<16sQII", METADATA, 2 * MIB, MIB, 1), struct.pack("<16sQII", BAT, 3 * MIB, MIB, 1), *more_regions]
    table = (struct.pack("<4sIII", b"regi", 0, len(regions), 0) + b"".join(regions)).ljust(64 * KIB, b"\0")
    table = put(table, 4, "<I", crc32c(table))
    at = 64 * KIB
    items = [
        struct.pack("<16sIIII", FILE_PARAMETERS, at, 8, 4, 0),
        struct.pack("<16sIIII", VIRTUAL_SIZE, at + 8, 8, 6, 0),
        struct.pack("<16sIIII", SECTOR_SIZE, at + 16, 4, 6, 0),
        struct.pack("<16sIIII", OTHERS[0], at + 20, 4, 6, 0),
        struct.pack("<16sIIII", OTHERS[1], at + 24, 16, 6, 0),
        *(struct.pack("<16sIIII", name, at + 40, 4, 4, 0) for name in more_items),
    ]
    metadata = (struct.pack("<8sHH20x", b"metadata", 0, len(items)) + b"".join(items)).ljust(at, b"\0")
    metadata += struct.pack("<IIQII16s", MIB, flags, size, 512, 512, b"d" * 16)
    parts = {0: b"vhdxfile", 64 * KIB: vhdx_header(1), 128 * KIB: vhdx_header(2), 192 * KIB: table, 256 * KIB: table, 2 * MIB: metadata}
    data = bytearray(4 * MIB)
    for place, part in parts.items():
        data[place : place + len(part)] = part
    return bytes(data)


def vdi(kind: int = 1, *, size: int = SIZE) -> bytes:
    """Header and block map, no block."""
    blocks = -(-size // MIB)
    head = b"<<< a VDI >>>\n".ljust(64, b"\0") + struct.pack("<IIIII256s", 0xBEDA107F, 0x10001, 0x190, kind, 0, b"")
    head += struct.pack("<IIIIIII", 512, 1024, 0, 0, 0, 512, 0) + struct.pack("<QIIII", size, MIB, 0, blocks, 0)
    return head.ljust(512, b"\0") + b"\xff" * 512


def mbr(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A partition table: of each entry its flag, type, start and length in sectors."""
    table = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries or ((0x80, 0x83, 2048, 4096),))
    return (data[:446].ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa" + data[512:]).ljust(SIZE, b"\0")


def gpt(*more: tuple[int, int, int, int], span: int = SIZE // 512 - 1) -> bytes:
    """A protective MBR, with further entries, and the GPT's header."""
    disk = mbr((0, 0xEE, 1, span), *more)
    return put(disk, 512, "<8sIIIIQQ", b"EFI PART", 0x10000, 92, 0, 0, 1, SIZE // 512 - 1)


def iso(system_area: bytes = b"") -> bytes:
    """A CD with one volume descriptor; what comes before it is free."""
    return system_area.ljust(32 * KIB, b"\0")[: 32 * KIB] + b"\1CD001\1".ljust(2048, b"\0") + bytes(64 * KIB)


def luks(version: int = 1) -> bytes:
    """A LUKS header and some data."""
    return (b"LUKS\xba\xbe" + struct.pack(">H", version)).ljust(4096, b"x")


def ploop() -> bytes:
    """A Parallels header with room for its table."""
    return struct.pack("<16sIIIIIQ", b"WithouFreSpacExt", 2, 16, 8, 2048, 2, SIZE // 512).ljust(4096, b"\0")


def tar(members: Sequence[tuple[str, bytes] | tuple[tarfile.TarInfo, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of files, by name or by their whole header."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def ova(disk: bytes | None = None, ovf: bytes = OVF) -> bytes:
    """An OVF description and the disk that it names."""
    return tar([("machine.ovf", ovf), ("disk.vmdk", vmdk() if disk is None else disk)])


#: A sound image of each disk format, and of some, of each kind.
SOUND: dict[str, tuple[str, bytes]] = {
    "qcow2 v2": ("qcow2", qcow2(2)),
    "qcow2 v3": ("qcow2", qcow2(3)),
    "vmdk": ("vmdk", vmdk()),
    "vmdk streamed": ("vmdk", streamed_vmdk()),
    "vhd fixed": ("vhd", vhd_fixed(mbr())),
    "vhd dynamic": ("vhd", vhd_dynamic()),
    "vhdx": ("vhdx", vhdx()),
    "vdi": ("vdi", vdi()),
    "iso": ("iso", iso()),
    "iso for a stick": ("iso", iso(mbr())),
    "ploop": ("ploop", ploop()),
    "mbr": ("raw", mbr()),
    "gpt": ("raw", gpt()),
    "luks": ("raw", luks()),
    "raw": ("raw", b"anything " * 1000),
}


def inspect(
    data: bytes, disk_format: str = "raw", container_format: str = "bare", *, block: int = 256 * KIB, rules: Formats | None = None
) -> Verdict:
    """The verdict on data that comes in blocks of this size. Raises what the inspector raises."""
    inspector = Inspector(disk_format, container_format, rules or Formats())
    view = memoryview(data)
    for at in range(0, len(data), block):
        inspector.update([view[at : at + block]])
    return inspector.end()


def refusal(
    data: bytes, disk_format: str = "raw", container_format: str = "bare", *, block: int = 256 * KIB, rules: Formats | None = None
) -> str:
    """Why data is refused; empty when it is taken."""
    try:
        inspect(data, disk_format, container_format, block=block, rules=rules)
    except ImageRefused as problem:
        return str(problem)
    return ""
