"""Servers for the tests of this folder: one for all modules, and one each for those that name other settings in `SETTINGS`."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.server import Ikon


@pytest.fixture(scope="session")
def images() -> Path:
    """The folder of sample images, sound and hostile, made once."""
    script = Path(__file__).parents[1] / "services/images.sh"
    done = subprocess.run([script, "cached"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """The server of the modules without settings of their own."""
    with Ikon(tmp_path_factory.mktemp("ikon")) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="module")
def ikon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A running server. No test of the module may have made it fail in a way that nobody foresaw, or leave it unable to stop."""
    settings = getattr(request.module, "SETTINGS", None)
    if settings is None:
        server = request.getfixturevalue("shared")
        before = len(server.unforeseen())
        yield server
        assert server.unforeseen()[before:] == []
        return
    with Ikon(tmp_path_factory.mktemp("ikon"), **settings) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])
