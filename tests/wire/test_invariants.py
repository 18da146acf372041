"""Invariants that are seen best from outside: patches beside each other, events, what a page of a list costs."""

import sqlite3
import threading
from pathlib import Path

from tests.faults.world import Ikon


def test_twelve_clients_that_patch_twelve_keys_all_succeed(tmp_path: Path) -> None:
    answers: list[int] = []
    with Ikon(tmp_path) as server:
        image = server.create()
        barrier = threading.Barrier(12)

        def patch(key: str) -> None:
            barrier.wait()
            answers.append(server.patch(image, **{key: "yes"}).status)

        clients = [threading.Thread(target=patch, args=(f"key{n}",)) for n in range(12)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        record = server.show(image)

    assert answers == [200] * 12
    assert all(record[f"key{n}"] == "yes" for n in range(12))


def test_events_tell_what_happened_and_nothing_else(tmp_path: Path) -> None:
    with Ikon(tmp_path) as server:
        image = server.create()
        assert server.patch(image, a="1").status == 200
        assert server.patch(image, status="active").status == 403
        assert server.upload(image, b"x" * 1000).status == 204
        assert server.upload(image, b"y" * 1000).status == 409
        assert server.copy(image, "two").status == 202
        assert server.delete(image).status == 204
        assert server.delete(image).status == 404
        server.stop()
    told = (
        sqlite3.connect(tmp_path / "ikon.db").execute("SELECT kind, version FROM events WHERE image_id = ? ORDER BY n", (image,)).fetchall()
    )

    assert [kind for kind, _ in told] == [
        "image.create",
        "image.update",
        "image.prepare",
        "image.activate",
        "image.import",
        "image.update",
        "image.delete",
    ]
    versions = [version for _, version in told]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(versions)


def test_image_data_never_changes(tmp_path: Path) -> None:
    with Ikon(tmp_path) as server:
        image = server.create()
        assert server.upload(image, b"first").status == 204
        again = server.upload(image, b"other")
        data = server.download(image).body

    assert again.status == 409
    assert data == b"first"
