"""Disks from one format into another, by qemu-img in a confined child.

The child is handed two open files and no name: it can open nothing else, whatever an image points at. What it may do is in confined.py.
"""

import asyncio
import contextlib
import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec

from ikon import log
from ikon.config import MIB, Conversion
from ikon.problems import ConversionFailed, ConversionUnavailable, ImageTooLarge, NoRoom, Problem
from ikon.threads import Pool, outcome
from ikon.transfer.confined import NOT_CONFINED, Bounds, command

#: Formats that are read, as QEMU calls them.
READ = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx", "vdi": "vdi"}
WRITTEN = ("raw", "qcow2", "vmdk")
#: Seconds of processor and of waiting that the smallest image gets.
LEAST_S = 60
#: A disk of more than this many times its file's size is not unfolded.
UNFOLD_MOST = 1 << 16
#: Free bytes below which a child failed for want of room, whatever it said and however it ended.
FULL_BYTES = 4 * MIB
#: Seconds between looks whether the child may go on.
LOOK_S = 1.0
#: Bytes of the child's last words that are kept.
SAID_BYTES = 4096
PERCENT = re.compile(rb"\((\d+\.\d+)/100%\)\s*")


class Disk(msgspec.Struct, frozen=True):
    """An image in a local file, as the inspector found it: its disk_format, and the bytes of the disk inside."""

    path: Path
    format: str
    virtual_size: int


class End(msgspec.Struct, frozen=True):
    """How the child ended: its exit status, or a signal as a negative number; None when its time was over. What it said last."""

    status: int | None
    said: str


async def convert(
    disk: Disk,
    target: Path,
    form: str,
    *,
    rules: Conversion,
    most: int,
    pool: Pool,
    progress: Callable[[int], None] = lambda done: None,
    reserve: Callable[[int], Awaitable[object]] | None = None,
    certain: Callable[[], bool] = lambda: True,
) -> None:
    """Write a disk in another format into a new file, which only this user can read, in a directory that nobody else can write to.

    most: bytes that the file may have. progress: told bytes of the disk that are done. reserve: asked, before the file has any, for the
    bytes that it may come to have; what it raises ends this. certain: asked again and again; while it says no the child stands still.
    Call it on a loop whose thread lives as long as the process: the child dies with that thread. The file is not synced. When it fails,
    or is cancelled, there is no child and no file; when this process is killed there is no child. Raises ConversionFailed,
    ConversionUnavailable, ImageTooLarge, NoRoom; FileExistsError.
    """
    if disk.format not in READ or form not in WRITTEN:
        raise ConversionFailed(
            f"An image cannot be converted from {disk.format} to {form}: allowed are {', '.join(READ)} to {', '.join(WRITTEN)}"
        )
    if form == "raw" and disk.virtual_size > most:
        raise _too_large(most)
    program = _program()
    room = min(most, disk.virtual_size + disk.virtual_size // 16 + 16 * MIB)  # tables of qcow2 and vmdk take 1 % of a disk, at most
    gib = disk.virtual_size / (1 << 30)
    bounds = Bounds(rules.memory_mib * MIB, math.ceil(LEAST_S + rules.cpu_s_gib * gib), room)

    def told(percent: float) -> None:
        progress(int(disk.virtual_size * percent / 100))

    async with _files(disk, target, pool) as (readable, writable):
        node = {"driver": READ[disk.format], "backing": None, "file": {"driver": "file", "filename": _name(readable), "locking": "off"}}
        source, allowed_s = f"json:{json.dumps(node)}", LEAST_S + rules.time_s_gib * gib
        if reserve is not None:
            measure = [program, "measure", "--output", "json", "-O", "qcow2", source]
            told_of = await _Child(command(measure, bounds, readable, writable), (readable, writable), lambda percent: None).end(
                allowed_s, certain
            )
            await reserve(disk.virtual_size if form == "raw" else min(room, _required(told_of) or room))
        line = [program, "convert", "-p", source, "-O", form, _name(writable)]
        child = _Child(command(line, bounds, readable, writable), (readable, writable), told)
        end = await child.end(allowed_s, certain)
        if end.status != 0:
            stat = await pool.run(os.fstatvfs, writable)
            full = stat.f_bavail * stat.f_frsize < FULL_BYTES
            raise _problem(end, disk, form, most if room == most else None, full=full)


def _required(end: End) -> int | None:
    """Bytes that qemu-img measured for a qcow2 file, with some for the tables of a VMDK. None where it could not."""
    found = re.search(r'"required": ([0-9]{1,19})', end.said) if end.status == 0 else None
    return int(found[1]) + int(found[1]) // 64 + MIB if found else None


def _program() -> str:
    found = shutil.which("qemu-img")
    if not found:
        log.get().error("qemu-img is missing")
        raise ConversionUnavailable("Images cannot be converted here: qemu-img is not installed")
    return os.path.realpath(found)


def _name(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


@contextlib.asynccontextmanager
async def _files(disk: Disk, target: Path, pool: Pool) -> AsyncIterator[tuple[int, int]]:
    """The open source, and the new target, which goes when this ends with an error."""
    opened: list[int] = []
    whole = False
    try:
        await outcome(pool.run(_open, disk, target, opened))
        yield opened[0], opened[1]
        whole = True
    finally:
        try:
            await outcome(pool.run(_let_go, opened, None if whole else target))
        except asyncio.CancelledError:
            if whole:  # nobody will hear of it
                await outcome(pool.run(target.unlink, missing_ok=True))
            raise


def _open(disk: Disk, target: Path, opened: list[int]) -> None:
    opened.append(os.open(disk.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
    if disk.virtual_size > UNFOLD_MOST * os.fstat(opened[0]).st_size:
        raise ConversionFailed(f"The image describes a disk of more than {UNFOLD_MOST} times its own size, which is not converted")
    opened.append(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _let_go(opened: list[int], unwanted: Path | None) -> None:
    for fd in opened:
        os.close(fd)
    if unwanted and len(opened) > 1:  # what was there before is not ours
        unwanted.unlink(missing_ok=True)


class _Child:
    """A confined program at work. Started at once, so that no cancelled caller can lose it; awaited by its end, without a thread."""

    def __init__(self, line: list[str], files: tuple[int, int], told: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._said = b""
        self._goes = True
        self._process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=files,
            env={},
            cwd="/",
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        self._output = self._pipe.fileno()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._read)

    async def end(self, time_s: float, certain: Callable[[], bool]) -> End:
        """Wait for its end, or bring it about: when its time is over, and when the caller is cancelled. certain: see convert.

        time_s: of which what it stands still is no part.
        """
        ended = asyncio.Event()
        watch = os.pidfd_open(self._process.pid)
        self._loop.add_reader(watch, ended.set)
        status = None
        try:
            while not ended.is_set() and time_s > 0:
                began, went = self._loop.time(), self._goes
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), min(LOOK_S, time_s) if went else LOOK_S)
                time_s -= self._loop.time() - began if went else 0
                if self._goes != certain() and not ended.is_set():
                    self._goes = not self._goes
                    os.killpg(self._process.pid, signal.SIGCONT if self._goes else signal.SIGSTOP)
            if ended.is_set():
                status = self._process.wait()
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                await outcome(ended.wait())
                self._process.wait()
            self._loop.remove_reader(watch)
            os.close(watch)
            while self._read():
                pass
            self._loop.remove_reader(self._output)
            self._pipe.close()
        return End(status, self._said.decode("utf-8", "replace").strip())

    def _read(self) -> bool:
        """Take what it has said, if anything. False when there is nothing more."""
        try:
            data = os.read(self._output, SAID_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._output)
            return False
        text = self._said + data
        if found := PERCENT.findall(text):
            self._told(min(float(found[-1]), 100.0))
        self._said = PERCENT.sub(b"", text)[-SAID_BYTES:]
        return True


def _too_large(most: int) -> ImageTooLarge:
    return ImageTooLarge(f"The converted image would be larger than the {most} bytes that are allowed")


def _problem(end: End, disk: Disk, form: str, most: int | None, *, full: bool) -> Problem:
    """What the end of a child means to the user. most: set when the limit on its file was the caller's. full: whether its disk is."""
    if end.status == NOT_CONFINED:
        log.get().error("conversion cannot be confined", said=end.said)
        return ConversionUnavailable("Images cannot be converted here: the conversion cannot be confined")
    what = f"The image cannot be converted from {disk.format} to {form}"
    if end.status == -signal.SIGXFSZ or os.strerror(errno.EFBIG) in end.said:
        return _too_large(most) if most else ConversionFailed(f"{what}: the result is larger than the disk")
    if end.status in (None, -signal.SIGXCPU):
        return ConversionFailed(f"{what}: it takes more {'processor ' if end.status else ''}time than is allowed for a disk of its size")
    if full or any(os.strerror(number) in end.said for number in (errno.ENOSPC, errno.EDQUOT)):
        log.get().error("no room to convert", said=end.said)
        return NoRoom("There is no room here to convert the image")
    log.get().warning("conversion failed", disk_format=disk.format, to=form, status=end.status, said=end.said)
    return ConversionFailed(f"{what}: it is damaged, needs other files, or takes more memory than is allowed")
