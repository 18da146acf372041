"""Built-in users over the wire: who gets in, who does not and learns nothing, how often one may try, and who may change users."""

import base64
import json
import os
import pty
import random
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ikon.passwords import TRIES
from tests.wire.server import ADMIN, COMMAND, NOBODY, Answer, Ikon, head, on_database, q

ROOT = Path(__file__).parents[2]
OPENSTACK = ROOT / ".venv-clients/bin/openstack"
SETTINGS = {"identity": "users", "trusted_proxies": ["127.0.0.1"], "limits": {"page_max": 3}}
USERS = "/ikon/v1/users"
PERSONAS = {
    "olga": ("ops", ["admin"]),
    "max": ("home", ["manager"]),
    "alice": ("home", ["member"]),
    "ruth": ("home", ["reader"]),
    "nova": ("home", ["service"]),
    "bob": ("away", ["member", "service"]),
}


def basic(name: str, password: str) -> dict[str, str]:
    """What a client sends to say who asks."""
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def as_(name: str) -> dict[str, str]:
    """One of the personas."""
    return basic(name, f"{name}'s secret")


def user(ikon: Ikon, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """`ikon user`"""
    return subprocess.run([COMMAND, "user", *words, "--config", ikon.config], input=given, capture_output=True, text=True, check=False)


def add(ikon: Ikon, name: str, password: str, project: str = "home", roles: list[str] | None = None) -> Answer:
    """Have the administrator add a user."""
    return ikon.post(USERS, {"name": name, "project": project, "password": password, "roles": roles or ["member"]}, who=as_("olga"))


@pytest.fixture(scope="module", autouse=True)
def personas(ikon: Ikon) -> None:
    """The first user, who is added by the command of a server that has none; she adds the others."""
    assert ikon.get("/v2/images", who=as_("olga")).status == 401
    done = user(ikon, "add", "olga", "--project", "ops", "--role", "admin", "--password-stdin", given="olga's secret\n")
    assert done.returncode == 0, done.stderr
    for name, (project, roles) in PERSONAS.items():
        assert add(ikon, name, f"{name}'s secret", project, roles).status == (409 if name == "olga" else 204)


def statuses(ikon: Ikon, who: Mapping[str, str], times: int) -> list[int]:
    return [ikon.get("/v2/images", who=who).status for _ in range(times)]


# Who gets in


def test_a_user_works_in_the_own_project(ikon: Ikon) -> None:
    record = ikon.try_create({"name": "hers"}, who=as_("alice")).json

    assert record["owner"] == "home"
    assert ikon.get(f"/v2/images/{record['id']}", who=as_("ruth")).status == 200
    assert ikon.get(f"/v2/images/{record['id']}", who=as_("olga")).status == 200
    assert ikon.get(f"/v2/images/{record['id']}", who=as_("bob")).status == 404


@pytest.mark.parametrize(
    ("name", "creates", "lists", "publishes", "detail", "manages"),
    [
        ("olga", 201, 200, 201, 200, 200),
        ("max", 201, 200, 403, 403, 403),
        ("alice", 201, 200, 403, 403, 403),
        ("ruth", 403, 200, 403, 403, 403),
        ("nova", 403, 403, 403, 200, 403),
        ("bob", 201, 200, 403, 200, 403),
    ],
)
def test_each_role_may_do_what_it_implies(
    ikon: Ikon, name: str, creates: int, lists: int, publishes: int, detail: int, manages: int
) -> None:
    who = as_(name)

    assert ikon.try_create({}, who=who).status == creates
    assert ikon.get("/v2/images", who=who).status == lists
    assert ikon.try_create({"visibility": "public"}, who=who).status == publishes
    assert ikon.get("/v2/info/stores/detail", who=who).status == detail
    assert ikon.get(USERS, who=who).status == manages


def test_headers_that_a_proxy_would_set_make_nobody_an_administrator(ikon: Ikon) -> None:
    assert ikon.get("/v2/images", who=ADMIN).status == 401
    assert ikon.get("/v2/info/stores/detail", who=ADMIN.headers | as_("alice")).status == 403


@pytest.mark.parametrize(
    ("name", "password"),
    [("älice", "pässwörd"), ("爱丽丝", "🐧:🐧"), ("a b@c", " blanks "), ("quo'te", '%20&"\\'), ("x" * 255, "y" * 1000)],
)
def test_names_and_passwords_in_any_script_work(ikon: Ikon, name: str, password: str) -> None:
    assert add(ikon, name, password).status == 204

    assert ikon.get("/v2/images", who=basic(name, password)).status == 200
    assert ikon.get("/v2/images", who=basic(name, password[:-1])).status == 401
    assert ikon.call("PUT", f"{USERS}/{q(name)}/password", b'{"password": "new"}', who=as_("olga")).status == 204
    assert ikon.get("/v2/images", who=basic(name, "new")).status == 200
    assert ikon.call("DELETE", f"{USERS}/{q(name)}", who=as_("olga")).status == 204
    assert ikon.get("/v2/images", who=basic(name, "new")).status == 401


def test_many_requests_of_one_user_at_one_time_all_get_in(ikon: Ikon) -> None:
    add(ikon, "many", "secret")

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ikon.get("/v2/images", who=basic("many", "secret")).status, range(100)))

    assert answers == [200] * 100


@pytest.mark.parametrize("path", ["/images", "/info/stores", "/schemas/image"])
def test_a_client_that_discovers_no_version_is_served_below_the_bare_endpoint(ikon: Ikon, path: str) -> None:
    answer = ikon.get(path, who=as_("alice"))

    assert answer.json == ikon.get(f"/v2{path}", who=as_("alice")).json
    assert ikon.get(path, who=NOBODY).status == ikon.get("/nothing", who=as_("alice")).status == 300
    assert ikon.get(path, who=basic("nobody", "x")).status == 401


# Who does not


def test_an_unknown_name_cannot_be_told_from_a_wrong_password(ikon: Ikon) -> None:
    add(ikon, "known", "secret")
    took: dict[str, list[float]] = {"known": [], "unknown": []}
    answers: dict[str, list[Answer]] = {"known": [], "unknown": []}
    for n in range(TRIES + 2):
        for name in took:
            began = time.perf_counter()
            answers[name].append(ikon.get("/v2/images", who=basic(name, f"guess {n}")))
            took[name].append(time.perf_counter() - began)

    for known, unknown in zip(*answers.values(), strict=True):
        assert (known.status, known.reason, known.message) == (unknown.status, unknown.reason, unknown.message)
        assert known.headers.keys() == unknown.headers.keys()
    assert [answer.status for answer in answers["known"]] == [401] * TRIES + [429] * 2
    known_s, unknown_s = (statistics.median(times[:TRIES]) for times in took.values())
    assert 0.5 < known_s / unknown_s < 2


WRONG = [
    NOBODY,
    basic("alice", "wrong"),
    basic("Alice", "alice's secret"),
    basic("alice ", "alice's secret"),
    basic("nobody", "x"),
    basic("", ""),
    basic("", "alice's secret"),
    basic("alice", ""),
    basic("x" * 6000, "y"),
    basic("alice", "y" * 6000),
    basic("alice", "alice's secret:"),
    {"Authorization": ""},
    {"Authorization": "Basic"},
    {"Authorization": "Basic "},
    {"Authorization": "Basic !!!"},
    {"Authorization": "Basic YWxpY2U"},
    {"Authorization": "Basic YWxpY2U="},
    {"Authorization": "Basic YWxpY2U6YWxpY2Uncyb zZWNyZXQ="},
    {"Authorization": "Basic " + base64.b64encode(b"ali\0ce:alice's secret").decode()},
    {"Authorization": "Basic " + base64.b64encode(b"alice:alice's secret\0").decode()},
    {"Authorization": "Basic " + base64.b64encode(b"alice:alice's secret\n").decode()},
    {"Authorization": "Basic " + base64.b64encode(b"al\xffice:x").decode()},
    {"Authorization": "Basic " + "A" * 8192},
    {"Authorization": "Basic \xff\xfe"},
    {"Authorization": "Bearer abc"},
    {"Authorization": "Digest username=alice"},
    {"X-Auth-Token": base64.b64encode(b"alice:alice's secret").decode()},
]


@pytest.mark.parametrize("n", range(len(WRONG)), ids=[str(dict(who))[:60] for who in WRONG])
def test_what_proves_nobody_is_answered_with_401_and_how_to_do_better(ikon: Ikon, n: int) -> None:
    elsewhere = {"X-Forwarded-For": f"198.51.100.{100 + n}"}  # each case has its own tries
    for method, path in (("GET", "/v2/images"), ("POST", "/v2/images"), ("GET", "/v2/nothing"), ("GET", USERS)):
        answer = ikon.call(method, path, b"{}" if method == "POST" else None, elsewhere, who=WRONG[n])
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Ikon", charset="UTF-8"'
        assert "secret" not in answer.message


def test_random_credentials_prove_nobody(ikon: Ikon) -> None:
    rubbish = random.Random(20261125)
    for n in range(200):
        drawn = rubbish.randbytes(rubbish.randrange(40))
        text = drawn.decode("latin-1").translate(dict.fromkeys((0, 10, 13))) if n % 2 else base64.b64encode(b"alice:" + drawn).decode()
        said = {"Authorization": f"Basic {text}", "X-Forwarded-For": f"10.0.0.{n}"}
        assert ikon.get("/v2/images", said, who=NOBODY).status in (400, 401)


def test_credentials_that_come_twice_are_none(ikon: Ikon) -> None:
    mine, other = as_("alice")["Authorization"], basic("eve", "x")["Authorization"]
    for pair in ((mine, other), (other, mine), (mine, mine)):
        lines = [f"Authorization: {each}" for each in pair]
        assert ikon.raw(head("GET", "/v2/images", *lines, "Connection: close", who=NOBODY)).status == 401


def test_the_scheme_is_read_in_any_case(ikon: Ikon) -> None:
    encoded = as_("alice")["Authorization"].partition(" ")[2]

    assert [ikon.get("/v2/images", who={"Authorization": f"{word} {encoded}"}).status for word in ("basic", "BASIC", "Basic  ")] == [
        200
    ] * 3


def test_health_and_versions_need_no_user(ikon: Ikon) -> None:
    assert [ikon.get(path, who=NOBODY).status for path in ("/", "/versions", "/healthcheck", "/metrics")] == [300, 200, 200, 200]


# How often


def test_tries_are_limited_for_each_name_and_address(ikon: Ikon) -> None:
    add(ikon, "target", "secret")
    right, guess = basic("target", "secret"), basic("target", "guess")
    assert statuses(ikon, right, 3) == [200] * 3

    assert statuses(ikon, guess, TRIES + 1) == [401] * TRIES + [429]
    blocked = ikon.get("/v2/images", {"Accept": "application/json"}, who=right)
    assert (blocked.status, blocked.json["title"]) == (429, "Too Many Requests")
    assert 1 <= int(blocked.headers["Retry-After"]) <= 6
    assert ikon.get("/v2/images", who=as_("alice")).status == 200
    assert "too many wrong passwords" in ikon.said()
    elsewhere = {"X-Forwarded-For": "198.51.100.7"}
    assert ikon.get("/v2/images", elsewhere, who=right).status == 200
    assert ikon.get("/v2/images", {"X-Forwarded-For": "198.51.100.7, 127.0.0.1"}, who=right).status == 200


def test_a_client_cannot_choose_the_address_that_its_tries_are_counted_for(ikon: Ikon) -> None:
    add(ikon, "spoofed", "secret")
    for n in range(TRIES):  # what stands on the left was said by the client, what stands on the right by the proxy
        said = {"X-Forwarded-For": f"203.0.113.{n}, 198.51.100.9"}
        assert ikon.get("/v2/images", said, who=basic("spoofed", f"guess {n}")).status == 401

    assert ikon.get("/v2/images", {"X-Forwarded-For": "198.51.100.9"}, who=basic("spoofed", "guess")).status == 429


def test_addresses_of_one_network_of_ipv6_count_as_one(ikon: Ikon) -> None:
    add(ikon, "six", "secret")
    for n in range(TRIES):
        said = {"X-Forwarded-For": f"2001:db8:1:2::{n:x}"}
        assert ikon.get("/v2/images", said, who=basic("six", f"guess {n}")).status == 401

    assert ikon.get("/v2/images", {"X-Forwarded-For": "2001:db8:1:2:ffff::1"}, who=basic("six", "secret")).status == 429
    assert ikon.get("/v2/images", {"X-Forwarded-For": "2001:db8:1:3::1"}, who=basic("six", "secret")).status == 200
    assert ikon.get("/v2/images", {"X-Forwarded-For": "::ffff:192.0.2.5"}, who=basic("six", "secret")).status == 200


def test_what_a_proxy_says_that_is_no_address_counts_for_the_proxy(ikon: Ikon) -> None:
    add(ikon, "garbled", "secret")
    for n in range(TRIES):
        assert ikon.get("/v2/images", {"X-Forwarded-For": f"192.0.2.1:{n}"}, who=basic("garbled", f"guess {n}")).status == 401

    for said in ("unknown", "192.0.2.1:99", ",", "198.51.100.1, _hidden"):
        assert ikon.get("/v2/images", {"X-Forwarded-For": said}, who=basic("garbled", "secret")).status == 429


def test_without_trusted_proxies_nobody_is_believed_about_addresses(tmp_path: Path) -> None:
    with Ikon(tmp_path, identity="users") as ikon:
        for n in range(TRIES):
            assert ikon.get("/v2/images", {"X-Forwarded-For": f"192.0.2.{n}"}, who=basic("nobody", f"{n}")).status == 401
        assert ikon.get("/v2/images", {"X-Forwarded-For": "192.0.2.99"}, who=basic("nobody", "x")).status == 429
        assert ikon.unforeseen() == []


# Web pages


def test_a_page_of_a_foreign_origin_cannot_use_a_password_that_the_browser_remembers(ikon: Ikon) -> None:
    for method, path in (("POST", "/v2/images"), ("DELETE", "/v2/images/x"), ("PUT", "/v2/images/x/file")):
        answer = ikon.call(method, path, b"{}", {"Origin": "http://evil.example"}, who=as_("alice"))
        assert (answer.status, "Access-Control-Allow-Origin" in answer.headers) == (403, False)
    assert ikon.get("/v2/images", {"Origin": "http://evil.example"}, who=as_("alice")).status == 200
    own = {"Origin": "https://images.example", "Host": "images.example"}
    assert ikon.call("POST", "/v2/images", b"{}", own, who=as_("alice")).status == 201


# Who changes users


def test_a_new_password_and_a_removal_count_at_once(ikon: Ikon) -> None:
    add(ikon, "gone", "old")
    assert statuses(ikon, basic("gone", "old"), 2) == [200] * 2

    assert user(ikon, "passwd", "gone", "--password-stdin", given="new\n").returncode == 0
    assert [ikon.get("/v2/images", who=basic("gone", password)).status for password in ("old", "new")] == [401, 200]
    assert user(ikon, "remove", "gone").returncode == 0
    assert ikon.get("/v2/images", who=basic("gone", "new")).status == 401
    assert add(ikon, "gone", "third", "away").status == 204
    assert [ikon.get("/v2/images", who=basic("gone", password)).status for password in ("new", "third")] == [401, 200]


def test_a_list_of_users_goes_on_page_by_page_and_holds_no_password(ikon: Ikon) -> None:
    names, path, pages = [], USERS, 0
    while path:
        answer = ikon.get(path, who=as_("olga"))
        assert b"argon2" not in answer.body and b"password" not in answer.body
        names += [each["name"] for each in answer.json["users"]]
        path, pages = answer.json.get("next"), pages + 1

    assert names == sorted(names, key=lambda name: name.encode())
    assert set(PERSONAS) <= set(names)
    assert len(names) == len(set(names))
    assert pages == len(names) // 3 + 1
    listed = [line.split("\t") for line in user(ikon, "list").stdout.splitlines()]
    assert [line[0] for line in listed] == names
    assert ["bob", "away", "member,service"] in listed


BAD: list[tuple[Any, str]] = [
    ({}, "missing required field"),
    ([], "body: Expected `object`, got `array`"),
    ({"name": "a:b", "project": "p", "password": "geheim", "roles": ["member"]}, "name: "),
    ({"name": "a", "project": "", "password": "geheim", "roles": ["member"]}, "project: has 0 characters"),
    ({"name": "a", "project": "p", "password": "", "roles": ["member"]}, "password: has 0 characters"),
    ({"name": "a", "project": "p", "password": "geheim\0", "roles": ["member"]}, "password: holds a control character"),
    ({"name": "a", "project": "p", "password": "geheim", "roles": ["root"]}, "roles: Invalid enum value 'root'; allowed: admin"),
    ({"name": "a", "project": "p", "password": "geheim", "roles": []}, "roles: name one at least"),
    ({"name": "a", "project": "p", "password": "geheim", "roles": ["member"], "id": 3}, "unknown field `id`"),
    (b"{", "Malformed JSON"),
    (b'{"name": "\\ud800", "project": "p", "password": "geheim", "roles": ["member"]}', "JSON"),
]


@pytest.mark.parametrize(("body", "said"), BAD, ids=[str(body)[:50] for body, _ in BAD])
def test_what_cannot_be_a_user_is_refused_and_leaves_no_trace(ikon: Ikon, body: Any, said: str) -> None:
    before = user(ikon, "list").stdout

    answer = ikon.post(USERS, body, {"Accept": "application/json"}, who=as_("olga"))

    assert answer.status == 400
    assert said in answer.message
    assert "geheim" not in answer.message
    assert user(ikon, "list").stdout == before


def test_a_user_that_is_not_there_can_neither_go_nor_change(ikon: Ikon) -> None:
    for name in ("missing", "%00", "a%0Ab", "x" * 2000, "%ff", "*", "é"):
        assert ikon.call("DELETE", f"{USERS}/{name if '%' in name else q(name)}", who=as_("olga")).status == 404
        path = f"{USERS}/{name if '%' in name else q(name)}/password"
        assert ikon.call("PUT", path, b'{"password": "x"}', who=as_("olga")).status == 404
    for path, method in ((f"{USERS}/alice", "GET"), (f"{USERS}/alice/password", "GET"), (USERS, "DELETE")):
        assert ikon.call(method, path, who=as_("olga")).status == 405
    assert ikon.get(f"{USERS}?marker=%00", who=as_("olga")).status == 400
    assert ikon.get(f"{USERS}?marker=zzzz", who=as_("olga")).json["users"] == []


def test_nobody_but_an_administrator_changes_users(ikon: Ikon) -> None:
    new = {"name": "eve", "project": "home", "password": "x", "roles": ["admin"]}
    for name in ("max", "alice", "ruth", "nova", "bob"):
        who = as_(name)
        assert ikon.post(USERS, new, who=who).status == 403
        assert ikon.call("DELETE", f"{USERS}/ruth", who=who).status == ikon.call("DELETE", f"{USERS}/nothing", who=who).status == 403
        assert ikon.call("PUT", f"{USERS}/{name}/password", b'{"password": "x"}', who=who).status == 403
    assert ikon.get("/v2/images", who=as_("ruth")).status == 200


# The commands


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        (["add", "alice", "--project", "p", "--password-stdin"], "x\n", "There is a user 'alice' already"),
        (["add", "a/b", "--project", "p", "--password-stdin"], "x\n", "name: begins with a letter"),
        (["add", "new", "--project", "p", "--password-stdin"], "", "password: has 0 characters"),
        (["add", "new", "--project", "p", "--password-stdin"], "x\ny\n", "password: holds a control character"),
        (["add", "new", "--project", "p", "--password-stdin"], "x" * 9000, "password: has 8192 characters"),
        (["add", "new", "--project", "p", "--role", "root", "--password-stdin"], "x\n", "'root' is not one of 'admin'"),
        (["add", "new", "--project", "p"], "x\n", "give it on standard input, with --password-stdin"),
        (["add", "new", "--password-stdin"], "x\n", "Missing option '--project'"),
        (["passwd", "missing", "--password-stdin"], "x\n", "No user 'missing'"),
        (["remove", "missing"], None, "No user 'missing'"),
    ],
)
def test_a_command_that_cannot_do_its_work_says_why(ikon: Ikon, words: list[str], given: str | None, said: str) -> None:
    done = user(ikon, *words, given=given)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_password_is_asked_for_twice_and_not_shown(ikon: Ikon) -> None:
    ours, theirs = pty.openpty()
    command = [COMMAND, "user", "add", "typed", "--project", "home", "--config", str(ikon.config)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=lambda: os.close(ours)
    ) as asking:
        os.close(theirs)
        shown = b""
        for _ in range(2):
            while not shown.rstrip().endswith(b":"):
                shown += os.read(ours, 1000)
            os.write(ours, b"geheim\n")
            shown += b"."
        assert asking.wait(30) == 0

    assert b"geheim" not in shown
    assert ikon.get("/v2/images", who=basic("typed", "geheim")).status == 200


def test_no_password_is_in_the_log_or_the_database(ikon: Ikon) -> None:
    add(ikon, "canary", "geheimes Wort")
    ikon.get("/v2/images", who=basic("canary", "geheimes Wort"))
    ikon.get("/v2/images", who=basic("canary", "falsches Wort"))

    for file in [ikon.log, *Path(ikon.directory, "data").glob("ikon.db*")]:
        content = file.read_bytes()
        assert b"geheimes Wort" not in content and b"falsches Wort" not in content


# The published client, and several processes


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/v2"])
def test_the_openstack_client_works_with_http_basic(ikon: Ikon, tmp_path: Path, path: str) -> None:
    def run(password: str, *words: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("OS_")} | {"HOME": str(tmp_path), "no_proxy": "*"}
        endpoint = f"http://127.0.0.1:{ikon.port}{path}"
        options = ["--os-auth-type", "http_basic", "--os-username", "alice", "--os-password", password, "--os-endpoint", endpoint]
        return subprocess.run([OPENSTACK, *options, "image", *words], env=env, capture_output=True, text=True, check=False)

    data, saved = tmp_path / "data.raw", tmp_path / "saved.raw"
    data.write_bytes(os.urandom(300_000))
    form = ["--disk-format", "raw", "--container-format", "bare"]

    made = run("alice's secret", "create", "-f", "json", *form, "--file", str(data), "from the client")
    assert made.returncode == 0, made.stderr
    image_id = json.loads(made.stdout)["id"]
    assert image_id in run("alice's secret", "list", "-f", "value").stdout
    assert run("alice's secret", "save", "--file", str(saved), image_id).returncode == 0
    assert saved.read_bytes() == data.read_bytes()
    refused = run("wrong", "show", image_id)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    assert run("alice's secret", "delete", image_id).returncode == 0


@pytest.fixture(params=["mariadb_url", "postgres_url"])
def two_processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ikon]:
    """A server of two processes."""
    url = request.getfixturevalue(request.param)
    on_database(tmp_path, url)
    with Ikon(tmp_path, database=url, workers=2, identity="users") as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.mark.slow
def test_a_new_password_counts_at_once_in_every_process(two_processes: Ikon) -> None:
    old, new = basic("alice", "old"), basic("alice", "new")
    added = user(two_processes, "add", "alice", "--project", "home", "--password-stdin", given="old\n")
    assert added.returncode == 0, added.stderr
    assert statuses(two_processes, old, 40) == [200] * 40

    assert user(two_processes, "passwd", "alice", "--password-stdin", given="new\n").returncode == 0

    assert statuses(two_processes, new, 40) == [200] * 40
    assert set(statuses(two_processes, old, 10)) == {401}
    assert user(two_processes, "remove", "alice").returncode == 0
    assert 200 not in statuses(two_processes, new, 40)
