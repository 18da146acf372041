"""The examples in the docs do what they say. Blocks marked `sh run` of one page run in turn, in one shell, in an empty directory;
blocks marked `toml file=NAME` are written there first. The first failing command fails the page. A page that says what yours is called
has a test of its own, with those services."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.servers import free_port

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in sorted((ROOT / "docs").rglob("*.md")) if "```sh run" in page.read_text() and "```sh values" not in page.read_text()
]
#: The tutorial begins with `make run` in another terminal.
SERVER = """ikon serve --data ikon-data --listen 127.0.0.1:9292 &
until curl -sf -o /dev/null http://127.0.0.1:9292/healthcheck; do sleep 0.05; done
"""


def blocks(text: str, mark: str) -> list[tuple[str, str]]:
    """Marked blocks: what stands behind the mark, and what is in the block."""
    return re.findall(rf"^```{mark}(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("9292", str(free_port())).replace("9380", str(free_port()))
    for name, block in blocks(text, "toml file="):
        (tmp_path / name).write_text(block)
    start = SERVER.replace("9292", re.findall(r"127\.0\.0\.1:(\d+)", text)[0]) if page.name == "tutorial.md" else ""
    script = "set -euxo pipefail\n" + start + "\n".join(block for _, block in blocks(text, "sh run"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("IKON_", "OS_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "no_proxy": "*"}

    output = tmp_path / "output"
    with output.open("wb") as out:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout=60)
        finally:
            end(shell.pid)

    assert code == 0, output.read_text(errors="replace")


def end(session: int) -> None:
    """End the shell and the servers that its page left running."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def test_there_are_examples() -> None:
    assert {page.stem for page in PAGES} >= {"tutorial", "use-several-stores", "run-behind-a-proxy-with-headers", "back-up-and-move"}
