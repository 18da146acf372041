"""Images imported from regions that only Keystone's catalogue names."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.world import eventually, noise
from tests.services.servers import free_port
from tests.wire.server import UNUSED_ID, Answer, Ikon
from tests.wire.test_keystone import Cloud, by, cloud

pytestmark = pytest.mark.slow

__all__ = ["cloud"]  # a fixture

DATA = noise(1_500_000)
SECRET = {"IKON_SECRET": "s" * 32}


@pytest.fixture(scope="module")
def away(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """The other region, which takes tokens of the same Keystone."""
    with Ikon(tmp_path_factory.mktemp("away"), **cloud.settings()) as server:
        yield server


@pytest.fixture(scope="module")
def catalogue(cloud: Cloud, away: Ikon) -> Iterator[None]:
    """East is the other region, in its internal endpoint only south is; metadata's endpoint leads where nothing may be fetched from."""
    admin = by(cloud.token("admin"))
    service = next(one["id"] for one in cloud.call("GET", "/services", headers=admin)[0]["services"] if one["type"] == "image")
    url = f"http://127.0.0.1:{away.port}"
    endpoints = [("east", "public", url), ("south", "internal", f"{url}/v2/"), ("metadata", "public", "http://169.254.169.254/")]
    endpoints += [("gone", "public", f"http://127.0.0.1:{free_port()}"), ("settled", "public", "http://169.254.169.254/")]
    made = []
    for region, interface, address in endpoints:
        cloud.call("POST", "/regions", {"region": {"id": region}}, admin)
        about = {"interface": interface, "url": address, "service_id": service, "region_id": region}
        made.append(cloud.call("POST", "/endpoints", {"endpoint": about}, admin)[0]["endpoint"]["id"])
    yield
    for endpoint, (region, _, _) in zip(made, endpoints, strict=True):
        cloud.call("DELETE", f"/endpoints/{endpoint}", headers=admin)
        cloud.call("DELETE", f"/regions/{region}", headers=admin)


@pytest.fixture(scope="module")
def home(cloud: Cloud, catalogue: None, away: Ikon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server with one region in its settings, which the catalogue has elsewhere. [egress] opens nothing."""
    regions = {"settled": {"url": f"http://127.0.0.1:{away.port}"}}
    with Ikon(tmp_path_factory.mktemp("home"), env=SECRET, regions=regions, **cloud.settings()) as server:
        yield server
        assert server.unforeseen() == []


def start(home: Ikon, image: str, who: dict[str, str], **method: Any) -> Answer:
    return home.post(f"/v2/images/{image}/import", {"method": {"name": "glance-download"} | method}, who=who)


def asked(region: str, remote: str = UNUSED_ID, **more: Any) -> dict[str, Any]:
    return {"glance_region": region, "glance_image_id": remote} | more


def ended(home: Ikon, image: str, who: dict[str, str]) -> dict[str, Any]:
    """The image's record once nothing is at work on it."""
    eventually(lambda: "os_glance_import_task" not in home.get(f"/v2/images/{image}", who=who).json, 60)
    return dict(home.get(f"/v2/images/{image}", who=who).json)


def active(away: Ikon, who: dict[str, str], **fields: Any) -> str:
    made = away.try_create({"disk_format": "raw", "container_format": "bare"} | fields, who=who)
    path = f"/v2/images/{made.json['id']}/file"
    assert away.call("PUT", path, DATA, {"Content-Type": "application/octet-stream"}, who=who).status == 204
    return str(made.json["id"])


@pytest.mark.parametrize("asking", [asked("east"), asked("south", glance_service_interface="internal"), asked("settled")], ids=str)
def test_a_region_of_the_catalogue_is_imported_from_with_the_callers_token(
    home: Ikon, away: Ikon, cloud: Cloud, asking: dict[str, Any]
) -> None:
    alice, admin = by(cloud.token("alice")), by(cloud.token("admin"))
    remote = active(away, alice, visibility="private", os_distro="debian", colour="red")
    image = home.try_create({"name": "here"}, who=alice).json["id"]

    answer = start(home, image, alice, **asking | {"glance_image_id": remote})

    assert answer.status == 202, answer.message
    record = ended(home, image, alice)
    assert (record["status"], record["checksum"]) == ("active", hashlib.md5(DATA).hexdigest())
    assert (record["os_distro"], record["disk_format"], record.get("colour")) == ("debian", "raw", None)
    seen = [home.get(f"/ikon/v1/images/{image}/timeline", who=admin), home.get(f"/v2/images/{image}/tasks", who=alice)]
    kept = [path.read_bytes() for path in (home.directory / "data").iterdir() if path.is_file()]
    assert alice["X-Auth-Token"].encode() not in b"".join([*(answer.body for answer in seen), *kept, home.log.read_bytes()])


def test_what_the_caller_may_not_see_there_does_not_come(home: Ikon, away: Ikon, cloud: Cloud) -> None:
    remote = active(away, by(cloud.token("bob")), visibility="private")
    alice = by(cloud.token("alice"))
    image = home.try_create({}, who=alice).json["id"]

    assert start(home, image, alice, **asked("east", remote)).status == 202

    assert ended(home, image, alice)["status"] == "queued"
    task = home.get(f"/v2/images/{image}/tasks", who=alice).json["tasks"][0]
    assert task["message"] == f"Region east does not give image {remote}: it answered with HTTP status 404"


NONE = "is configured where this import is worked on, nor has the catalogue an image service there with this interface. Configured: settled"


@pytest.mark.parametrize(
    ("asking", "says"),
    [
        (asked("nowhere"), f"No region nowhere {NONE}"),
        (asked("east", glance_service_interface="internal"), f"No region east {NONE}"),
        (asked("south"), f"No region south {NONE}"),
        (asked("metadata"), "The URL, or one that it redirects to"),
    ],
    ids=str,
)
def test_a_region_that_is_not_there_or_must_not_be_asked_fails_the_import(
    home: Ikon, cloud: Cloud, asking: dict[str, Any], says: str
) -> None:
    alice = by(cloud.token("alice"))
    image = home.try_create({"disk_format": "raw", "container_format": "bare"}, who=alice).json["id"]

    assert start(home, image, alice, **asking).status == 202

    assert ended(home, image, alice)["status"] == "queued"
    assert home.get(f"/v2/images/{image}/tasks", who=alice).json["tasks"][0]["message"].startswith(says)


def test_a_region_that_does_not_answer_is_asked_again(home: Ikon, cloud: Cloud) -> None:
    alice = by(cloud.token("alice"))
    image = home.try_create({}, who=alice).json["id"]
    assert start(home, image, alice, **asked("gone")).status == 202

    tasks = f"/v2/images/{image}/tasks"
    eventually(lambda: "Region gone does not answer" in home.get(tasks, who=alice).json["tasks"][0]["message"], 60)
    assert home.call("DELETE", f"/v2/images/{image}", who=alice).status == 204


def test_without_keystone_nobody_knows_the_regions_of_its_catalogue_yet(home: Ikon, cloud: Cloud) -> None:
    alice = by(cloud.token("alice"))
    image = home.try_create({}, who=alice).json["id"]
    cloud.server.stop()
    try:
        answer = start(home, image, alice, **asked("east"))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    finally:
        cloud.server.start()
    assert home.get(f"/v2/images/{image}", who=alice).json["status"] == "queued"


def test_the_method_is_on_offer_only_where_tokens_can_be_passed_on(home: Ikon, away: Ikon, cloud: Cloud) -> None:
    alice = by(cloud.token("alice"))
    for server, offered in ((home, True), (away, False)):
        assert ("glance-download" in server.get("/v2/info/import", who=alice).json["import-methods"]["value"]) is offered
