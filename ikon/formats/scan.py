"""One stream under the eyes of all detectors.

Kept are its first 512 KiB, its last 2 KiB and one further stretch that a detector may ask for; all the rest only passes. Detectors run when
the head is full, when the stretch is, and at the end, each time over the whole of what is known: so the verdict cannot depend on how the
stream was cut into blocks. Measured: 0.1 ms for the head (VHDX 2.5), then 2.5 us for each block of 256 KiB, 0.01 s/GiB of the 3.2 that an
upload takes of a core (tests/unit/formats/test_scan.py holds it to a bound).
"""

from ikon.config import Formats
from ikon.formats import disk, packed, qcow2, vdi, vhd, vhdx, vmdk
from ikon.formats.view import HEAD, TAIL, Detector, Match, Short, View

#: Every detector, under the format that it looks for first.
DETECTORS: dict[str, Detector] = {
    "qcow2": qcow2.inspect,
    "vmdk": vmdk.inspect,
    "vhd": vhd.inspect,
    "vhdx": vhdx.inspect,
    "vdi": vdi.inspect,
    "iso": disk.iso,
    "luks": disk.luks,
    "ploop": disk.parallels,
    "gpt": disk.partitions,
    "tar": packed.inspect,
}
PARTITIONS = ("mbr", "gpt")


class Scan:
    """Looks at one stream.

    matches: what was recognised so far. refusals: why the stream is not taken, whatever it is said to be; once there is one, it stays.
    """

    def __init__(self, rules: Formats) -> None:
        self._rules = rules
        self._view = View(bytearray())
        self._tail = b""  # shown to detectors only at the end
        self._extra: bytearray | None = None  # the stretch asked for, as it comes
        self._extra_size = 0
        self.size = 0
        self.looked = False  # whether the head was judged
        self.matches: list[Match] = []
        self.refusals: list[str] = []

    def update(self, block: memoryview) -> None:
        """Take the next bytes."""
        if not block:
            return
        self._tail = bytes(block[-TAIL:]) if len(block) >= TAIL else (self._tail + block)[-TAIL:]
        if self.size < HEAD:
            part = block[: HEAD - self.size]
            self._view.head += part
            self.size += len(part)
            block = block[len(part) :]
            if self.size == HEAD:
                self._look()
        if self._extra is not None and block:
            self._gather(self._extra, block)
        self.size += len(block)

    def _gather(self, extra: bytearray, block: memoryview) -> None:
        skip = max(0, self._view.extra_at - self.size)
        if len(extra) < self._extra_size and skip < len(block):
            extra += block[skip : skip + self._extra_size - len(extra)]
            if len(extra) == self._extra_size:
                self._look()

    def end(self) -> None:
        """The stream is complete: judge all of it."""
        self._view.size, self._view.tail = self.size, self._tail
        self._look()

    @property
    def format(self) -> str:
        """What the stream is, as far as it is known: "raw" if it is nothing else."""
        names = [match.format for match in self.matches if not match.short]
        return next((name for name in names if name not in PARTITIONS), names[0] if names else "raw")

    @property
    def disk_bytes(self) -> int | None:
        """Bytes of the disk that a reader of this format finds; None where that is not known."""
        found = self.format
        if found in ("raw", "iso", *PARTITIONS):
            return self.size
        return next((match.virtual_size for match in self.matches if match.format == found), None)

    @property
    def cut_short(self) -> str | None:
        """The format in whose header the stream ended, if it did."""
        return next((match.format for match in self.matches if match.short), None)

    def _look(self) -> None:
        self.looked = True
        self.matches = [match for name, detector in DETECTORS.items() if (match := self._ask(name, detector))]
        reasons = [f"{match.format}: {reason}" for match in self.matches for reason in match.refusals]
        names = [match.format for match in self.matches if match.format not in PARTITIONS]
        mixed = len(names) > 1 or (len(self.matches) > len(names) and names and not all(match.whole_disk for match in self.matches))
        if mixed:
            reasons.append(f"the data is of several formats at once: {', '.join(match.format for match in self.matches)}")
        self.refusals = self.refusals or reasons

    def _ask(self, name: str, detector: Detector) -> Match | None:
        try:
            match = detector(self._view, self._rules)
        except Short:
            return Match(name, refusals=["truncated: the data ends within the header"], short=True)
        if match and match.wants:
            if self._extra is None:
                self._view.extra_at, self._extra_size = match.wants
                self._extra = self._view.extra = bytearray()
            match.refuse(self._view.beyond(sum(match.wants)), "the image is cut short")
        return match
