"""`kill -9` keeps the page cache; a power cut does not. So: what is on disk, in which order, before an upload is answered."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Say
from tests.faults.world import MIB, Ikon, noise

LIB = Path(__file__).parent.parent / "services" / "lib.sh"
CALLS = "openat,write,writev,pwrite64,fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg"


@pytest.mark.slow
def test_an_upload_is_answered_after_file_directory_and_database_are_on_disk(tmp_path: Path, say: Say) -> None:
    subprocess.run(["bash", "-c", f". {LIB}; apt_need strace"], check=True)
    trace, server = tmp_path / "trace", Ikon(tmp_path / "ikon")
    server.start(before=["strace", "-f", "-y", "-s", "40", "-e", f"trace={CALLS}", "-o", str(trace)])
    try:
        image = server.create()
        before = len(trace.read_text().splitlines())
        assert server.upload(image, noise(2 * MIB)).status == 204
        time.sleep(0.2)
        lines = whole_calls(trace.read_text().splitlines()[before:])
    finally:
        server.kill()
    copy = re.escape(f"{server.stores['one']}/{image}.") + r"[0-9a-f-]{36}"
    answer = first(lines, r'"HTTP/1\.1 204')
    intent = last(lines[: first(lines, f"write.*<{copy}\\.part>")], r"f(data)?sync\(.*ikon\.db-wal")
    steps = {
        "intent: fsync of the database": intent,
        "last write of the file": last(lines, f"write.*<{copy}\\.part>"),
        "fsync of the file": last(lines, f"f(data)?sync\\(.*<{copy}\\.part>"),
        "rename": last(lines, f'rename.*{copy}\\.part.*{copy}"'),
        "fsync of the directory": last(lines, f"fsync\\(\\d+<{re.escape(str(server.stores['one']))}>"),
        "fsync of the database": last(lines[:answer], r"f(data)?sync\(.*ikon\.db-wal"),
        "answer": answer,
    }
    say("\n".join(f"{at:5} {step}: {lines[at][:150]}" for step, at in steps.items()))
    assert list(steps.values()) == sorted(set(steps.values()))


def whole_calls(lines: list[str]) -> list[str]:
    """Calls in the order of their ends, with their arguments: strace breaks a call in two where another thread comes between."""
    begun: dict[str, str] = {}
    whole = []
    for line in lines:
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call.strip().removesuffix(" <unfinished ...>")
        elif "resumed>" in call:
            whole.append(begun.pop(thread, "") + call.split("resumed>", 1)[1])
        else:
            whole.append(call.strip())
    return whole


def first(lines: list[str], pattern: str) -> int:
    """Where a call is first found."""
    return next(at for at, line in enumerate(lines) if re.search(pattern, line))


def last(lines: list[str], pattern: str) -> int:
    """Where a call is last found."""
    return max(at for at, line in enumerate(lines) if re.search(pattern, line))
