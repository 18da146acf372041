"""The verdict on an upload: what its bytes are, and whether they may become an image of the formats that its record names."""

from collections.abc import Sequence

import msgspec

from ikon.config import Formats
from ikon.formats.ova import Archive
from ikon.formats.packed import COMPRESSED
from ikon.formats.scan import Scan
from ikon.formats.view import HEAD
from ikon.problems import FormatMismatch, ImageRefused, UnsafeImage

#: Parts of a machine that QEMU is handed as they are: no format is expected of them, but none may be dangerous.
PARTS = ("aki", "ari", "ami")
#: What `raw` means where it is taken by its word: a disk byte for byte.
PLAIN = ("raw", "mbr", "gpt")


class Verdict(msgspec.Struct, frozen=True):
    """What an image is: the format of its bytes as they are, and the size in bytes of the disk inside, None where that is not known.

    disk_bytes: the same for whoever opens it as what it is, though its record says otherwise: of qcow2 as raw, the disk in the qcow2.
    """

    format: str
    virtual_size: int | None
    disk_bytes: int | None


class Inspector:
    """Looks at one stream for one image record. Does no I/O, never looks back, and holds less than 2 MiB."""

    def __init__(self, disk_format: str, container_format: str, rules: Formats) -> None:
        self._disk, self._container, self._rules = disk_format, container_format, rules
        self._scan = Scan(rules)
        self._archive = Archive(rules) if container_format == "ova" else None

    def update(self, blocks: Sequence[bytes | bytearray | memoryview]) -> None:
        """Take the next bytes. Raises FormatMismatch or UnsafeImage as soon as that is certain."""
        for block in blocks:
            view, head = memoryview(block), max(0, HEAD - self._scan.size)
            if head < len(view):  # apart, so that what is found first does not depend on the size of blocks
                self._take(view[:head])
            self._take(view[head:] if head < len(view) else view)

    def _take(self, view: memoryview) -> None:
        self._scan.update(view)
        if self._archive:
            self._archive.update(view)
        self._check(ended=False)

    def end(self) -> Verdict:
        """The stream is complete. Raises FormatMismatch or UnsafeImage."""
        self._scan.end()
        if self._archive and self._scan.format == "tar":
            self._archive.end()
        self._check(ended=True)
        return Verdict(self._scan.format, self._virtual_size(), self._scan.disk_bytes)

    def _check(self, *, ended: bool) -> None:
        if not self._scan.looked:
            return
        refusals = self._scan.refusals or (self._archive.refusals if self._archive and self._scan.format == "tar" else [])
        problem: ImageRefused | None = None
        # what is opened as VMDK must be: any text may be a descriptor to who opens it as one
        agrees = self._agrees(ended) or not (self._rules.require_match or self._disk == "vmdk")
        if not agrees and (not refusals or self._scan.cut_short):
            problem = FormatMismatch(self._mismatch())
        elif refusals:
            problem = UnsafeImage(f"Image failed safety checks: {'; '.join(refusals)}")
        if problem:
            raise problem

    def _agrees(self, ended: bool) -> bool:
        """Whether the bytes are what the record says, or may still become it."""
        found, disk, container = self._scan.format, self._disk, self._container
        if container == "compressed":
            return found in COMPRESSED
        if self._archive and (found != "tar" or ended):
            return found == "tar" and (disk in (*PARTS, "raw") or any(member.format == disk for member in self._archive.members))
        if self._archive or disk in PARTS or (container == "docker" and (found == "tar" or found in COMPRESSED)):
            return True
        if disk == "raw":
            return found in PLAIN or not self._rules.raw_means_raw
        return found == disk or (disk == "vhd" and found in PLAIN and not ended)  # a fixed VHD shows at its end

    def _mismatch(self) -> str:
        found, what = self._scan.format, f"disk_format {self._disk}"
        if self._container == "compressed" or (self._archive and found != "tar"):
            what = f"container_format {self._container}"
        text = f"Image {what} does not match stream data {found}"
        if self._archive and found == "tar":
            text += f": the archive holds {', '.join(sorted({member.format for member in self._archive.members})) or 'nothing'}"
        cut = self._scan.cut_short
        return f"{text} (truncated: the data ends within the {cut} header)" if cut else text

    def _virtual_size(self) -> int | None:
        if self._disk in PARTS or self._container in ("compressed", "docker"):
            return None
        if self._archive:
            sizes = [member.virtual_size for member in self._archive.members if member.format == self._disk]
            return sizes[0] if len(sizes) == 1 else None
        if self._disk == "raw" or self._disk == self._scan.format in ("iso", "gpt"):
            return self._scan.size
        return next((match.virtual_size for match in self._scan.matches if match.format == self._disk), None)
