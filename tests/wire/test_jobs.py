"""Jobs and timelines over the wire: who sees them, how a job is tried again or ended, and what an owner is not told."""

import contextlib
import socket
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.services.servers import free_port
from tests.wire.server import ADMIN, BYTES, MEMBER, READER, STRANGER, Answer, Ikon, Persona, someone

pytestmark = pytest.mark.slow

PORT = free_port()
SETTINGS = {
    "quota": {"bytes": 250_000},
    "limits": {"page_max": 4},
    "node": "cellar-9",
    "egress": {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [PORT]},
}
JOBS = "/ikon/v1/jobs"
DATA = b"data that is staged " * 10_000  # 200,000 bytes


def staged(ikon: Ikon, who: Persona, data: bytes = DATA, **fields: Any) -> str:
    image_id = str(ikon.create(who=who, **fields)["id"])
    assert ikon.call("PUT", f"/v2/images/{image_id}/stage", data, BYTES, who=who).status == 204
    return image_id


def start(ikon: Ikon, image_id: str, who: Persona, method: str | dict[str, str] = "glance-direct", **more: Any) -> str:
    """Begin an import; the id of its job."""
    method = {"name": method} if isinstance(method, str) else method
    answer = ikon.post(f"/v2/images/{image_id}/import", {"method": method} | more, who=who)
    assert answer.status == 202, answer
    return str(of_image(ikon, image_id)[0]["id"])


def of_image(ikon: Ikon, image_id: str) -> list[dict[str, Any]]:
    """The image's jobs, newest first."""
    return list(ikon.get(f"{JOBS}?image={image_id}", who=ADMIN).json["jobs"])


def get(ikon: Ikon, job_id: str) -> dict[str, Any]:
    answer = ikon.get(f"{JOBS}/{job_id}", who=ADMIN)
    assert answer.status == 200, answer
    return dict(answer.json)


def is_in(ikon: Ikon, job_id: str, *states: str) -> dict[str, Any]:
    """The job, once it is in one of these states."""
    found: dict[str, Any] = eventually(lambda: (seen := get(ikon, job_id))["state"] in states and seen)
    return found


def act(ikon: Ikon, job_id: str, deed: str, who: Persona = ADMIN) -> Answer:
    return ikon.post(f"{JOBS}/{job_id}/{deed}", who=who)


def timeline(ikon: Ikon, image_id: str, who: Persona = ADMIN, query: str = "") -> Answer:
    return ikon.get(f"/ikon/v1/images/{image_id}/timeline{query}", who=who)


def over_quota(ikon: Ikon) -> tuple[Persona, str, str, str]:
    """A project, its image that fills most of its quota, and an image whose import has failed for that, with the job."""
    who = someone()
    first = ikon.active(DATA, who=who)
    image_id = staged(ikon, who)
    job_id = start(ikon, image_id, who)
    is_in(ikon, job_id, "failed")
    return who, first, image_id, job_id


@contextlib.contextmanager
def away(ikon: Ikon, store: str) -> Iterator[None]:
    """A store's directory is gone for a while."""
    here, there = ikon.directory / store, ikon.directory / f"{store}-away"
    here.rename(there)
    try:
        yield
    finally:
        there.rename(here)


# Who, and what is asked for


@pytest.mark.parametrize("who", [MEMBER, READER, STRANGER, Persona("home", "service"), Persona(None, "admin", system=True)])
def test_jobs_are_for_administrators(ikon: Ikon, who: Persona) -> None:
    job_id = start(ikon, staged(ikon, MEMBER, b"x"), MEMBER)
    is_in(ikon, job_id, "done")

    answers = [
        ikon.get(JOBS, who=who),
        ikon.get(f"{JOBS}/{job_id}", who=who),
        act(ikon, job_id, "retry", who),
        act(ikon, job_id, "cancel", who),
    ]

    assert [answer.status for answer in answers] == [403] * 4


def test_a_list_of_jobs_is_filtered_and_comes_in_pages(ikon: Ikon) -> None:
    who = someone()
    made = [start(ikon, staged(ikon, who, b"x"), who) for _ in range(5)]
    for job_id in made:
        is_in(ikon, job_id, "done")
    assert who.project is not None

    pages, path = [], f"{JOBS}?project={who.project}&state=done,failed&limit=2"
    while path:
        page = ikon.get(path, who=ADMIN).json
        pages.append([job["id"] for job in page["jobs"]])
        path = page.get("next", "")

    assert [job_id for page in pages for job_id in page] == made[::-1]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert ikon.get(f"{JOBS}?project={who.project}&state=waiting", who=ADMIN).json == {"jobs": []}
    assert ikon.get(f"{JOBS}?kind=copy&project={who.project}", who=ADMIN).json == {"jobs": []}
    assert len(ikon.get(f"{JOBS}?limit=1000", who=ADMIN).json["jobs"]) == 4


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("state=done,resting", "state"),
        ("marker=x", "marker"),
        (f"marker={uuid.UUID(int=7)}", "No task found"),
        ("limit=-1", "limit"),
        ("limit=x", "limit"),
        ("colour=red", "colour"),
        ("image=%00", "image"),
        ("project=%00", "project"),
    ],
)
def test_a_list_that_is_asked_for_wrongly_is_refused_by_name(ikon: Ikon, query: str, word: str) -> None:
    answer = ikon.get(f"{JOBS}?{query}", who=ADMIN)

    assert answer.status == 400
    assert word in answer.message


@pytest.mark.parametrize("job_id", [str(uuid.UUID(int=7)), "x", "%00", "x" * 300])
def test_a_job_that_is_not_there_is_not_found(ikon: Ikon, job_id: str) -> None:
    answers = [ikon.get(f"{JOBS}/{job_id}", who=ADMIN), act(ikon, job_id, "retry"), act(ikon, job_id, "cancel")]

    assert [answer.status for answer in answers] == [404] * 3


def test_a_job_tells_what_it_does_and_how_far_it_is(ikon: Ikon) -> None:
    image_id = staged(ikon, MEMBER, b"x" * 1000)
    job_id = start(ikon, image_id, MEMBER)

    job = is_in(ikon, job_id, "done")

    assert {
        name: job[name] for name in ("kind", "method", "stores", "image", "project", "user", "steps", "step", "attempt", "failures")
    } == {
        "kind": "import",
        "method": "glance-direct",
        "stores": ["one"],
        "image": image_id,
        "project": "home",
        "user": "user",
        "steps": ["store"],
        "step": None,
        "attempt": 1,
        "failures": 0,
    }
    assert job["total_bytes"] == 1000
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


# Again


def test_a_failed_import_is_tried_again_with_the_data_that_was_staged(ikon: Ikon) -> None:
    who, first, image_id, job_id = over_quota(ikon)
    assert ikon.show(image_id)["status"] == "uploading"
    assert ikon.delete(first, who=who).status == 204

    answer = act(ikon, job_id, "retry")

    assert answer.status == 200, answer
    assert answer.json["state"] in ("queued", "running", "done")
    is_in(ikon, job_id, "done")
    assert ikon.show(image_id)["status"] == "active"
    assert ikon.download(image_id, who=who).body == DATA
    assert act(ikon, job_id, "retry").message == "Only failed jobs are tried again; this one is done"


@contextlib.contextmanager
def source() -> Iterator[list[str]]:
    """A web server with DATA at every path; the paths asked for so far."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()  # without a length, which would be measured against the quota before the data comes
            self.wfile.write(DATA)

        def log_message(self, *said: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield asked
        finally:
            server.shutdown()


def fetched_over_quota(ikon: Ikon) -> tuple[Persona, str, str]:
    """A project with room, and an image whose web-download failed while it had none, with the job: the data has come."""
    who = someone()
    first = ikon.active(DATA, who=who)
    image_id = str(ikon.create(who=who)["id"])
    job_id = start(ikon, image_id, who, method={"name": "web-download", "uri": f"http://127.0.0.1:{PORT}/f"})
    job = is_in(ikon, job_id, "failed")
    assert (job["step"], ikon.show(image_id)["status"]) == ("store", "queued")
    ikon.delete(first, who=who)
    return who, image_id, job_id


def test_a_failed_web_download_goes_on_behind_what_it_has_fetched(ikon: Ikon) -> None:
    with source() as asked:
        who, image_id, job_id = fetched_over_quota(ikon)
        told = timeline(ikon, image_id, who).json["now"]
        assert act(ikon, job_id, "retry").status == 200
        is_in(ikon, job_id, "done")

    assert asked == ["/f"]
    assert "staged data, 195.3 KiB" in told["kept"]
    assert ikon.download(image_id, who=who).body == DATA


@pytest.mark.parametrize("way", ["stage", "upload", "fetch"])
def test_what_a_failed_web_download_has_fetched_is_nobody_elses(ikon: Ikon, way: str) -> None:
    other = b"other data" * 1000
    with source() as asked:
        who, image_id, job_id = fetched_over_quota(ikon)
        if way == "stage":
            assert ikon.call("PUT", f"/v2/images/{image_id}/stage", other, BYTES, who=who).status == 204
            refused = act(ikon, job_id, "retry")
            is_in(ikon, start(ikon, image_id, who), "done")
        elif way == "upload":
            assert ikon.upload(image_id, other, who=who).status == 204
            refused = act(ikon, job_id, "retry")
        else:
            other = DATA
            is_in(ikon, start(ikon, image_id, who, method={"name": "web-download", "uri": f"http://127.0.0.1:{PORT}/g"}), "done")
            refused = act(ikon, job_id, "retry")

    assert asked == ["/f", *(["/g"] if way == "fetch" else [])]
    assert (refused.status, "moved on" in refused.message or "not kept" in refused.message) == (409, True)
    assert ikon.download(image_id, who=who).body == other
    eventually(lambda: not [path for path in (ikon.directory / "data/staging").iterdir() if path.name.startswith(image_id)])


def test_a_retry_that_fails_again_leaves_the_image_as_it_was(ikon: Ikon) -> None:
    _, _, image_id, job_id = over_quota(ikon)

    assert act(ikon, job_id, "retry").status == 200
    job = is_in(ikon, job_id, "failed")

    assert job["attempt"] == 2
    record = ikon.show(image_id)
    assert (record["status"], record["size"]) == ("uploading", len(DATA))
    assert "os_glance_import_task" not in record


def test_of_many_retries_at_once_one_begins_the_job(ikon: Ikon) -> None:
    who, first, image_id, job_id = over_quota(ikon)
    ikon.delete(first, who=who)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: act(ikon, job_id, "retry").status, range(8)))

    assert sorted(answers) == [200] + [409] * 7
    assert is_in(ikon, job_id, "done", "failed")["attempt"] == 2
    assert ikon.show(image_id)["status"] == "active"


def test_a_retry_is_refused_with_the_reason_where_the_image_has_moved_on(ikon: Ikon) -> None:
    who, first, image_id, job_id = over_quota(ikon)
    ikon.delete(first, who=who)
    is_in(ikon, start(ikon, image_id, who), "done")
    assert "it is active" in act(ikon, job_id, "retry").message

    ikon.delete(image_id, who=who)
    answer = act(ikon, job_id, "retry")
    assert (answer.status, answer.message) == (409, "The job's image has been deleted")


def test_a_retry_is_refused_while_another_import_is_at_work(ikon: Ikon) -> None:
    who, first, image_id, job_id = over_quota(ikon)
    ikon.delete(first, who=who)
    with away(ikon, "two"):
        other = start(ikon, image_id, who, stores=["two"])
        answer = act(ikon, job_id, "retry")
        assert act(ikon, other, "cancel").status == 200

    assert answer.status == 409
    assert other in answer.message


def test_a_retry_is_refused_when_other_data_was_staged_since(ikon: Ikon) -> None:
    image_id = staged(ikon, MEMBER, b"x" * 1000, disk_format="qcow2")
    job_id = start(ikon, image_id, MEMBER)
    is_in(ikon, job_id, "failed")
    gone = act(ikon, job_id, "retry")
    assert ikon.call("PUT", f"/v2/images/{image_id}/stage", b"y" * 1000, BYTES).status == 204

    other = act(ikon, job_id, "retry")

    assert gone.status == other.status == 409
    assert "not kept any more" in gone.message
    assert ikon.show(image_id)["status"] == "uploading"


def test_a_failed_copy_is_tried_again_unless_its_store_has_the_data_by_now(ikon: Ikon) -> None:
    who = someone()
    first, image_id = ikon.active(b"y" * 60_000, who=who), ikon.active(b"x" * 100_000, who=who)
    job_id = start(ikon, image_id, ADMIN, "copy-image", stores=["two"])
    is_in(ikon, job_id, "failed")
    assert ikon.show(image_id)["status"] == "active"
    ikon.delete(first, who=who)

    assert act(ikon, job_id, "retry").status == 200
    is_in(ikon, job_id, "done")
    assert ikon.show(image_id)["stores"] == "one,two"

    first = ikon.active(b"y" * 40_000, who=who)
    late = ikon.active(b"z" * 8_000, who=who)
    job_id = start(ikon, late, ADMIN, "copy-image", stores=["two"])
    is_in(ikon, job_id, "failed")
    ikon.delete(first, who=who)
    assert ikon.copy(late, "two").status == 202
    answer = act(ikon, job_id, "retry")
    assert (answer.status, answer.message) == (409, "The image has moved on: it is active, in one, two")


# No more


def test_a_cancelled_import_leaves_its_staged_data_for_another(ikon: Ikon) -> None:
    image_id = staged(ikon, MEMBER, b"x" * 1000)
    with away(ikon, "one"):
        job_id = start(ikon, image_id, MEMBER)
        is_in(ikon, job_id, "waiting")
        answer = act(ikon, job_id, "cancel")

    assert (answer.status, answer.json["state"], answer.json["reason"]) == (200, "cancelled", "It was cancelled.")
    record = ikon.show(image_id)
    assert (record["status"], record["size"]) == ("uploading", 1000)
    assert "os_glance_import_task" not in record
    assert act(ikon, job_id, "cancel").message == "The job has ended already: it is cancelled"
    assert act(ikon, job_id, "retry").status == 409
    is_in(ikon, start(ikon, image_id, MEMBER), "done")
    assert ikon.show(image_id)["status"] == "active"


def test_a_cancelled_copy_leaves_the_image_active(ikon: Ikon) -> None:
    who = someone()
    image_id = ikon.active(b"x" * 1000, who=who)
    with away(ikon, "two"):
        job_id = start(ikon, image_id, ADMIN, "copy-image", stores=["two"])
        is_in(ikon, job_id, "waiting")
        assert act(ikon, job_id, "cancel").status == 200

    record = ikon.show(image_id)
    assert (record["status"], record["stores"]) == ("active", "one")
    assert timeline(ikon, image_id).json["now"]["cause"] == "It was cancelled"


# What became of an image


def test_a_timeline_is_told_to_the_owners_project_and_administrators(ikon: Ikon) -> None:
    private, public = ikon.active(b"x"), ikon.active(b"x")
    assert ikon.patch(public, [{"op": "replace", "path": "/visibility", "value": "public"}], who=ADMIN).status == 200
    expected = {ADMIN: 200, MEMBER: 200, READER: 200, Persona("home", "service"): 404}

    for who, status in expected.items():
        assert timeline(ikon, private, who).status == timeline(ikon, public, who).status == status, who
    assert (timeline(ikon, private, STRANGER).status, timeline(ikon, public, STRANGER).status) == (404, 403)


def test_only_administrators_get_the_operators_words(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")

    told = {who: timeline(ikon, image_id, who, query).json["for_tenant"] for who in (ADMIN, MEMBER) for query in ("", "?for_tenant=false")}

    assert told == {ADMIN: False, MEMBER: True}
    assert timeline(ikon, image_id, ADMIN, "?for_tenant=true").json["for_tenant"] is True
    wrong = timeline(ikon, image_id, ADMIN, "?for_tenant=maybe")
    assert (wrong.status, wrong.message) == (400, "for_tenant must be true or false")


def test_a_deleted_image_has_a_timeline_for_those_who_had_it(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")
    ikon.delete(image_id)

    told = timeline(ikon, image_id, READER).json

    assert (told["status"], told["now"]["what"]) == ("deleted", "deleted")
    assert [entry["what"] for entry in told["entries"]] == ["created", "an upload began: one", "became active: the data is raw", "deleted"]
    assert timeline(ikon, image_id, ADMIN).status == 200
    assert timeline(ikon, image_id, STRANGER).status == timeline(ikon, str(uuid.uuid4()), ADMIN).status == 404
    assert timeline(ikon, image_id, Persona("home", "service")).status == 403


@pytest.mark.parametrize("image_id", ["x", "%00", "%F0%9F%90%A7"])
def test_what_is_no_images_id_has_no_timeline(ikon: Ikon, image_id: str) -> None:
    assert timeline(ikon, image_id).status == 404


def test_a_long_timeline_is_cut_at_its_beginning(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])
    for number in range(205):
        ikon.patch(image_id, [{"op": "add", "path": "/n", "value": str(number)}])

    told = timeline(ikon, image_id).json

    assert (told["cut"], len(told["entries"]), told["entries"][0]["what"]) == (True, 200, "changed")


def test_an_owner_is_told_nothing_of_machines_and_of_others(ikon: Ikon) -> None:
    who, operator = someone(), Persona("operators-17", "admin,member,reader", user="root-of-all")
    image_id = staged(ikon, who, b"x" * 1000)
    friend = f"friends-{uuid.uuid4()}"
    assert ikon.share(image_id, friend, who=who).status == 200
    assert ikon.patch(image_id, [{"op": "add", "path": "/note", "value": "y"}], who=operator).status == 200
    with away(ikon, "one"):
        job_id = start(ikon, image_id, operator)
        is_in(ikon, job_id, "waiting")
        full, told = timeline(ikon, image_id, operator).body.decode(), timeline(ikon, image_id, who).body.decode()
        handed_on = timeline(ikon, image_id, operator, "?for_tenant=true").body.decode()
        assert act(ikon, job_id, "cancel").status == 200

    for secret in (str(ikon.directory), "operators-17", "root-of-all", friend):
        assert secret in full
        assert secret not in told
        assert secret not in handed_on
    for secret in ("cellar-9", socket.gethostname() + ":"):
        assert secret not in told
    assert "A store is gone or fails: Store one failed: No such file or directory" in told
    assert "by" in told


def test_an_upload_that_a_limit_refuses_is_told(ikon: Ikon) -> None:
    who = someone()
    image_id = str(ikon.create(who=who)["id"])
    assert ikon.upload(image_id, b"x" * 300_000, who=who).status == 413

    now = timeline(ikon, image_id, who).json["now"]

    assert "quota is used up" in now["cause"]
    assert (now["what"], now["effect"]) == ("an upload was refused", "The image stays queued, without data")


def test_who_may_not_upload_leaves_no_trace_in_a_timeline(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])
    assert ikon.upload(image_id, b"x" * 300_000, who=READER).status == 403
    assert ikon.upload(image_id, b"x" * 300_000, who=STRANGER).status == 404

    assert [entry["what"] for entry in timeline(ikon, image_id).json["entries"]] == ["created"]
