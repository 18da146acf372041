"""Real servers for tests, through the scripts beside this file: each in a directory and on a port of its own."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pymysql

HERE = Path(__file__).parent
#: Servers that speak its protocol.
MARIADB = ("mariadb", "galera")


def free_port(count: int = 1) -> int:
    """The first of some ports of 127.0.0.1 that nobody uses now, nor is given for a connection of his own while a server is restarted."""
    while True:
        port = random.randrange(10_000, 32_000)  # below what Linux gives to connections
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for more in range(count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + more))
            return port


class Server:
    """One server: "mariadb", "galera", "postgres", "rabbitmq", "keystone", "barbican", "memcached", "haproxy" or "http". As a context manager it runs inside and leaves nothing behind.

    Not durable: what was committed within the last second before a `kill` may be lost, as nothing is synced to disk.
    """

    def __init__(self, name: str, *, durable: bool = False, address: str = "127.0.0.1", ports: int = 3, **env: str) -> None:
        """address: where "http" listens, the others being on 127.0.0.1. ports: how many it may use, one behind the other.

        env: what else its script takes.
        """
        self.name, self.port = name, free_port(ports)
        # short, as Unix sockets want it, and open to the user that the server runs as, which pytest's tmp_path is not
        self.directory = Path(tempfile.mkdtemp(prefix=f"ikon-{name}-"))
        self.directory.chmod(0o755)
        self._env = (
            os.environ | {"DIR": str(self.directory), "PORT": str(self.port), "DURABLE": "1" if durable else "0", "ADDR": address} | env
        )

    def __enter__(self) -> Self:
        self._run("install")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start it if it does not run; returns once it answers. Fails with the script's output."""
        self._run("start")

    def stop(self) -> None:
        """Stop it in good order."""
        self._run("stop")

    def kill(self) -> None:
        """End it and its children at once, as a crash does."""
        self.end_at_once(self._pid())

    def end_at_once(self, pid: int) -> None:
        """End one of its processes and that one's children, as a crash does."""
        victims = self._family(pid)
        for victim in victims:
            self._signal(victim, signal.SIGKILL)
        while any(self._lives(victim) for victim in victims):
            time.sleep(0.01)

    def freeze(self) -> None:
        """Let it and its children stand still: connections stay, answers do not come."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def new_database(self) -> str:
        """The SQLAlchemy URL of a fresh empty database; bytes decide what is equal and how it sorts."""
        name = f"t{uuid.uuid4().hex[:12]}"
        if self.name in MARIADB:
            self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        else:
            self.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove what new_database made, whoever is still connected to it."""
        name = url.rsplit("/", 1)[1]
        if self.name in MARIADB:
            self.execute(f"DROP DATABASE {name}")
            return
        for _ in range(100):
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):  # autovacuum is there, which only its owner may end
                self.execute(f"DROP DATABASE {name} WITH (FORCE)")
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} cannot be dropped: something of the server's own stays in it")

    def url(self, database: str = "ikon", *, port: int | None = None) -> str:
        """The URL of a database, or of the broker; port is that of a proxy in between."""
        if self.name == "rabbitmq":
            return f"amqp://ikon:secret@127.0.0.1:{port or self.port}/"
        driver = "mysql+pymysql" if self.name in MARIADB else "postgresql+psycopg"
        return f"{driver}://ikon:secret@127.0.0.1:{port or self.port}/{database}"

    def execute(self, sql: str) -> None:
        """Run one statement, committed by itself, in the database `ikon`."""
        address: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": "ikon", "password": "secret"}
        if self.name in MARIADB:
            with pymysql.connect(**address, autocommit=True) as maria, maria.cursor() as cursor:
                cursor.execute(sql)
        else:
            with psycopg.connect(**address, dbname="ikon", autocommit=True) as postgres:
                postgres.execute(sql.encode())

    def _run(self, verb: str) -> None:
        done = subprocess.run(
            [HERE / f"{self.name}.sh", verb],
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{self.name}.sh {verb} failed:\n{done.stdout}\n{self._log()}"

    def _log(self) -> str:
        log = self.directory / f"{self.name}.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _pid(self) -> int:
        return int((self.directory / f"{self.name}.pid").read_text())

    def _signal_all(self, number: signal.Signals) -> None:
        for each in self._family(self._pid()):
            self._signal(each, number)

    @classmethod
    def _family(cls, pid: int) -> list[int]:
        """A process and all that it began."""
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [pid, *(each for child in children for each in cls._family(int(child)))]

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    @staticmethod
    def _lives(pid: int) -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"  # a zombie counts as gone: in a container, process 1 may be slow to collect it
