"""The trash under bad luck: killed in the middle of restoring and purging, and a store that is away when images are deleted."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Say
from tests.faults.test_crash import upgrade
from tests.faults.world import Answer, Ikon, Restless, eventually, is_whole, noise

KEEPING = "[trash]\nkeep_s = 3600\n[limits]\npage_max = 50"
IMAGES = 24


def restless(server: Ikon, images: list[str], seed: int) -> Restless:
    """A client that deletes, restores and purges images."""
    chance = random.Random(seed)

    def deed() -> None:
        image = chance.choice(images)
        do = chance.choices([server.delete, lambda image: restore(server, image), lambda image: purge(server, image)], [5, 5, 1])[0]
        answer = do(image)
        assert answer.status in (204, 404), answer

    return Restless(deed)


def purge(server: Ikon, image: str) -> Answer:
    return server.call("DELETE", f"/ikon/v1/trash/{image}")


def restore(server: Ikon, image: str) -> Answer:
    return server.call("POST", f"/ikon/v1/trash/{image}/restore")


def kept(server: Ikon) -> set[str]:
    """Ids of what is in the trash."""
    found, path = set(), "/ikon/v1/trash"
    while path:
        page: dict[str, Any] = server.call("GET", path).json
        found |= {entry["id"] for entry in page["images"]}
        path = page.get("next", "")
    return found


def look(server: Ikon, data: dict[str, bytes]) -> tuple[int, int, int]:
    """Each image is whole, or in the trash and whole when it is restored, or gone with all that was its. How many of each."""
    trashed = kept(server)
    shown = {image["id"] for image in server.call("GET", "/v2/images?limit=50").json["images"]}
    assert not shown & trashed
    for image in trashed:
        assert restore(server, image).status == 204
    files = server.files()
    for image, content in data.items():
        if image in shown | trashed:
            assert is_whole(server, image, content)
            assert server.show(image)["tags"] == ["kept"]
            assert server.call("GET", f"/v2/images/{image}/members").json["members"][0]["member_id"] == "other"
        else:
            assert not any(image in path for path in files)
            assert server.call("GET", f"/v2/images/{image}").status == 404
    return len(shown), len(trashed), len(data.keys() - shown - trashed)


def fill(server: Ikon) -> dict[str, bytes]:
    """Images with their data."""
    made = {}
    for n in range(IMAGES):
        image = server.create(tags=["kept"])
        made[image] = noise(10_000, n)
        assert server.upload(image, made[image]).status == 204
        assert server.call("POST", f"/v2/images/{image}/members", json.dumps({"member": "other"}).encode()).status == 200
    return made


def crash(server: Ikon, rounds: int, seed: int) -> str:
    """Rounds of deleting, restoring, purging, killing and looking. Returns the figures."""
    chance, totals = random.Random(seed), [0, 0, 0]
    server.start()
    data = fill(server)
    for _ in range(rounds):
        clients = [restless(server, list(data), chance.randrange(2**32)) for _ in range(5)]
        time.sleep(chance.uniform(0.02, 0.6))
        server.kill()
        for client in clients:
            client.join()
        server.start()
        server.settle()
        found = look(server, data)
        totals = [total + count for total, count in zip(totals, found, strict=True)]
        if found[2] > IMAGES // 2:
            data = {image: content for image, content in data.items() if server.call("GET", f"/v2/images/{image}").status == 200} | fill(
                server
            )
            data = dict(list(data.items())[-2 * IMAGES :])
    return f"{rounds} kills; looked at {totals[0]} images that were there, {totals[1]} in the trash, {totals[2]} purged; seed {seed}"


@pytest.mark.parametrize("rounds", [pytest.param(8, marks=pytest.mark.slow), pytest.param(150, marks=pytest.mark.full)])
def test_whatever_instant_it_is_killed_at_an_image_is_there_or_in_the_trash_or_purged(rounds: int, tmp_path: Path, say: Say) -> None:
    server = Ikon(tmp_path, settings=KEEPING)
    try:
        say(f"SQLite: {crash(server, rounds, random.randrange(2**32))}")
    finally:
        server.kill()


@pytest.mark.parametrize("rounds", [pytest.param(3, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.full)])
def test_two_processes_killed_at_once_leave_no_image_half_restored(rounds: int, tmp_path: Path, mariadb_url: str, say: Say) -> None:
    upgrade(mariadb_url)
    server = Ikon(tmp_path, database=mariadb_url, workers=2, settings=KEEPING)
    try:
        say(f"MariaDB, --workers 2: {crash(server, rounds, random.randrange(2**32))}")
    finally:
        server.kill()


@pytest.mark.slow
def test_images_deleted_while_their_store_is_away_lose_their_bytes_when_it_is_back(tmp_path: Path, say: Say) -> None:
    with Ikon(tmp_path) as server:
        images = []
        for n in range(300):
            images.append(server.create())
            assert server.upload(images[-1], noise(100, n)).status == 204
        store, away = server.stores["one"], tmp_path / "away"
        store.rename(away)

        slowest_s = 0.0
        for image in images:
            began = time.monotonic()
            assert server.delete(image).status == 204
            slowest_s = max(slowest_s, time.monotonic() - began)
        time.sleep(6)
        tried = server.log.read_text().count('"bytes not deleted yet"')
        assert len(list(away.iterdir())) == 300
        away.rename(store)
        gone_s = eventually_gone(server)

        assert 1 <= tried <= 10
        say(
            f"300 deletions from a store that was away: {tried} tries, the slowest answer {slowest_s:.2f} s; gone {gone_s:.1f} s after it was back"
        )
        server.settle()


def eventually_gone(server: Ikon) -> float:
    """Seconds until nothing is left in the stores."""
    began = time.monotonic()
    eventually(lambda: not server.files(), within_s=60)
    return time.monotonic() - began
