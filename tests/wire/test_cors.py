"""Web pages of configured origins may use the API from a browser; nobody else's may, and nothing is said where none is configured."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.server import MEMBER, NOBODY, Answer, Ikon

PAGE = "http://dashboard.example"
SETTINGS = {"cors": {"allowed_origins": [PAGE, "https://[2001:db8::1]:8443"]}}


@pytest.fixture(scope="module")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server without identities that a page may use."""
    with Ikon(tmp_path_factory.mktemp("open"), identity="none", **SETTINGS) as server:
        yield server
        assert server.unforeseen() == []


def said(answer: Answer) -> dict[str, str]:
    """What an answer tells a browser."""
    return {
        name.lower(): value for name, value in answer.headers.items() if name.lower().startswith("access-control") or name.lower() == "vary"
    }


def preflight(ikon: Ikon, path: str = "/v2/images", origin: str | None = PAGE, **asked: str) -> Answer:
    headers = {"Origin": origin} | {f"Access-Control-Request-{name.capitalize()}": value for name, value in asked.items()}
    return ikon.call("OPTIONS", path, None, headers, who=NOBODY)


def test_a_page_of_a_configured_origin_reads_answers_and_their_headers(ikon: Ikon) -> None:
    answer = ikon.get("/v2/images?limit=1", {"Origin": PAGE})

    assert answer.status == 200
    told = said(answer)
    readable = set(told.pop("access-control-expose-headers").lower().split(","))
    assert told == {"vary": "Origin", "access-control-allow-origin": PAGE, "access-control-allow-credentials": "true"}
    assert readable >= {"x-image-meta-checksum", "x-auth-token", "x-subject-token", "x-service-token", "x-openstack-request-id"}


def test_a_page_may_read_every_header_of_ours(ikon: Ikon) -> None:
    free = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}
    never = {"date", "connection", "vary", "transfer-encoding"}
    origin = {"Origin": PAGE}
    created = ikon.post("/v2/images", {"disk_format": "raw", "container_format": "bare"}, origin)
    image_id = ikon.active(b"data")
    answers = [
        created,
        ikon.download(image_id, {"Range": "bytes=1-2"} | origin),
        ikon.download(image_id, {"Range": "bytes=9-"} | origin),
        ikon.patch(image_id, b"[]", {"Content-Type": "text/plain"} | origin),
        ikon.call("PUT", "/v2/images", None, origin),
    ]

    assert [answer.status for answer in answers] == [201, 206, 416, 415, 405]
    for answer in answers:
        readable = set(said(answer)["access-control-expose-headers"].lower().split(","))
        names = {name.lower() for name in answer.headers}
        assert {name for name in names if not name.startswith("access-control")} <= readable | free | never


@pytest.mark.parametrize("path", ["/v2/images/x", "/v2/nothing", "/healthcheck"])
def test_failures_can_be_read_too(ikon: Ikon, path: str) -> None:
    assert said(ikon.get(path, {"Origin": PAGE}))["access-control-allow-origin"] == PAGE
    assert said(ikon.get(path, {"Origin": PAGE}, who=NOBODY))["access-control-allow-origin"] == PAGE


def test_a_download_through_the_fast_way_can_be_read(ikon: Ikon) -> None:
    image_id = ikon.active(b"x" * 3_000_000)

    answer = ikon.download(image_id, {"Origin": PAGE})

    assert answer.body == b"x" * 3_000_000
    assert said(answer)["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_a_preflight_gets_leave_for_what_it_asks(ikon: Ikon, method: str) -> None:
    answer = preflight(ikon, method=method, headers="X-Auth-Token, content-type,If-Match,range,authorization")

    assert (answer.status, answer.body) == (200, b"")
    assert said(answer) == {
        "vary": "Origin",
        "access-control-allow-origin": PAGE,
        "access-control-allow-credentials": "true",
        "access-control-max-age": "3600",
        "access-control-allow-methods": method,
        "access-control-allow-headers": "X-Auth-Token, content-type,If-Match,range,authorization",
    }


def test_a_preflight_without_headers_of_its_own_gets_no_word_about_headers(ikon: Ikon) -> None:
    assert "access-control-allow-headers" not in said(preflight(ikon, method="DELETE"))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"method": "TRACE"},
        {"method": "get"},
        {"method": "PATCH, GET"},
        {"headers": "X-Auth-Token"},
        {"method": "GET", "headers": "X-Bogus"},
        {"method": "GET", "headers": "X-Auth-Token, X-Bogus"},
        {"method": "GET", "headers": "X-Roles"},
        {"method": "GET", "headers": "X-Identity-Status"},
        {"method": "GET", "headers": "X-Project-Id"},
        {"method": "GET", "headers": "X-Forwarded-For"},
        {"method": "GET", "headers": "*"},
    ],
)
def test_a_preflight_for_anything_else_gets_no_leave(ikon: Ikon, asked: dict[str, str]) -> None:
    answer = preflight(ikon, **asked)

    assert (answer.status, said(answer)) == (200, {"vary": "Origin"})


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://dashboard.example",
        "http://dashboard.example:80",
        "http://dashboard.example.evil.example",
        "http://Dashboard.example",
        "http://dashboard.example/",
        "http://dashboard.exampl",
        "null",
        "*",
        "",
        f"{PAGE}, http://evil.example",
    ],
)
def test_other_origins_are_told_nothing(ikon: Ikon, origin: str) -> None:
    assert said(preflight(ikon, origin=origin, method="GET")) == {"vary": "Origin"}
    answer = ikon.get("/v2/images", {"Origin": origin})
    assert (answer.status, said(answer)) == (200, {"vary": "Origin"})


def test_without_an_origin_caches_are_told_that_it_matters(ikon: Ikon) -> None:
    assert said(ikon.get("/v2/images")) == {"vary": "Origin"}


def test_leave_to_read_is_no_leave_to_act(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]

    assert ikon.get("/v2/images", {"Origin": PAGE}, who=NOBODY).status == 401
    assert ikon.get(f"/v2/images/{image_id}", {"Origin": PAGE}, who=MEMBER._replace(project="elsewhere")).status == 404


def test_without_configured_origins_nothing_is_said(tmp_path: Path) -> None:
    with Ikon(tmp_path) as ikon:
        assert said(ikon.get("/v2/images", {"Origin": PAGE})) == {}
        assert said(preflight(ikon, method="GET")) == {}


def test_a_server_without_identities_serves_pages_of_configured_origins_alone(open_house: Ikon) -> None:
    def create(**headers: str) -> Answer:
        return open_house.call("POST", "/v2/images", b"{}", headers, who=NOBODY)

    made = create(Origin=PAGE)
    assert (made.status, said(made)["access-control-allow-origin"]) == (201, PAGE)
    assert create().status == 201
    for origin in ("http://evil.example", "null", "", "http://127.0.0.1"):
        refused = create(Origin=origin)
        assert (refused.status, said(refused)) == (403, {"vary": "Origin"})
    assert create(Origin=PAGE, Host="rebound.example").status == 403
