"""What holds for every request: discovery, error forms, methods, request ids, identity, and rubbish of all kinds."""

import os
import random
import string
import uuid

import pytest

from tests.faults.world import ADMIN, Ikon
from tests.wire.api.world import ask, patch, persona, raw

ABSENT = "/v2/images/00000000-0000-0000-0000-000000000000"


def test_discovery_begins_with_300_and_lists_every_version(server: Ikon) -> None:
    answer = ask(server, "GET", "/")
    assert answer.status == 300
    versions = answer.json["versions"]
    assert [v["id"] for v in versions if v["status"] == "CURRENT"] == ["v2.17"]
    assert {v["links"][0]["href"] for v in versions} == {f"http://127.0.0.1:{server.port}/v2/"}
    assert ask(server, "GET", "/versions").json == answer.json
    assert [ask(server, "GET", path).status for path in ("/v3", "/v1/images", "/foo")] == [300, 300, 300]
    assert ask(server, "POST", "/v1/images", b"{}").status == 404
    assert ask(server, "GET", "/v2").status == 302
    assert [ask(server, "GET", path).status for path in ("/v2/", "/v2/images/", "/v2/foo", "/v2/%ff%fe")] == [404] * 4
    assert [ask(server, "GET", path).status for path in ("//v2//images", "/v2.9/images")] == [200, 200]
    assert ask(server, "GET", "/images", Accept="application/vnd.openstack.images-v2").status == 200


@pytest.mark.parametrize(
    ("accept", "media_type", "begin"),
    [
        (None, "application/json", b'{"error":{"message":"No image found'),
        ("", "application/json", b'{"error":{"message":"No image found'),
        ("*/*", "text/html; charset=utf-8", b"<html>\n <head>\n  <title>404 Not Found"),
        ("text/html, x/y", "text/html; charset=utf-8", b"<html>"),
        ("application/json", "application/json", b'{"message":"No image found with ID'),
        ("text/plain", "text/plain; charset=utf-8", b"404 Not Found\n\nNo image found with ID"),
    ],
)
def test_an_error_comes_in_the_form_that_the_client_reads(server: Ikon, accept: str | None, media_type: str, begin: bytes) -> None:
    answer = ask(server, "GET", ABSENT, **({} if accept is None else {"Accept": accept}))
    assert (answer.status, answer.headers["Content-Type"].lower()) == (404, media_type)
    assert answer.body.startswith(begin)


def test_what_a_caller_sent_comes_back_escaped(server: Ikon) -> None:
    answer = ask(server, "GET", "/v2/images?sort=<script>", Accept="*/*")
    assert b"<script>" not in answer.body
    assert b"&lt;script&gt;" in answer.body


def test_every_path_knows_its_methods(server: Ikon) -> None:
    image = server.create()
    for path, allow in {
        "/v2/images": "GET, HEAD, OPTIONS, POST",
        f"/v2/images/{image}": "DELETE, GET, HEAD, OPTIONS, PATCH",
        f"/v2/images/{image}/file": "GET, HEAD, OPTIONS, PUT",
        f"/v2/images/{image}/actions/deactivate": "OPTIONS, POST",
        f"/v2/stores/one/{image}": "DELETE, OPTIONS",
        "/v2/info/stores": "GET, HEAD, OPTIONS",
        "/v2/schemas/image": "GET, HEAD, OPTIONS",
    }.items():
        answer = ask(server, "TRACE", path)
        assert (answer.status, answer.headers["Allow"]) == (405, allow)
        assert ask(server, "OPTIONS", path).headers["Allow"] == allow
    head = ask(server, "HEAD", f"/v2/images/{image}")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(ask(server, "GET", f"/v2/images/{image}").body)
    assert ask(server, "PROPFIND", "/v2/foo").status == 501


def test_routes_of_later_times_are_not_there(server: Ikon) -> None:
    image = server.create()
    for path in ("import", "stage", "tasks", "locations"):
        assert ask(server, "GET", f"/v2/images/{image}/{path}").status == 404
    for path in ("/v2/tasks", "/v2/cache", "/v2/metadefs/namespaces", "/v2/info/usage"):
        assert ask(server, "GET", path).status == 404


def test_a_method_cannot_be_smuggled_in_the_query(server: Ikon) -> None:
    image = server.create()
    assert ask(server, "GET", f"/v2/images/{image}?_method=DELETE").status == 200
    assert ask(server, "POST", f"/v2/images/{image}?_method=DELETE", X_HTTP_Method_Override="DELETE").status == 405
    assert server.show(image)["id"] == image


def test_a_body_where_none_belongs_is_refused(server: Ikon) -> None:
    image = server.create()
    for method in ("GET", "DELETE"):
        assert ask(server, method, f"/v2/images/{image}", b"x").status == 400
    assert ask(server, "DELETE", f"/v2/images/{image}", Content_Length="0").status == 204


def test_request_ids_are_given_echoed_and_bounded(server: Ikon) -> None:
    assert ask(server, "GET", "/v2/images").headers["X-Openstack-Request-Id"].startswith("req-")
    assert ask(server, "GET", "/v2/images", X_Openstack_Request_ID="req-abc").headers["X-Openstack-Request-Id"] == "req-abc"
    assert ask(server, "GET", "/v2/images", X_Openstack_Request_ID="abc").headers["X-Openstack-Request-Id"] == "req-abc"
    assert ask(server, "GET", "/v2/images", X_Openstack_Request_ID="a" * 65).status == 431
    assert "x" not in ask(server, "GET", "/v2/images", X_Openstack_Request_ID="x y").headers["X-Openstack-Request-Id"]


def test_who_is_not_confirmed_gets_no_further(server: Ikon) -> None:
    for status in ("", "Invalid", "confirmed"):
        assert ask(server, "GET", "/v2/images", X_Identity_Status=status).status == 401
    for path in ("/v2/schemas/image", "/v2/foo", ABSENT):
        assert ask(server, "GET", path, X_Identity_Status="Invalid").status == 401
    assert ask(server, "GET", "/", X_Identity_Status="Invalid").status == 300
    assert ask(server, "GET", "/healthcheck", X_Identity_Status="").body == b"OK"
    assert ask(server, "GET", "/healthcheck/ready", Accept="application/json").json == {"detailed": False, "reasons": ["OK"]}


def test_schemas_hold_what_clients_check_against(server: Ikon) -> None:
    schema = ask(server, "GET", "/v2/schemas/image").json
    assert schema["additionalProperties"] == {"type": "string"}
    assert set(server.show(server.create(kernel_id=str(uuid.uuid4())))) <= set(schema["properties"])
    assert ask(server, "GET", "/v2/schemas/images").json["properties"]["images"]["items"] == schema


def test_metrics_count_requests(server: Ikon) -> None:
    server.create()
    assert b'ikon_requests_total{method="POST",route="/v2/images",status="201"}' in ask(server, "GET", "/metrics").body


def test_without_identities_web_pages_and_foreign_names_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Ikon(tmp_path_factory.mktemp("none"), env={"IKON_IDENTITY": "none"}) as open_server:
        assert ask(open_server, "GET", "/v2/images").status == 200
        assert ask(open_server, "POST", "/v2/images", {}, Origin="http://evil.example").status == 403
        assert ask(open_server, "GET", "/v2/images", Host="evil.example").status == 403


# Rubbish


def rubbish(random_: random.Random) -> bytes:
    """Bytes that look like JSON now and then."""
    atoms = [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"op"',
        b'"path"',
        b'"/name"',
        b":",
        b",",
        b"null",
        b"1e999",
        b"-1",
        b'"\\u0000"',
        b'"\\ud800"',
        b"\xff",
        b'"add"',
    ]
    return b"".join(random_.choice(atoms) for _ in range(random_.randrange(1, 30)))


def memory_kib(server: Ikon) -> int:
    assert server.process is not None
    with open(f"/proc/{server.process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_rubbish_of_every_kind_is_refused_and_nothing_breaks(server: Ikon) -> None:
    random_ = random.Random(7)
    image = server.create()
    paths = [
        "/v2/images",
        f"/v2/images/{image}",
        f"/v2/images/{image}/file",
        f"/v2/images/{image}/actions/x",
        "/v2/stores/one/x",
        "/v2/info/stores",
        "/",
        "/ikon/v1/images/x/copies",
    ]
    letters = string.printable[:94].replace("#", "").replace(" ", "") + "é"
    seen: dict[int, int] = {}
    before = 0
    for n in range(1500):
        if n == 300:
            before = memory_kib(server)
        path = random_.choice(paths)
        if random_.random() < 0.3:
            path += "?" + "".join(random_.choice(letters) for _ in range(random_.randrange(40)))
        if random_.random() < 0.2:
            path += "/" + "".join(random_.choice(["%00", "%ff", "..", "%2f", "*", "{id}", "x"]) for _ in range(3))
        path = path.encode().decode("latin-1").translate({c: f"%{c:02X}" for c in range(128, 256)})
        method = random_.choice(["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
        headers = random_.choice(
            [
                {},
                {"Content-Type": random_.choice(["application/openstack-images-v2.1-json-patch", "application/octet-stream", "x"])},
                {"Range": "bytes=" + os.urandom(3).hex()},
                {"Accept": "application/json"},
            ]
        )
        answer = ask(server, method, path, rubbish(random_) if method in ("POST", "PATCH", "PUT") else None, headers)
        seen[answer.status] = seen.get(answer.status, 0) + 1
        assert answer.status < 500 or answer.status == 501, (method, path, answer)
        if n % 100 == 0:
            image = server.create()
    print(f"1500 requests of rubbish: {dict(sorted(seen.items()))}, memory {before} -> {memory_kib(server)} KiB")
    assert memory_kib(server) < before + 20_000


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v2/images HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_what_is_no_http_of_ours_is_refused(server: Ikon, data: bytes) -> None:
    assert raw(server, data).split()[1] in (b"400", b"414", b"431")
    assert patch(server, server.create(), [], persona("p", ADMIN["X-Roles"])).status == 200
