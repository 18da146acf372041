"""Servers that both sides stand on, by the scripts of tests/services: each in a folder and on a port of its own."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
URLS = {
    "postgres": "postgresql+psycopg://ikon:secret@127.0.0.1:{}/ikon",
    "rabbitmq": "amqp://ikon:secret@127.0.0.1:{}/",
    "keystone": "http://127.0.0.1:{}/v3",
    "memcached": "127.0.0.1:{}",
}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Service:
    """One of them. env: what its script takes beside DIR and PORT."""

    def __init__(self, name: str, state: Path, **env: str) -> None:
        self.name, self.port, self.directory = name, free_port(), state / name
        self.url = URLS[name].format(self.port)
        self._env = {"DIR": str(self.directory), "PORT": str(self.port)} | env

    def start(self) -> int:
        """Start it empty; its process id."""
        self.wipe()
        for verb in ("install", "start"):
            self._run(verb)
        return int((self.directory / f"{self.name}.pid").read_text())

    def wipe(self) -> None:
        """Stop it, and remove what it has."""
        if self.directory.exists():
            self._run("stop")
            shutil.rmtree(self.directory)

    def _run(self, verb: str) -> None:
        command = [CHECKOUT / f"tests/services/{self.name}.sh", verb]
        subprocess.run(command, env=os.environ | self._env, check=True, stdout=subprocess.DEVNULL)


def postgres(state: Path) -> Service:
    """A durable PostgreSQL, with buffers of 1 GiB as MariaDB has."""
    return Service("postgres", state, DURABLE="1", SHARED_BUFFERS="1GB")
