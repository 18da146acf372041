"""OVA: a tar archive of an OVF description and its disks. Members are looked at as they pass, each as if it had come alone."""

import html
import re
from urllib.parse import unquote

import msgspec

from ikon.config import Formats
from ikon.formats.packed import checksum_is_right
from ikon.formats.scan import Scan
from ikon.formats.view import SECTOR, Match

MEMBERS = 64
#: More characters than a member's name can have.
NAME = 300
OVF_BYTES, PAX_BYTES, PADDING = 1 << 20, 64 << 10, 1 << 20
#: What a pax header may say of a member: nothing that changes which bytes it has, or what it is called.
PAX = re.compile(rb"mtime|atime|ctime|uid|gid|uname|gname|comment|LIBARCHIVE\..*|SCHILY\..*")
HREF = re.compile(rb"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
#: Names that mean a file inside the archive, and nothing else, to everyone: no root, no way up, no drive, no URL.
INSIDE = re.compile(r"(?!\.\.?(/|$))[^/\\:\x00-\x1f]+(/(?!\.\.?(/|$))[^/\\:\x00-\x1f]+)*")
ENCODINGS = (b"utf-8", b"us-ascii", b"iso-8859-1")


class Member(msgspec.Struct, frozen=True):
    """A file of the archive, and what it is."""

    name: str
    format: str
    virtual_size: int | None


class Text:
    """A member that is read whole, because it is text of bounded length."""

    def __init__(self) -> None:
        self.text = bytearray()

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        self.text += block


class Archive:
    """Looks at one OVA as it comes. members: those that have ended. refusals: why it is not taken; the first stays."""

    def __init__(self, rules: Formats) -> None:
        self._rules = rules
        self._header = bytearray()
        self._name = ""
        self._sink: Scan | Text | None = None
        self._kind = b""
        self._left = self._padding = 0  # bytes of the member, and after it, that are yet to come
        self._names: set[str] = set()
        self._hrefs: set[str] | None = None
        self._headers = 0
        self._zeros = 0  # empty headers in a row; two end the archive
        self._after = 0  # bytes after that
        self.members: list[Member] = []
        self.refusals: list[str] = []

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        while block and not self.refusals:
            if self._zeros == 2:
                self._after += len(block)
                self._refuse(self._after > PADDING or any(block), "something follows the end of the archive")
                return
            block = self._step(block)

    def _step(self, block: memoryview) -> memoryview:
        """Use up some bytes, for what they are part of, and return the others."""
        if self._left:
            part = block[: self._left]
            self._left -= len(part)
            if self._sink:
                self._sink.update(part)
            self._judge()
        elif self._padding:
            part = block[: self._padding]
            self._padding -= len(part)
        else:
            part = block[: SECTOR - len(self._header)]
            self._header += part
            if len(self._header) == SECTOR:
                header, self._header = bytes(self._header), bytearray()
                self._begin(header)
        return block[len(part) :]

    def end(self) -> None:
        """The stream is complete: judge all of it."""
        self._refuse(self._left or self._padding or self._header or not self._zeros, "the archive is cut short")
        self._refuse(self._hrefs is None, "the archive has no OVF description")
        for name in sorted(self._hrefs or ()):
            self._refuse(name not in self._names, f"the OVF description names a file that is not in the archive: {name[:80]!a}")

    def _refuse(self, when: object, reason: str) -> None:
        if when and not self.refusals:
            self.refusals.append(f"ova: {reason}")

    def _begin(self, header: bytes) -> None:
        if not any(header):
            self._zeros += 1
            return
        self._refuse(self._zeros or header[257:262] != b"ustar" or not checksum_is_right(header), "a member's header is damaged")
        self._headers += 1
        self._refuse(self._headers > 2 * MEMBERS, f"the archive has more than {MEMBERS} members, with a header or two each")
        size, self._kind = _number(header[124:136]), header[156:157]
        self._refuse(size is None, "a member's size cannot be read")
        if self.refusals or size is None:
            return
        self._left, self._padding = size, -size % SECTOR
        if self._kind == b"x":
            self._refuse(size > PAX_BYTES, "a pax header is longer than 64 KiB")
            self._sink = Text()
            return
        self._refuse(self._kind not in (b"0", b"\0"), "only regular files may be members")
        self._enter(b"/".join(filter(None, (part.split(b"\0")[0] for part in (header[345:500], header[:100])))))
        if not self._left:
            self._judge()

    def _enter(self, raw: bytes) -> None:
        name = raw.decode("utf-8", "replace").removeprefix("./")
        self._refuse(not INSIDE.fullmatch(name), f"a member has a name outside the archive: {name[:80]!a}")
        self._refuse(name in self._names, f"two members have one name: {name[:80]!a}")
        self._names.add(name)
        self._refuse(len(self._names) > MEMBERS, f"the archive has more than {MEMBERS} members")
        self._name = name
        if name.lower().endswith(".ovf"):
            self._refuse(self._hrefs is not None, "the archive has two OVF descriptions")
            self._refuse(self._left > OVF_BYTES, "the OVF description is longer than 1 MiB")
            self._sink = Text()
        else:
            self._sink = Scan(self._rules)

    def _judge(self) -> None:
        """See what is known of the member so far, and let go of it when it has ended."""
        sink = self._sink
        if isinstance(sink, Scan):
            if not self._left:
                sink.end()
            self._refuse(sink.refusals, f"{self._name[:80]!a}: {'; '.join(sink.refusals)}")
        if self._left:
            return
        if isinstance(sink, Scan):
            self._refuse(self._name.lower().endswith(".vmdk") and sink.format != "vmdk", f"{self._name[:80]!a} is not a VMDK image")
            self.members.append(Member(self._name, sink.format, _size(sink.matches)))
        elif isinstance(sink, Text) and self._kind == b"x":
            self._refuse(not _only_tells(bytes(sink.text)), "a pax header says more than times and owners; pack it with tar --format=ustar")
        elif isinstance(sink, Text):
            self._describe(sink.text)
        self._sink = None

    def _describe(self, text: bytearray) -> None:
        """Read which files an OVF description names. It is not parsed: nothing in it can be expanded or fetched."""
        encoding = re.match(rb"""[^>]{0,20}<\?xml[^>]*\bencoding\s*=\s*["']([^"']*)""", text)
        self._refuse(encoding and encoding[1].lower() not in ENCODINGS, "the OVF description is not in UTF-8")
        self._refuse(not re.match(rb"(\xef\xbb\xbf)?\s*<", text) or b"\0" in text, "the OVF description is not XML in UTF-8")
        self._refuse(re.search(rb"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE), "the OVF description has a DTD")
        self._hrefs = set()
        for found in HREF.finditer(text):
            start, end = found.span(found.lastindex or 0)
            name = text[start : min(end, start + NAME)].decode("utf-8", "replace")
            self._hrefs.add(unquote(html.unescape(name)).removeprefix("./"))
            if len(self._hrefs) > MEMBERS:
                return self._refuse(True, f"the OVF description names more than {MEMBERS} files")
        return None


def _only_tells(pax: bytes) -> bool:
    """Whether a pax header has nothing but records that change nothing, each on a line of the length that it states."""
    lines = pax.split(b"\n")
    for line in lines[:-1]:
        length, _, rest = line.partition(b" ")
        if length != b"%d" % (len(line) + 1) or not PAX.fullmatch(rest.partition(b"=")[0]):
            return False
    return not lines[-1]


def _size(matches: list[Match]) -> int | None:
    return next((match.virtual_size for match in matches if match.virtual_size is not None), None)


def _number(field: bytes) -> int | None:
    """A number in a tar header, octal or base 256; None where it is neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    return int(text, 8) if text and set(text) <= set(b"01234567") else None
