"""`ikon jobs` and `ikon why`, as an operator runs them."""

import contextlib
import os
import pty
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.run import IKON, ikon, surroundings
from tests.wire.server import BYTES, Ikon


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server whose projects may hold little."""
    with Ikon(tmp_path_factory.mktemp("ikon"), quota={"bytes": 2_000_000}) as running:
        yield running
        assert running.unforeseen() == []


def run(server: Ikon, *words: str) -> subprocess.CompletedProcess[str]:
    command, *rest = words
    parts = (command, rest.pop(0)) if command == "jobs" else (command,)
    return ikon(*parts, "--config", server.config, *rest)


def begun(server: Ikon, size: int = 1000, **fields: Any) -> tuple[str, str]:
    """An image and the job of its import."""
    image = str(server.create(**fields)["id"])
    assert server.call("PUT", f"/v2/images/{image}/stage", b"x" * size, BYTES).status == 204
    assert server.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}).status == 202
    return image, run(server, "jobs", "list", "--image", image).stdout.partition("\t")[0]


def settled(server: Ikon, job: str, state: str) -> None:
    """Wait for a state."""
    end = time.monotonic() + 30
    while f"\nstate:       {state}\n" not in (said := run(server, "jobs", "show", job).stdout):
        assert time.monotonic() < end, said


@contextlib.contextmanager
def held_up(server: Ikon) -> Iterator[None]:
    """The default store is away: imports wait."""
    here, there = server.directory / "one", server.directory / "away"
    here.rename(there)
    try:
        yield
    finally:
        there.rename(here)


def test_jobs_are_listed_and_shown(server: Ikon) -> None:
    image, job = begun(server)
    settled(server, job, "done")

    listed = run(server, "jobs", "list", "--state", "done", "--project", "home", "--limit", "1")
    shown = run(server, "jobs", "show", job)

    assert listed.stdout == f"{job}\timport\t{image}\tdone\t-\t-\t-\n"
    assert f"id:          {job}\n" in shown.stdout
    assert "stores:      one\n" in shown.stdout
    assert "total_bytes: 1000\n" in shown.stdout
    assert "reason" not in shown.stdout


def test_a_long_list_goes_on_to_its_limit(tmp_path: Path) -> None:
    with Ikon(tmp_path, limits={"page_max": 2}) as server:
        for _ in range(5):
            begun(server)

        assert [len(run(server, "jobs", "list", "--limit", str(limit)).stdout.splitlines()) for limit in (1, 3, 5, 50)] == [1, 3, 5, 5]


def test_a_job_is_cancelled_and_a_failed_one_begun_again(server: Ikon) -> None:
    with held_up(server):
        _, job = begun(server)
        settled(server, job, "waiting")
        cancelled = run(server, "jobs", "cancel", job)
        again = run(server, "jobs", "retry", job)
    _, failed = begun(server, 2_000_001)
    settled(server, failed, "failed")

    assert cancelled.stdout == f"Job {job} is cancelled\n", cancelled.stderr
    assert (again.returncode, again.stderr) == (1, "Error: Only failed jobs are tried again; this one is cancelled\n")
    assert run(server, "jobs", "retry", failed).stdout == f"Job {failed} begins again at step store\n"


@pytest.mark.slow
def test_watching_where_there_is_no_terminal_prints_a_line_for_each_change(server: Ikon) -> None:
    with held_up(server):
        _, job = begun(server)
        settled(server, job, "waiting")
        command = [IKON, "jobs", "watch", "--config", server.config, job]
        watching = subprocess.Popen(
            command, env=surroundings(PYTHONPROFILEIMPORTTIME="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(2)
    said, imported = watching.communicate(timeout=60)

    assert watching.returncode == 0
    lines = said.splitlines()
    assert lines[0] == "waiting store"
    assert lines[-2:] == ["done", f"Job {job} is done"]
    assert len(lines) == len(set(lines))
    assert "msgspec" in imported
    assert "rich" not in imported


@pytest.mark.slow
def test_watching_on_a_terminal_draws_a_bar(server: Ikon) -> None:
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other side has ended
            while block := os.read(ours, 10_000):
                seen.append(block)

    with held_up(server):
        _, job = begun(server, 300_000)
        settled(server, job, "waiting")
        command = [IKON, "jobs", "watch", "--config", server.config, job]
        watching = subprocess.Popen(
            command, env=surroundings(TERM="xterm-256color", COLUMNS="120"), stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(2)
    assert watching.wait(60) == 0
    reader.join(10)
    said = b"".join(seen).decode()

    assert "\x1b[" in said
    assert "waiting store" in said
    assert "━" in said
    assert "KiB" in said
    assert f"Job {job} is done" in said


def test_watching_a_job_that_fails_ends_with_1_and_the_reason(server: Ikon) -> None:
    _, job = begun(server, disk_format="qcow2")

    done = run(server, "jobs", "watch", job)

    assert done.returncode == 1
    assert done.stdout.endswith(f"Job {job} is failed: Image disk_format qcow2 does not match stream data raw\n")


def test_why_tells_the_story_in_order_and_how_things_stand(server: Ikon) -> None:
    image, job = begun(server, disk_format="qcow2")
    settled(server, job, "failed")

    lines = run(server, "why", image).stdout.splitlines()

    assert lines[0] == f"Image {image} is queued"
    assert [line.partition("  ")[2] for line in lines[1:5]] == [
        "created, by user of project home",
        "data was staged, by user of project home",
        "an import was asked for: glance-direct into one, by user of project home",
        "the import failed in step store",
    ]
    assert lines[9] == "Now  the import failed in step store"
    assert (
        lines[5:9]
        == lines[10:]
        == [
            "    cause:  The data is not in the format that the image names: Image disk_format qcow2 does not match stream data raw",
            "    effect: The import has ended, and the image is queued again",
            "    remedy: Bring other data, or create the image with the format that this data has",
            "    kept:   no data",
        ]
    )


def test_why_for_a_tenant_names_no_user(server: Ikon) -> None:
    image = str(server.create()["id"])

    said = run(server, "why", image, "--for-tenant").stdout

    assert said.splitlines()[1].endswith("created, by your project")


@pytest.mark.parametrize("words", [("why",), ("jobs", "show"), ("jobs", "retry"), ("jobs", "cancel"), ("jobs", "watch")])
def test_what_is_not_there_is_said_in_one_line(server: Ikon, words: tuple[str, ...]) -> None:
    for unknown in (str(uuid.uuid4()), "a/b?c"):
        done = run(server, *words, unknown)

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: No ")
        assert unknown in done.stderr
