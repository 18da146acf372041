"""Drives the unmodified `openstack` and `glance` commands and openstacksdk through one image's whole life; see scripts/journey.

Runs in .venv-clients and uses nothing of Ikon's: what passes here passes for a user's own clients. How each client is pointed at a service
without Keystone is in `openstack`, `glance`, `sdk` and `party` of chapters/, and is all that a user needs to know.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from chapters.by_client import glance, openstack, sdk
from chapters.imports import imports
from chapters.people import two_projects, users
from chapters.story import ROOT, Journey, StepError, expect, own_ikon


def boot(journey: Journey) -> None:
    """A guest starts from the last file that a client saved: all were compared with what was sent."""
    saved = sorted(journey.work.glob("*.qcow2"), key=lambda file: file.stat().st_mtime)
    with journey.step("qemu-system-x86_64 boots the saved image to ikon-boot-ok on its serial console"):
        expect(bool(saved), "no client saved it")
        said = journey.run(str(ROOT / "tests/services/images.sh"), "boot", str(saved[-1]))
        expect("ikon-boot-ok" in said, f"the serial console said: {said}")


def travel(endpoint: str, source: Path, work: Path) -> int:
    """All chapters."""
    journey = Journey(endpoint.rstrip("/"), source, work)
    # this process is a client too (openstacksdk): the same surroundings as its children
    os.environ.clear()
    os.environ.update(journey.env)
    began = time.monotonic()
    stories = {
        "openstack client": openstack,
        "glance client": glance,
        "openstacksdk": sdk,
        "built-in users": users,
        "two projects": two_projects,
        "import": imports,
        "a guest": boot,
    }
    for title, story in stories.items():
        journey.chapter(title, lambda story=story: story(journey))  # type: ignore[misc]
    outcome = f"{journey.failed} of {len(stories)} chapters failed" if journey.failed else f"all {len(stories)} chapters went well"
    print(f"\n{outcome}, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if journey.failed else 0


def main() -> int:
    source, *endpoint = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its own server is stopped too
    with tempfile.TemporaryDirectory(prefix="ikon-journey-") as folder, contextlib.ExitStack() as world:
        work = Path(folder)
        try:
            where = endpoint[0] if endpoint else world.enter_context(own_ikon(work))
        except StepError as problem:
            print(f"FAILED  {problem}")
            return 1
        status = travel(where, Path(source), work)
        if status and not endpoint:
            print(f"the server's last words:\n{(work / 'ikon.log').read_text()[-4000:]}")
        return status


if __name__ == "__main__":
    sys.exit(main())
