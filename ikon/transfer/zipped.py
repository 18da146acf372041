"""A zip archive of one file, unpacked as it passes (APPNOTE.TXT 6.3). Its sizes are compared with what came, and believed by nobody."""

import stat
import struct
import zlib
from typing import Any

from ikon.problems import PackedDataRefused
from ikon.transfer.inflate import Decoder, Inflate, Stored

LOCAL, CENTRAL, END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
END64, LOCATOR = struct.Struct("<4sQ"), struct.Struct("<4sIQI")
STORED, DEFLATED = 0, 8
#: Flags: encrypted, in three ways; sizes behind the data; a patch.
SECRET, SIZES_LATER, PATCH = 1 | 1 << 6 | 1 << 13, 1 << 3, 1 << 5
#: A number of 32 bits that stands in the extra field instead.
ELSEWHERE = 0xFFFFFFFF
#: Bytes that may follow the data: a name, extra fields, comments, and the records that they belong to.
TAIL_MOST = 6 * 65536


class _Short(Exception):
    """More bytes are needed to go on."""


class Zip:
    """A Decoder of the one file. Raises PackedDataRefused as soon as the archive is one that is not taken."""

    def __init__(self) -> None:
        self.eof, self.needs_input, self.unused_data = False, True, b""
        self._held = b""  # of the header, later of what follows the data
        self._body: Decoder | None = None
        self._name = b""
        self._offset = self._flags = self._method = 0
        self._crc = self._packed = self._size = 0

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See Decoder."""
        block = b""
        try:
            if self._body is None:
                self._held += data
                self._body = self._begin(self._held)
                data, self._held = self._held[self._offset :], b""
            if not self._body.eof:
                block = self._unpack(self._body, data, max_length)
                data = self._body.unused_data if self._body.eof else b""
            if self._body.eof:
                self._held += data
                end = self._end(self._held)
                self.eof, self.unused_data = True, self._held[end:]
        except _Short:
            if len(self._held) > TAIL_MOST:
                raise _refused("its records are too long") from None
        return block

    def _unpack(self, body: Decoder, data: bytes, max_length: int) -> bytes:
        block = body.decompress(data, max_length)
        self._packed += len(data) - len(body.unused_data)
        self._size += len(block)
        self._crc = zlib.crc32(block, self._crc)
        self.needs_input = body.needs_input or body.eof
        return block

    def _begin(self, held: bytes) -> Decoder:
        """Read the header before the data."""
        _, _, self._flags, self._method, _, _, _, packed, size, name_bytes, extra_bytes = _fields(LOCAL, held, 0)
        extra = LOCAL.size + name_bytes
        self._offset = extra + extra_bytes
        if len(held) < self._offset:
            raise _Short
        self._name = held[LOCAL.size : extra]
        _check_name(self._name)
        if self._flags & SECRET:
            raise _refused("it is encrypted")
        if self._flags & PATCH or self._method not in (STORED, DEFLATED):
            raise _refused("it is packed in another way than deflate")
        if self._method == DEFLATED:
            return Inflate(-zlib.MAX_WBITS)
        if self._flags & SIZES_LATER:
            raise _refused("it is neither packed nor says where its file ends")
        return Stored(_sizes(packed, size, held[extra : self._offset])[0])

    def _end(self, tail: bytes) -> int:
        """Read what follows the data: its sizes, the directory of one entry, the end. Returns where that is."""
        at = self._descriptor(tail) if self._flags & SIZES_LATER else 0
        directory = at
        if tail[at : at + 4] == b"PK\3\4":
            raise _refused("it holds several files")
        at = self._entry(tail, at)
        size = at - directory
        if tail[at : at + 4] == b"PK\1\2":
            raise _refused("it holds several files")
        if tail[at : at + 4] == b"PK\6\6":
            at += END64.size + _fields(END64, tail, at)[1]
            if _fields(LOCATOR, tail, at)[0] != b"PK\6\7":
                raise _damaged()
            at += LOCATOR.size
        magic, disk, first_disk, here, entries, said_size, said_start, comment_bytes = _fields(END, tail, at)
        at += END.size + comment_bytes
        if (
            magic != b"PK\5\6"
            or said_size not in (size, ELSEWHERE)
            or said_start not in (self._offset + self._packed + directory, ELSEWHERE)
        ):
            raise _damaged()
        if not {disk, first_disk} <= {0, 0xFFFF} or not {here, entries} <= {1, 0xFFFF}:
            raise _refused("it is part of several, or holds several files")
        if len(tail) < at:
            raise _Short
        return int(at)

    def _descriptor(self, tail: bytes) -> int:
        """The length of the sizes behind the data: with or without a magic, in 32 or 64 bits."""
        if len(tail) < 24:
            raise _Short
        for form in ("<4sIII", "<4sIQQ") if max(self._packed, self._size) <= ELSEWHERE else ("<4sIQQ",):
            written = struct.pack(form, b"PK\7\x08", self._crc, self._packed, self._size)
            for each in (written, written[4:]):
                if tail.startswith(each) and tail[len(each) : len(each) + 2] == b"PK":
                    return len(each)
        raise _damaged()

    def _entry(self, tail: bytes, at: int) -> int:
        """Check the directory's entry, and return its end."""
        fields = _fields(CENTRAL, tail, at)
        magic, _, _, _, method, _, _, crc, packed, size, name_bytes, extra_bytes, comment_bytes, _, _, attributes, offset = fields
        name = at + CENTRAL.size
        extra = name + name_bytes
        end = extra + extra_bytes + comment_bytes
        if len(tail) < end:
            raise _Short
        if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG, stat.S_IFIFO):  # a pipe: what came through it is the data
            raise _refused("what it holds is a link or something else that is no plain file")
        sizes = _sizes(packed, size, tail[extra : extra + extra_bytes])
        said = (magic, method, tail[name:extra], crc, sizes)
        if said != (b"PK\1\2", self._method, self._name, self._crc, (self._packed, self._size)) or offset not in (0, ELSEWHERE):
            raise _damaged()
        return int(end)


def _fields(form: struct.Struct, data: bytes, at: int) -> tuple[Any, ...]:
    if len(data) < at + form.size:
        raise _Short
    return form.unpack_from(data, at)


def _sizes(packed: int, size: int, extra: bytes) -> tuple[int, int]:
    """Packed and unpacked size, taken from the extra field where they do not fit before it."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            numbers = [number for (number,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            size = numbers.pop(0) if size == ELSEWHERE and numbers else size
            packed = numbers.pop(0) if packed == ELSEWHERE and numbers else packed
            break
        at += 4 + length
    return packed, size


def _check_name(name: bytes) -> None:
    parts = name.replace(b"\\", b"/").split(b"/")
    if not parts[-1]:
        raise _refused("it holds a directory")
    if not parts[0] or b".." in parts or name[1:2] == b":" or b"\0" in name:
        raise _refused("the name of its file leads out of the archive")


def _refused(why: str) -> PackedDataRefused:
    return PackedDataRefused(f"The zip archive is refused: {why}")


def _damaged() -> PackedDataRefused:
    return PackedDataRefused("The zip archive is damaged: its directory is not that of the one file that came")
