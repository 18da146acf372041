"""Imports while everything that works on them is killed, paused, cut off and started again: each ends, once, and leaves no byte behind."""

import contextlib
import json
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.faults.conftest import Say
from tests.faults.proxy import Proxy
from tests.faults.test_crash import upgrade
from tests.faults.world import BROKEN, BYTES, IKON, MIB, PATIENCE_S, Answer, Ikon, eventually, noise, sha512
from tests.services.servers import Server

CLIENTS = 6
#: Longer than a lease and the look that finds it over.
PAUSED_S = 36.0
#: Seconds in which everything has ended after the last fault: a lease, a retry after its longest wait that faults of this test bring about.
SETTLED_S = 200.0
DIRECT, COPY = "glance-direct", "copy-image"


class Truth:
    """What the database and the directories of the stores say, read beside everything."""

    def __init__(self, url: str, directory: Path) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        self._stores = [directory / name for name in ("one", "two", "staging")]
        key = "INTEGER PRIMARY KEY" if url.startswith("sqlite") else "BIGINT AUTO_INCREMENT PRIMARY KEY"
        insert = (
            "INSERT INTO history (job, state, attempt, step, instance) VALUES (NEW.id, NEW.state, NEW.attempt, NEW.step, NEW.instance);"
        )
        with self._engine.begin() as conn:  # the database writes down every change of a job, in the transaction that does it
            columns = "job CHAR(36) NOT NULL, state VARCHAR(12) NOT NULL, attempt INT NOT NULL, step INT NOT NULL, instance VARCHAR(80)"
            conn.exec_driver_sql(f"CREATE TABLE history (n {key}, {columns})")
            conn.exec_driver_sql(f"CREATE TRIGGER recorded AFTER UPDATE ON jobs FOR EACH ROW BEGIN {insert} END")

    def rows(self, query: str) -> list[Any]:
        """What a query finds."""
        with self._engine.connect() as conn:
            return list(conn.execute(sa.text(query)))

    def unsettled(self) -> list[str]:
        """What has not ended yet: jobs, copies, images, and files that no good copy names."""
        jobs = self.rows("SELECT * FROM jobs WHERE state NOT IN ('done', 'failed')")
        found = [f"job {row.id} is {row.state}: {row.reason}" for row in jobs]
        # the name of a process that was only silent is looked at once more after ten minutes: it is nobody's, and no file has it
        copies = self.rows("SELECT * FROM copies WHERE state <> 'ready' AND (state <> 'deleting' OR instance IS NOT NULL)")
        found += [f"copy {row.id} in {row.store} is {row.state}" for row in copies]
        found += [f"image {row.id} is {row.status}" for row in self.rows("SELECT * FROM images WHERE status IN ('saving', 'importing')")]
        named = {row.url.removeprefix("file://") for row in self.rows("SELECT * FROM copies WHERE state = 'ready'")}
        files = {str(path) for store in self._stores for path in store.iterdir()}
        return found + [f"nobody's {path}" for path in files - named] + [f"no file for {path}" for path in named - files]

    def settle(self) -> float:
        """Wait until everything has ended. Returns the seconds; fails with what has not."""
        began = time.monotonic()
        while found := self.unsettled():
            assert time.monotonic() - began < SETTLED_S, "\n".join(found)
            time.sleep(0.5)
        return time.monotonic() - began

    def doubled(self) -> list[str]:
        """What the histories of jobs show to have been done twice, or by two at once."""
        found = []
        last: dict[str, tuple[str, int, int, str | None]] = {}
        for row in self.rows("SELECT * FROM history ORDER BY n"):
            state, attempt, step, instance = last.get(row.job, ("queued", 0, 0, None))
            if row.attempt != attempt and (state, row.state, row.attempt, row.step) != ("queued", "running", attempt + 1, step):
                found.append(f"job {row.job}: attempt {row.attempt} in {row.state} after {attempt} in {state}")
            if row.attempt == attempt and state == row.state == "running" and row.instance != instance:
                found.append(f"job {row.job}: attempt {attempt} of {row.instance} and of {instance}")
            if row.step not in (step, step + 1) or (row.step > step and (state, row.attempt) != ("running", attempt)):
                found.append(f"job {row.job}: step {row.step} of attempt {row.attempt} in {state} after {step}")
            if state in ("done", "failed"):
                found.append(f"job {row.job}: {row.state} after {state}")
            last[row.job] = row.state, row.attempt, row.step, row.instance
        twice = "SELECT image_id FROM events WHERE kind = 'image.activate' GROUP BY image_id HAVING COUNT(*) > 1"
        return found + [f"image {row.image_id} became active twice" for row in self.rows(twice)]

    def tell(self, wanted: Sequence["Wanted"]) -> str:
        """Check how each import ended, and every byte of every copy. Returns the figures."""
        images, jobs = {row.id: row for row in self.rows("SELECT * FROM images")}, self.rows("SELECT * FROM jobs")
        data, stores = {each.image: sha512(each.data) for each in wanted}, {each.image: set[str]() for each in wanted}
        for copy in self.rows("SELECT * FROM copies WHERE state = 'ready'"):
            stores[copy.image_id].add(copy.store)
            assert sha512(Path(copy.url.removeprefix("file://")).read_bytes()) == data[copy.image_id]
        good = sum(each.went_well(images[each.image], stores[each.image], jobs) for each in wanted)
        attempts = [job.attempt for job in jobs]
        return (
            f"{good} good, {len(wanted) - good} failed with their reason; {sum(n > 1 for n in attempts)} jobs begun again, "
            f"{max(attempts)} times at most"
        )


class Wanted:
    """One import as its client asked for it. stores: where the data must be if it goes well."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.image = f"{chance.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
        self.data = noise(chance.randrange(1, 12 * MIB), chance.randrange(12 * MIB))
        self.method = COPY if number % 3 == 2 else DIRECT
        self.stores = chance.choice([["one"], ["two"], ["one", "two"]]) if self.method == DIRECT else ["one", "two"]

    def went_well(self, record: Any, stores: set[str], jobs: Sequence[Any]) -> bool:
        """Whether the data is where it was wanted. Fails unless that, or else the reason, is there to be seen."""
        mine = [job for job in jobs if job.image_id == self.image]
        if record.status == "active":
            assert (record.size, record.os_hash_value) == (len(self.data), sha512(self.data))
            if set(self.stores) <= stores:
                return True
            assert self.method == COPY, (record, stores)
        else:
            assert record.status in ("uploading", "queued"), record
            assert record.reason, record
        assert mine
        assert all(job.state == "failed" and job.reason for job in mine), mine
        return False


class Client(threading.Thread):
    """Takes imports from a queue, and sees each begun, whatever happens to the servers meanwhile."""

    def __init__(self, servers: Sequence[Ikon], todo: "queue.SimpleQueue[tuple[float, Wanted] | None]", seed: int) -> None:
        super().__init__(daemon=True)
        self._servers, self._todo, self._random = servers, todo, random.Random(seed)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while item := self._todo.get():
                at, wanted = item
                time.sleep(max(0.0, at - time.monotonic()))
                self._begin(wanted)
        except BaseException as failure:
            self.failure = failure

    def _begin(self, wanted: Wanted) -> None:
        body = {"id": wanted.image, "disk_format": "raw", "container_format": "bare", "name": wanted.method}
        path, until = f"/v2/images/{wanted.image}", time.monotonic() + 3 * PATIENCE_S
        while time.monotonic() < until:
            answer = self._try("GET", path)
            status = answer.json["status"] if answer and answer.status == 200 else "absent" if answer and answer.status == 404 else None
            if status == "absent":
                self._try("POST", "/v2/images", json.dumps(body).encode())
            elif status == "queued":
                self._try("PUT", f"{path}/{'file' if wanted.method == COPY else 'stage'}", wanted.data, BYTES)
            begun = status == "importing" or (status == "active" and wanted.method == DIRECT)
            if begun or (status in ("uploading", "active") and self._ask(wanted, path)):
                return
            time.sleep(0.2)
        raise AssertionError(f"{wanted.method} of {wanted.image} was never begun: {status}")

    def _ask(self, wanted: Wanted, path: str) -> bool:
        stores = ["two"] if wanted.method == COPY else wanted.stores
        answer = self._try("POST", f"{path}/import", json.dumps({"method": {"name": wanted.method}, "stores": stores}).encode())
        if wanted.method == COPY and answer and (b"already present" in answer.body or b"has active task" in answer.body):
            return True  # an earlier request went through, and its answer was lost
        return answer is not None and answer.status == 202

    def _try(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer | None:
        try:
            answer = self._random.choice(self._servers).call(method, path, body, headers, timeout=15)
        except BROKEN:
            return None
        assert answer.status < 500 or answer.status == 503, answer
        return answer


class Hand(Ikon):
    """One `ikon worker`."""

    def start(self, before: Sequence[str] = ()) -> float:
        began, lines = time.monotonic(), self.log.read_text().count('"working"') if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = self.run([*before, IKON, "worker", "--config", self._config], log)
        eventually(lambda: self.log.read_text().count('"working"') > lines, within_s=PATIENCE_S)
        return time.monotonic() - began


class Fleet:
    """Two servers that work on no jobs, three workers, each with a link of its own to one database; and a broker."""

    def __init__(self, directory: Path, db: Server, broker: Server, chance: random.Random) -> None:
        self.directory, self.db, self.broker, self.chance = directory, db, broker, chance
        self.url = db.new_database()
        upgrade(self.url)
        self._stack = contextlib.ExitStack()
        self.links: dict[Ikon, Proxy] = {}
        self.servers = [self._make(Ikon, f"server{n}", 0) for n in range(2)]
        self.workers = [self._make(Hand, f"worker{n}", 2) for n in range(3)]
        self.truth = Truth(self.url, directory)
        self._later: list[threading.Thread] = []

    def _make(self, kind: type[Ikon], name: str, slots: int) -> Ikon:
        link = self._stack.enter_context(Proxy(self.db.port))
        settings = f'node = "{name}"\nbroker = "{self.broker.url()}"\n[staging]\npath = "{self.directory}/staging"\nshared = true\n'
        made = kind(
            self.directory / name,
            database=self.db.url(self.url.rsplit("/", 1)[1], port=link.port),
            stores={store: self.directory / store for store in ("one", "two")},
            settings=f"{settings}[jobs]\nslots = {slots}",
            store_settings="shared = true",
        )
        self.links[made] = link
        self._stack.callback(made.kill)
        made.start()
        return made

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # Faults

    def faults(self) -> list[Callable[[], None]]:
        """One of each."""
        return [
            self.pause_worker,
            self.cut_off_worker,
            self.kill_worker,
            self.kill_server,
            self.kill_broker,
            self.kill_database,
            self.pause_server,
            self.kill_worker,
            self.restart_broker,
            self.cut_all_links,
            self.pause_database,
            self.restart_database,
            self.stop_worker,
            self.pause_broker,
        ]

    def busy_worker(self, *, more: Sequence[Ikon] = ()) -> Ikon:
        """A worker that is at work on a job this moment, if one is seen soon."""
        until = time.monotonic() + 4
        free = [worker for worker in self.workers if worker not in self._away and worker not in more]
        while time.monotonic() < until:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                nodes = {
                    row.node
                    for row in self.truth.rows("SELECT node FROM instances i JOIN jobs j ON j.instance = i.id AND j.state = 'running'")
                }
                if found := [worker for worker in free if worker.directory.name in nodes]:
                    return self.chance.choice(found)
            time.sleep(0.005)
        return self.chance.choice(free)

    @property
    def _away(self) -> list[Ikon]:
        return [each for each in (*self.workers, *self.servers) if getattr(each, "away", False)]

    def _for_a_while(self, process: Ikon, begin: Callable[[], None], end: Callable[[], None], seconds: float) -> None:
        process.away = True  # type: ignore[attr-defined]
        begin()

        def go_on() -> None:
            time.sleep(seconds)
            end()
            process.away = False  # type: ignore[attr-defined]

        thread = threading.Thread(target=go_on)
        thread.start()
        self._later.append(thread)

    def rest(self) -> None:
        """Wait until all that is paused or cut off is back."""
        for thread in self._later:
            thread.join()

    def pause_worker(self) -> None:
        worker = self.busy_worker()
        self._for_a_while(worker, lambda: worker.signal(signal.SIGSTOP), lambda: worker.signal(signal.SIGCONT), PAUSED_S)

    def cut_off_worker(self) -> None:
        worker = self.busy_worker()
        self._for_a_while(worker, self.links[worker].refuse, self.links[worker].flow, PAUSED_S)

    def pause_server(self) -> None:
        server = self.chance.choice(self.servers)
        self._for_a_while(server, lambda: server.signal(signal.SIGSTOP), lambda: server.signal(signal.SIGCONT), PAUSED_S)

    def kill_worker(self) -> None:
        worker = self.busy_worker()
        worker.kill()
        worker.start()

    def stop_worker(self) -> None:
        worker = self.busy_worker()
        assert worker.stop() == 0
        worker.start()

    def kill_server(self) -> None:
        server = self.chance.choice([server for server in self.servers if server not in self._away])
        server.kill()
        server.start()

    def kill_broker(self) -> None:
        self.broker.kill()
        time.sleep(2)
        self.broker.start()

    def restart_broker(self) -> None:
        self.broker.stop()
        self.broker.start()

    def pause_broker(self) -> None:
        self.broker.freeze()
        time.sleep(3)
        self.broker.thaw()

    def kill_database(self) -> None:
        self.db.kill()
        self.db.start()

    def restart_database(self) -> None:
        self.db.stop()
        self.db.start()

    def pause_database(self) -> None:
        self.db.freeze()
        time.sleep(4)
        self.db.thaw()

    def cut_all_links(self) -> None:
        links = [link for process, link in self.links.items() if process not in self._away]
        for link in links:
            link.refuse()
        time.sleep(3)
        for link in links:
            link.flow()


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    seed = random.randrange(2**32)
    directory = tmp_path_factory.mktemp("fleet")
    with Server("mariadb", durable=True) as db, Server("rabbitmq") as broker, Fleet(directory, db, broker, random.Random(seed)) as made:
        yield made


@contextlib.contextmanager
def asked_for(wanted: Sequence[Wanted], servers: Sequence[Ikon], seconds: float, chance: random.Random) -> Iterator[None]:
    """Clients ask for the imports, spread over some seconds; at the end all have been begun."""
    todo: queue.SimpleQueue[tuple[float, Wanted] | None] = queue.SimpleQueue()
    for at, each in enumerate(wanted):
        todo.put((time.monotonic() + at * seconds / len(wanted), each))
    clients = [Client(servers, todo, chance.getrandbits(32)) for _ in range(CLIENTS)]
    for client in clients:
        todo.put(None)
        client.start()
    yield
    for client in clients:
        client.join(6 * PATIENCE_S)
        assert not client.is_alive()
        if client.failure is not None:
            raise client.failure


@pytest.mark.parametrize(("imports", "rounds"), [pytest.param(30, 1, marks=pytest.mark.slow), pytest.param(200, 5, marks=pytest.mark.full)])
def test_whatever_fails_in_a_fleet_each_import_ends_once_and_leaves_nothing_behind(
    imports: int, rounds: int, fleet: Fleet, say: Say
) -> None:
    chance, began = fleet.chance, time.monotonic()
    wanted = [Wanted(number, chance) for number in range(imports)]
    with asked_for(wanted, fleet.servers, rounds * 70, chance):
        for _ in range(rounds):
            for fault in fleet.faults():
                fault()
                time.sleep(chance.uniform(0, 3))
            fleet.rest()
    ended = time.monotonic() - began
    settled = fleet.truth.settle()
    assert fleet.truth.doubled() == []
    figures = fleet.truth.tell(wanted)
    say(f"fleet: {imports} imports, {rounds * len(fleet.faults())} faults in {ended:.0f} s, settled {settled:.0f} s later: {figures}")


@pytest.mark.parametrize(
    ("imports", "kills"), [pytest.param(30, 12, marks=pytest.mark.slow), pytest.param(200, 80, marks=pytest.mark.full)]
)
def test_whatever_instant_the_only_process_is_killed_at_each_import_ends_once_and_leaves_nothing_behind(
    imports: int, kills: int, tmp_path: Path, say: Say
) -> None:
    chance = random.Random(random.randrange(2**32))
    wanted = [Wanted(number, chance) for number in range(imports)]
    stores = {name: tmp_path / name for name in ("one", "two")}
    with Ikon(tmp_path / "data", stores=stores, settings=f'[staging]\npath = "{tmp_path}/staging"') as server:
        truth = Truth(server.database, tmp_path)
        with asked_for(wanted, [server], 2 * kills, chance):
            for _ in range(kills):
                time.sleep(chance.uniform(0, 2))
                with contextlib.suppress(AssertionError):  # none is seen at work: any instant will do
                    eventually(lambda: truth.rows("SELECT id FROM jobs WHERE state = 'running'"), within_s=2)
                time.sleep(chance.uniform(0, 0.05))
                server.kill()
                server.start()
        settled = truth.settle()
        assert truth.doubled() == []
        say(f"embedded: {imports} imports, {kills} kills, settled {settled:.0f} s later: {truth.tell(wanted)}")
