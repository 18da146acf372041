"""Runs the `ikon` command as a user does, away from whatever settings the surroundings hold."""

import os
import subprocess
import sys
from pathlib import Path

IKON = Path(sys.executable).with_name("ikon")


def surroundings(**more: str) -> dict[str, str]:
    """The environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("IKON_", "_IKON"))} | more


def ikon(*args: object, env: dict[str, str] | None = None, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [str(IKON), *map(str, args)]
    return subprocess.run(command, env=surroundings(**(env or {})), capture_output=True, text=True, timeout=timeout_s, check=False)
