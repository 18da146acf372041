"""Tokens of a real Keystone: who gets in as whom, what does not, and what happens while Keystone is away."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ikon.api.door import ROUTES
from tests.services.servers import Server
from tests.wire.server import COMMAND, UNUSED_ID, Answer, Ikon

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OPENSTACK = ROOT / ".venv-clients/bin/openstack"
SECRET = "secret"
PROJECTS = {"admin": "admin", "glance": "service", "alice": "alpha", "bob": "beta", "rita": "alpha"}
Headers = dict[str, str]


class Cloud:
    """A Keystone, spoken to by plain HTTP."""

    def __init__(self, server: Server) -> None:
        self.server, self.url = server, f"http://127.0.0.1:{server.port}/v3"

    def call(self, method: str, path: str, body: Any = None, headers: Headers | None = None) -> tuple[Any, Headers]:
        """One request; returns what the answer holds, and its headers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"} | (headers or {}), method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
            return json.loads(text) if text else None, dict(answer.headers)

    def token(self, name: str, *, scope: dict[str, Any] | None = None) -> str:
        """A fresh token of one of the users, for its project."""
        password = {"user": {"name": name, "domain": {"id": "default"}, "password": SECRET}}
        scope = scope or {"project": {"name": PROJECTS[name], "domain": {"id": "default"}}}
        return self._issue({"identity": {"methods": ["password"], "password": password}, "scope": scope})

    def token_of_credential(self, made: dict[str, Any]) -> str:
        """A token of an application credential."""
        credential = {"id": made["id"], "secret": made["secret"]}
        return self._issue({"identity": {"methods": ["application_credential"], "application_credential": credential}})

    def _issue(self, auth: dict[str, Any]) -> str:
        return self.call("POST", "/auth/tokens", {"auth": auth})[1]["X-Subject-Token"]

    def described(self, token: str) -> dict[str, Any]:
        """What Keystone says of a token."""
        return dict(self.call("GET", "/auth/tokens", headers={"X-Auth-Token": token, "X-Subject-Token": token})[0]["token"])

    def revoke(self, token: str) -> None:
        """Have a token not count any more."""
        self.call("DELETE", "/auth/tokens", headers={"X-Auth-Token": token, "X-Subject-Token": token})

    def credential(self, token: str, name: str, rules: list[dict[str, str]] | None) -> dict[str, Any]:
        """An application credential of the user of a token."""
        user, wanted = self.described(token)["user"]["id"], {"name": name} | ({"access_rules": rules} if rules is not None else {})
        path = f"/users/{user}/application_credentials"
        made = self.call("POST", path, {"application_credential": wanted}, {"X-Auth-Token": token})[0]
        return dict(made["application_credential"])

    def settings(self, **more: Any) -> dict[str, Any]:
        """Those of a server that believes this Keystone."""
        return {"identity": "keystone", "keystone": {"url": self.url, "password": SECRET, "timeout_s": 3.0} | more}


@pytest.fixture(scope="module")
def cloud(keystone: Server) -> Cloud:
    return Cloud(keystone)


@pytest.fixture(scope="module")
def ikon(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    with Ikon(tmp_path_factory.mktemp("ikon"), **cloud.settings()) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.fixture(scope="module")
def forgetful(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server that asks Keystone each time."""
    with Ikon(tmp_path_factory.mktemp("forgetful"), **cloud.settings(cache_s=0.001)) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def by(token: str, service: str | None = None) -> Headers:
    return {"X-Auth-Token": token} | ({"X-Service-Token": service} if service else {})


def lists(ikon: Ikon, who: Headers) -> int:
    return ikon.get("/v2/images", who=who).status


def creates(ikon: Ikon, who: Headers) -> Answer:
    return ikon.try_create({"name": "one", "disk_format": "raw", "container_format": "bare"}, who=who)


def test_callers_are_who_their_tokens_say_and_may_what_their_roles_say(ikon: Ikon, cloud: Cloud) -> None:
    alice, rita, bob, admin = (by(cloud.token(name)) for name in ("alice", "rita", "bob", "admin"))

    made = creates(ikon, alice)
    path = f"/v2/images/{made.json['id']}"

    assert (made.status, made.json["owner"]) == (201, cloud.described(alice["X-Auth-Token"])["project"]["id"])
    assert creates(ikon, rita).status == 403
    assert [ikon.get(path, who=who).status for who in (alice, rita, bob, admin)] == [200, 200, 404, 200]
    assert [ikon.call("DELETE", path, who=who).status for who in (rita, bob, alice)] == [403, 404, 204]


@pytest.mark.parametrize("token", [None, "", "nonsense", "gAAAAABnonsense", "x" * 8193, "two words", "\xe4", "a\tb", "../../v3/users"])
def test_what_is_no_token_is_refused_with_the_place_where_tokens_are_had(ikon: Ikon, cloud: Cloud, token: str | None) -> None:
    said = {} if token is None else {"X-Auth-Token": token}

    answer = ikon.get("/v2/images", said, who={})

    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, f'Keystone uri="{cloud.url}"')


def test_whatever_is_asked_for_needs_a_token_and_the_answer_says_where_they_are_had(ikon: Ikon, cloud: Cloud) -> None:
    paths = {re.sub(r"\{[^}]*\}", UNUSED_ID, path): methods for path, methods in ROUTES.items() if path.startswith(("/v2/", "/ikon/"))}
    paths |= {f"/v2/nothing/{UNUSED_ID}": dict.fromkeys(("GET", "HEAD", "POST")), "/v2/": dict.fromkeys(("GET", "HEAD")), "/images": {}}
    assert len(paths) > 30

    for path, methods in paths.items():
        for method in methods:
            answer = ikon.call(method, path, who={})
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, f'Keystone uri="{cloud.url}"'), (method, path)


def test_every_form_of_a_bad_proof_is_refused_with_the_place_where_tokens_are_had(ikon: Ikon, cloud: Cloud) -> None:
    good, service = cloud.token("alice"), cloud.token("glance")
    rule = {"service": "image", "method": "GET", "path": "/v2/schemas/image"}
    bound = cloud.token_of_credential(cloud.credential(good, "bound", [rule]))
    forms: list[list[tuple[str, str]]] = [
        [("X-Auth-Token", good), ("X-Auth-Token", good)],
        [("X-Auth-Token", good), ("x-auth-token", "")],
        [("X-Auth-Token", f"{good},{good}")],
        [("X-Auth-Token", f"Bearer {good}")],
        [("X-Auth-Token", bound)],
        [("X-Service-Token", service)],
        [("X-Storage-Token", good)],
        [("Authorization", f"Bearer {good}")],
        [("Authorization", "Basic YWxpY2U6c2VjcmV0")],
        [("Cookie", f"token={good}")],
    ]
    for form in forms:
        for accept in ("application/json", "text/plain", "*/*"):
            status, challenge = said_raw(ikon, [*form, ("Accept", accept)])
            assert (status, challenge) == (401, f'Keystone uri="{cloud.url}"'), form
    assert said_raw(ikon, [("X-Auth-Token", good), ("X-Service-Token", service), ("X-Service-Token", service)])[0] == 200


def said_raw(ikon: Ikon, headers: list[tuple[str, str]]) -> tuple[int, str | None]:
    """What a request with exactly these headers, one after the other, is answered."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", ikon.port, timeout=30)) as conn:
        conn.putrequest("GET", "/v2/images")
        for name, value in headers:
            conn.putheader(name, value.encode("latin-1"))
        conn.endheaders()
        answer = conn.getresponse()
        return answer.status, answer.headers["WWW-Authenticate"]


def test_the_address_for_clients_may_be_another_than_ikons_own(cloud: Cloud, tmp_path: Path) -> None:
    with Ikon(tmp_path, **cloud.settings(www_authenticate_uri="https://keystone.example.org/v3")) as server:
        assert server.get("/v2/images", who={}).headers["WWW-Authenticate"] == 'Keystone uri="https://keystone.example.org/v3"'


def test_what_a_client_says_of_itself_does_not_count(ikon: Ikon, cloud: Cloud) -> None:
    claims = {"X-Identity-Status": "Confirmed", "X-Roles": "admin", "X-Project-Id": "operators", "X-Service-Roles": "service"}

    assert lists(ikon, claims) == 401
    assert ikon.get("/v2/info/stores/detail", who=by(cloud.token("alice")) | claims).status == 403


def test_a_revoked_token_is_refused(forgetful: Ikon, cloud: Cloud) -> None:
    token = cloud.token("alice")
    assert lists(forgetful, by(token)) == 200

    cloud.revoke(token)

    assert lists(forgetful, by(token)) == 401


def test_a_known_token_is_not_asked_about_again(ikon: Ikon, cloud: Cloud) -> None:
    token = cloud.token("alice")
    before = asked(ikon)

    assert [lists(ikon, by(token)) for _ in range(5)] == [200] * 5

    assert asked(ikon) - before == 1


def asked(ikon: Ikon) -> float:
    """How often a server has asked Keystone."""
    found = re.search(r'^ikon_tokens_total\{by="keystone"\} ([0-9.]+)', ikon.get("/metrics", who={}).body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_token_of_the_whole_system_is_for_no_project_and_may_nothing_in_one(ikon: Ikon, cloud: Cloud) -> None:
    who = by(cloud.token("admin", scope={"system": {"all": True}}))

    assert (lists(ikon, who), creates(ikon, who).status) == (403, 403)


def test_roles_of_a_service_are_not_those_of_the_caller(ikon: Ikon, cloud: Cloud) -> None:
    service = cloud.token("glance")

    assert ikon.get("/v2/info/stores/detail", who=by(cloud.token("alice"), service)).status == 403
    assert ikon.get("/v2/info/stores/detail", who=by(service)).status == 200
    assert lists(ikon, by("nonsense", service)) == 401
    assert lists(ikon, by(cloud.token("alice"), "nonsense")) == 200


def test_roles_of_a_service_count_for_properties_and_those_of_any_other_second_token_do_not(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "protections.conf").write_text("[.*]\ncreate = admin\nread = admin\nupdate = admin\ndelete = admin\n")
    with Ikon(tmp_path / "ikon", **cloud.settings(), policy={"property_protection_file": str(tmp_path / "protections.conf")}) as server:
        alice = cloud.token("alice")

        answers = [server.try_create({"x": "1"}, who=by(alice, second)) for second in (None, cloud.token("admin"), cloud.token("glance"))]

        assert [answer.status for answer in answers] == [403, 403, 201]
        assert "x" in answers[2].json
        assert "x" not in server.get(f"/v2/images/{answers[2].json['id']}", who=by(alice)).json


@pytest.fixture
def expired(cloud: Cloud) -> Iterator[str]:
    """A token of alice that has had its time."""
    conf = cloud.server.directory / "keystone.conf"
    usual = conf.read_text()
    try:
        conf.write_text(usual.replace("expiration = 3600", "expiration = 1"))
        restart(cloud)
        token = cloud.token("alice")
    finally:
        conf.write_text(usual)
        restart(cloud)
    time.sleep(2)
    return token  # type: ignore[return-value]


def restart(cloud: Cloud) -> None:
    cloud.server.stop()
    cloud.server.start()


def test_an_expired_token_passes_only_with_that_of_a_service(ikon: Ikon, cloud: Cloud, expired: str) -> None:
    assert lists(ikon, by(expired)) == 401
    assert lists(ikon, by(expired, cloud.token("bob"))) == 401
    assert lists(ikon, by(expired, expired)) == 401
    assert lists(ikon, by(expired, cloud.token("glance"))) == 200


def test_an_application_credential_may_what_its_access_rules_name(ikon: Ikon, cloud: Cloud) -> None:
    alice = cloud.token("alice")
    rules = [{"service": "image", "method": "GET", "path": "/v2/images"}, {"service": "compute", "method": "POST", "path": "/v2/images"}]
    token = cloud.token_of_credential(cloud.credential(alice, "list", rules))
    image = creates(ikon, by(alice)).json["id"]

    assert lists(ikon, by(token)) == 200
    assert ikon.get("/v2/images?limit=1", who=by(token)).status == 200
    assert (ikon.get(f"/v2/images/{image}", who=by(token)).status, creates(ikon, by(token)).status) == (401, 401)
    assert ikon.get(f"/v2/images/{image}", who=by(token, cloud.token("glance"))).status == 200
    assert creates(ikon, by(cloud.token_of_credential(cloud.credential(alice, "all", None)))).status == 201


def test_without_keystone_known_tokens_still_count_and_others_may_come_again(ikon: Ikon, cloud: Cloud) -> None:
    known = by(cloud.token("alice"))
    assert lists(ikon, known) == 200

    for away, back in ((cloud.server.stop, cloud.server.start), (cloud.server.freeze, cloud.server.thaw)):
        new = by(cloud.token("bob"))
        away()
        try:
            answer = ikon.get("/v2/images", who=new)
            assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            assert "identity service does not answer" in answer.message
            assert lists(ikon, known) == 200
        finally:
            back()
        assert lists(ikon, new) == 200


def test_a_keystone_that_refuses_ikon_itself_is_the_operators_trouble_not_the_callers(cloud: Cloud, tmp_path: Path) -> None:
    with Ikon(tmp_path, **cloud.settings(password="wrong")) as ikon:
        assert lists(ikon, by(cloud.token("alice"))) == 503
        assert "identity service cannot be asked" in ikon.said()
    assert "wrong" not in ikon.said()


def test_processes_tell_each_other_of_tokens_by_memcached(cloud: Cloud, memcached: Server, tmp_path: Path) -> None:
    shared = {"memcached": [f"127.0.0.1:{memcached.port}"], "memcached_secret": "shared"}
    token = by(cloud.token("alice"))
    with (
        Ikon(tmp_path / "a", **cloud.settings(**shared)) as one,
        Ikon(tmp_path / "b", **cloud.settings(**shared)) as other,
        Ikon(tmp_path / "c", **cloud.settings(**shared | {"memcached_secret": "not shared"})) as stranger,
    ):
        assert lists(one, token) == 200
        assert (lists(other, token), asked(other)) == (200, 0)
        assert (lists(stranger, token), asked(stranger)) == (200, 1)
        memcached.stop()
        assert lists(one, by(cloud.token("bob"))) == 200


def test_the_openstack_client_works_with_a_password_alone(ikon: Ikon, cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(os.urandom(1000))
    auth = {"auth_url": cloud.url, "username": "alice", "password": SECRET, "project_name": PROJECTS["alice"]}
    auth |= {"user_domain_id": "default", "project_domain_id": "default"}
    clouds = {"clouds": {"alice": {"auth": auth, "image_endpoint_override": f"http://127.0.0.1:{ikon.port}/"}}}
    (tmp_path / "clouds.yaml").write_text(json.dumps(clouds))
    env = {"OS_CLIENT_CONFIG_FILE": str(tmp_path / "clouds.yaml"), "OS_CLOUD": "alice", "HOME": str(tmp_path)}

    def openstack(*words: str) -> str:
        command = [OPENSTACK, "image", *words]
        done = subprocess.run(command, env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    openstack("create", "--disk-format", "raw", "--container-format", "bare", "--file", str(tmp_path / "disk.raw"), "by-password")
    image = json.loads(openstack("show", "by-password", "-f", "json"))
    openstack("save", "--file", str(tmp_path / "back.raw"), "by-password")

    assert (image["status"], image["size"]) == ("active", 1000)
    assert (tmp_path / "back.raw").read_bytes() == (tmp_path / "disk.raw").read_bytes()


def test_doctor_says_whether_keystone_answers(ikon: Ikon, cloud: Cloud, tmp_path: Path) -> None:
    def doctor(env: Headers) -> str:
        words = [COMMAND, "doctor", "--config", ikon.config]
        return subprocess.run(words, env=os.environ | env, capture_output=True, text=True, check=False).stdout

    assert f"keystone, {cloud.url} answers" in doctor({})
    assert "identity service does not answer" in doctor({"IKON_KEYSTONE__PASSWORD": "wrong"})
