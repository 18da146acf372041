"""Compressed data: what is taken, what is refused and why, and what hostile data costs."""

import asyncio
import contextlib
import gzip
import io
import itertools
import lzma
import random
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from backports import zstd

from ikon.problems import ImageRefused, ImageTooLarge, PackedDataRefused
from ikon.threads import Pool
from ikon.transfer.unpack import BLOCK, FREE, unpack

MIB = 1 << 20
#: A small disk: text, noise and zeros.
DISK = b"ikon " * 100_000 + random.Random(5).randbytes(MIB // 2) + bytes(MIB // 2)
HALF = len(DISK) // 2
MOST = 1 << 40


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = stat.S_IFREG | 0o644, comment: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.comment = comment
        for name, data in files:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data, method)
    return out.getvalue()


class OneWay(io.BytesIO):
    """A file as a pipe is one: whoever writes a zip into it can put sizes only behind the data."""

    def seekable(self) -> bool:
        return False

    def seek(self, *args: int) -> int:
        raise io.UnsupportedOperation

    def tell(self) -> int:
        raise io.UnsupportedOperation


def zipped_into_a_pipe(*, zip64: bool = False) -> bytes:
    out = OneWay()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("disk.raw", "w", force_zip64=zip64) as member:
        member.write(DISK)
    return out.getvalue()


PACKED: dict[str, bytes] = {
    "gzip": gzip.compress(DISK, 6),
    "gzip with a name": b"\x1f\x8b\x08\x08\0\0\0\0\0\xffdisk.raw\0"
    + zlib.compressobj(6, wbits=-15).compress(b"")
    + gzip.compress(DISK, 6)[10:],
    "two gzip members": gzip.compress(DISK[:HALF]) + gzip.compress(DISK[HALF:]),
    "xz": lzma.compress(DISK),
    "xz -9 with SHA-256": lzma.compress(DISK, check=lzma.CHECK_SHA256, preset=9),
    "two xz streams": lzma.compress(DISK[:HALF]) + lzma.compress(DISK[HALF:]),
    "zstd": zstd.compress(DISK),
    "zstd -19 with a checksum": zstd.compress(
        DISK, options={zstd.CompressionParameter.compression_level: 19, zstd.CompressionParameter.checksum_flag: 1}
    ),
    "zstd --long": zstd.compress(DISK, options={zstd.CompressionParameter.window_log: 27}),
    "zstd frames with one to skip": zstd.compress(DISK[:HALF]) + b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd.compress(DISK[HALF:]),
    "zip": zipped(("disk.raw", DISK)),
    "zip in a folder, with a comment": zipped(("images/disk.raw", DISK), comment=b"PK\5\6 " * 1000),
    "zip not packed": zipped(("disk.raw", DISK), method=zipfile.ZIP_STORED),
    "zip from a pipe": zipped_into_a_pipe(),
    "zip64 from a pipe": zipped_into_a_pipe(zip64=True),
    "zip of a pipe": zipped(("-", DISK), mode=stat.S_IFIFO),
}


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("unpack", 2)
    yield pool
    pool.close()


async def cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def unpacked(data: bytes, pool: Pool, most: int = MOST, size: int = 65536) -> bytes:
    blocks = [block async for block in unpack(cut(data, size), pool, most)]
    assert all(0 < len(block) <= BLOCK for block in blocks)
    return b"".join(blocks)


async def refusal(data: bytes, pool: Pool, most: int = MOST) -> str:
    with pytest.raises(PackedDataRefused) as refused:
        await unpacked(data, pool, most)
    assert "Taken are gzip, xz, zstd, and zip" in str(refused.value), "says what is allowed"
    return str(refused.value)


@pytest.mark.parametrize("name", PACKED)
async def test_what_was_packed_comes_out_as_it_was_however_it_is_cut(name: str, pool: Pool) -> None:
    for size in (4093, 65536, 8 * MIB):
        assert await unpacked(PACKED[name], pool, size=size) == DISK


async def test_data_of_single_bytes_and_of_nothing_is_unpacked(pool: Pool) -> None:
    for pack in (
        gzip.compress,
        lzma.compress,
        zstd.compress,
        lambda data: zipped(("x", data)),
        lambda data: zipped(("x", data), method=zipfile.ZIP_STORED),
    ):
        for data in (b"", b"x", b"a small disk"):
            assert await unpacked(pack(data), pool, size=1) == data


@pytest.mark.parametrize("name", PACKED)
async def test_every_cut_is_refused(name: str, pool: Pool) -> None:
    data = PACKED[name]
    ends = {*range(6, 64), *random.Random(1).sample(range(64, len(data)), 3), *range(len(data) - 24, len(data))}
    if name.startswith("two") or "frames" in name:
        data = data[: -len(data) // 4]  # not between two members, where an end is a sound one
        ends = {end for end in ends if end < len(data)}
    for end in sorted(ends):
        assert "too early" in await refusal(data[:end], pool)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("rest", [b"\0", b"garbage" * 1000, b"PK\3\4"])
async def test_whatever_follows_is_refused(name: str, rest: bytes, pool: Pool) -> None:
    with pytest.raises(PackedDataRefused):
        await unpacked(PACKED[name] + rest, pool)


@pytest.mark.parametrize("name", PACKED)
async def test_data_with_a_changed_byte_is_refused_or_the_same(name: str, pool: Pool) -> None:
    chance = random.Random(name)
    for _ in range(10):
        data = bytearray(PACKED[name])
        data[chance.randrange(6, len(data))] ^= 1 << chance.randrange(8)
        with contextlib.suppress(PackedDataRefused):
            came = await unpacked(bytes(data), pool)
            assert came == DISK or not has_checksum(name)


def has_checksum(name: str) -> bool:
    return not name.startswith("zstd") or "checksum" in name


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no data"),
        (b"\x1f", "not compressed in a way that is known"),
        (DISK, "not compressed in a way that is known"),
        (b"BZh91AY&SY", "not compressed in a way that is known"),
        (zipped(("a", b"x"), ("b", b"y")), "holds several files"),
        (zipped(("a/", b""), ("a/b", b"y")), "holds a directory"),
        (zipped(("../../etc/cron.d/x", b"x")), "leads out"),
        (zipped(("images/../../x", b"x")), "leads out"),
        (zipped(("/etc/passwd", b"x")), "leads out"),
        (zipped(("C:/windows/x", b"x")), "leads out"),
        (zipped(("..\\x", b"x")), "leads out"),
        (zipped(("disk", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777), "a link"),
        (zipped(("disk", b""), mode=stat.S_IFBLK | 0o777), "a link"),
        (zipped(("disk", DISK), method=zipfile.ZIP_BZIP2), "another way than deflate"),
        (zipped(("disk", DISK), method=zipfile.ZIP_LZMA), "another way than deflate"),
    ],
)
async def test_a_refusal_says_what_is_wrong_and_what_is_taken(data: bytes, why: str, pool: Pool) -> None:
    assert why in await refusal(data, pool)


def changed(data: bytes, at: int, new: bytes) -> bytes:
    at = at if at >= 0 else len(data) + at
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: changed(data, 6, b"\1"), "encrypted"),
        (lambda data: changed(data, 7, b"\x20"), "encrypted"),
        (lambda data: changed(data, 6, b"\x20"), "another way than deflate"),
        (lambda data: changed(data, data.index(b"PK\1\2") + 16, b"\0\0\0\0"), "damaged"),  # checksum
        (lambda data: changed(data, data.index(b"PK\1\2") + 20, struct.pack("<I", 5)), "damaged"),  # packed size
        (lambda data: changed(data, data.index(b"PK\1\2") + 24, struct.pack("<I", 5)), "damaged"),  # size
        (lambda data: changed(data, data.index(b"PK\1\2") + 42, struct.pack("<I", 5)), "damaged"),  # place
        (lambda data: changed(data, data.index(b"PK\1\2") + 46, b"e"), "damaged"),  # name
        (lambda data: changed(data, -12, b"\2\0"), "several files"),
        (lambda data: changed(data, -18, b"\1\0"), "part of several"),
        (lambda data: changed(data, -6, b"\1"), "damaged"),  # place of the directory
    ],
)
async def test_a_zip_whose_records_contradict_each_other_is_refused(change: Callable[[bytes], bytes], why: str, pool: Pool) -> None:
    assert why in await refusal(change(zipped(("disk", b"text " * 100))), pool)


async def test_sizes_in_a_zip_header_decide_nothing(pool: Pool) -> None:
    data = PACKED["zip"]

    assert await unpacked(changed(data, 14, struct.pack("<III", 1, 2, 3)), pool) == DISK
    with pytest.raises(PackedDataRefused):  # where nothing else tells the end, a lie is found out
        await unpacked(changed(PACKED["zip not packed"], 18, struct.pack("<I", len(DISK) - 1)), pool)
    stored = bytearray(PACKED["zip not packed"])
    stored[6] |= 8
    assert "neither packed nor says where its file ends" in await refusal(bytes(stored), pool)


@pytest.mark.parametrize("outer", [gzip.compress, lzma.compress, zstd.compress, lambda data: zipped(("x", data))])
@pytest.mark.parametrize("inner", ["gzip", "xz", "zstd", "zip"])
async def test_only_one_layer_is_unpacked(outer: Callable[[bytes], bytes], inner: str, pool: Pool) -> None:
    assert f"holds {inner} data" in await refusal(outer(PACKED[inner]), pool)
    slowly = zstd.compress(PACKED[inner][:1]) + zstd.compress(PACKED[inner][1:])
    assert f"holds {inner} data" in await refusal(slowly, pool)


async def test_not_a_byte_more_comes_out_than_is_allowed(pool: Pool) -> None:
    for name in ("gzip", "xz", "zstd", "zip", "zip not packed"):
        assert await unpacked(PACKED[name], pool, most=len(DISK)) == DISK
        came = 0
        with pytest.raises(ImageTooLarge, match=f"larger than the {len(DISK) - 1} bytes"):
            async for block in unpack(cut(PACKED[name], 65536), pool, len(DISK) - 1):
                came += len(block)
        assert came <= len(DISK) - 1


def bomb(form: str) -> bytes:
    """300 MiB of zeros."""
    zeros = (bytes(MIB) for _ in range(300))
    if form == "zip":
        out = OneWay()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("disk", "w") as member:
            for block in zeros:
                member.write(block)
        return out.getvalue()
    packer = {"gzip": lambda: zlib.compressobj(wbits=31), "xz": lambda: lzma.LZMACompressor(preset=0), "zstd": zstd.ZstdCompressor}[form]()
    return b"".join([*(packer.compress(block) for block in zeros), packer.flush()])


#: Unpacks what comes in, in a process of its own, whose memory is its own.
LONELY = """
import asyncio, lzma, re, sys
from backports import zstd
from ikon.problems import PackedDataRefused
from ikon.threads import Pool
from ikon.transfer.unpack import unpack

def most_kib():
    return int(re.search(r"VmHWM:\\s+([0-9]+)", open("/proc/self/status").read())[1])

async def blocks():
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]

async def main():
    came = 0
    try:
        async for block in unpack(blocks(), Pool("unpack", 2), 1 << 40):
            came += len(block)
    except PackedDataRefused as refused:
        print(came, most_kib() - before, refused)

data = sys.stdin.buffer.read()
before = most_kib()
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gzip", "xz", "zstd", "zip"])
def test_a_bomb_is_stopped_early_and_takes_little_memory(form: str) -> None:
    done = subprocess.run([sys.executable, "-c", LONELY], input=bomb(form), capture_output=True, check=True)

    came, grown_kib, said = done.stdout.decode().split(" ", 2)
    assert "more than 200 times its size" in said
    assert FREE - MIB <= int(came) <= FREE
    assert 0 < int(grown_kib) < 16 * 1024


async def test_a_member_that_asks_for_much_memory_is_refused_before_it_gets_it(pool: Pool) -> None:
    wide = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}])
    header = b"\x28\xb5\x2f\xfd" + bytes([0x00, (30 - 10) << 3]) + bytes(100)  # a window of 1 GiB

    assert "128 MiB of memory" in await refusal(wide, pool)
    assert "128 MiB of memory" in await refusal(header, pool)


async def test_thousands_of_empty_parts_are_refused_and_of_sound_ones_are_not(pool: Pool) -> None:
    for pack in (gzip.compress, zstd.compress):
        assert "too many small parts" in await refusal(pack(b"") * 1500, pool)
        part = random.Random(2).randbytes(5000)
        assert await unpacked(pack(part) * 2000, pool) == part * 2000


async def test_who_stops_early_leaves_no_thread_at_work(pool: Pool) -> None:
    closed = []

    async def source() -> AsyncIterator[bytes]:
        try:
            for part in itertools.repeat(gzip.compress(random.Random(3).randbytes(MIB))):
                yield part
        finally:
            closed.append(True)

    blocks = source()
    stream = unpack(blocks, pool, MOST)
    async with contextlib.aclosing(blocks), contextlib.aclosing(stream):  # type: ignore[type-var]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                async for _ in stream:
                    pass

    assert closed
    assert await asyncio.wait_for(pool.run(lambda: 5), 5) == 5


def fuzz(seed: int, rounds: int, pool: Pool) -> tuple[int, int]:
    """Mutate, splice and cut archives. Nothing may come of it but the data or a refusal, in bounds."""
    chance = random.Random(seed)
    small = random.Random(6).randbytes(3000) + b"text " * 500
    sound = [
        gzip.compress(small),
        lzma.compress(small),
        zstd.compress(small),
        zipped(("disk", small)),
        zipped(("disk", small), method=zipfile.ZIP_STORED),
        zipped_into_a_pipe(zip64=True)[:2000],
    ]
    taken = refused = 0

    async def one(data: bytes, size: int) -> bool:
        try:
            await unpacked(data, pool, most=MIB, size=size)
        except (ImageRefused, ImageTooLarge):
            return False
        return True

    async def all_of_them() -> None:
        nonlocal taken, refused
        for _ in range(rounds):
            data = bytearray(chance.choice(sound))
            for _ in range(chance.randint(1, 4)):
                match chance.randrange(6):
                    case 0:
                        data[chance.randrange(len(data))] = chance.randrange(256)
                    case 1:
                        at = chance.randrange(min(60, len(data)))
                        data[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 0xFFFF, 1 << 31, 0xFFFFFFFF]))
                    case 2:
                        at = max(0, len(data) - chance.randrange(1, 120))
                        data[at : at + 2] = chance.randbytes(2)
                    case 3:
                        del data[chance.randrange(6, max(7, len(data))) :]
                    case 4:
                        data += chance.choice(sound)[chance.randrange(100) :]
                    case 5:
                        at = chance.randrange(len(data))
                        data[at:at] = chance.choice([b"PK\1\2", b"PK\3\4", b"PK\5\6", b"\0" * 8, chance.randbytes(5)])
            if await asyncio.wait_for(one(bytes(data), chance.choice([1000, 65536])), 20):
                taken += 1
            else:
                refused += 1

    asyncio.run(all_of_them())
    return taken, refused


def test_mutated_archives_are_taken_or_refused_and_nothing_else(pool: Pool) -> None:
    taken, refused = fuzz(1, 2500, pool)

    assert refused > taken > 0


@pytest.mark.full
def test_many_mutated_archives_are_taken_or_refused_and_nothing_else(pool: Pool) -> None:
    for seed in range(2, 22):
        taken, refused = fuzz(seed, 5000, pool)
        assert refused > taken


def test_the_zstd_library_is_imported_only_when_it_is_needed() -> None:
    script = "import sys; from ikon.transfer import unpack; print('backports' in {name.split('.')[0] for name in sys.modules})"

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
