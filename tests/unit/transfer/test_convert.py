"""Conversion: every format into every other, what a confined child cannot do, and what is left when it is cut short."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ikon.config import Conversion, Formats
from ikon.formats.inspector import Inspector
from ikon.problems import ConversionFailed, ConversionUnavailable, ImageTooLarge, NoRoom
from ikon.threads import Pool
from ikon.transfer import confined, convert
from ikon.transfer.confined import Bounds
from ikon.transfer.convert import READ, WRITTEN, Disk

MIB = 1 << 20
ROOT = Path(__file__).parents[3]
RULES = Formats(qcow2_extended_l2=True)
PLENTY = 1 << 50
SECRET = b"what is in this file must not get out " * 30_000
BASH = os.path.realpath("/bin/bash")
BOUNDS = Bounds(1 << 30, 60, MIB)


@pytest.fixture(scope="module")
def images() -> Path:
    done = subprocess.run([ROOT / "tests/services/images.sh", "cached"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("convert", 2)
    yield pool
    pool.close()


def inspected(path: Path, form: str) -> Disk:
    """A disk as the inspector finds it, which has to be of that format."""
    inspector = Inspector(form, "bare", RULES)
    with path.open("rb") as file:
        while data := file.read(MIB):
            inspector.update([data])
    verdict = inspector.end()
    assert form in ("raw", verdict.format)
    assert verdict.virtual_size
    return Disk(path, form, verdict.virtual_size)


def raw(path: Path, size: int) -> Disk:
    """A disk of that many bytes, of which none is zero."""
    path.write_bytes(bytes(range(1, 256)) * (size // 255 + 1))
    os.truncate(path, size)
    return Disk(path, "raw", size)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            found += map(int, (task / "children").read_text().split())
    return found


@pytest.fixture
def others() -> set[int]:
    """Children of this process that are no conversions, as the servers of other tests."""
    return set(children(os.getpid()))


def converting(others: set[int]) -> list[int]:
    return [child for child in children(os.getpid()) if child not in others]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


# What comes out


SOURCES = {
    "raw": ("small/disk.raw", "small/gpt.raw", "boot/boot.raw"),
    "qcow2": tuple(f"small/{name}.qcow2" for name in ("v2", "v3", "compressed", "zstd", "extended", "tiny-clusters", "big-clusters", "full", "snapshot", "bitmap")),
    "vmdk": ("small/sparse.vmdk", "small/stream.vmdk", "small/exported.vmdk", "boot/boot.vmdk"),
    "vhd": ("small/dynamic.vhd", "small/fixed.vhd", "small/azure.vhd"),
    "vhdx": ("small/dynamic.vhdx", "small/fixed.vhdx"),
    "vdi": ("small/disk.vdi", "small/static.vdi"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("source", [(form, name) for form, names in SOURCES.items() for name in names], ids=lambda source: source[1])
async def test_every_format_becomes_every_other_with_the_same_disk_inside(
    images: Path, source: tuple[str, str], pool: Pool, tmp_path: Path
) -> None:
    disk = inspected(images / source[1], source[0])
    for form in WRITTEN:
        target, told = tmp_path / f"new.{form}", list[int]()

        await convert.convert(disk, target, form, rules=Conversion(), most=PLENTY, pool=pool, progress=told.append)

        compared = subprocess.run(
            ["qemu-img", "compare", "-f", READ[disk.format], "-F", form, disk.path, target], capture_output=True, text=True, check=False
        )
        assert compared.stdout == "Images are identical.\n"
        new = inspected(target, form)
        assert abs(new.virtual_size - disk.virtual_size) < MIB  # a VHD may count its disk in cylinders
        assert target.stat().st_mode & 0o777 == 0o600
        assert told == sorted(told)
        assert told[-1] == disk.virtual_size


@pytest.mark.slow
async def test_a_disk_of_no_bytes_is_converted(pool: Pool, tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.touch()

    await convert.convert(Disk(source, "raw", 0), tmp_path / "new", "qcow2", rules=Conversion(), most=PLENTY, pool=pool)

    assert (tmp_path / "new").read_bytes().startswith(b"QFI\xfb")


async def test_what_cannot_be_converted_is_refused_with_what_can(pool: Pool, tmp_path: Path) -> None:
    for form, wanted in (("iso", "raw"), ("raw", "vdi"), ("qed", "qcow2")):
        with pytest.raises(
            ConversionFailed, match=f"from {form} to {wanted}: allowed are raw, qcow2, vmdk, vhd, vhdx, vdi to raw, qcow2, vmdk"
        ):
            await convert.convert(Disk(tmp_path / "x", form, 5), tmp_path / "new", wanted, rules=Conversion(), most=PLENTY, pool=pool)


async def test_a_server_without_qemu_img_says_so(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConversionUnavailable, match="qemu-img is not installed"):
        await convert.convert(raw(tmp_path / "a", MIB), tmp_path / "new", "qcow2", rules=Conversion(), most=PLENTY, pool=pool)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
async def test_what_is_there_already_is_not_touched(pool: Pool, tmp_path: Path) -> None:
    disk, target = raw(tmp_path / "a", MIB), tmp_path / "new"
    for make in (lambda: target.write_bytes(b"mine"), lambda: target.symlink_to(tmp_path / "elsewhere")):
        make()
        with pytest.raises(FileExistsError):
            await convert.convert(disk, target, "qcow2", rules=Conversion(), most=PLENTY, pool=pool)
        assert target.is_symlink() or target.read_bytes() == b"mine"
        assert not (tmp_path / "elsewhere").exists()
        target.unlink()


# What it must not do


@pytest.fixture
def traps(tmp_path: Path) -> dict[str, Disk]:
    """Images that point at a file of this user, or at a server."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    size = len(SECRET) // 512 * 512
    img = ["qemu-img", "create", "-q", "-f", "qcow2"]
    made = {
        "backing": [*img, "-u", "-b", secret, "-F", "raw", tmp_path / "backing", str(size)],
        "backing of the same directory": [*img, "-u", "-b", "secret", "-F", "raw", tmp_path / "near", str(size)],
        "backing in words": [
            *img,
            "-u",
            "-b",
            "json:" + json.dumps({"driver": "file", "filename": str(secret)}),
            "-F",
            "raw",
            tmp_path / "words",
            str(size),
        ],
        "data file": [*img, "-o", f"data_file={tmp_path}/data,data_file_raw=on", tmp_path / "datafile", str(size)],
    }
    for line in made.values():
        subprocess.run(line, check=True)
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to(secret)
    found = {name: Disk(Path(line[-2]), "qcow2", size) for name, line in made.items()}
    for name, extent in (("flat extent", str(secret)), ("flat extent of the same directory", "secret")):
        text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW {size // 512} FLAT "{extent}" 0\n'
        (tmp_path / f"{name}.vmdk").write_text(text + 'ddb.adapterType = "ide"\n')
        found[name] = Disk(tmp_path / f"{name}.vmdk", "vmdk", size)
    return found


@pytest.mark.slow
async def test_no_other_file_gets_into_an_image(traps: dict[str, Disk], pool: Pool, tmp_path: Path) -> None:
    for name, disk in traps.items():
        target = tmp_path / "out" / name
        target.parent.mkdir(exist_ok=True)
        driver = READ[disk.format]
        straight = tmp_path / "straight"
        subprocess.run(["qemu-img", "convert", "-f", driver, "-O", "raw", disk.path, straight], capture_output=True, check=False)
        assert SECRET[:1000] in straight.read_bytes(), f"{name}: the trap works on whoever is not confined"
        try:
            await convert.convert(disk, target, "raw", rules=Conversion(), most=PLENTY, pool=pool)
        except ConversionFailed:
            assert "backing" not in name, "it is left out, not missed"
            assert not target.exists()
        else:
            assert target.read_bytes() == bytes(disk.virtual_size)


@pytest.mark.slow
async def test_no_server_is_asked(pool: Pool, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"nbd://127.0.0.1:{server.getsockname()[1]}/x"
        (tmp_path / "far.vmdk").write_text(
            f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "{url}" 0\n'
        )
        with pytest.raises(ConversionFailed):
            await convert.convert(
                Disk(tmp_path / "far.vmdk", "vmdk", MIB), tmp_path / "new", "raw", rules=Conversion(), most=PLENTY, pool=pool
            )
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def alone(tmp_path: Path, *program: str, bounds: Bounds = BOUNDS, parent: int | None = None) -> "subprocess.Popen[bytes]":
    """A program as it is confined. READABLE and WRITABLE in its command are the names of its files."""
    source, target = tmp_path / "read", tmp_path / "written"
    source.write_bytes(b"readable\n")
    readable, writable = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT)
    names = {"READABLE": f"/proc/self/fd/{readable}", "WRITABLE": f"/proc/self/fd/{writable}"}
    line = confined.command([names.get(word, word) for word in program], bounds, readable, writable)
    line[-1] = json.dumps(json.loads(line[-1]) | {"parent": parent or os.getpid()})
    child = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(readable, writable),
        env={},
        start_new_session=True,
    )
    os.close(readable)
    os.close(writable)
    return child


def said(child: "subprocess.Popen[bytes]") -> str:
    return child.communicate(timeout=60)[0].decode()


def test_a_confined_program_has_its_two_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    read, denied = 'exec 9< "$0" && read -r line <&9; echo "$line"', "Permission denied"

    assert said(alone(tmp_path, BASH, "-c", read, "READABLE")) == "readable\n"
    assert said(alone(tmp_path, BASH, "-c", 'echo written > "$0"', "WRITABLE")) == ""
    assert (tmp_path / "written").read_text() == "written\n"
    assert denied in said(alone(tmp_path, BASH, "-c", 'echo x > "$0"', "READABLE"))
    assert denied in said(alone(tmp_path, BASH, "-c", read, str(tmp_path / "other")))
    assert denied in said(alone(tmp_path, BASH, "-c", read, "/etc/passwd"))
    assert denied in said(alone(tmp_path, BASH, "-c", 'echo x > "$0"', str(tmp_path / "new")))
    assert denied in said(alone(tmp_path, BASH, "-c", 'echo x > "$0"', str(tmp_path / "read")))
    assert denied in said(alone(tmp_path, BASH, "-c", "exec /usr/bin/env"))
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "read").read_bytes() == b"readable\n"


def test_a_confined_program_has_no_network_no_child_and_no_environment(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert "Operation not permitted" in said(alone(tmp_path, BASH, "-c", f"exec 9<> /dev/tcp/127.0.0.1/{port}"))
        assert "Operation not permitted" in said(alone(tmp_path, BASH, "-c", f"exec 9<> /dev/udp/127.0.0.1/{port}"))
    assert "fork: Operation not permitted" in said(alone(tmp_path, BASH, "-c", "(echo forked); echo $?"))
    names = re.findall(r"declare -x (\w+)", said(alone(tmp_path, BASH, "-c", "declare -x")))
    assert set(names) <= {"MALLOC_ARENA_MAX", "PWD", "OLDPWD", "SHLVL"}


@pytest.mark.slow
def test_a_confined_program_is_limited_and_comes_last(tmp_path: Path) -> None:
    child = alone(tmp_path, BASH, "-c", "while :; do :; done", bounds=Bounds(300 * MIB, 1, MIB))
    assert until(lambda: os.readlink(f"/proc/{child.pid}/exe") == BASH)
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())

    assert re.search(rf"Max address space +{300 * MIB} +{300 * MIB}", limits)
    assert re.search(rf"Max file size +{MIB} +{MIB}", limits)
    assert re.search(r"Max open files +64 +64", limits)
    assert re.search(r"Max core file size +0 +0", limits)
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapEff"], 16), int(status["CapBnd"], 16) if os.geteuid() == 0 else 0) == (
        "1",
        "2",
        0,
        0,
    )
    assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
    assert subprocess.run(["ionice", "-p", str(child.pid)], capture_output=True, text=True, check=True).stdout == "idle\n"
    assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
    assert child.wait(30) == -signal.SIGXCPU


def test_a_child_whose_parent_is_gone_does_not_begin(tmp_path: Path) -> None:
    child = alone(tmp_path, BASH, "-c", "echo began", parent=os.getppid())

    assert said(child) == ""
    assert child.returncode == confined.NOT_CONFINED


# What ends it


@pytest.mark.slow
async def test_a_result_that_is_too_large_leaves_no_file(pool: Pool, tmp_path: Path) -> None:
    disk, new = raw(tmp_path / "a", 40 * MIB), tmp_path / "new"
    for form in WRITTEN:
        with pytest.raises(ImageTooLarge, match=f"larger than the {20 * MIB} bytes"):
            await convert.convert(disk, new, form, rules=Conversion(), most=20 * MIB, pool=pool)
        assert not new.exists()
    with pytest.raises(ConversionFailed, match="larger than the disk"):  # than what the inspector was made to believe
        await convert.convert(Disk(disk.path, "raw", 4 * MIB), new, "raw", rules=Conversion(), most=PLENTY, pool=pool)
    assert not new.exists()


@pytest.mark.slow
async def test_a_damaged_or_greedy_image_is_refused_and_leaves_no_file(pool: Pool, tmp_path: Path) -> None:
    disk, new = raw(tmp_path / "a", MIB), tmp_path / "new"
    qcow2, huge = tmp_path / "a.qcow2", tmp_path / "huge.qcow2"
    await convert.convert(disk, qcow2, "qcow2", rules=Conversion(), most=PLENTY, pool=pool)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", huge, "64T"], check=True)
    damaged = bytearray(qcow2.read_bytes())
    damaged[40:48] = (513).to_bytes(8, "big")  # the place of its table
    (tmp_path / "damaged").write_bytes(damaged)

    for bad, memory_mib, why in (
        (Disk(tmp_path / "damaged", "qcow2", MIB), 1024, "it is damaged"),
        (Disk(disk.path, "qcow2", MIB), 1024, "it is damaged"),
        (Disk(huge, "qcow2", 64 << 40), 1024, "more than 65536 times its own size"),
        (Disk(qcow2, "qcow2", MIB), 8, "more memory than is allowed"),
    ):
        with pytest.raises(ConversionFailed, match=why):
            await convert.convert(bad, new, "raw", rules=Conversion(memory_mib=memory_mib), most=PLENTY, pool=pool)
        assert not new.exists()


@pytest.mark.slow
async def test_a_full_disk_is_told_as_such_and_leaves_no_file(small_disk: Path, pool: Pool, tmp_path: Path) -> None:
    disk = raw(tmp_path / "a", 9 * MIB)
    for form in WRITTEN:
        with pytest.raises(NoRoom):
            await convert.convert(disk, small_disk / "new", form, rules=Conversion(), most=PLENTY, pool=pool)
        assert list(small_disk.iterdir()) == []


@pytest.mark.slow
async def test_what_fails_on_a_full_disk_failed_for_want_of_room_whatever_was_said(small_disk: Path, pool: Pool, tmp_path: Path) -> None:
    (small_disk / "other").write_bytes(bytes(7 * MIB))
    disk = raw(tmp_path / "a", MIB)

    with pytest.raises(NoRoom):
        await convert.convert(Disk(disk.path, "qcow2", MIB), small_disk / "new", "raw", rules=Conversion(), most=PLENTY, pool=pool)

    assert [path.name for path in small_disk.iterdir()] == ["other"]


async def still_standing(disk: Disk, target: Path, pool: Pool, others: set[int]) -> "tuple[asyncio.Task[None], int]":
    """A conversion whose child has been stopped in the middle of its work."""
    task = asyncio.create_task(convert.convert(disk, target, "qcow2", rules=Conversion(), most=PLENTY, pool=pool))
    while not (found := converting(others)):
        await asyncio.sleep(0.001)
    while target.stat().st_size == 0:
        await asyncio.sleep(0.0005)
    os.kill(found[0], signal.SIGSTOP)
    return task, found[0]


@pytest.mark.slow
async def test_a_cancelled_conversion_leaves_no_child_no_file_and_no_thread(pool: Pool, tmp_path: Path, others: set[int]) -> None:
    disk, fds = raw(tmp_path / "a", 600 * MIB), Path("/proc/self/fd")
    await pool.run(time.sleep, 0)
    before, open_before = threading.active_count(), len(list(fds.iterdir()))

    task, child = await still_standing(disk, tmp_path / "new", pool, others)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not Path(f"/proc/{child}").exists(), "ended, and collected"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert threading.active_count() <= before + 1  # the pool may have started its second
    assert len(list(fds.iterdir())) == open_before


@pytest.mark.slow
async def test_a_conversion_may_be_cancelled_at_any_moment(pool: Pool, tmp_path: Path, others: set[int]) -> None:
    disk, ended = raw(tmp_path / "a", 20 * MIB), 0
    for step in range(25):
        task = asyncio.create_task(convert.convert(disk, tmp_path / "new", "qcow2", rules=Conversion(), most=PLENTY, pool=pool))
        await asyncio.sleep(step * 0.004)
        if step == 0:
            await asyncio.sleep(0)
        task.cancel()
        try:
            await task
            (tmp_path / "new").unlink()
        except asyncio.CancelledError:
            ended += 1
        assert converting(others) == []
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert ended > 3


@pytest.mark.slow
async def test_a_conversion_cancelled_when_all_was_done_leaves_no_file(tmp_path: Path, others: set[int]) -> None:
    disk, new, pool = raw(tmp_path / "a", MIB), tmp_path / "new", Pool("convert", 1)
    held = list[asyncio.Task[None]]()

    def hold(done: int) -> None:
        if done == MIB and not held:
            held.append(asyncio.ensure_future(pool.run(time.sleep, 1)))

    task = asyncio.create_task(convert.convert(disk, new, "qcow2", rules=Conversion(), most=PLENTY, pool=pool, progress=hold))
    while not held or converting(others):
        await asyncio.sleep(0.001)
    assert new.exists()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not new.exists()
    await held[0]
    pool.close()


async def test_a_child_is_ended_when_its_time_is_over(others: set[int]) -> None:
    said = list[float]()
    child = convert._Child([BASH, "-c", "echo began; while :; do :; done"], (0, 1), said.append)

    end = await child.end(0.5, lambda: True)

    assert end == convert.End(None, "began")
    assert converting(others) == []


async def test_a_child_stands_still_while_it_is_not_certain_that_it_may_go_on_and_loses_no_time_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convert, "LOOK_S", 0.01)
    certain, child = False, convert._Child([BASH, "-c", "sleep 0.5; exit 7"], (0, 1), lambda percent: None)
    stat = Path(f"/proc/{child._process.pid}/stat")

    end = asyncio.create_task(child.end(3, lambda: certain))
    while stat.read_text().rsplit(")", 1)[1].split()[0] != "T":
        await asyncio.sleep(0.01)
    await asyncio.sleep(3)
    assert not end.done()
    certain = True

    assert (await end).status == 7


async def test_of_endless_words_only_the_last_are_kept() -> None:
    child = convert._Child([BASH, "-c", "for i in {1..30000}; do echo word $i; done; exit 7"], (0, 1), lambda percent: None)

    end = await child.end(30, lambda: True)

    assert end.status == 7
    assert end.said.endswith("word 30000")
    assert len(end.said) <= convert.SAID_BYTES


CONVERTS = """
import asyncio, sys
from pathlib import Path
from ikon.config import Conversion
from ikon.threads import Pool
from ikon.transfer.convert import Disk, convert
source, target, loop = sys.argv[1:]
if loop == "uvloop":
    import uvloop
    run = uvloop.run
else:
    run = asyncio.run
run(convert(Disk(Path(source), "raw", Path(source).stat().st_size), Path(target), "qcow2", rules=Conversion(), most=1 << 40, pool=Pool("convert", 2)))
print("converted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_child_dies_with_a_server_that_is_killed(loop: str, tmp_path: Path) -> None:
    disk, target = raw(tmp_path / "a", 600 * MIB), tmp_path / "new"
    with subprocess.Popen([sys.executable, "-c", CONVERTS, disk.path, target, loop], stdout=subprocess.PIPE) as server:
        assert until(lambda: target.exists() and target.stat().st_size > 0)
        (child,) = children(server.pid)
        os.kill(child, signal.SIGSTOP)
        assert lives(child)

        server.kill()

    assert until(lambda: not lives(child))


@pytest.mark.slow
def test_a_conversion_runs_on_the_loop_of_the_server(tmp_path: Path) -> None:
    disk = raw(tmp_path / "a", MIB)

    done = subprocess.run(
        [sys.executable, "-c", CONVERTS, disk.path, tmp_path / "new", "uvloop"], capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("converted\n", "")
