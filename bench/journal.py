"""What a run writes down, and what it is about."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from measure import CORES
from services import CHECKOUT
from sides import HERE


class Journal:
    """Every record, in a file of its own run and for the report; one line of each on stderr."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.records = file, []
        self.began = time.monotonic()

    def add(self, kind: str, **facts: Any) -> None:
        self.records.append({"kind": kind} | facts)
        print(json.dumps(self.records[-1]), file=self.file, flush=True)

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", file=sys.stderr, flush=True)


def new_file(state: Path) -> Path:
    """Where the records of a run that begins now are kept."""
    results = state / "results"
    results.mkdir(parents=True, exist_ok=True)
    return results / time.strftime("%Y%m%d-%H%M%S.jsonl")


def versions() -> dict[str, Any]:
    """Which code is measured, where and when."""
    git = ["git", "-C", CHECKOUT, "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    glance = re.search(r"^glance==(.*)$", (HERE / "upstream.txt").read_text(), re.M)[1]
    return {"ikon": commit or "of no commit", "glance": glance, "cores": CORES, "date": time.strftime("%Y-%m-%d %H:%M")}


def stop_in_good_order() -> None:
    """Stop the servers too when the run is told to end; once, however often it is said."""

    def terminated(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(143)

    signal.signal(signal.SIGTERM, terminated)
