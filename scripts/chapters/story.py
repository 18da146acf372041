"""What a chapter is told with: steps that are printed and checked, the clients, an Ikon of its own."""

import contextlib
import hashlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CLIENTS = Path(sys.executable).parent


class StepError(Exception):
    """A step did not do what it should; the text says what was seen."""


class Journey:
    """One image file, one endpoint, and a line on the terminal for each step."""

    def __init__(self, endpoint: str, source: Path, work: Path) -> None:
        self.endpoint, self.source, self.work = endpoint, source, work
        data = source.read_bytes()
        self.size_bytes, self.md5, self.sha512 = len(data), hashlib.md5(data).hexdigest(), hashlib.sha512(data).hexdigest()
        self.file = ["--disk-format", "qcow2", "--container-format", "bare", "--file", str(source)]
        # a home of its own: the glance client keeps schemas in ~/.glanceclient, and a clouds.yaml would lead elsewhere
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("OS_")} | {"HOME": str(work), "no_proxy": "*"}
        self.failed = 0

    def name(self, client: str) -> str:
        """One that no image has, whatever an earlier journey left behind."""
        return f"journey {client} {secrets.token_hex(4)}"

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print how the step in this block went. A failure ends the chapter, not the journey."""
        began = time.monotonic()
        try:
            yield
        except Exception as problem:
            print(f"FAILED  {title}", flush=True)
            raise StepError(f"{type(problem).__name__}: {problem}" if not isinstance(problem, StepError) else str(problem)) from problem
        print(f"ok      {title}  ({time.monotonic() - began:.1f} s)", flush=True)

    def chapter(self, title: str, story: Callable[[], None]) -> None:
        print(f"\n{title}")
        try:
            story()
        except StepError as problem:
            self.failed += 1
            print("\n".join(f"        {line}" for line in str(problem).splitlines()), flush=True)

    def run(self, *command: str, terminal: bool = False) -> str:
        """What a command printed. terminal: it is started at one, where nobody types; otherwise with nothing to read."""
        with self.standard_input(terminal=terminal) as stdin:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False, stdin=stdin)
        if done.returncode:
            raise StepError(f"exit status {done.returncode} of: {shlex.join(command)}\n{(done.stdout + done.stderr).strip()[-2000:]}")
        return done.stdout

    @contextlib.contextmanager
    def standard_input(self, *, terminal: bool) -> Iterator[int]:
        """What a command reads: clients that make or import images read data from whatever is no terminal."""
        ends = os.openpty() if terminal else (os.open(os.devnull, os.O_RDONLY),)
        try:
            yield ends[-1]
        finally:
            for end in ends:
                os.close(end)

    def refused(self, *command: str, terminal: bool = False) -> str:
        """What a command said that had to fail."""
        with self.standard_input(terminal=terminal) as stdin:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120, check=False, stdin=stdin)
        expect(done.returncode != 0, f"this should have failed: {shlex.join(command)}\n{done.stdout}")
        expect("Traceback" not in done.stderr, f"a crash instead of an answer: {done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def check_record(self, image: dict[str, Any]) -> None:
        """An active image's record tells the size and both digests of the file that was sent."""
        same("status", image["status"], "active")
        same("size", int(image["size"]), self.size_bytes)
        same("checksum", image["checksum"], self.md5)
        same("os_hash_algo", image["os_hash_algo"], "sha512")
        same("os_hash_value", image["os_hash_value"], self.sha512)

    def check_saved(self, saved: Path) -> None:
        data = saved.read_bytes()
        same("bytes saved", len(data), self.size_bytes)
        same("md5 of the saved file", hashlib.md5(data).hexdigest(), self.md5)
        same("sha512 of the saved file", hashlib.sha512(data).hexdigest(), self.sha512)


def expect(truth: bool, otherwise: str) -> None:
    if not truth:
        raise StepError(otherwise)


def same(what: str, seen: object, wanted: object) -> None:
    expect(seen == wanted, f"{what} is {seen!r}, not {wanted!r}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/healthcheck", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def own_ikon(work: Path, *options: str) -> Iterator[str]:
    """An Ikon for this journey alone: its endpoint. What it logged is printed when the journey fails."""
    listen, log = f"127.0.0.1:{free_port()}", work / "ikon.log"
    began = time.monotonic()
    with log.open("wb") as out:
        command = [str(ROOT / ".venv/bin/ikon"), "serve", "--data", str(work / "data"), "--listen", listen, *options]
        server = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        while not answers(f"http://{listen}"):
            if server.poll() is not None or time.monotonic() - began > 30:
                raise StepError(f"{shlex.join(command)} does not serve:\n{log.read_text()[-4000:]}")
            time.sleep(0.02)
        print(f"ok      {shlex.join(['ikon', *command[1:]])}  (first answer after {time.monotonic() - began:.2f} s)", flush=True)
        yield f"http://{listen}"
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
