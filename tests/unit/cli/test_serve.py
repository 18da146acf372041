"""`ikon serve` from its first answer to its last line."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.world import Ikon
from tests.unit.cli.run import ikon

pytestmark = pytest.mark.slow


def connect(server: Ikon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def said(server: Ikon) -> list[str]:
    return [json.loads(line)["event"] for line in server.log.read_text().splitlines() if line.startswith("{")]


def test_the_first_answer_comes_soon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ikon(tmp_path / "data") as server:
        server.stop()
        seconds = server.start()
        started = [json.loads(line) for line in server.log.read_text().splitlines() if '"serving"' in line][-1]["started_in_ms"]

    with capsys.disabled():
        print(f"\nfirst answer {seconds:.2f} s after exec, {started} ms after imports, on a data directory that is there")


def test_sigterm_waits_for_no_idle_connection_and_ends_in_order(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server, contextlib.ExitStack() as open_connections:
        fresh, used, part = (open_connections.enter_context(connect(server)) for _ in range(3))
        used.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert used.recv(4096).startswith(b"HTTP/1.1 200")
        part.sendall(b"GET /v2/im")
        began = time.monotonic()

        code = server.stop()
        took_s = time.monotonic() - began

        assert (fresh.recv(1), code) == (b"", 0)
    assert took_s < 15, "it waited for the grace time of running requests, 30 s"
    assert said(server)[-1] == "stopped"
    left = sorted(path.name for path in (tmp_path / "data" / "run").iterdir())
    assert [name for name in left if not name.startswith("convert.")] == ["ikon.sock", "lock"]  # turns are locks on files that stay
    assert not (tmp_path / "data" / "ikon.db-wal").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_upload_gets_its_grace_and_is_then_undone(tmp_path: Path, number: signal.Signals) -> None:
    with Ikon(tmp_path / "data", settings="shutdown_grace_s = 1.0") as server:
        image = server.create()
        with server.begin_upload(image, 4 << 20) as upload:
            upload.sendall(b"x" * (1 << 20))
            until(lambda: any((tmp_path / "data" / "one").iterdir()))
            server.signal(number)
            assert server.process is not None
            code = server.process.wait(10)
        left = list((tmp_path / "data" / "one").iterdir())
        server.start()
        record = server.show(image)

    assert code == 0
    assert said(server).count("stopped") == 1
    assert left == []
    assert record["status"] == "queued"


@pytest.mark.slow
def test_an_upload_that_ends_in_its_grace_is_whole(tmp_path: Path) -> None:
    data = b"x" * (2 << 20)
    with Ikon(tmp_path / "data") as server:
        image = server.create()
        with server.begin_upload(image, len(data)) as upload:
            upload.sendall(data[: 1 << 20])
            until(lambda: any((tmp_path / "data" / "one").iterdir()))
            server.signal(signal.SIGTERM)
            time.sleep(0.3)
            upload.sendall(data[1 << 20 :])
            answer = upload.recv(4096)
            assert server.process is not None
            code = server.process.wait(10)
        server.start()
        downloaded = server.download(image)

    assert answer.startswith(b"HTTP/1.1 204")
    assert code == 0
    assert downloaded.body == data


def test_the_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    with Ikon(tmp_path / "data") as server:
        server.kill()
        assert (tmp_path / "data" / "run" / "ikon.sock").exists()
        server.start()
        with socket.socket(socket.AF_UNIX) as local:
            local.connect(str(tmp_path / "data" / "run" / "ikon.sock"))
            local.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert local.recv(100).startswith(b"HTTP/1.1 200")
    mode = (tmp_path / "data" / "run" / "ikon.sock").stat().st_mode & 0o777
    assert mode == 0o600


@pytest.mark.slow
def test_two_processes_end_in_order(tmp_path: Path, postgres_url: str) -> None:
    from tests.unit.cli.run import ikon

    assert ikon("db", "upgrade", "--data", tmp_path / "data", "--database", postgres_url).returncode == 0
    with Ikon(tmp_path / "data", database=postgres_url, workers=2) as server:
        until(lambda: said(server).count("serving") == 2)
        began = time.monotonic()
        code = server.stop()

    assert code == 0
    assert time.monotonic() - began < 2
    assert said(server).count("stopped") == 2


def until(true: Callable[[], bool], patience_s: float = 10) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_worker_beside_sqlite_or_without_slots_says_why_it_does_not_start(tmp_path: Path) -> None:
    refused = ikon("worker", "--data", tmp_path)
    assert refused.returncode == 2
    assert "SQLite is worked on by one process" in refused.stderr
    refused = ikon("worker", "--data", tmp_path, env={"IKON_DATABASE": "mysql+pymysql://u@127.0.0.1/ikon", "IKON_JOBS__SLOTS": "0"})
    assert refused.returncode == 2
    assert "jobs.slots = 0" in refused.stderr
