"""Images imported from another Ikon: what comes along, who may have what, and what is refused of a region that is wrong, lies or is away."""

import base64
import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.faults.world import eventually, noise
from tests.services.servers import free_port
from tests.wire.front import Change, Front, Reply
from tests.wire.server import ADMIN, BYTES, COMMAND, MEMBER, READER, STRANGER, Answer, Ikon, Persona

pytestmark = pytest.mark.slow

DATA = noise(1_500_000)
TOKEN, OTHER_TOKEN, PASSWORD = "gAAAA-of-the-member", "gAAAA-of-a-stranger", "swordfish"
BASIC = {"Authorization": f"Basic {base64.b64encode(f'ikon:{PASSWORD}'.encode()).decode()}"}
ACCOUNT = Persona("operators", "admin,member,reader", user="ikon-west")
MISSING = "00000000-0000-4000-8000-000000000000"
EXTRA = {"hw_disk_bus": "virtio", "trait:HW_CPU": "required", "os_distro": "debian", "colour": "red"}


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """The other region."""
    with Ikon(tmp_path_factory.mktemp("away")) as server:
        yield server


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A third region, with built-in users."""
    with Ikon(tmp_path_factory.mktemp("users"), identity="users") as server:
        command = [COMMAND, "user", "add", "ikon", "--project", "p", "--role", "admin", "--password-stdin", "--config", server.config]
        subprocess.run(command, input=f"{PASSWORD}\n", text=True, check=True, capture_output=True)
        yield server


@pytest.fixture(scope="module")
def front(away: Ikon) -> Iterator[Front]:
    """The other region's door."""
    with Front(away.port, {TOKEN: MEMBER, OTHER_TOKEN: STRANGER, f"ikon:{PASSWORD}": ACCOUNT}) as server:
        yield server


@pytest.fixture(scope="module")
def home(front: Front, users: Ikon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server with regions: by callers' tokens, by a user of its own, and one where nobody is. [egress] opens nothing."""
    regions = {
        "east": {"url": front.url},
        "west": {"url": f"{front.url}/v2/", "user": "ikon"},
        "south": {"url": f"http://127.0.0.1:{users.port}", "user": "ikon"},
        "gone": {"url": f"http://127.0.0.1:{free_port()}"},
    }
    env = {"IKON_SECRET": "s" * 32, "IKON_REGIONS__WEST__PASSWORD": PASSWORD, "IKON_REGIONS__SOUTH__PASSWORD": PASSWORD}
    with Ikon(tmp_path_factory.mktemp("home"), env=env, regions=regions) as server:
        yield server
        assert server.unforeseen() == []


@pytest.fixture(scope="module")
def unanswered(home: Ikon) -> str:
    """An image whose region does not answer: begun first, looked at last, for that takes some seconds."""
    return begin(home, MISSING, "gone")


@pytest.fixture(autouse=True)
def right_again(front: Front, unanswered: str) -> Iterator[None]:
    yield
    front.change = None
    front.asked.clear()


def start(home: Ikon, image: str, method: dict[str, Any], who: Persona = MEMBER, token: str | None = TOKEN) -> Answer:
    body = json.dumps({"method": {"name": "glance-download"} | method}).encode()
    return home.call("POST", f"/v2/images/{image}/import", body, {"X-Auth-Token": token}, who=who)


def begin(home: Ikon, remote: str, region: str = "west", who: Persona = MEMBER, token: str | None = TOKEN, **fields: Any) -> str:
    """A new image here that is to become the one there."""
    image = str(home.create(who=who, **fields)["id"])
    answer = start(home, image, {"glance_region": region, "glance_image_id": remote}, who, token)
    assert (answer.status, answer.body) == (202, b""), answer
    return image


def ended(home: Ikon, image: str) -> dict[str, Any]:
    """The image's record once nothing is at work on it."""
    end = time.monotonic() + 60
    while "os_glance_import_task" in (record := home.show(image)):
        assert time.monotonic() < end, record
        time.sleep(0.02)
    return record


def refused(home: Ikon, image: str) -> str:
    """Why an import failed: the image waits, without data."""
    record = ended(home, image)
    assert (record["status"], record["size"], record["checksum"]) == ("queued", None, None)
    task = home.get(f"/v2/images/{image}/tasks").json["tasks"][0]
    assert task["status"] == "failure"
    return str(task["message"])


def of_file(change: Any) -> Change:
    """A change of the data's answers alone."""
    return lambda path, count, reply: change(count, reply) if path.endswith("/file") else reply


def of_record(**fields: Any) -> Change:
    """A record that says something else."""

    def change(path: str, count: int, reply: Reply) -> Reply:
        if path.endswith("/file"):
            return reply
        body = json.dumps(json.loads(reply.body) | fields).encode()
        return reply._replace(body=body, headers={"Content-Length": str(len(body))})

    return change


def test_an_image_comes_with_its_formats_and_the_properties_that_the_operator_chose(home: Ikon, away: Ikon, front: Front) -> None:
    remote = away.active(DATA, name="there", container_format="bare", tags=["there"], visibility="private", **EXTRA)
    image = begin(home, remote, "east", disk_format=None, container_format=None, name="here", mine="1", os_distro="?")

    record, theirs = ended(home, image), away.show(remote)

    assert (record["status"], record["name"], record["tags"], record["visibility"]) == ("active", "here", [], "shared")
    for field in ("size", "checksum", "os_hash_value", "disk_format", "container_format", "virtual_size"):
        assert record[field] == theirs[field]
    assert {name: record.get(name) for name in (*EXTRA, "mine")} == EXTRA | {"colour": None, "mine": "1"}
    assert home.download(image).body == DATA
    method = home.get(f"/v2/images/{image}/tasks").json["tasks"][0]["input"]["import_req"]["method"]
    asked = {"glance_region": "east", "glance_image_id": remote, "glance_service_interface": "public"}
    assert method == {"name": "glance-download"} | asked
    assert {headers["X-Auth-Token"] for _, headers in front.asked} == {TOKEN}


def test_neither_token_nor_password_lies_open_in_the_database_the_log_or_an_answer(home: Ikon, away: Ikon) -> None:
    images = [begin(home, away.active(b"x", visibility="public", who=ADMIN), region) for region in ("east", "west")]
    seen = b""
    for image in images:
        assert ended(home, image)["status"] == "active"
        for path in (f"/v2/images/{image}/tasks", "/v2/tasks", f"/ikon/v1/jobs?image={image}", f"/ikon/v1/images/{image}/timeline"):
            seen += home.get(path, who=ADMIN).body
    data = home.directory / "data"
    kept = [path.read_bytes() for path in data.iterdir() if path.is_file()]

    assert any(images[0].encode() in file for file in kept)
    for secret in (TOKEN, PASSWORD):
        assert secret.encode() not in b"".join([seen, home.log.read_bytes(), *kept])


@pytest.mark.parametrize("region", ["east", "west"])
def test_an_image_that_its_project_would_not_get_is_like_one_that_is_not_there(home: Ikon, away: Ikon, region: str) -> None:
    theirs = away.active(b"secret", visibility="private", who=STRANGER)

    said = [refused(home, begin(home, remote, region)).replace(remote, "ID") for remote in (theirs, MISSING)]

    assert said[0] == said[1] == f"Region {region} does not give image ID: it answered with HTTP status 404"


def test_a_region_s_own_user_opens_what_is_public_one_s_own_project_s_images_and_all_to_an_administrator(home: Ikon, away: Ikon) -> None:
    theirs = away.active(b"x", visibility="private", who=STRANGER)
    for remote, who in (
        (away.active(b"x", visibility="public", who=ADMIN), MEMBER),
        (away.active(b"x", visibility="community", who=STRANGER), MEMBER),
        (away.active(b"x", visibility="private"), MEMBER),
        (theirs, ADMIN),
    ):
        assert ended(home, begin(home, remote, "west", who))["status"] == "active"


@pytest.mark.parametrize("token", [None, "expired", "not a token"])
def test_a_caller_without_a_token_that_the_region_knows_is_told_so(home: Ikon, away: Ikon, token: str | None) -> None:
    remote = away.active(b"x", visibility="public", who=ADMIN)

    assert "does not give image" in (said := refused(home, begin(home, remote, "east", token=token)))
    assert said.endswith("HTTP status 401")


def test_an_image_that_is_not_active_there_is_not_taken(home: Ikon, away: Ikon) -> None:
    assert "it is queued. Import it once" in refused(home, begin(home, away.create()["id"]))


def test_record_and_data_are_both_asked_for_in_the_caller_s_name(home: Ikon, away: Ikon, front: Front) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)
    front.change = of_file(lambda count, reply: Reply(403, {"Content-Length": "0"}, b""))

    assert refused(home, begin(home, remote)).endswith("HTTP status 403")


LIES: dict[str, tuple[Change, str]] = {
    "size, too small": (of_record(size=len(DATA) - 1), f"gives {len(DATA)} bytes of an image of {len(DATA) - 1}"),
    "size, too large": (of_record(size=len(DATA) + 1), f"gives {len(DATA)} bytes of an image of {len(DATA) + 1}"),
    "size, beyond all": (of_record(size=1 << 60), "more data than is allowed"),
    "digest": (of_record(os_hash_value="0" * 128), "not the 0000"),
    "digest of another kind": (of_record(os_hash_algo="sha256", os_hash_value="0" * 64), "not the 0000"),
    "checksum alone": (of_record(os_hash_algo=None, os_hash_value=None, checksum="0" * 32), "not the 0000"),
    "data": (of_file(lambda count, reply: reply._replace(body=b"?" + reply.body[1:])), "sha512 digest"),
    "less data, and no length": (of_file(lambda count, reply: reply._replace(body=reply.body[:-1], headers={})), f"gives {len(DATA) - 1} bytes"),
    "more data, and no length": (of_file(lambda count, reply: reply._replace(body=reply.body + b"?", headers={})), "more than the"),
    "no data": (of_file(lambda count, reply: Reply(204, {}, b"")), "HTTP status 204"),
    "another image": (of_record(id=MISSING), "not that of this image"),
    "an unknown format": (of_record(disk_format="zzz"), "its disk_format is zzz"),
    "a wrong format": (of_record(disk_format="qcow2"), "does not match"),
    "a property that is none": (of_record(hw_disk_bus=["virtio"]), "'hw_disk_bus' cannot be kept"),
    "too many properties": (of_record(**{f"hw_{n}": "x" for n in range(129)}), "Maximum: 128"),
    "an endless record": (of_record(hw_disk_bus="x" * (1 << 20)), "record is too long"),
    "no JSON": (lambda path, count, reply: Reply(200, {}, b"<html>"), "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_region_that_lies_is_refused_and_leaves_nothing(home: Ikon, away: Ikon, front: Front, lie: str) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)
    front.change, words = LIES[lie]

    image = begin(home, remote)

    assert words in refused(home, image)
    eventually(lambda: not [path for path in (*home.files(), *(home.directory / "data/staging").iterdir()) if image in path.name])


def test_an_image_without_any_digest_comes_by_its_size(home: Ikon, away: Ikon, front: Front) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)
    front.change = of_record(os_hash_algo=None, os_hash_value=None, checksum=None)
    assert ended(home, begin(home, remote))["checksum"] == hashlib.md5(DATA).hexdigest()


#: Headers with which image services send data: lengths are told or not, and no word that proves it to be the same data later.
FORMS = {
    "with its length": {"Content-Type": "application/octet-stream", "Content-Length": str(len(DATA))},
    "in chunks": {"Content-Type": "application/octet-stream", "Content-MD5": hashlib.md5(DATA).hexdigest(), "Transfer-Encoding": "chunked"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_cut_is_mended_from_where_it_was_where_only_the_digest_shows_that_it_is_the_same_data(
    home: Ikon, away: Ikon, front: Front, form: str
) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)

    def cut(count: int, reply: Reply) -> Reply:
        rest = {name: value for name, value in reply.headers.items() if name.lower() != "etag"}
        return reply._replace(headers=FORMS[form], cut=700_000) if count == 1 else reply._replace(headers=rest)

    front.change = of_file(cut)
    image = begin(home, remote)

    assert ended(home, image)["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    ranges = [headers.get("Range") for path, headers in front.asked if path.endswith("/file")]
    assert len(ranges) == 2
    assert ranges[0] is None
    assert int(str(ranges[1]).removeprefix("bytes=").removesuffix("-")) > 0


def test_another_import_goes_on_from_what_came_before_the_region_broke_off(home: Ikon, away: Ikon, front: Front) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)
    front.change = of_file(lambda count, reply: reply._replace(cut=1_200_000) if count == 1 else Reply(403, {"Content-Length": "0"}, b""))
    image = begin(home, remote)
    assert refused(home, image).endswith("HTTP status 403")
    front.change = None

    assert start(home, image, {"glance_region": "west", "glance_image_id": remote}).status == 202

    assert ended(home, image)["os_hash_value"] == hashlib.sha512(DATA).hexdigest()
    asked = [headers for path, headers in front.asked if path.endswith("/file")]
    assert asked[-1]["Range"] == "bytes=1200000-"
    assert asked[-1]["If-Range"] == f'"{away.show(remote)["os_hash_value"]}"'


@pytest.mark.parametrize("what", ["record", "data"])
def test_a_redirect_away_from_a_region_leads_to_no_inside_address_and_takes_no_secret_along(
    home: Ikon, away: Ikon, front: Front, what: str
) -> None:
    remote = away.active(DATA, visibility="public", who=ADMIN)
    visited: list[str] = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visited.append(self.path)
            self.send_error(404)

    inside = ThreadingHTTPServer(("127.0.0.1", 0), Inside)
    Thread(target=inside.serve_forever, args=(0.02,), daemon=True).start()
    try:
        for place in (f"http://127.0.0.1:{inside.server_address[1]}/", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"):
            moved = Reply(302, {"Location": place, "Content-Length": "0"}, b"")
            front.change = of_file(lambda count, reply, to=moved: to) if what == "data" else lambda path, count, reply, to=moved: to
            assert "redirects to, does not pass filtering" in refused(home, begin(home, remote))
        assert visited == []
        front.change = lambda path, count, reply: Reply(302, {"Location": path, "Content-Length": "0"}, b"")
        assert "redirects more than 5 times" in refused(home, begin(home, remote))
        authorised = [path for path, headers in front.asked[-6:] if "Authorization" in headers]
        assert len(authorised) == 1
    finally:
        inside.shutdown()
        inside.server_close()


REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({}, "'glance_region' needs to be set for glance-download import method"),
    ({"glance_region": "east"}, "'glance_image_id' needs to be set for glance-download import method"),
    ({"glance_region": "east", "glance_image_id": "x"}, "Remote image id does not look like a UUID: x"),
    ({"glance_region": ["east"], "glance_image_id": MISSING}, "'glance_region' needs to be set"),
    (
        {"glance_region": "east", "glance_image_id": MISSING, "glance_service_interface": []},
        "'glance_service_interface' needs to be set",
    ),
]


@pytest.mark.parametrize(("method", "says"), REQUESTS, ids=lambda value: str(value)[:50])
def test_a_request_that_cannot_be_is_refused_by_the_field(home: Ikon, method: dict[str, Any], says: str) -> None:
    image = str(home.create()["id"])

    answer = start(home, image, method)

    assert (answer.status, says in answer.message) == (400, True), answer.message
    assert home.get(f"/v2/images/{image}/tasks").json == {"tasks": []}


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (
            {"glance_region": "nowhere", "glance_service_interface": "x"},
            "No region nowhere is configured where this import is worked on. Con",
        ),
        (
            {"glance_region": "east", "glance_service_interface": "secret"},
            "Region east has no interface secret. It has public, internal, admin",
        ),
    ],
    ids=["region", "interface"],
)
def test_a_region_or_interface_that_is_not_there_fails_the_import_alone(home: Ikon, method: dict[str, Any], says: str) -> None:
    image = str(home.create()["id"])

    answer = start(home, image, {"glance_image_id": MISSING} | method)

    assert answer.status == 202, answer
    assert says in refused(home, image)


def test_only_those_who_may_change_an_image_that_waits_for_data_import_into_it(home: Ikon) -> None:
    asked = {"glance_region": "east", "glance_image_id": MISSING}
    image = str(home.create(visibility="community")["id"])

    assert start(home, image, asked, READER).status == 403
    assert start(home, image, asked, STRANGER).status == 403
    full = start(home, home.active(b"x"), asked)
    assert (full.status, "cannot be target for import" in full.message) == (409, True)


def test_the_method_is_on_offer_where_there_are_regions(home: Ikon, away: Ikon) -> None:
    for server, offered in ((home, True), (away, False)):
        assert ("glance-download" in server.get("/v2/info/import").json["import-methods"]["value"]) == offered
        created = server.try_create({"disk_format": "raw", "container_format": "bare"})
        assert ("glance-download" in str(created.headers["OpenStack-image-import-methods"]).split(",")) == offered
    unknown = start(away, str(away.create()["id"]), {"glance_region": "east", "glance_image_id": MISSING})
    assert (unknown.status, "Unknown import method name 'glance-download'" in unknown.message) == (400, True)


def test_another_ikon_with_built_in_users_is_imported_from_by_name_and_password(home: Ikon, users: Ikon) -> None:
    made = users.post(
        "/v2/images", {"disk_format": "raw", "container_format": "bare", "os_distro": "debian", "visibility": "public"}, who=BASIC
    )
    assert users.call("PUT", f"/v2/images/{made.json['id']}/file", DATA, BYTES, who=BASIC).status == 204

    record = ended(home, begin(home, made.json["id"], "south"))

    assert (record["status"], record["checksum"], record["os_distro"]) == ("active", hashlib.md5(DATA).hexdigest(), "debian")


def test_an_import_whose_server_is_killed_in_the_middle_goes_on(home: Ikon, away: Ikon, front: Front) -> None:
    remote = away.active(DATA, visibility="private", **EXTRA)
    front.held.clear()
    image = begin(home, remote, "east")
    eventually(lambda: any(path.endswith("/file") for path, _ in front.asked))
    eventually(lambda: [path for path in (home.directory / "data/staging").iterdir() if image in path.name])

    home.kill()
    front.held.set()
    home.start()

    record = ended(home, image)
    assert (record["status"], record["checksum"], record["os_distro"]) == ("active", hashlib.md5(DATA).hexdigest(), "debian")
    assert [path.endswith("/file") for path, _ in front.asked].count(True) == 2
    eventually(lambda: not [path for path in (home.directory / "data/staging").iterdir() if image in path.name])


def test_a_region_that_does_not_answer_is_asked_again_and_the_image_says_meanwhile_what_it_waits_for(home: Ikon, unanswered: str) -> None:
    task = f"/v2/images/{unanswered}/tasks"
    eventually(lambda: "Region gone does not answer" in home.get(task).json["tasks"][0]["message"], 60)

    assert home.get(task).json["tasks"][0]["status"] in ("processing", "pending")
    told = [entry.get("cause", "") for entry in home.get(f"/ikon/v1/images/{unanswered}/timeline", who=ADMIN).json["entries"]]
    assert [cause for cause in told if cause.startswith("The other region does not answer: Region gone does not answer (127.0.0.1:")]
    assert home.delete(unanswered).status == 204
