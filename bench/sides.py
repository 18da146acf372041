"""The two servers under comparison: how each is started and stopped, and the same images put into both."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from client import Client, identity
from cloud import PASSWORD, Cloud
from measure import Watch, cpu_s
from services import free_port

HERE = Path(__file__).resolve().parent
NAMESPACE = uuid.UUID("6f0f3c1e-0000-4000-8000-000000000000")
DISTROS = "ubuntu debian fedora centos rocky alma suse arch windows cirros".split()


@dataclass
class Side:
    """One server. db is the process id of its database server, None when the database is inside; cloud: whose tokens it wants."""

    name: str
    command: list[str]
    port: int
    log: Path
    env: dict[str, str]
    db: int | None = None
    cloud: Cloud | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def client(self) -> Client:
        return Client(self.port, self.cloud)

    def watch(self) -> Watch:
        assert self.process
        return Watch(server=self.process.pid, db=self.db)

    def start(self, path: str = "/healthcheck") -> tuple[float, float]:
        """Seconds from exec to the first good answer for `path`, and the CPU seconds they took."""
        began = time.perf_counter()
        self.process = self.launch()
        while time.perf_counter() - began < 60:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}, see {self.log}")
            with contextlib.suppress(OSError, RuntimeError):
                self.client.call("GET", path, ok=(200,), session=self.client.session(timeout_s=30))
                return time.perf_counter() - began, cpu_s(self.process.pid)
            time.sleep(0.005)
        raise RuntimeError(f"{self.name} gives no answer, see {self.log}")

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it, without waiting for an answer."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.process = None


class Upstream:
    """upstream.sh with its environment, and the one MariaDB that both sides may use. cloud, memcached: see `ikon`."""

    def __init__(self, state: Path, cloud: Cloud | None = None, memcached: str = "") -> None:
        self.port, self.db_port, self.state, self.cloud = free_port(), free_port(), state, cloud
        self.env = {"STATE": str(state), "UP_PORT": str(self.port), "UP_DB_PORT": str(self.db_port)}
        self.env |= {"UP_KEYSTONE": cloud.url if cloud else "", "UP_MEMCACHED": memcached}

    @property
    def ikon_url(self) -> str:
        return f"mysql+pymysql://bench:bench@127.0.0.1:{self.db_port}/ikon"

    @property
    def glance_url(self) -> str:
        return f"mysql+pymysql://bench:bench@127.0.0.1:{self.db_port}/glance"

    def run(self, verb: str) -> str:
        done = subprocess.run([HERE / "upstream.sh", verb], env=os.environ | self.env, check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    def side(self, db: int) -> Side:
        self.run("prepare")
        return Side("Glance", [str(HERE / "upstream.sh"), "serve"], self.port, self.state / "upstream.log", self.env, db, self.cloud)


def ikon(program: Path, state: Path, database: tuple[str, int] | None, cloud: Cloud | None = None, memcached: str = "") -> Side:
    """Ikon in an empty data folder; database is the URL of one on a server, and that server's process id; None: the one inside.

    cloud: whose tokens it looks up; None: it believes identity headers. memcached: HOST:PORT where its processes share what they know.
    """
    data, port = state / "ikon", free_port()
    shutil.rmtree(data, ignore_errors=True)
    env = {}
    if database:
        env["IKON_DATABASE"] = database[0]
        subprocess.run([program, "db", "upgrade"], env=os.environ | env, check=True, stdout=subprocess.DEVNULL)
    if cloud:
        env |= {"IKON_KEYSTONE__URL": cloud.url, "IKON_KEYSTONE__PASSWORD": PASSWORD}
    if memcached:
        env |= {"IKON_KEYSTONE__MEMCACHED": memcached, "IKON_KEYSTONE__MEMCACHED_SECRET": PASSWORD}
    identity = "keystone" if cloud else "headers"
    command = [str(program), "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}", "--identity", identity]
    return Side("Ikon", command, port, state / "ikon.log", env, database[1] if database else None, cloud)


def keystone_or_not(identity: str, program: Path, state: Path, projects: Iterable[str]) -> Cloud | None:
    """What `--identity` asks for: a Keystone that knows these projects, or None. Ends the run where Ikon cannot speak to it."""
    if identity == "headers":
        return None
    if subprocess.run(
        [program.parent / "python", "-c", "import keystoneauth1, pymemcache"], stderr=subprocess.DEVNULL, check=False
    ).returncode:
        raise SystemExit("Ikon lacks what speaks to Keystone: run `scripts/install dev` first")
    return Cloud(state, projects)


# ---- the set of images


def image_id(i: int) -> str:
    return str(uuid.uuid5(NAMESPACE, str(i)))


#: The projects of the set.
PROJECTS = ["bench", "cloud", *(f"other-{n}" for n in range(50))]


def image(i: int) -> tuple[str, dict[str, object]]:
    """Owner and attributes of image i: half belong to `bench`, a tenth is public, a tenth community, the rest other projects' own."""
    kind = i % 10
    owner, visibility = (
        ("bench", "private" if kind == 4 else "shared")
        if kind <= 4
        else ("cloud", "public" if kind == 5 else "community")
        if kind <= 6
        else (f"other-{i % 50}", "private")
    )
    properties = {
        "os_distro": DISTROS[(i // 10) % 10],
        "os_version": f"{(i // 100) % 30}.04",
        "hw_disk_bus": "virtio" if i % 3 else "scsi",
        "hw_vif_model": "virtio",
        "bench_role": f"role-{(i // 10) % 100}",
        "bench_serial": f"serial-{i}",
    }
    return owner, properties | {
        "id": image_id(i),
        "name": f"bench-image-{i:07d}",
        "visibility": visibility,
        "disk_format": "qcow2",
        "container_format": "bare",
        "tags": [f"bench-t{(i // 10) % 20}", f"bench-u{(i // 10) % 1000}"],
    }


def seen_ids(images: int, at_most: int = 200) -> list[str]:
    """Images of the set that project `bench` may see."""
    return [image_id(i) for i in range(images) if i % 10 in (0, 2, 5)][:at_most]


def fill(client: Client, images: int, clients: int = 8) -> None:
    """Create the set through the API."""
    numbers, lock, errors = iter(range(images)), threading.Lock(), []

    def work() -> None:
        session = client.session()
        while not errors:
            with lock:
                i = next(numbers, None)
            if i is None:
                return
            owner, attributes = image(i)
            try:
                client.call("POST", "/v2/images", attributes, headers=identity(owner, "admin"), ok=(201,), session=session)
            except Exception as error:
                errors.append(error)

    together([work] * clients)
    if errors:
        raise errors[0]


def together(jobs: list) -> None:
    """Run all at once; the first error of any is raised when all have ended."""
    errors = []

    def guarded(job) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
