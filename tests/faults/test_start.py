"""What a crash left delays nobody: the server answers first, and ends it then."""

import uuid
from pathlib import Path
from socket import gethostname

import pytest
import sqlalchemy as sa

from tests.faults.conftest import Say
from tests.faults.test_slow_clients import listing
from tests.faults.world import Ikon, eventually, noise

UPLOADS, DELETIONS = 1000, 4000


def leave_behind(server: Ikon) -> list[str]:
    """What a server leaves that is killed during very many uploads and deletions. Returns the ids of the images that are saving."""
    saving = [server.create() for _ in range(UPLOADS)]
    server.kill()
    rows = [(image, "writing", str(uuid.uuid4())) for image in saving]
    rows += [(str(uuid.uuid4()), "deleting", None) for _ in range(DELETIONS)]
    engine = sa.create_engine(server.database)
    with engine.begin() as conn:
        conn.execute(sa.text("UPDATE images SET status = 'saving'"))
        for image, state, instance in rows:
            copy = str(uuid.uuid4())
            path = server.stores["one"] / f"{image}.{copy}"
            path.with_name(path.name + (".part" if instance else "")).write_bytes(noise(100))
            conn.execute(
                sa.text(
                    "INSERT INTO copies (id, image_id, store, node, url, state, instance, reserved, created, tries, not_before) "
                    "VALUES (:copy, :image, 'one', :node, :url, :state, :instance, 0, 0, 0, 0)"
                ),
                {"copy": copy, "image": image, "node": gethostname(), "url": f"file://{path}", "state": state, "instance": instance},
            )
    engine.dispose()
    return saving


@pytest.mark.slow
def test_thousands_of_leftovers_do_not_delay_the_first_answer_and_all_of_them_are_ended(tmp_path: Path, say: Say) -> None:
    with Ikon(tmp_path) as server:
        server.stop()
        plain_s = server.start()
        saving = leave_behind(server)
        first_s = server.start()
        waiting = len(server.files())
        eventually(lambda: not server.rows("SELECT 1 FROM images WHERE status = 'saving' LIMIT 1"), within_s=5)
        assert server.upload(saving[-1], noise(1000)).status == 204
        took = listing(server, 3)
        ended_s = server.settle(within_s=60)
        say(
            f"{UPLOADS} uploads and {DELETIONS} deletions left: first answer {first_s:.2f} s (without them {plain_s:.2f} s), then {waiting} files lay there, "
            f"lists meanwhile {max(took):.3f} s at worst, all ended {ended_s:.1f} s later"
        )
        assert waiting > 1, "it cleaned up before it served"
        assert len(server.files()) == 1
