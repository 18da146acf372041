"""Imports while everything that works on them is killed, paused, cut off and started again: each ends, once, and leaves no byte behind."""

import contextlib
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.chaos import SETTINGS, Diary, Source, Truth, Wanted, Watch, asked_for
from tests.faults.conftest import Say
from tests.faults.proxy import Proxy
from tests.faults.test_crash import upgrade
from tests.faults.world import IKON, MIB, PATIENCE_S, Ikon, eventually
from tests.services.servers import Server

#: Longer than a lease and the look that finds it over.
PAUSED_S = 36.0
#: Seconds over which the imports of one round of faults are spread.
ROUND_S = 40.0
SEED = 5


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

    def __init__(self, directory: Path, db: Server, broker: Server, source: Source, chance: random.Random) -> None:
        self.directory, self.db, self.broker, self.source, self.chance = directory, db, broker, source, chance
        self.url = db.new_database()
        upgrade(self.url)
        self._stack = contextlib.ExitStack()
        self.links: dict[Ikon, Proxy] = {}
        self.servers = [self._make(Ikon, f"server{n}", 0) for n in range(2)]
        self.workers = [self._make(Hand, f"worker{n}", 2) for n in range(3)]
        self.truth = Truth(self.url, directory)
        self.lost: list[tuple[str, int, float]] = []  # attempts at jobs whose worker was lost, and when
        self.diary = Diary()
        self._away: set[Ikon] = set()
        self._later: list[threading.Thread] = []

    def _make(self, kind: type[Ikon], name: str, slots: int) -> Ikon:
        link = self._stack.enter_context(Proxy(self.db.port))
        settings = f'node = "{name}"\nbroker = "{self.broker.url()}"\n[staging]\npath = "{self.directory}/staging"\nshared = true\n'
        made = kind(
            self.directory / name,
            database=self.db.url(self.url.rsplit("/", 1)[1], port=link.port),
            stores={store: self.directory / store for store in ("one", "two")},
            settings=f"{settings}[jobs]\nslots = {slots}\n{SETTINGS}{self.source.settings}",
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

    def faults(self, turn: int) -> list[Callable[[], None]]:
        """One of each; of those after which a worker is away for long two, others in each turn; and in some turns all stands still for long."""
        away = [self.pause_worker, self.cut_off_worker, self.lose_worker]
        return [
            away[turn % 3],
            away[(turn + 1) % 3],
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
            *([self.pause_database_for_long, self.pause_broker_for_long] if turn % 3 == 1 else []),
        ]

    def _busy_worker(self) -> Ikon:
        """A worker that is at work on a job this moment, if one is seen soon."""
        until = time.monotonic() + 4
        free = [worker for worker in self.workers if worker not in self._away]
        while time.monotonic() < until:
            if found := [worker for worker in free if self.truth.at_work(worker.directory.name)]:
                return self.chance.choice(found)
            time.sleep(0.005)
        return self.chance.choice(free)

    def _kill(self, worker: Ikon) -> None:
        worker.kill()
        self.diary.killed(worker.directory.name)

    def _lose(self, worker: Ikon) -> None:
        """Remember what a worker is at work on that is lost now."""
        self.lost += [(job, attempt, time.time()) for job, attempt in self.truth.at_work(worker.directory.name)]

    def _for_a_while(self, process: Ikon, begin: Callable[[], None], end: Callable[[], object]) -> None:
        self._away.add(process)
        begin()

        def go_on() -> None:
            time.sleep(PAUSED_S)
            end()
            self._away.remove(process)

        thread = threading.Thread(target=go_on)
        thread.start()
        self._later.append(thread)

    def rest(self) -> None:
        """Wait until all that is paused or cut off is back."""
        for thread in self._later:
            thread.join()

    def pause_worker(self) -> None:
        worker, since = self._busy_worker(), time.time()

        def go_on() -> None:
            self.diary.paused(worker.directory.name, since)
            worker.signal(signal.SIGCONT)

        self._for_a_while(worker, lambda: worker.signal(signal.SIGSTOP), go_on)
        self._lose(worker)

    def cut_off_worker(self) -> None:
        worker = self._busy_worker()
        self._for_a_while(worker, self.links[worker].refuse, self.links[worker].flow)
        self._lose(worker)

    def lose_worker(self) -> None:
        worker = self._busy_worker()
        self._for_a_while(worker, lambda: self._kill(worker), worker.start)
        self._lose(worker)

    def pause_server(self) -> None:
        server = self.chance.choice(self.servers)
        self._for_a_while(server, lambda: server.signal(signal.SIGSTOP), lambda: server.signal(signal.SIGCONT))

    def kill_worker(self) -> None:
        worker = self._busy_worker()
        self._kill(worker)
        worker.start()

    def stop_worker(self) -> None:
        worker = self._busy_worker()
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

    def pause_broker(self, seconds: float = 3.0) -> None:
        self.broker.freeze()
        time.sleep(seconds)
        self.broker.thaw()

    def pause_broker_for_long(self) -> None:
        self.pause_broker(PAUSED_S)

    def kill_database(self) -> None:
        self.db.kill()
        self.db.start()

    def restart_database(self) -> None:
        self.db.stop()
        self.db.start()

    def pause_database(self, seconds: float = 4.0) -> None:
        self.db.freeze()
        time.sleep(seconds)
        self.db.thaw()

    def pause_database_for_long(self) -> None:
        self.pause_database(PAUSED_S)

    def cut_all_links(self) -> None:
        links = [link for process, link in self.links.items() if process not in self._away]
        for link in links:
            link.refuse()
        time.sleep(3)
        for link in links:
            link.flow()


@pytest.fixture
def source() -> Iterator[Source]:
    with Source() as made:
        yield made


@pytest.fixture
def fleet(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory, chance = tmp_path_factory.mktemp("fleet"), random.Random(SEED)
    with Server("mariadb", durable=True) as db, Server("rabbitmq") as broker, Fleet(directory, db, broker, source, chance) as made:
        yield made


@pytest.mark.parametrize(("imports", "rounds"), [pytest.param(30, 1, marks=pytest.mark.slow), pytest.param(200, 5, marks=pytest.mark.full)])
def test_whatever_fails_in_a_fleet_each_import_ends_once_and_leaves_nothing_behind(
    imports: int, rounds: int, fleet: Fleet, say: Say
) -> None:
    chance, began, faults = fleet.chance, time.monotonic(), Counter[str]()
    wanted = [Wanted(number, chance, slow_bytes=MIB if rounds == 1 else 3 * MIB) for number in range(imports)]
    watch = Watch(fleet.workers, fleet.diary)
    watch.start()
    with asked_for(wanted, fleet.servers, fleet.source, rounds * ROUND_S, chance):
        for turn in range(rounds):
            for fault in fleet.faults(turn):
                fault()
                faults[fault.__name__] += 1
                time.sleep(chance.uniform(0, 1))
            fleet.rest()
    ended = time.monotonic() - began
    settled = fleet.truth.settle()
    assert fleet.truth.doubled() == []
    assert watch.at_once() == []
    stretches, doubled = fleet.diary.at_once(fleet.workers)
    assert doubled == []
    figures = fleet.truth.tell(wanted)
    purged = fleet.truth.purge(fleet.servers[0])
    say(f"fleet: {imports} imports in {ended:.0f} s, settled {settled:.0f} s later: {figures}; {purged} purged")
    say(f"{stretches} stretches of work on {imports} imports, no two at once on one; {len(watch.seen)} files seen written")
    say(f"{faults.total()} faults: {', '.join(f'{count} {name}' for name, count in faults.items())}")
    say(f"seconds from the loss of a job's worker to its next attempt: {fleet.truth.taken_over_s(fleet.lost)}")


@pytest.mark.parametrize(
    ("imports", "kills"), [pytest.param(30, 12, marks=pytest.mark.slow), pytest.param(200, 80, marks=pytest.mark.full)]
)
def test_whatever_instant_the_only_process_is_killed_at_each_import_ends_once_and_leaves_nothing_behind(
    imports: int, kills: int, source: Source, tmp_path: Path, say: Say
) -> None:
    chance = random.Random(SEED)
    wanted = [Wanted(number, chance, slow_bytes=MIB // 4) for number in range(imports)]
    stores = {name: tmp_path / name for name in ("one", "two")}
    settings = f'[staging]\npath = "{tmp_path}/staging"\n{SETTINGS}{source.settings}'
    with Ikon(tmp_path / "data", stores=stores, settings=settings) as server:
        truth = Truth(server.database, tmp_path)
        with asked_for(wanted, [server], source, 2 * kills, chance):
            for _ in range(kills):
                time.sleep(chance.uniform(0, 2))
                with contextlib.suppress(AssertionError):  # none is seen at work: any instant will do
                    eventually(lambda: truth.rows("SELECT id FROM jobs WHERE state = 'running'"), within_s=2)
                time.sleep(chance.uniform(0, 0.05))
                server.kill()
                server.start()
        settled = truth.settle()
        assert truth.doubled() == []
        figures = truth.tell(wanted)
        purged = truth.purge(server)
    say(f"embedded: {imports} imports, {kills} kills, settled {settled:.0f} s later: {figures}; {purged} purged")
