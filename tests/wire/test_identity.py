"""Who asks: identities from headers that a middleware sets, and the server without identities."""

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.server import ADMIN, MEMBER, NOBODY, Ikon, head


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server without identities."""
    with Ikon(tmp_path_factory.mktemp("open"), identity="none") as server:
        yield server
        assert server.unforeseen() == []


@pytest.mark.parametrize("status", [None, "Invalid", "confirmed", "Confirmed ; x", "", "CONFIRMED", "Confirmed,Confirmed"])
def test_without_a_confirmed_identity_nothing_is_served(ikon: Ikon, status: str | None) -> None:
    for method, path in (
        ("GET", "/v2/images"),
        ("POST", "/v2/images"),
        ("GET", "/v2/schemas/image"),
        ("GET", "/v2/nothing"),
        ("POST", "/ikon/v1/images/x/copies"),
    ):
        assert ikon.call(method, path, b"{}" if method == "POST" else None, {"X-Identity-Status": status}, who=ADMIN).status == 401


@pytest.mark.parametrize(
    "line",
    [
        "X-Identity-Status: Confirmed",
        "X-Identity-Status: Invalid",
        "X-Roles: admin",
        "X-Project-Id: elsewhere",
        "X-User-Id: root",
        "x-roles: ",
    ],
)
def test_an_identity_that_is_said_twice_is_none(ikon: Ikon, line: str) -> None:
    """A client's own header beside that of the middleware must not decide."""
    assert ikon.raw(head("GET", "/v2/images", line, "Connection: close")).status == 401


def test_a_token_is_no_identity(ikon: Ikon) -> None:
    assert ikon.get("/v2/images", {"X-Auth-Token": "secret", "Authorization": "Basic YTpi"}, who=NOBODY).status == 401


def test_the_project_comes_in_either_header(ikon: Ikon) -> None:
    headers = {"X-Identity-Status": "Confirmed", "X-Tenant-Id": "by-tenant", "X-Roles": "member,reader"}

    record = ikon.try_create({}, who=headers).json

    assert record["owner"] == "by-tenant"
    assert ikon.try_create({}, who=headers | {"X-Project-Id": "by-project"}).json["owner"] == "by-project"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Service-Roles": "admin"},
        {"X-Role": "admin"},
        {"X-Roles": "member,reader,administrator"},
        {"X-Is-Admin": "true"},
        {"X-User-Roles": "admin"},
        {"X-Is-Admin-Project": "True"},
        {"X_Roles": "admin"},
    ],
)
def test_nothing_but_the_role_makes_an_administrator(ikon: Ikon, headers: dict[str, str]) -> None:
    assert ikon.post("/v2/images", {"visibility": "public"}, headers).status == 403
    assert ikon.get("/v2/info/stores/detail", headers).status == 403


def test_odd_names_of_projects_are_just_names(ikon: Ikon) -> None:
    for project in ("a'b", "%", "None", "null", "é", "*", "x" * 255):
        who = MEMBER._replace(project=project)
        record = ikon.create(who=who)
        assert ikon.ids("?visibility=shared", who=who) == [record["id"]]


def test_a_server_without_identities_serves_whoever_asks_as_administrator(open_house: Ikon) -> None:
    record = open_house.post("/v2/images", {"visibility": "public"}, who=NOBODY)

    assert (record.status, record.json["owner"]) == (201, "default")
    assert open_house.get("/v2/images", {"X-Project-Id": "other", "X-Roles": "reader"}, who=NOBODY).json["images"] == [record.json]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Host": "evil.example"},
        {"Host": "evil.example:9292"},
        {"Host": "192.0.2.1"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example:80"},
        {"Host": ""},
    ],
)
def test_a_server_without_identities_refuses_web_pages(open_house: Ikon, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/v2/images"), ("POST", "/v2/images"), ("DELETE", "/v2/images/x")):
        answer = open_house.call(method, path, b"{}" if method == "POST" else None, headers, who=NOBODY)
        assert (method, answer.status) == (method, 403)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9292", "localhost", "localhost:80", "[::1]", "[::1]:9292"])
def test_a_server_without_identities_serves_its_own_machine(open_house: Ikon, host: str) -> None:
    assert open_house.get("/v2/images", {"Host": host}, who=NOBODY).status == 200


def test_a_preflight_of_a_web_page_gets_no_leave(open_house: Ikon) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "DELETE"}

    answer = open_house.call("OPTIONS", "/v2/images/x", None, headers, who=NOBODY)

    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_the_socket_of_the_operator_is_open_to_its_user_alone(open_house: Ikon) -> None:
    run = Path(open_house.directory, "data", "run")

    assert (run.stat().st_mode & 0o777, (run / "ikon.sock").stat().st_mode & 0o777) == (0o700, 0o600)


def test_who_resets_the_connection_is_nobody(ikon: Ikon) -> None:
    """A socket that is over has no address to tell, and is not the operator's for that, whose socket has none either."""
    image_id = str(ikon.create()["id"])
    request = f"DELETE /v2/images/{image_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    for _ in range(300):
        connection = socket.create_connection(("127.0.0.1", ikon.port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(request)
        connection.close()

    assert ikon.get("/healthcheck").status == 200
    assert ikon.show(image_id)["status"] == "queued"
