"""The measuring scripts start; what they measure is for whoever runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
SCRIPTS = sorted(path.name for path in BENCH.iterdir() if path.is_file() and os.access(path, os.X_OK) and not path.suffix)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_measuring_script_says_how_it_is_used(script: str) -> None:
    done = subprocess.run([sys.executable, BENCH / script, "--help"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True), done.stderr
