"""Imports from a source that breaks off: what came is kept, and the next try goes on from there. And what may happen while one runs."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually, noise
from tests.services.servers import free_port
from tests.wire.server import ADMIN, MEMBER, STRANGER, Ikon, Persona, someone

pytestmark = pytest.mark.slow

PORT = free_port()
DATA, OTHER = noise(3_500_000), noise(3_400_000)
#: Where the source breaks off: in the middle of a block.
CUT = 2_500_000


class Source:
    """A web server with one file. announces: its length. cut: bytes of the whole after which it hangs up and answers 403 from then on, None: never.

    asked: Range and If-Range of each request. hold: cleared, it waits for it after `CUT` bytes.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str | None]] = []
        self.begin()

    def begin(self, *, cut: int | None = None) -> None:
        """Be as new."""
        self.data, self.etag, self.cut, self.denies, self.announces = DATA, '"one"', cut, False, True
        self.asked.clear()
        self.hold, self.held = threading.Event(), threading.Event()  # new ones: an earlier request may still be at work
        self.hold.set()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        hold, held = self.hold, self.held
        wanted, known = request.headers["Range"], request.headers["If-Range"]
        self.asked.append((wanted, known))
        if self.denies:
            request.send_error(403)
            return
        first = int(wanted[6:].rstrip("-")) if wanted and known == self.etag else 0
        request.send_response(206 if first else 200)
        request.send_header("ETag", self.etag)
        if self.announces:
            request.send_header("Content-Length", str(len(self.data) - first))
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(self.data) - 1}/{len(self.data)}")
        request.end_headers()
        stop = min(len(self.data), self.cut or CUT)
        request.wfile.write(self.data[first:stop])
        if self.cut is not None:
            self.denies = True
            return
        held.set()
        hold.wait(30)
        request.wfile.write(self.data[max(first, stop) :])


@pytest.fixture(scope="module")
def served() -> Iterator[Source]:
    source = Source()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # whoever asked has gone
                source.serve(self)

        def log_message(self, *said: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield source
        finally:
            source.hold.set()
            server.shutdown()


@pytest.fixture(scope="module")
def ikon(tmp_path_factory: pytest.TempPathFactory, served: Source) -> Iterator[Ikon]:
    settings = {"egress": {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [PORT]}, "quota": {"bytes": 4_000_000}}
    with Ikon(tmp_path_factory.mktemp("resume"), **settings) as server:
        yield server
        assert server.unforeseen() == []


def jobs(ikon: Ikon, image: str) -> list[dict[str, Any]]:
    """The image's jobs, newest first."""
    return list(ikon.get(f"/ikon/v1/jobs?image={image}", who=ADMIN).json["jobs"])


def start(ikon: Ikon, image: str, who: Persona, **method: str) -> str:
    """Begin a web-download; the id of its job."""
    body = {"method": {"name": "web-download", "uri": f"http://127.0.0.1:{PORT}/disk.raw"} | method}
    assert ikon.post(f"/v2/images/{image}/import", body, who=who).status == 202
    return str(jobs(ikon, image)[0]["id"])


def ended(ikon: Ikon, image: str, state: str) -> dict[str, Any]:
    """The image's newest job, once it has ended, which it must have done in that state."""
    job: dict[str, Any] = eventually(lambda: (job := jobs(ikon, image)[0])["state"] in ("done", "failed", "cancelled") and job)
    assert job["state"] == state, job
    return job


def broken(ikon: Ikon, source: Source, who: Persona, **method: str) -> tuple[str, str]:
    """An image whose web-download broke off, and the job."""
    source.begin(cut=CUT)
    image = str(ikon.create(who=who)["id"])
    job = start(ikon, image, who, **method)
    assert "403" in ended(ikon, image, "failed")["reason"]
    source.cut, source.denies = None, False
    return image, job


def staged(ikon: Ikon, image: str) -> list[int]:
    """Sizes of what is staged for an image."""
    return [path.stat().st_size for path in (ikon.directory / "data/staging").iterdir() if path.name.startswith(image)]


def is_gone(ikon: Ikon, image: str) -> bool:
    """Whether nothing is staged for an image once the reaper has run."""
    assert ikon.post("/ikon/v1/periodic/reaper/run", who=ADMIN).status == 200
    return not staged(ikon, image)


@pytest.mark.parametrize("way", ["retry", "import"])
def test_a_web_download_goes_on_where_its_source_broke_off(ikon: Ikon, served: Source, way: str) -> None:
    who = someone()
    image, job = broken(ikon, served, who, digest=f"sha256:{hashlib.sha256(DATA).hexdigest()}")
    assert ikon.post("/ikon/v1/periodic/reaper/run", who=ADMIN).status == 200
    told, kept, record = ikon.get(f"/ikon/v1/images/{image}/timeline", who=who).json["now"]["kept"], staged(ikon, image), ikon.show(image)

    if way == "retry":
        assert ikon.post(f"/ikon/v1/jobs/{job}/retry", who=ADMIN).status == 200
    else:
        start(ikon, image, who)
    ended(ikon, image, "done")

    assert (record["status"], record["size"], kept) == ("queued", None, [CUT])
    assert "2.4 MiB" in told
    assert served.asked[-1] == (f"bytes={CUT}-", '"one"')
    assert ikon.download(image, who=who).body == DATA
    eventually(lambda: is_gone(ikon, image))


def test_a_source_with_other_data_is_fetched_from_its_beginning(ikon: Ikon, served: Source) -> None:
    who = someone()
    image, _ = broken(ikon, served, who)
    served.data, served.etag = OTHER, '"two"'

    start(ikon, image, who)
    ended(ikon, image, "done")

    assert served.asked[-2:] == [(f"bytes={CUT}-", '"one"'), (None, None)]
    assert ikon.download(image, who=who).body == OTHER
    eventually(lambda: is_gone(ikon, image))


def test_a_source_that_breaks_off_again_adds_to_what_is_kept(ikon: Ikon, served: Source) -> None:
    who = someone()
    image, job = broken(ikon, served, who)
    served.cut = CUT + 500_000

    assert ikon.post(f"/ikon/v1/jobs/{job}/retry", who=ADMIN).status == 200
    ended(ikon, image, "failed")
    eventually(lambda: staged(ikon, image) == [CUT + 500_000])
    served.cut, served.denies = None, False
    start(ikon, image, who)
    ended(ikon, image, "done")

    assert served.asked[-1] == (f"bytes={CUT + 500_000}-", '"one"')
    assert ikon.download(image, who=who).body == DATA


def test_a_part_that_was_damaged_is_not_used(ikon: Ikon, served: Source) -> None:
    who = someone()
    image, _ = broken(ikon, served, who)
    [part] = [path for path in (ikon.directory / "data/staging").iterdir() if path.name.startswith(image)]
    part.write_bytes(bytes(CUT))

    start(ikon, image, who)
    ended(ikon, image, "done")

    assert served.asked[-1] == (None, None)
    assert ikon.download(image, who=who).body == DATA


@pytest.mark.parametrize("kept", ["whole", "a part"])
def test_wrong_data_that_was_kept_gives_way_to_what_a_digest_names(ikon: Ikon, served: Source, kept: str) -> None:
    who = someone()
    served.begin(cut=CUT if kept == "a part" else None)
    served.data, served.announces = bytes(CUT) + DATA[CUT:], kept == "a part"  # whole: the quota is looked at when it has come
    first, image = ikon.active(bytes(1_000_000 if kept == "whole" else 1), who=who), str(ikon.create(who=who)["id"])
    start(ikon, image, who)
    ended(ikon, image, "failed")
    ikon.delete(first, who=who)
    served.data, served.cut, served.denies, served.announces = DATA, None, False, True

    start(ikon, image, who, digest=f"sha256:{hashlib.sha256(DATA).hexdigest()}")
    ended(ikon, image, "done")

    assert served.asked[-1] == (None, None)
    assert ikon.download(image, who=who).body == DATA
    eventually(lambda: is_gone(ikon, image))


def test_data_that_came_whole_is_not_fetched_again_by_a_new_request(ikon: Ikon, served: Source) -> None:
    served.begin()
    served.announces = False  # or the quota would be looked at before the data comes
    who = someone()
    first, image = ikon.active(bytes(1_000_000), who=who), str(ikon.create(who=who)["id"])
    start(ikon, image, who)
    assert ended(ikon, image, "failed")["step"] == "store"
    ikon.delete(first, who=who)

    served.announces = True
    start(ikon, image, who)
    ended(ikon, image, "done")

    assert served.asked == [(None, None), (f"bytes={len(DATA) - 1}-", '"one"')]
    assert ikon.download(image, who=who).body == DATA


def test_a_job_that_was_to_go_on_from_whole_data_and_failed_before_can_be_tried_again(ikon: Ikon, served: Source) -> None:
    served.begin()
    served.announces = False
    who = someone()
    first, image = ikon.active(bytes(1_000_000), who=who), str(ikon.create(who=who)["id"])
    start(ikon, image, who)
    assert ended(ikon, image, "failed")["step"] == "store"
    ikon.delete(first, who=who)
    served.denies = True
    job = start(ikon, image, who)
    assert "403" in ended(ikon, image, "failed")["reason"]

    served.denies, served.announces = False, True
    again = ikon.post(f"/ikon/v1/jobs/{job}/retry", who=ADMIN)
    assert again.status == 200, again
    ended(ikon, image, "done")

    assert served.asked[-1] == (f"bytes={len(DATA) - 1}-", '"one"')
    assert ikon.download(image, who=who).body == DATA


def test_a_source_that_announces_more_than_the_quota_has_is_not_fetched(ikon: Ikon, served: Source) -> None:
    served.begin()
    served.hold.clear()
    who = someone()
    ikon.active(bytes(1_000_000), who=who)
    image = str(ikon.create(who=who)["id"])

    start(ikon, image, who)
    job = ended(ikon, image, "failed")
    served.hold.set()

    assert job["step"] == "web-download"
    assert job["reason"] == (
        "Image exceeds the storage quota: The size of the data 3500000 will exceed the limit. 3000000 bytes remaining."
    )
    assert staged(ikon, image) == []


def test_the_quota_for_what_is_being_fetched_is_nobody_elses_until_its_job_ends(ikon: Ikon, served: Source) -> None:
    served.begin()
    served.hold.clear()
    who = someone()
    image, other = (str(ikon.create(who=who)["id"]) for _ in range(2))
    job = start(ikon, image, who)
    eventually(lambda: jobs(ikon, image)[0]["done_bytes"])  # data has come, so that its room was promised

    during = ikon.upload(other, bytes(600_000), who=who)
    assert ikon.post(f"/ikon/v1/jobs/{job}/cancel", who=ADMIN).status == 200
    ended(ikon, image, "cancelled")
    served.hold.set()

    assert (during.status, "500000 bytes remaining" in during.message) == (413, True)
    assert ikon.upload(other, bytes(600_000), who=who).status == 204


@pytest.mark.parametrize("how", ["running", "failed"])
def test_a_deletion_leaves_nothing_of_a_web_download(ikon: Ikon, served: Source, how: str) -> None:
    who = someone()
    if how == "failed":
        image, job = broken(ikon, served, who)
    else:
        served.begin()
        served.hold.clear()
        image = str(ikon.create(who=who)["id"])
        job = start(ikon, image, who)
        assert served.held.wait(30)

    assert ikon.delete(image, who=who).status == 204
    eventually(lambda: ikon.get(f"/ikon/v1/jobs/{job}", who=ADMIN).json["state"] == ("failed" if how == "failed" else "cancelled"))
    served.hold.set()

    eventually(lambda: is_gone(ikon, image))
    assert ikon.get(f"/v2/images/{image}", who=who).status == 404


def test_properties_tags_and_members_change_while_an_import_runs(ikon: Ikon, served: Source) -> None:
    served.begin()
    served.hold.clear()
    image = str(ikon.create(who=MEMBER, os_distro="before", visibility="shared")["id"])
    start(ikon, image, MEMBER)
    assert served.held.wait(30)

    changes = [{"op": "replace", "path": "/os_distro", "value": "debian"}, {"op": "add", "path": "/note", "value": "x"}]
    assert ikon.patch(image, changes).status == 200
    assert ikon.call("PUT", f"/v2/images/{image}/tags/fresh").status == 204
    assert ikon.share(image, "elsewhere").status == 200
    assert ikon.reply(image, "elsewhere", "accepted", who=STRANGER).status == 200
    during = ikon.show(image)
    served.hold.set()
    ended(ikon, image, "done")

    after = ikon.show(image)
    assert (during["status"], after["status"]) == ("importing", "active")
    assert (after["os_distro"], after["note"], after["tags"]) == ("debian", "x", ["fresh"])
    assert ikon.members(image) == {"elsewhere": "accepted"}
    assert ikon.download(image, who=STRANGER).body == DATA


def test_a_job_whose_time_is_over_is_given_up_and_may_be_tried_again(served: Source, tmp_path: Path) -> None:
    egress = {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [PORT]}
    with Ikon(tmp_path, egress=egress, jobs={"deadline_s": 3.0}) as ikon:
        who = someone()
        served.begin()
        served.hold.clear()
        image = str(ikon.create(who=who)["id"])
        job = start(ikon, image, who)

        assert "the time for jobs was over" in ended(ikon, image, "failed")["reason"]
        assert "the time for jobs was over" in ikon.get(f"/v2/images/{image}/tasks", who=who).json["tasks"][0]["message"]
        assert (ikon.show(image)["status"], is_gone(ikon, image)) == ("queued", True)
        served.begin()
        assert ikon.post(f"/ikon/v1/jobs/{job}/retry", who=ADMIN).status == 200
        ended(ikon, image, "done")

        assert ikon.download(image, who=who).body == DATA
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
