"""What tests stand on: databases of the three kinds, fresh for each test, a broker, and a small disk; servers are started once per run."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.servers import Server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A running MariaDB. It fails, rather than skips, where it cannot be had; so does PostgreSQL."""
    with Server("mariadb") as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL."""
    with Server("postgres") as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Server]:
    """A running RabbitMQ."""
    with Server("rabbitmq") as server:
        yield server


@pytest.fixture(scope="session")
def keystone() -> Iterator[Server]:
    """A running Keystone with the users that tests/services/keystone.sh names."""
    with Server("keystone") as server:
        yield server


@pytest.fixture(scope="session")
def memcached() -> Iterator[Server]:
    """A running memcached."""
    with Server("memcached") as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a database that SQLite will make."""
    return f"sqlite:///{tmp_path}/ikon.db"


@pytest.fixture
def mariadb_url(mariadb: Server) -> Iterator[str]:
    """The URL of a fresh empty database, gone after the test."""
    url = mariadb.new_database()
    yield url
    mariadb.drop_database(url)


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of a fresh empty database, gone after the test."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.slow), pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh empty database, of each kind in turn."""
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "mariadb": "mariadb_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", f"size=8m,mode=700,uid={os.geteuid()}", "ikon-test", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run([*sudo, "umount", "-l", disk], check=True)
