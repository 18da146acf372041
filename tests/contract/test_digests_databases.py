"""Whether two copies are the same is told by the digests of their blocks, where they lie, on every database."""

import sqlalchemy as sa

from ikon.db import copies, schema
from ikon.db.engine import make_engine

FIRST, SECOND = bytes(range(32)) * 1024, b"\x01\xff" * 16


def test_copies_are_the_same_when_every_block_is_and_none_is_missing(database_url: str) -> None:
    engine = make_engine(database_url)
    schema.upgrade(engine)
    made = {"kept": (FIRST, SECOND), "same": (FIRST, SECOND), "other": (FIRST, SECOND[:-1] + b"\x00"), "short": (FIRST,), "none": ()}
    with engine.begin() as conn:
        for copy, gibs in made.items():
            copies.intend(conn, copies.Copy(copy, "an-image", "s", None, "u", "ready", None, None, 0, None, 0, None, 0, 0))
            for gib, digests in enumerate(gibs):
                copies.add_digests(conn, "an-image", copy, gib, digests)
        copies.add_digests(conn, "another-image", "none", 0, FIRST)
        found = {(one, other) for one in made for other in made if copies.are_same(conn, "an-image", one, other)}
        assert conn.execute(sa.select(sa.func.count()).select_from(copies.d)).scalar_one() == 8
        copies.add_digests(conn, "an-image", "gone", 0, FIRST)
        assert conn.execute(sa.select(sa.func.count()).where(copies.d.c.copy_id == "gone")).scalar_one() == 0
    engine.dispose()
    assert found == {(name, name) for name in made} | {("kept", "same"), ("same", "kept")}
