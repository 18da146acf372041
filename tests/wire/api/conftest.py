"""A real server, shared by the tests of one module."""

from collections.abc import Iterator

import pytest

from tests.faults.world import Ikon

SETTINGS = """
[limits]
image_bytes = 20000000
properties = 8
tags = 5
page = 3
page_max = 10
[quota]
bytes = 30000000
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """`ikon serve` on SQLite with two file stores, identity by headers, and small limits."""
    with Ikon(tmp_path_factory.mktemp("ikon"), settings=SETTINGS) as running:
        yield running
        assert "Traceback" not in running.log.read_text(errors="replace")
