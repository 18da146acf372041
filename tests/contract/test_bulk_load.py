"""What the bench of lists puts into a database is what the server would have written, on every database."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ikon.db import images, index
from ikon.db.engine import make_engine
from ikon.problems import ImageExists

pytestmark = pytest.mark.slow

LOAD = Path(__file__).parents[2] / "bench/load.py"


def test_a_bulk_load_leaves_each_image_with_exactly_the_index_that_its_record_asks_for(database_url: str) -> None:
    subprocess.run([sys.executable, LOAD, "ikon", database_url, "1200"], check=True)

    with make_engine(database_url).connect() as conn:
        assert index.compare(conn) == (1200, 0, 0)
        found = images.after(conn, -1, 2000)
    assert sum(one.owner == "big" for one in found) in range(480, 600)
    assert {member.status for one in found for member in one.members.values()} == {"accepted", "pending"}


def test_what_was_loaded_can_be_changed_and_deleted_and_its_id_stays_given(database_url: str) -> None:
    subprocess.run([sys.executable, LOAD, "ikon", database_url, "100"], check=True)

    with make_engine(database_url).begin() as conn:
        loaded = images.after(conn, -1, 100)
        one = images.lock(conn, loaded[50].id)
        assert one == loaded[50]
        images.save(conn, one, msgspec.structs.replace(one, visibility="public", tags=["new"]))
        other = images.lock(conn, loaded[51].id)
        assert other is not None
        images.delete(conn, other)
        assert index.compare(conn) == (99, 0, 0)
    with make_engine(database_url).connect() as conn, pytest.raises(ImageExists):
        images.insert(conn, other)
