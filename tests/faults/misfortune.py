"""Disks that fail or hang and clocks that jump, as a server meets them: a small library between it and libc."""

import errno
import mmap
import struct
import subprocess
from pathlib import Path

SOURCE, LIB = Path(__file__).with_name("misfortune.c"), Path(__file__).parent.parent / "services" / "lib.sh"
FAULT = struct.Struct("16s224siiii")
CLOCK = struct.Struct("q")
FAULTS = 4


def build(directory: Path, source: Path = SOURCE) -> Path:
    """Compile the library. Fails, rather than skips, where that cannot be done."""
    library = directory / f"{source.stem}.so"
    subprocess.run(["bash", "-c", f". {LIB}; apt_need gcc libc6-dev"], check=True)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
    return library


class Misfortune:
    """What befalls the servers that are started with `env`."""

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(bytes(CLOCK.size + FAULTS * FAULT.size))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.env = {"LD_PRELOAD": str(library), "MISFORTUNE": str(control)}

    def strike(self, call: str, word: str, *, at: int = 1, error: int = errno.EIO, lasting: bool = False, slot: int = 0) -> None:
        """Let a call on paths with that word fail: the `at`-th from now; lasting: and all that follow.

        Calls: create, open, write, fsync, rename, unlink, read, sendfile.
        """
        FAULT.pack_into(self._map, CLOCK.size + slot * FAULT.size, call.encode(), word.encode(), at, error, lasting, 0)

    def hang(self, call: str, word: str, *, at: int = 1, slot: int = 0) -> None:
        """Let such a call, and all that follow, not come back before `relent`."""
        self.strike(call, word, at=at, error=-1, lasting=True, slot=slot)

    def struck(self, slot: int = 0) -> int:
        """How many calls have met it."""
        return int(FAULT.unpack_from(self._map, CLOCK.size + slot * FAULT.size)[-1])

    def relent(self) -> None:
        """Let nothing fail or hang any more."""
        for slot in range(FAULTS):
            FAULT.pack_into(self._map, CLOCK.size + slot * FAULT.size, b"", b"", 0, 0, 0, 0)

    def set_clock(self, ahead_s: int) -> None:
        """Let the wall clock be that far from the real one."""
        CLOCK.pack_into(self._map, 0, ahead_s)
