"""A stored file that is not what it was, in every way, and what clients get of it: right bytes, or none."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Say
from tests.faults.world import BROKEN, MIB, Ikon, eventually, noise, read_head, sha512

pytestmark = pytest.mark.slow

SIZE = 4 * MIB + 777
DATA = noise(SIZE, at=MIB)
#: Where the damage is: in the third of five blocks.
SPOT = 2 * MIB + 1000
READS = {"whole": None, "range on it": (SPOT - 10, SPOT + 10), "range before it": (10, MIB + 5), "range behind it": (SIZE - 500, SIZE - 1)}


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SPOT)
        byte = file.read(1)[0]
        file.seek(SPOT)
        file.write(bytes([byte ^ 1]))


def zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SPOT // MIB * MIB)
        file.write(bytes(MIB))


def cut(path: Path) -> None:
    os.truncate(path, SPOT)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped bit": flip,
    "zeroed block": zero,
    "cut short": cut,
    "missing": os.unlink,
    "grown": grow,
}


def read(server: Ikon, image: str, part: tuple[int, int] | None) -> str:
    """What a client gets, preferring the damaged copy; fails if that is a wrong byte."""
    try:
        answer = server.download(image, store="one", part=None if part is None else f"{part[0]}-{part[1]}")
    except BROKEN:
        return "broken"
    if answer.status == 503:
        assert b"No intact copy" in answer.body
        return "503"
    assert answer.status == (200 if part is None else 206)
    assert answer.body == (DATA if part is None else DATA[part[0] : part[1] + 1]), "a wrong byte has left"
    return "right"


def test_damaged_data_is_never_served_and_another_copy_is(tmp_path: Path, say: Say) -> None:
    table = [f"{'damage':14}{'stores':8}" + "".join(f"{name:18}" for name in READS) + "copy afterwards"]
    answers: dict[tuple[str, int, str], str] = {}
    with Ikon(tmp_path) as server:
        for damage, spoil in DAMAGES.items():
            for stores in (1, 2):
                states, line = set(), f"{damage:14}{stores:<8}"
                for name, part in READS.items():
                    image = server.create()
                    assert server.upload(image, DATA).status == 204
                    if stores == 2:
                        assert server.copy(image, "two").status == 202
                    [path] = (path for path in server.stores["one"].iterdir() if path.name.startswith(image))
                    spoil(path)
                    answers[damage, stores, name] = read(server, image, part)
                    again = read(server, image, part)  # now that the copy is known to be suspect
                    assert again == answers[damage, stores, name] or (answers[damage, stores, name], again) == ("broken", "503")
                    assert server.show(image)["os_hash_value"] == sha512(DATA)
                    rows = dict(server.rows(f"SELECT store, state FROM copies WHERE image_id = '{image}'"))
                    states.add(rows.pop("one"))
                    assert set(rows.values()) <= {"ready"}
                    line += f"{answers[damage, stores, name]:18}"
                    assert server.delete(image).status == 204
                table.append(line + " or ".join(sorted(states)))
        eventually(lambda: not server.files())
    say("\n".join(table))
    for (damage, stores, name), answer in answers.items():
        if stores == 2 or damage == "grown":
            assert answer == "right", (damage, stores, name)
        elif damage == "missing":
            assert answer == "503", (damage, stores, name)
        elif name == "range before it":
            assert answer == "right", (damage, stores, name)
        elif name == "range on it":
            assert answer == "503", (damage, stores, name)
        elif name == "whole":
            assert answer in ("broken", "503"), (damage, stores, name)


def test_a_copy_that_gave_a_wrong_byte_is_suspect(tmp_path: Path) -> None:
    with Ikon(tmp_path) as server:
        for damage, spoil in DAMAGES.items():
            image = server.create()
            server.upload(image, DATA)
            server.copy(image, "two")
            [path] = (path for path in server.stores["one"].iterdir() if path.name.startswith(image))
            spoil(path)
            assert read(server, image, None) == "right"
            rows = dict(server.rows(f"SELECT store, state FROM copies WHERE image_id = '{image}'"))
            assert rows == {"one": "suspect", "two": "ready"}, damage


def test_an_image_damaged_while_it_is_read_breaks_off_or_goes_on_from_another_store(tmp_path: Path) -> None:
    big = noise(20 * MIB)
    with Ikon(tmp_path) as server:
        for copied in (False, True):
            image = server.create()
            server.upload(image, big)
            if copied:
                server.copy(image, "two")
            [path] = (path for path in server.stores["one"].iterdir() if path.name.startswith(image))
            with server.begin_download(image) as sock:
                body = read_head(sock)
                os.truncate(path, 15 * MIB)
                with contextlib.suppress(OSError):
                    while len(body) < len(big) and (got := sock.recv(MIB)):
                        body += got
                assert big.startswith(body)
                assert len(body) < len(big) if not copied else body == big
