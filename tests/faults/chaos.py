"""Imports of all kinds, the clients who ask for them, and what shows afterwards how each ended and who did it."""

import contextlib
import gzip
import itertools
import json
import os
import queue
import random
import re
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.faults.world import BROKEN, BYTES, MIB, PATIENCE_S, Answer, Ikon, noise, sha512
from tests.services.servers import Server

CLIENTS = 6
#: Seconds in which everything has ended after the last fault: a lease, a retry after its longest wait that faults of this test bring about.
SETTLED_S = 200.0
DIRECT, WEB, COPY = "glance-direct", "web-download", "copy-image"
PLAIN, GZIP, QCOW2, BOTH = "plain", "gzip", "qcow2", "qcow2 in gzip"
STORES = ("one", "two")
#: What the servers do with imported data: unpack it, and make a raw disk of it; deleted images are kept in the trash.
SETTINGS = '[imports]\ndecompress = true\n[conversion]\noutput_format = "raw"\n[trash]\nkeep_s = 3600\n'
#: Where web-downloads come from: not where a database is, from which nothing is fetched.
ADDRESS = "127.0.0.2"
#: Seconds after a pause in which a process may end a write that it was at.
JUST_S = 3.0
#: The name of a file that is being written.
WRITTEN = re.compile(r"/([^/]+)/([0-9a-f-]{36})\.([0-9a-f-]{36})\.part( \(deleted\))?$")


class Wanted:
    """One import as its client asks for it. form: what its data is in; slow: its source takes its time; doomed: it is deleted meanwhile."""

    def __init__(self, number: int, chance: random.Random, slow_bytes: int) -> None:
        self.image = f"{chance.getrandbits(32):08x}-0000-4000-8000-{number:012x}"
        self.method = (DIRECT, WEB, COPY, DIRECT, WEB)[number % 5]
        self.form = PLAIN if self.method == COPY else (PLAIN, GZIP, QCOW2, BOTH)[number // 5 % 4]
        self.slow, self.doomed = number % 10 == 1, number % 7 == 4
        size = chance.randrange(slow_bytes // 4, slow_bytes) if self.slow else chance.randrange(1, 12 * MIB)
        self._size = size if self.form in (PLAIN, GZIP) else -(-size // 512) * 512  # a disk is whole sectors
        self._at = chance.randrange(12 * MIB)
        self.stores = STORES if self.method == COPY else chance.choice([("one",), ("two",), STORES])

    @property
    def data(self) -> bytes:
        """What the image has when all went well."""
        return noise(self._size, self._at)

    def sent(self, directory: Path) -> bytes:
        """What its client, or its source, gives. directory: for files meanwhile."""
        data = self.data
        if self.form in (QCOW2, BOTH):
            raw, disk = directory / f"{self.image}.raw", directory / f"{self.image}.qcow2"
            raw.write_bytes(data)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
            data = disk.read_bytes()
            raw.unlink()
            disk.unlink()
        return gzip.compress(data, 1) if self.form in (GZIP, BOTH) else data

    @property
    def disk_format(self) -> str:
        """The format that its client names."""
        return "qcow2" if self.form in (QCOW2, BOTH) else "raw"

    def went_well(self, record: Any, stores: set[str], jobs: Sequence[Any]) -> bool:
        """Whether the data is where it was wanted. Fails unless that, or else the reason, is there to be seen."""
        mine = [job for job in jobs if job.image_id == self.image]
        if record.status == "active":
            assert (record.size, record.os_hash_value, record.disk_format) == (len(self.data), sha512(self.data), "raw")
            if set(self.stores) <= stores:
                return True
            assert self.method == COPY, (record, stores)
        else:
            assert record.status in ("uploading", "queued"), record
            assert record.reason, record
        assert mine
        assert all(job.state == "failed" and job.reason for job in mine), mine
        return False


class Truth:
    """What the database and the directories of the stores say, read beside everything."""

    def __init__(self, url: str, directory: Path) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)
        self._stores = [directory / name for name in (*STORES, "staging")]
        sqlite = url.startswith("sqlite")
        key = "INTEGER PRIMARY KEY" if sqlite else "BIGINT AUTO_INCREMENT PRIMARY KEY"
        now = "(julianday('now') - 2440587.5) * 86400" if sqlite else "UNIX_TIMESTAMP(SYSDATE(6))"
        holder = "(SELECT MIN(instance) FROM jobs WHERE image_id = NEW.image_id AND state = 'running')"
        tables = {  # the database writes down every change of a job, and every copy that becomes ready, in the transaction that does it
            "history": "job CHAR(36) NOT NULL, state VARCHAR(12) NOT NULL, attempt INT NOT NULL, step INT NOT NULL, instance VARCHAR(80), "
            "at DOUBLE NOT NULL",
            "published": "image CHAR(36) NOT NULL, store VARCHAR(64) NOT NULL, instance VARCHAR(80), holder VARCHAR(80)",
        }
        deeds = {
            "jobs": "INSERT INTO history (job, state, attempt, step, instance, at) "
            f"VALUES (NEW.id, NEW.state, NEW.attempt, NEW.step, NEW.instance, {now});",
            "copies": f"INSERT INTO published (image, store, instance, holder) SELECT NEW.image_id, NEW.store, OLD.instance, {holder} "
            "FROM (SELECT 1) AS once WHERE OLD.state = 'writing' AND NEW.state = 'ready';",
        }
        with self._engine.begin() as conn:
            for table, columns in tables.items():
                conn.exec_driver_sql(f"CREATE TABLE {table} (n {key}, {columns})")
            for table, deed in deeds.items():
                conn.exec_driver_sql(f"CREATE TRIGGER recorded_{table} AFTER UPDATE ON {table} FOR EACH ROW BEGIN {deed} END")

    def rows(self, query: str) -> list[Any]:
        """What a query finds."""
        with self._engine.connect() as conn:
            return list(conn.execute(sa.text(query)))

    def unsettled(self) -> list[str]:
        """What has not ended yet: jobs, copies, images, and files that no good copy names."""
        jobs = self.rows("SELECT * FROM jobs WHERE state NOT IN ('done', 'failed', 'cancelled')")
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
        """What the histories of jobs and copies show to have been done twice, or by two at once, or by one whose job it was not."""
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
            if state in ("done", "failed", "cancelled"):
                found.append(f"job {row.job}: {row.state} after {state}")
            last[row.job] = row.state, row.attempt, row.step, row.instance
        published = self.rows("SELECT * FROM published")
        found += [f"{row} was not its publisher's job" for row in published if row.holder not in (None, row.instance)]
        into = Counter((row.image, row.store) for row in published if row.store in STORES)
        found += [f"image {image} came into store {store} {count} times" for (image, store), count in into.items() if count > 1]
        twice = "SELECT image_id FROM events WHERE kind = 'image.activate' GROUP BY image_id HAVING COUNT(*) > 1"
        return found + [f"image {row.image_id} became active twice" for row in self.rows(twice)]

    def at_work(self, node: str) -> list[tuple[str, int]]:
        """The jobs that a node's process is at work on, each with its attempt."""
        query = f"SELECT j.id, j.attempt FROM jobs j JOIN instances i ON j.instance = i.id WHERE j.state = 'running' AND i.node = '{node}'"
        with contextlib.suppress(sa.exc.SQLAlchemyError):  # the database is away itself
            return [(row.id, row.attempt) for row in self.rows(query)]
        return []

    def taken_over_s(self, lost: Sequence[tuple[str, int, float]]) -> list[int]:
        """Of attempts at jobs whose process was lost at a time: seconds until the next attempt. Those that ended after all do not count."""
        began = {(row.job, row.attempt): row.at for row in self.rows("SELECT * FROM history WHERE state = 'running' ORDER BY n DESC")}
        return sorted(round(began[job, attempt + 1] - at) for job, attempt, at in lost if (job, attempt + 1) in began)

    def tell(self, wanted: Sequence[Wanted]) -> str:
        """Check how each import ended, and every byte of every copy. Returns the figures."""
        images, jobs = {row.id: row for row in self.rows("SELECT * FROM images")}, self.rows("SELECT * FROM jobs")
        known, stores = {each.image: each for each in wanted}, {each.image: set[str]() for each in wanted}
        for copy in self.rows("SELECT * FROM copies WHERE state = 'ready'"):
            stores[copy.image_id].add(copy.store)
            if copy.store in STORES:
                assert Path(copy.url.removeprefix("file://")).read_bytes() == known[copy.image_id].data
        ends, why, kept = (
            Counter[str](),
            Counter[str](job.reason for job in jobs if job.state == "failed"),
            {row.id for row in self.rows("SELECT id FROM trash")},
        )
        for each in wanted:
            if each.doomed:
                assert each.image not in images
                assert bool(stores[each.image]) == (each.image in kept), each.image
                ends[f"{each.method} deleted"] += 1
            else:
                good = each.went_well(images[each.image], stores[each.image], jobs)
                ends[f"{each.method} {'good' if good else 'failed with its reason'}"] += 1
        for method in (DIRECT, WEB, COPY):  # to fail is for a few that the faults wear out
            assert ends[f"{method} good"] > ends[f"{method} failed with its reason"], ends
        attempts = [job.attempt for job in jobs]
        return (
            f"{', '.join(f'{count} {end}' for end, count in sorted(ends.items()))} ({len(kept)} in the trash); reasons: {dict(why)}; "
            f"{sum(n > 1 for n in attempts)} jobs begun again, {max(attempts)} times at most"
        )

    def purge(self, server: Ikon) -> int:
        """Empty the trash, and see that nothing is left of what was in it or deleted before. Returns how many images that were."""
        kept = {row.id for row in self.rows("SELECT id FROM trash")}
        assert server.call("DELETE", "/ikon/v1/trash").json == {"purged": len(kept)}
        self.settle()
        assert self.rows("SELECT id FROM trash") == []
        # of an attempt of a silent process the row stays until it is looked at again, and its digests as long
        orphans = "image_id NOT IN (SELECT id FROM images)"
        assert self.rows(f"SELECT * FROM copies WHERE state = 'ready' AND {orphans}") == []
        assert self.rows(f"SELECT * FROM block_digests WHERE {orphans} AND copy_id NOT IN (SELECT id FROM copies)") == []
        return len(kept)


class Source:
    """A web server with what web-downloads fetch, as a context manager."""

    def __init__(self) -> None:
        self._server = Server("http", address=ADDRESS)

    def __enter__(self) -> "Source":
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__(None, None, None)

    @property
    def settings(self) -> str:
        """What lets a server fetch from here."""
        return f'[egress]\nallowed_networks = ["{ADDRESS}/32"]\nallowed_ports = [{self._server.port}]\n'

    @property
    def directory(self) -> Path:
        """Of the files served."""
        return self._server.directory / "root"

    def url(self, wanted: Wanted) -> str:
        """Where an import's data is."""
        return f"http://{ADDRESS}:{self._server.port}/{'slow/' if wanted.slow else ''}{wanted.image}"


class Client(threading.Thread):
    """Takes imports from a queue, and sees each begun, and those that are doomed deleted, whatever happens to the servers meanwhile."""

    def __init__(
        self, servers: Sequence[Ikon], source: Source, todo: "queue.SimpleQueue[tuple[float, Wanted] | None]", chance: random.Random
    ) -> None:
        super().__init__(daemon=True)
        self._servers, self._source, self._todo, self._random = servers, source, todo, chance
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while item := self._todo.get():
                at, wanted = item
                sent = wanted.sent(self._source.directory)
                if wanted.method == WEB:
                    (self._source.directory / wanted.image).write_bytes(sent)
                time.sleep(max(0.0, at - time.monotonic()))
                self._begin(wanted, sent)
                if wanted.doomed:
                    time.sleep(self._random.uniform(0, 1))
                    self._doom(wanted)
        except BaseException as failure:
            self.failure = failure

    def _begin(self, wanted: Wanted, sent: bytes) -> None:
        body = {"id": wanted.image, "disk_format": wanted.disk_format, "container_format": "bare", "name": wanted.method}
        path, until = f"/v2/images/{wanted.image}", time.monotonic() + 3 * PATIENCE_S
        ready = "queued" if wanted.method == WEB else "active" if wanted.method == COPY else "uploading"
        while time.monotonic() < until:
            answer = self._try("GET", path)
            status = answer.json["status"] if answer and answer.status == 200 else "absent" if answer and answer.status == 404 else None
            if status == "absent":
                self._try("POST", "/v2/images", json.dumps(body).encode())
            elif status == "queued" and ready != "queued":
                self._try("PUT", f"{path}/{'file' if wanted.method == COPY else 'stage'}", sent, BYTES)
            begun = status == "importing" or (status == "active" and wanted.method != COPY)
            if begun or (status in (ready, "uploading") and self._ask(wanted, path)):
                return
            time.sleep(0.2)
        raise AssertionError(f"{wanted.method} of {wanted.image} was never begun: {status}")

    def _ask(self, wanted: Wanted, path: str) -> bool:
        method = {"name": wanted.method} | ({"uri": self._source.url(wanted)} if wanted.method == WEB else {})
        stores = ["two"] if wanted.method == COPY else wanted.stores
        answer = self._try("POST", f"{path}/import", json.dumps({"method": method, "stores": stores}).encode())
        if wanted.method == COPY and answer and (b"already present" in answer.body or b"has active task" in answer.body):
            return True  # an earlier request went through, and its answer was lost
        return answer is not None and answer.status == 202

    def _doom(self, wanted: Wanted) -> None:
        until = time.monotonic() + 3 * PATIENCE_S
        while time.monotonic() < until:
            answer = self._try("DELETE", f"/v2/images/{wanted.image}")
            if answer and answer.status in (204, 404):
                return
            time.sleep(0.2)
        raise AssertionError(f"{wanted.image} was never deleted: {answer}")

    def _try(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer | None:
        try:
            answer = self._random.choice(self._servers).call(method, path, body, headers, timeout=15)
        except BROKEN:
            return None
        assert answer.status < 500 or answer.status == 503, answer
        return answer


@contextlib.contextmanager
def asked_for(wanted: Sequence[Wanted], servers: Sequence[Ikon], source: Source, seconds: float, chance: random.Random) -> Iterator[None]:
    """Clients ask for the imports, spread over some seconds; at the end all have been begun."""
    todo: queue.SimpleQueue[tuple[float, Wanted] | None] = queue.SimpleQueue()
    for at, each in enumerate(wanted):
        todo.put((time.monotonic() + at * seconds / len(wanted), each))
    clients = [Client(servers, source, todo, random.Random(chance.getrandbits(32))) for _ in range(CLIENTS)]
    for client in clients:
        todo.put(None)
        client.start()
    yield
    for client in clients:
        client.join(6 * PATIENCE_S)
        assert not client.is_alive()
        if client.failure is not None:
            raise client.failure


class Diary:
    """When each worker was at work on which job, by its own log and by when it was paused or killed."""

    ENDS = ("job done", "job given up", "job step failed", "job let go", "job stands still")

    def __init__(self) -> None:
        self._absent: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def paused(self, node: str, since: float) -> None:
        """A worker has stood still since then until now."""
        self._absent[node].append((since, time.time()))

    def has_just_woken(self, node: str) -> bool:
        """Whether a worker may still end what it had in hand when it was paused: a call of the system that was being made."""
        return any(time.time() - back < JUST_S for _, back in self._absent[node])

    def killed(self, node: str) -> None:
        """A worker has ended."""
        self._absent[node].append((time.time(), time.time()))

    def at_once(self, workers: Sequence[Ikon]) -> tuple[int, list[str]]:
        """How many stretches of work there were, and which of them two workers, or one, had at once on one job."""
        worked: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for worker in workers:
            for job, begun, ended in self._stretches(worker):
                worked[job].append((begun, ended, worker.directory.name))
        found = []
        for job, stretches in worked.items():
            for left, right in itertools.pairwise(sorted(stretches)):
                if right[0] < left[1]:
                    found.append(f"job {job}: {left[2]} from {left[0]} to {left[1]}, and {right[2]} from {right[0]} to {right[1]}")
        return sum(map(len, worked.values())), found

    def _stretches(self, worker: Ikon) -> Iterator[tuple[str, float, float]]:
        """Job, begin and end. After a pause nothing is counted that ends by letting go: it moved no byte any more."""
        absent, open_since = self._absent[worker.directory.name], dict[str, float]()
        for line in worker.log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            kind, job = event.get("event"), event.get("job")
            if kind not in (*self.ENDS, "job begun", "job goes on"):
                continue
            at = datetime.fromisoformat(event["at"]).timestamp()
            if (begun := open_since.pop(job, None)) is not None:
                left, back = next(((left, back) for left, back in absent if begun < back and left < at), (at, at))
                yield job, begun, max(begun, left)
                if back > left and kind in ("job done", "job given up"):
                    yield job, back, at
            if kind in ("job begun", "job goes on"):
                open_since[job] = at
        for job, begun in open_since.items():
            yield job, begun, next((left for left, _ in absent if begun < left), time.time())


class Watch(threading.Thread):
    """Sees which processes write which files, whether these still have a name or not, by the files that they hold open."""

    def __init__(self, servers: Sequence[Ikon], diary: Diary) -> None:
        super().__init__(daemon=True)
        self._servers, self._diary, self._ended, self._look = servers, diary, threading.Event(), 0
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        #: by image and store, by attempt and process: at which looks its file was there first, and had grown last
        self.seen: dict[tuple[str, str], dict[tuple[str, int], tuple[int, int]]] = {}

    def run(self) -> None:
        while not self._ended.wait(0.1):
            self._look += 1
            for server in self._servers:
                with contextlib.suppress(OSError, AttributeError):  # it has just ended
                    self._see(server.process.pid, self._diary.has_just_woken(server.directory.name))  # type: ignore[union-attr]

    def _see(self, pid: int, has_just_woken: bool) -> None:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # it has just been closed
                match, stat = WRITTEN.search(os.readlink(fd.path)), fd.stat()
                if match:
                    store, image, copy, _ = match.groups()
                    key, now = (stat.st_dev, stat.st_ino), (stat.st_size, stat.st_blocks)
                    of_image = self.seen.setdefault((image, store), {})
                    first, last = of_image.get((copy, pid), (self._look, self._look))
                    of_image[copy, pid] = first, last if has_just_woken or self._sizes.get(key, now) == now else self._look
                    self._sizes[key] = now

    def at_once(self) -> list[str]:
        """End, and say which data was written in two places at once: a file grew when the next attempt's had been there for a look."""
        self._ended.set()
        self.join()
        found = []
        for (image, store), attempts in self.seen.items():
            order = sorted(attempts.items(), key=lambda item: item[1])
            for ((_, left), (_, last)), ((_, right), (first, _)) in itertools.combinations(order, 2):
                if left != right and last > first + 1:
                    found.append(f"{image} was written to {store} by {left} at look {last}, and by {right} since look {first}")
        return found
