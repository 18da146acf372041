"""Two servers, each on its own node of a Galera cluster: what one was told the other knows at once, and races through both have one winner."""

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ikon.db import checks, copies, failures, instances, jobs, usage
from ikon.db.checks import Finding
from ikon.db.copies import Copy
from ikon.db.engine import Database, make_engine
from ikon.db.usage import Rules, counting
from ikon.model import quota
from ikon.model.job import ANY, Job, Limits, New
from ikon.queue import new_id
from tests.faults.conftest import Say
from tests.faults.test_crash import upgrade
from tests.faults.test_databases import MENDED_S, Client, check_lives
from tests.faults.world import BYTES, MIB, PATIENCE_S, Answer, Ikon, eventually, is_whole, noise
from tests.services.galera import Galera
from tests.unit.cli.run import ikon

pytestmark = pytest.mark.slow
DATA = noise(2 * MIB)
QUOTA = 10 * MIB


@pytest.fixture(scope="module")
def galera() -> Iterator[Galera]:
    """A running cluster."""
    with Galera() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def database(galera: Galera) -> str:
    """The name of a database with the schema."""
    url = galera.new_database()
    upgrade(url)
    return url.rsplit("/", 1)[1]


@pytest.fixture(scope="module")
def pair(galera: Galera, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ikon, Ikon]]:
    """A server on each node, with the same stores."""
    top = tmp_path_factory.mktemp("pair")
    made = [
        Ikon(
            top / f"node{n}",
            database=galera.url_of(n, database),
            stores={store: top / store for store in ("one", "two")},
            settings=f'node = "node{n}"\n[staging]\npath = "{top}/staging"\nshared = true\n[quota]\nbytes = 0',
            store_settings="shared = true",
        )
        for n in (1, 2)
    ]
    with made[0] as left, made[1] as right:
        yield left, right
        for each in made:
            assert "Traceback" not in each.log.read_text(errors="replace"), each.tail()


def test_what_is_made_on_one_node_is_used_on_the_other_at_once(pair: tuple[Ikon, Ikon]) -> None:
    for number in range(12):
        here, there = pair if number % 2 else pair[::-1]
        image = here.create()
        assert there.upload(image, DATA).status == 204
        assert here.patch(image, colour=str(number)).status == 200
        assert there.show(image)["status"] == "active"
        assert here.download(image).body == DATA
        assert there.copy(image, "two").status == 202
        assert here.delete(image).status == 204
    pair[0].settle(within_s=MENDED_S)
    assert pair[0].files() == set()


def test_a_node_that_lags_behind_looks_again_before_it_says_no(galera: Galera, pair: tuple[Ikon, Ikon]) -> None:
    left, right = pair
    before = left.create()
    assert right.show(before)["id"] == before
    with ThreadPoolExecutor(20) as pool:
        asked: list[tuple[str, Callable[[], Answer], int]] = []
        with galera.held_back(2):
            image, marked = left.create(), left.create(name="marked")
            assert left.upload(image, DATA).status == 204
            task = left.begin_copy(image, "two").json["job"]
            path = f"/v2/images/{image}"
            deeds: list[tuple[str, str, object, int]] = [
                ("GET", path, None, 200),
                ("GET", f"{path}/file", None, 200),
                ("GET", f"/v2/images?marker={marked}", None, 200),
                ("GET", f"/ikon/v1/jobs/{task}", None, 200),
                ("GET", f"{path}/members", None, 200),
                ("PUT", f"{path}/tags/blue", b"", 204),
                ("POST", f"{path}/actions/reactivate", b"", 204),
                ("PUT", f"/v2/images/{marked}/file", DATA, 204),
                ("POST", "/v2/images", json.dumps({"id": image}).encode(), 409),
            ]
            asked = [
                (f"{method} {at}", pool.submit(right.call, method, at, body, BYTES if body is DATA else {}).result, status)  # type: ignore[arg-type]
                for method, at, body, status in deeds
            ]
            threading.Event().wait(1.0)  # all have looked once, and found nothing
            assert right.show(before)["id"] == before  # what is there is answered without waiting
        for deed, result, status in asked:
            answer = result()
            assert answer.status == status, (deed, answer)
            assert not deed.endswith("/file") or status == 204 or answer.body == DATA


def until_free(deed: Callable[[], Answer]) -> int:
    """The status of a deed, tried again while others are in the way."""
    for _ in range(100):
        answer = deed()
        if answer.status != 503:
            break
        time.sleep(0.1)
    return answer.status


def test_patches_through_both_nodes_all_count(pair: tuple[Ikon, Ikon]) -> None:
    image = pair[0].create()

    def change(number: int) -> int:
        server = pair[number % 2]
        if number % 3 == 0:
            return until_free(lambda: server.call("PUT", f"/v2/images/{image}/tags/tag{number}"))
        return until_free(lambda: server.patch(image, **{f"key{number}": "x"}))

    with ThreadPoolExecutor(12) as pool:
        statuses = Counter(pool.map(change, range(60)))

    assert statuses == {200: 40, 204: 20}
    for server in pair:
        record = server.show(image)
        assert len(record["tags"]) + len([key for key in record if key.startswith("key")]) == 60


def test_no_job_is_claimed_twice_and_no_limit_is_passed(galera: Galera, database: str, say: Say) -> None:
    """By claimers on both nodes."""
    wanted = [New(id=new_id(), kind="note", image_id=None, input={}, project=f"p{n % 3}") for n in range(90)]
    limits = Limits(project=2)

    def end(conn: Connection, job: Job) -> int:
        running = sa.text(f"SELECT COUNT(*) FROM jobs WHERE kind = 'note' AND state = 'running' AND project = '{job.project}'")
        seen = int(conn.execute(running).scalar_one())
        assert jobs.finish(conn, job, "done")
        return seen

    async def claimer(db: Database, me: str, chance: random.Random, found: list[str], most: list[int]) -> None:
        while len(found) < len(wanted):
            job = await db.write(jobs.claim, me, [ANY], limits, [], chance, ["note"])
            if job is None:
                await asyncio.sleep(chance.random() / 50)
            else:
                found.append(job.id)
                most.append(await db.write(end, job))

    async def race() -> tuple[list[str], list[int]]:
        found: list[str] = []
        most: list[int] = []
        sides = [Database(galera.url_of(n, database)) for n in (1, 2)]
        for job in wanted:
            await sides[0].write(jobs.enqueue, job)
        for n, db in enumerate(sides):
            await db.write(instances.enlist, f"claimer{n}", f"node{n}", alone=False)
        async with asyncio.timeout(120):
            await asyncio.gather(*(claimer(sides[n % 2], f"claimer{n % 2}", random.Random(n), found, most) for n in range(6)))
        for db in sides:
            await db.close()
        return found, most

    found, most = asyncio.run(race())

    assert sorted(found) == sorted(job.id for job in wanted)
    assert max(most) <= 2
    aborted = [galera.value(n, "SHOW STATUS LIKE 'wsrep_local_cert_failures'") for n in (1, 2)]
    say(f"galera: {len(found)} jobs claimed once each by claimers on both nodes; certification failures {aborted}")


def test_the_quota_is_kept_by_uploads_through_both_nodes(galera: Galera, tmp_path: Path) -> None:
    url = galera.new_database()
    upgrade(url)
    servers = [
        Ikon(
            tmp_path / f"node{n}",
            database=galera.url_of(n, url.rsplit("/", 1)[1]),
            stores={"one": tmp_path / "one"},
            settings=f'node = "node{n}"\n[quota]\nbytes = {QUOTA}',
            store_settings="shared = true",
        )
        for n in (1, 2)
    ]
    with servers[0] as left, servers[1] as right, ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            images = [left.create() for _ in range(8)]
            statuses = Counter(
                pool.map(lambda n, images=images: until_free(lambda: (left, right)[n % 2].upload(images[n], noise(3 * MIB, n))), range(8))
            )
            assert set(statuses) <= {204, 413}, statuses
            assert 1 <= statuses[204] <= 3, statuses
            left.settle(within_s=MENDED_S)
            [held] = [row.bytes for row in left.rows("SELECT bytes FROM `usage` WHERE project = 'p'")]
            assert held == int(left.rows("SELECT SUM(reserved) FROM copies")[0][0]) == 3 * MIB * statuses[204]
            for image in images:
                assert right.delete(image).status == 204
            left.settle(within_s=MENDED_S)


@contextlib.contextmanager
def two_sides(galera: Galera, limit: int | None = None) -> Iterator[tuple[Connection, Connection, Callable[[Connection], Any]]]:
    """A connection to each node, where project p holds a copy of 4 bytes, and what their transactions run in. limit: bytes it may hold."""
    url = galera.new_database()
    upgrade(url)
    engines = [make_engine(galera.url_of(n, url.rsplit("/", 1)[1])) for n in (1, 2)]
    counted = counting(Rules(quota.Limits(bytes=limit)))
    with engines[0].begin() as conn, counted(conn, {}):
        copies.intend(conn, Copy("c", "i", "one", None, "u", "deleting", None, "p", 4, 4, 0, None, 0, 0))
    with engines[0].connect() as left, engines[1].connect() as right:
        right.exec_driver_sql("SET SESSION wsrep_sync_wait=1")
        yield left, right, lambda conn: counted(conn, {})


def assert_in_each_others_way(first: Connection, second: Connection) -> None:
    """The other order is no question: what comes from the other node ends whoever holds a lock on its rows."""
    first.commit()
    with pytest.raises(DBAPIError) as refused:
        second.commit()
    assert failures.meaning(refused.value, writing=True) == failures.CONTENDED


def test_a_promise_is_not_held_against_what_changes_on_the_other_node(galera: Galera) -> None:
    with two_sides(galera, limit=10) as (left, right, counted):
        with counted(left):
            usage.demand(left, "p", "one", 6)
        with counted(right):
            usage.note(right, "p", "two", bytes=6)
        assert_in_each_others_way(left, right)


def test_what_goes_on_one_node_while_its_project_is_counted_on_the_other_is_not_lost(galera: Galera) -> None:
    with two_sides(galera) as (left, right, counted):
        usage.doubt(left)
        left.commit()
        with counted(left):
            assert copies.forget(left, Copy("c", "i", "one", None, "u", "deleting", None, "p", 4, 4, 0, None, 0, 0))
        with counted(right):
            usage.mend(right, "p")
        assert_in_each_others_way(left, right)


def served_since(client: Client, since: float) -> float | None:
    """When the first change was made that was asked for after a time and a second more."""
    assert client.failure is None, client.failure
    return next((note.ended for note in list(client.notes) if note.began > since + 1 and note.status in (201, 204)), None)


def test_a_check_finds_the_cluster_sound_at_either_node(galera: Galera, database: str, tmp_path: Path) -> None:
    for node in (1, 2):
        checked = ikon("db", "check", "--data", tmp_path, "--database", galera.url_of(node, database))
        assert (checked.returncode, checked.stdout.count("\n")) == (0, 1), checked
    with make_engine(galera.url_of(1, database)).connect() as conn:
        assert Finding("galera", "Primary, 3 members") in checks.look(conn)


def test_while_a_node_is_away_the_other_serves_and_nothing_is_lost(galera: Galera, pair: tuple[Ikon, Ikon], say: Say) -> None:
    clients = [Client(pair[n % 2], 70 + n) for n in range(4)]
    for client in clients:
        client.start()
    threading.Event().wait(1.0)
    seen = []
    for node in (2, 1):
        killed, other = time.monotonic(), clients[2 - node]
        galera.kill_node(node)
        again = eventually(lambda other=other, since=killed: served_since(other, since), within_s=2 * PATIENCE_S)
        threading.Event().wait(1.0)
        seen.append(f"node {node} killed: the other goes on after {again - killed:.1f} s")
        galera.start()
        back = time.monotonic()
        again = eventually(lambda back=back, own=clients[node - 1]: served_since(own, back - 1), within_s=2 * PATIENCE_S)
        seen.append(f"back: its server goes on after {again - back:.1f} s")
    for client in clients:
        client.stop()
    pair[0].settle(within_s=MENDED_S)
    lives = [life for client in clients for life in client.lives]
    for server in pair:
        check_lives(server, lives)
    assert all(is_whole(pair[1], life.id, life.data) for life in lives[:5] if not life.ends)
    say("galera: " + "; ".join(seen) + f"; {len(lives)} images, none lost")
