"""How long jobs wait: from the commit that enqueues one to the claim that starts it, by the database's clock, as its row tells.

Run by Ikon's own Python as a program, it puts jobs into a database and reads them: waits.py load|left|found URL ...
"""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Images copied in one burst, and so jobs that are queued at once with nothing else in the queue.
BURST = 10


def bursts(client: Any, headers: dict[str, str], count: int, say: Callable[[str], None]) -> list[str]:
    """Copy ten small images at once, again and again; the images."""
    images = []
    for n in range(count):
        some = [client.create() for _ in range(BURST)]
        for image in some:
            session = client.session()
            session.request("PUT", f"/v2/images/{image}/file", b"x" * 1024, headers | {"Content-Type": "application/octet-stream"})
            if (status := session.getresponse().status) != 204:
                raise RuntimeError(f"upload: {status}")
        session = client.session()
        for image in some:
            body = {"method": {"name": "copy-image"}, "stores": ["second"]}
            client.call("POST", f"/v2/images/{image}/import", body, ok=(202,), headers=headers, session=session)
        until = time.monotonic() + 300
        for image in some:
            while "second" not in client.call("GET", f"/v2/images/{image}", headers=headers)["stores"].split(","):
                if time.monotonic() > until:
                    raise RuntimeError(f"burst {n}: not copied after 300 s")
                time.sleep(0.05)
        images += some
        if n % 10 == 9:
            say(f"{n + 1} bursts of {BURST}")
    return images


def ask(python: Path, *words: str) -> Any:
    """Run this file by Ikon's Python."""
    done = subprocess.run([python, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _load(url: str, count: int) -> int:
    """Queue so many jobs of one other project; each ends at once, for its image is not there."""
    import sqlalchemy as sa

    from ikon.db import tables
    from ikon.db.engine import make_engine

    given = {"request": {"method": "copy-image", "must_succeed": True}, "stores": ["second"], "steps": ["store"]}
    fixed = {"kind": "copy", "input": json.dumps(given), "queue": "any", "store": "second", "state": "queued", "priority": 7}
    fixed |= dict.fromkeys(("attempt", "since", "failures", "step", "not_before"), 0) | {
        "cancel": False,
        "created": int(time.time() * 1000),
    }
    fixed["project"] = "other"
    rows = [fixed | {"id": str(uuid.uuid4()), "image_id": str(uuid.uuid4()), "turn": n + 1} for n in range(count)]
    engine = make_engine(url)
    for at in range(0, count, 10_000):
        with engine.begin() as conn:
            conn.execute(sa.insert(tables.jobs), rows[at : at + 10_000])
    return count


def _left(url: str) -> int:
    import sqlalchemy as sa

    from ikon.db import tables
    from ikon.db.engine import make_engine

    with make_engine(url).connect() as conn:
        return int(conn.execute(sa.select(sa.func.count()).where(tables.jobs.c.state == "queued")).scalar_one())


def _found(url: str) -> list[int]:
    """Ms that each job of project `bench` waited, in the order in which they came."""
    import sqlalchemy as sa

    from ikon.db import tables
    from ikon.db.engine import make_engine

    t = tables.jobs.c
    query = sa.select(t.started - t.created).where(t.project == "bench", t.started.is_not(None)).order_by(t.id)
    with make_engine(url).connect() as conn:
        return [int(ms) for ms in conn.execute(query).scalars()]


if __name__ == "__main__":
    verb, url, *more = sys.argv[1:]
    print(json.dumps({"load": lambda: _load(url, int(more[0])), "left": lambda: _left(url), "found": lambda: _found(url)}[verb]()))
