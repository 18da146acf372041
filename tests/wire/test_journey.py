"""The OpenStack clients, as published, take a bootable image through Ikon; the guest boots from what came back."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_unmodified_clients_take_a_real_image_in_and_out_and_it_boots() -> None:
    done = subprocess.run(
        [ROOT / "scripts/journey"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout
    assert done.stdout.count("ok      ") >= 46, done.stdout
