"""What a project may hold, as clients and operators see it: whom a limit refuses and in which words, usage, `ikon quota`."""

import gzip
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.unit.cli.run import ikon as command
from tests.wire.server import ADMIN, BYTES, NOBODY, Answer, Ikon, Persona, someone
from tests.wire.test_keystone import PROJECTS, SECRET, Cloud, by, cloud

pytestmark = pytest.mark.slow

__all__ = ["cloud"]  # a fixture
GLANCE = Path(__file__).parents[2] / ".venv-clients/bin/glance"
MIB = 1 << 20
SETTINGS: dict[str, Any] = {
    "quota": {"bytes": 2 * MIB, "staged_bytes": 8_000, "images": 3, "uploading": 2},
    "imports": {"decompress": True},
}


@pytest.fixture(scope="module")
def ikon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("ikon"), **SETTINGS) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def stage(ikon: Ikon, image: str, body: Any, who: Persona) -> Answer:
    return ikon.call("PUT", f"/v2/images/{image}/stage", body, BYTES, who=who)


def usage(ikon: Ikon, who: Any) -> Any:
    """What is held and what is allowed: size, staged, images, uploading."""
    said = ikon.get("/v2/info/usage", who=who).json["usage"]
    names = ("image_size_total", "image_stage_total", "image_count_total", "image_count_uploading")
    return [(said[name]["usage"], said[name]["limit"]) for name in names] if said else said


def quota(ikon: Ikon, *words: str) -> subprocess.CompletedProcess[str]:
    return command("quota", words[0], "--config", ikon.config, *words[1:])


def test_an_image_over_the_number_is_refused_until_another_is_deleted(ikon: Ikon) -> None:
    who = someone()
    images = [str(ikon.create(who=who)["id"]) for _ in range(3)]

    answer = ikon.try_create({"name": "one too many"}, who=who)

    assert (answer.status, answer.reason) == (413, "Request Entity Too Large")
    over = "Resource image_count_total is over limit of 3 due to current usage 3 and delta 1"
    assert answer.message == f"Project {who.project} is over a limit for [{over}]"
    assert ikon.delete(images[0], who=who).status == 204
    assert ikon.create(who=who)["status"] == "queued"


def test_data_for_one_image_more_than_may_come_in_at_once_is_refused_and_the_image_stays_queued(ikon: Ikon) -> None:
    who = someone()
    first, second, third = (str(ikon.create(who=who)["id"]) for _ in range(3))
    assert [stage(ikon, image, b"x" * 100, who).status for image in (first, second)] == [204, 204]

    refused = [ikon.upload(third, b"x", who=who), stage(ikon, third, b"x", who)]

    assert [answer.status for answer in refused] == [413, 413]
    assert "Resource image_count_uploading is over limit of 2 due to current usage 2 and delta 1" in refused[0].message
    assert ikon.show(third)["status"] == "queued"
    assert ikon.post(f"/v2/images/{first}/import", {"method": {"name": "glance-direct"}}, who=who).status == 202
    ikon.delete(second, who=who)
    assert ikon.upload(third, b"x", who=who).status == 204


@pytest.mark.parametrize("in_chunks", [False, True])
def test_what_is_staged_is_held_to_its_own_limit_to_the_byte(ikon: Ikon, in_chunks: bool) -> None:
    who = someone()
    first, second = (str(ikon.create(who=who)["id"]) for _ in range(2))
    assert stage(ikon, first, b"x" * 5_000, who).status == 204

    def put(size: int) -> Answer:
        data = b"x" * size
        return stage(ikon, second, iter([data[:2000], data[2000:]]) if in_chunks else data, who)

    answer = put(3_001)

    assert answer.status == 413
    assert "Resource image_stage_total is over limit of 8000 bytes due to current usage" in answer.message
    assert ikon.show(second)["status"] == "queued"
    assert put(3_000).status == 204
    assert usage(ikon, who)[1] == (1, 0)  # MiB: up what is held, down what is allowed


def test_an_import_that_unpacks_more_than_may_be_staged_fails_and_says_so(ikon: Ikon) -> None:
    who = someone()
    image = str(ikon.create(who=who)["id"])
    assert stage(ikon, image, gzip.compress(bytes(8_001)), who).status == 204

    ikon.post(f"/v2/images/{image}/import", {"method": {"name": "glance-direct"}}, who=who)
    job = ikon.ended(ikon.get(f"/ikon/v1/jobs?image={image}", who=ADMIN).json["jobs"][0]["id"])

    assert (job["state"], "Resource image_stage_total is over limit" in job["reason"]) == ("failed", True)
    assert ikon.show(image)["status"] == "uploading"


def test_usage_is_shown_to_everyone_with_a_project_and_moves_with_what_is_done(ikon: Ikon) -> None:
    who = someone()
    assert usage(ikon, who) == [(0, 2), (0, 0), (0, 3), (0, 2)]

    ikon.active(b"x" * (MIB + 1), who=who)
    stage(ikon, str(ikon.create(who=who)["id"]), b"x", who)

    assert usage(ikon, who) == [(2, 2), (1, 0), (2, 3), (1, 2)]
    assert usage(ikon, who._replace(roles="")) == usage(ikon, who)
    assert usage(ikon, Persona(None)) == {}
    assert ikon.get("/v2/info/usage", who=NOBODY).status == 401
    assert ikon.call("DELETE", "/v2/info/usage", who=who).status == 405


def test_an_operator_limits_one_project_and_takes_it_back(ikon: Ikon) -> None:
    who, other = someone(), someone()
    project = str(who.project)

    done = quota(ikon, "set", project, "--images", "1", "--bytes", "1MiB", "--uploading", "unlimited")
    assert (done.returncode, done.stdout) == (0, f"Project {project} is limited\n"), done.stderr
    ikon.active(b"x" * MIB, who=who)

    assert [ikon.try_create({}, who=one).status for one in (who, other)] == [413, 201]
    assert quota(ikon, "show", project).stdout.splitlines() == [
        "bytes:        1048576/1048576*",
        "staged_bytes: 0/8000",
        "images:       1/1*",
        "uploading:    0/-*",
    ]
    assert usage(ikon, who) == [(1, 1), (0, 0), (1, 1), (0, -1)]
    assert f"{project}\t1048576/1048576*\t0/8000\t1/1*\t0/-*" in quota(ikon, "list").stdout.splitlines()
    assert quota(ikon, "set", project, "--images", "default").returncode == 0
    assert ikon.try_create({}, who=who).status == 201
    assert quota(ikon, "unset", project).stdout == f"Project {project} has no limits of its own\n"
    assert quota(ikon, "show", project).stdout.splitlines()[0] == "bytes:        1048576/2097152"


@pytest.mark.parametrize("words", [("--images", "0"), ("--images", "1GiB"), ("--bytes", "-1"), ("--bytes", "9999999999TiB"), ()])
def test_what_is_no_limit_is_refused_by_the_command(ikon: Ikon, words: tuple[str, ...]) -> None:
    done = quota(ikon, "set", "alpha", *words)

    assert done.returncode == 2
    assert ("unlimited; default: as all projects" if words else "Name a limit: --bytes") in " ".join(done.stderr.split())


BAD = [
    ([], "body: "),
    ({}, "body: name a limit"),
    ({"images": -1}, "images: "),
    ({"images": "3"}, "images: "),
    ({"bytes": 1 << 63}, "bytes: "),
    ({"bytes": 1.5}, "bytes: "),
    ({"sheep": 1}, "sheep"),
]


@pytest.mark.parametrize(("body", "named"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_limit_that_is_none_is_refused_by_name(ikon: Ikon, body: Any, named: str) -> None:
    answer = ikon.call("PUT", "/ikon/v1/quotas/alpha", json.dumps(body).encode(), who=ADMIN)

    assert (answer.status, named in answer.message, "allowed: bytes, staged_bytes, images, uploading" in answer.message) == (
        400,
        True,
        True,
    )


def test_only_administrators_see_and_set_quotas_of_projects(ikon: Ikon) -> None:
    who = someone()
    path, body = f"/ikon/v1/quotas/{who.project}", json.dumps({"images": 9}).encode()

    for method in ("GET", "PUT", "DELETE"):
        assert ikon.call(method, path, body if method == "PUT" else None, who=who).status == 403
    assert ikon.get("/ikon/v1/quotas", who=who).status == 403
    assert ikon.call("PUT", path, body, who=ADMIN).status == 204
    assert ikon.get(path, who=ADMIN).json["own"] == {"bytes": None, "staged_bytes": None, "images": 9, "uploading": None}


def test_projects_are_listed_in_pages(tmp_path: Path) -> None:
    with Ikon(tmp_path, quota={"counted": True}, limits={"page_max": 2}) as ikon:
        people = sorted((someone() for _ in range(5)), key=lambda who: str(who.project))
        for who in people:
            ikon.create(who=who)

        seen, path = [], "/ikon/v1/quotas"
        while path:
            page = ikon.get(path, who=ADMIN).json
            seen += [(each["project"], each["usage"]["images"], each["limits"]["images"]) for each in page["quotas"]]
            path = page.get("next", "")

        assert seen == [(who.project, 1, None) for who in people]
        assert ikon.get("/ikon/v1/quotas?marker=%00", who=ADMIN).status == 400


def test_where_no_quotas_are_kept_none_is_shown_and_none_can_be_set(tmp_path: Path) -> None:
    with Ikon(tmp_path) as ikon:
        who = someone()
        ikon.active(b"x", who=who)

        assert usage(ikon, who) == {}
        done = quota(ikon, "set", str(who.project), "--images", "1")
        assert (done.returncode, "No quotas are kept here. Set a limit in [quota], or its key counted" in done.stderr) == (1, True)


def test_what_was_stored_while_no_quotas_were_kept_counts_once_they_are(tmp_path: Path) -> None:
    who = someone()
    with Ikon(tmp_path) as ikon:
        ikon.active(b"x" * 1000, who=who)

    with Ikon(tmp_path, quota={"images": 1}) as ikon:
        assert usage(ikon, who) == [(1, -1), (0, -1), (1, 1), (0, -1)]
        assert ikon.try_create({}, who=who).status == 413


# Limits from Keystone


class Limited:
    """Alice's project in a real Keystone, with limits that may be changed."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._admin = cloud, by(cloud.token("admin", scope={"system": {"all": True}}))
        self.project = cloud.described(cloud.token("alice"))["project"]["id"]
        services = cloud.call("GET", "/services?type=image", headers=self._admin)[0]["services"]
        self._where = {"service_id": services[0]["id"], "region_id": "RegionOne"}

    def register(self, **defaults: int) -> None:
        """Register limits for all projects; a value of before is replaced."""
        known = self._all("registered_limits")
        for name, amount in defaults.items():
            if name in known:
                self._set("registered_limit", known[name], {"default_limit": amount})
            else:
                new = self._where | {"resource_name": name, "default_limit": amount}
                self._cloud.call("POST", "/registered_limits", {"registered_limits": [new]}, self._admin)

    def set(self, name: str, amount: int) -> None:
        """Limit the project."""
        if found := self._all("limits").get(name):
            self._set("limit", found, {"resource_limit": amount})
        else:
            new = self._where | {"resource_name": name, "resource_limit": amount, "project_id": self.project}
            self._cloud.call("POST", "/limits", {"limits": [new]}, self._admin)

    def unset(self) -> None:
        """Have the project be as all others."""
        for found in self._all("limits").values():
            self._cloud.call("DELETE", f"/limits/{found}", headers=self._admin)

    def _all(self, kind: str) -> dict[str, str]:
        return {each["resource_name"]: each["id"] for each in self._cloud.call("GET", f"/{kind}", headers=self._admin)[0][kind]}

    def _set(self, kind: str, found: str, change: dict[str, int]) -> None:
        self._cloud.call("PATCH", f"/{kind}s/{found}", {kind: change}, self._admin)


@pytest.fixture
def limited(cloud: Cloud) -> Iterator[Limited]:
    made = Limited(cloud)
    made.register(image_size_total=1, image_stage_total=1, image_count_total=2, image_count_uploading=1)
    yield made
    made.unset()


@pytest.fixture(scope="module")
def following(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server whose limits are those of Keystone."""
    with Ikon(tmp_path_factory.mktemp("following"), quota={"from_keystone": True, "images": 1}, **cloud.settings()) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.fixture
def alice(following: Ikon, cloud: Cloud) -> Iterator[dict[str, str]]:
    """Alice, whose project has nothing."""
    who = by(cloud.token("alice"))
    yield who
    for image in following.get("/v2/images", who=who).json["images"]:
        assert following.call("DELETE", f"/v2/images/{image['id']}", who=who).status == 204


def made(ikon: Ikon, who: dict[str, str]) -> Answer:
    return ikon.try_create({"disk_format": "raw", "container_format": "bare"}, who=who)


def put(ikon: Ikon, image: str, data: Any, who: dict[str, str], where: str = "file") -> Answer:
    return ikon.call("PUT", f"/v2/images/{image}/{where}", data, BYTES, who=who)


def test_registered_limits_hold_to_the_byte_and_a_raised_one_at_once(following: Ikon, limited: Limited, alice: dict[str, str]) -> None:
    first, second = (made(following, alice).json["id"] for _ in range(2))
    over = "Resource image_count_total is over limit of 2 due to current usage 2 and delta 1"

    assert made(following, alice).message == f"Project {limited.project} is over a limit for [{over}]"
    assert [put(following, first, data, alice).status for data in (b"x" * (MIB + 1), iter([b"x" * MIB, b"x"]))] == [413, 413]
    assert put(following, first, b"x" * 1_000_000, alice, "stage").status == 204
    assert put(following, second, b"x", alice, "stage").status == 413

    limited.set("image_count_total", 3)
    assert made(following, alice).status == 201
    limited.set("image_count_uploading", 2)
    assert put(following, second, b"x" * MIB, alice).status == 204
    assert usage(following, alice) == [(1, 1), (1, 1), (3, 3), (1, 2)]


def test_what_keystone_does_not_limit_is_free_and_what_it_does_not_know_is_nothing(
    following: Ikon, limited: Limited, alice: dict[str, str]
) -> None:
    limited.register(image_count_total=-1, image_count_uploading=0)

    images = [made(following, alice) for _ in range(4)]

    assert [answer.status for answer in images] == [201] * 4
    assert put(following, images[0].json["id"], b"x", alice).status == 413


def test_limits_of_keystone_are_not_set_here(following: Ikon, limited: Limited) -> None:
    done = quota(following, "set", limited.project, "--images", "9")

    assert (done.returncode, "Limits are set in Keystone" in done.stderr) == (1, True)
    eventually(lambda: quota(following, "show", limited.project).stdout.splitlines()[2] == "images:       0/2")  # by what Keystone says


def test_the_glance_client_shows_usage(following: Ikon, limited: Limited, alice: dict[str, str], cloud: Cloud) -> None:
    assert made(following, alice).status == 201
    env = {"OS_AUTH_URL": cloud.url, "OS_USERNAME": "alice", "OS_PASSWORD": SECRET, "OS_PROJECT_NAME": PROJECTS["alice"]}
    env |= {"OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default", "OS_IDENTITY_API_VERSION": "3"}
    env |= {"OS_IMAGE_URL": f"http://127.0.0.1:{following.port}"}

    done = subprocess.run([GLANCE, "usage"], env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    shown = [line.strip("| ").replace("|", " ").split() for line in done.stdout.splitlines()]
    assert ["image_count_total", "2", "1"] in shown, done.stdout


def test_doctor_says_whether_limits_can_be_had_and_which_lack(following: Ikon, limited: Limited) -> None:
    def doctor(**env: str) -> str:
        return command("doctor", "--config", following.config, env=env).stdout

    assert "limits: Keystone has 4 of the image service" in doctor()
    assert "needs the role reader on the system" in doctor(IKON_KEYSTONE__PASSWORD="wrong")


def test_while_keystone_is_away_nothing_grows_and_what_has_its_room_ends(
    following: Ikon, limited: Limited, alice: dict[str, str], cloud: Cloud
) -> None:
    first = made(following, alice).json["id"]
    second = made(following, alice).json["id"]

    def coming() -> Iterator[bytes]:
        yield b"x" * 1000
        for away, back in ((cloud.server.stop, cloud.server.start), (cloud.server.freeze, cloud.server.thaw)):
            away()
            try:
                answers.append(put(following, second, b"x", alice))
            finally:
                back()
        cloud.server.stop()
        yield b"x" * 1000

    answers: list[Answer] = []
    try:
        ended = following.call("PUT", f"/v2/images/{first}/file", coming(), BYTES | {"X-OpenStack-Image-Size": "2000"}, who=alice)
        deleted = following.call("DELETE", f"/v2/images/{second}", who=alice)
    finally:
        cloud.server.start()

    assert [(answer.status, answer.headers["Retry-After"]) for answer in answers] == [(503, "5")] * 2
    assert "limits does not answer" in answers[0].message
    assert (ended.status, deleted.status) == (204, 204)
    assert "limits cannot be asked for" in following.said()
    assert made(following, alice).status == 201
