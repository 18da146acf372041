"""What nobody should send: each gets an answer that names what is wrong, leaves no trace, and costs the server nothing that lasts."""

import json
import time
from pathlib import Path

import pytest

from tests.wire.fuzz import Fuzz, rubbish
from tests.wire.server import ADMIN, PATCH, Ikon, on_database

pytestmark = pytest.mark.slow

MIB = 1 << 20
#: Of the random requests: how long they are sent, from which beginning, and how much memory may stay taken.
FUZZ_S, SEED, GROWTH_KIB = 4.0, 20260423, 24 * 1024

SETTINGS: dict[str, object] = {}


def everything(ikon: Ikon) -> list[object]:
    """All records that an administrator sees."""
    return [
        image
        for hidden in ("true", "false")
        for page in ikon.walk(f"?limit=1000&visibility=all&os_hidden={hidden}", who=ADMIN)
        for image in page
    ]


def nested(depth: int, way: str) -> bytes:
    """JSON that many levels deep."""
    return {"lists": b"[" * depth + b"]" * depth, "objects": b'{"a":' * depth + b"1" + b"}" * depth, "open": b"[" * depth}[way]


# JSON


@pytest.mark.parametrize("way", ["lists", "objects", "open"])
@pytest.mark.parametrize("depth", [21, 200, 5000, 150_000])
def test_deep_json_is_refused(ikon: Ikon, depth: int, way: str) -> None:
    image_id, body = str(ikon.create()["id"]), nested(depth, way)
    before = everything(ikon)

    answers = [
        ikon.post("/v2/images", body),
        ikon.post("/v2/images", b'{"name": ' + body + b"}"),
        ikon.patch(image_id, b'[{"op": "add", "path": "/x", "value": ' + body + b"}]"),
    ]

    assert [answer.status for answer in answers] == [400] * 3
    assert all("JSON" in answer.message or "body type" in answer.message for answer in answers)
    assert everything(ikon) == before


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/v2/images", "/v2/images/{id}", "/ikon/v1/images/{id}/copies", "/ikon/v1/users"])
def test_a_body_over_a_mebibyte_is_refused_without_being_kept(ikon: Ikon, path: str, chunked: bool) -> None:
    image_id = str(ikon.create()["id"])
    body = b'{"name": "' + b"x" * (40 * MIB) + b'"}'
    before = ikon.memory_kib()

    method = "PATCH" if path.endswith("{id}") else "POST"
    answer = ikon.call(method, path.format(id=image_id), iter([body]) if chunked else body, PATCH, who=ADMIN)

    assert (answer.status, str(MIB) in answer.message) == (413, True)
    assert ikon.memory_kib() - before < 8 * 1024


def test_a_body_of_just_a_mebibyte_is_read(ikon: Ikon) -> None:
    record = {f"p{n}": "x" * 60_000 for n in range(17)}
    record["last"] = "x" * (MIB - len(json.dumps(record | {"last": ""})))
    body = json.dumps(record).encode()
    assert len(body) == MIB

    assert ikon.post("/v2/images", body).status == 201
    assert ikon.post("/v2/images", body[:-1] + b" }").status == 413


def test_many_operations_and_many_keys_are_refused_soon(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])
    operations = json.dumps([{"op": "add", "path": f"/p{n}", "value": ""} for n in range(20_000)]).encode()
    fields = json.dumps({f"p{n}": "" for n in range(60_000)}).encode()
    began = time.monotonic()

    assert (ikon.patch(image_id, operations).status, ikon.post("/v2/images", fields).status) == (413, 413)
    assert time.monotonic() - began < 3
    assert "p0" not in ikon.show(image_id)


def test_digits_without_end_are_no_number(ikon: Ikon) -> None:
    for field in ("min_disk", "x", "id"):
        answer = ikon.post("/v2/images", b'{"%b": %b}' % (field.encode(), b"9" * 900_000))
        assert answer.status == 400
    assert ikon.get(f"/v2/images?limit={'9' * 7000}").status == 400
    assert ikon.get(f"/v2/images?size_min={'9' * 7000}").status == 400
    assert ikon.download(ikon.active(b"x"), {"Range": f"bytes={'9' * 9000}-"}).status == 416


# Names


@pytest.mark.parametrize(
    "name",
    [
        "%00",
        "a%00b",
        "%FF%FE",
        "%C3%28",
        "%ED%A0%80",
        "%0d%0aX-Evil:%201",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "%25",
        "%F0%9F%90%A7",
        "x" * 4000,
    ],
)
def test_an_odd_name_in_the_path_is_not_found_and_comes_back_harmless(ikon: Ikon, name: str) -> None:
    requests = [
        ("GET", ""),
        ("HEAD", ""),
        ("DELETE", ""),
        ("GET", "/file"),
        ("PUT", "/file"),
        ("POST", "/actions/deactivate"),
        ("PATCH", ""),
    ]
    for method, more in requests:
        body = {"PUT": b"x", "PATCH": b'[{"op": "remove", "path": "/x"}]'}.get(method)
        headers = {"Content-Type": "application/octet-stream"} if method == "PUT" else PATCH
        answer = ikon.call(method, f"/v2/images/{name}{more}", body, headers, who=ADMIN)
        assert answer.status in ((404, 405) if name == "%2e%2e" else (404,)), (method, more)
        assert answer.headers["X-Evil"] is None


@pytest.mark.parametrize(("name", "status"), [("%00", 409), ("a%00b", 409), ("%ED%A0%80", 404), ("x" * 4000, 409)])
def test_an_odd_name_of_a_store_is_refused(ikon: Ikon, name: str, status: int) -> None:
    image_id = ikon.active(b"x")

    assert ikon.call("DELETE", f"/v2/stores/{name}/{image_id}", who=ADMIN).status == status
    assert ikon.download(image_id, query=f"?prefer={name}").status == 400
    assert ikon.download(image_id).body == b"x"


@pytest.mark.parametrize("name", ["%FF", "a%FFb", "%C3%28", "%ED%A0%80", "%F0%9F%90", "%C0%AF", "%F4%90%80%80"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/{}"),
        ("GET", "/v2/images/{}"),
        ("POST", "/v2/images/{id}/actions/{}"),
        ("GET", "/v2/images/{id}/members/{}"),
        ("DELETE", "/v2/images/{id}/members/{}"),
        ("PUT", "/v2/images/{id}/tags/{}"),
        ("DELETE", "/v2/images/{id}/tags/{}"),
        ("DELETE", "/v2/stores/{}/{id}"),
    ],
)
def test_a_path_that_is_no_utf_8_is_not_found(ikon: Ikon, method: str, path: str, name: str) -> None:
    record = ikon.create()

    answer = ikon.call(method, path.format(name, id=record["id"]), who=ADMIN)

    assert (answer.status, answer.message) == (404, "The resource could not be found.")
    assert ikon.show(record["id"]) == record


@pytest.mark.parametrize(
    "path", ["/v2%2Fimages", "/v2/images%2F{id}", "/v2/images/{id}%2Ffile", "/v2/images/%2F{id}", "/v2/images/{id}%2F"]
)
def test_an_encoded_slash_parts_nothing(ikon: Ikon, path: str) -> None:
    image_id = ikon.active(b"x")

    assert ikon.get(path.format(id=image_id)).status == (300 if path == "/v2%2Fimages" else 404)
    assert ikon.get(f"/%76%32/%69mages/{image_id}/fil%65").body == b"x"


@pytest.mark.parametrize("header", ["X-Project-Id", "X-User-Id", "X-Tenant-Id", "X-Domain-Id"])
def test_an_identity_longer_than_any_is_refused(ikon: Ikon, header: str) -> None:
    who = {"X-Identity-Status": "Confirmed", "X-Roles": "member,reader"}

    assert ikon.try_create({}, who=who | {"X-Project-Id": "p"} | {header: "x" * 256}).status == 431
    assert ikon.try_create({}, who=who | {"X-Project-Id": "p"} | {header: "x" * 255}).status == 201


def test_many_parameters_are_refused(ikon: Ikon) -> None:
    answer = ikon.get("/v2/images?" + "&".join(f"a{n}=b" for n in range(500)))

    assert answer.status == 400


# HTTP


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"\0\0\0\0\r\n\r\n", [400]),
        (b"GET\r\n\r\n", [400]),
        (b"GET /v2/images\r\n\r\n", [400]),
        (b"GET /v2/images HTTP/9.9\r\n\r\n", [400]),
        (b"GET v2/images HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"GET /v2/images HTTP/1.1\r\nno colon\r\n\r\n", [400]),
        (b"GET /v2/images HTTP/1.1\r\n: empty\r\n\r\n", [400]),
        (b"GET /v2/images HTTP/1.1\r\nHost : x\r\n\r\n", [400]),
        (b"GET /v2/images HTTP/1.1\r\nX: a\0b\r\n\r\n", [400]),
        (b"GET /v2/\xff HTTP/1.1\r\nHost: x\r\n\r\n", [400, 404]),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", [414]),
        (b"GET /v2/images HTTP/1.1\r\n" + b"X: " + b"x" * 40_000 + b"\r\n\r\n", [431]),
        (b"GET /v2/images HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", [431]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
    ],
)
def test_what_is_no_request_is_answered_and_ended(ikon: Ikon, sent: bytes, statuses: list[int]) -> None:
    assert ikon.raw(sent).status in statuses


def test_a_request_without_a_host_and_one_of_the_first_version_are_served(ikon: Ikon) -> None:
    assert ikon.raw(b"GET / HTTP/1.0\r\n\r\n").status == 300
    assert ikon.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").status in (300, 400)


def test_a_host_cannot_put_anything_into_an_answer(ikon: Ikon) -> None:
    for host in ('x"y', "<b>", "a b", "a/b?c#d", "[", "[::1", "x:y", "é".encode().decode("latin-1"), ""):
        for path in ("/", "/v2"):
            answer = ikon.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
            assert answer.status in (300, 302, 400), host
            assert path != "/" or answer.status != 300 or answer.json["versions"]


# Rubbish


def test_rubbish_never_makes_the_server_fail(ikon: Ikon, capsys: pytest.CaptureFixture[str]) -> None:
    image_ids = [str(ikon.create()["id"]), ikon.active(b"data"), ikon.active(b"", visibility="community")]
    fuzz = Fuzz(SEED, image_ids)
    rubbish(ikon, fuzz, FUZZ_S / 4)
    before = ikon.memory_kib()

    sent, failed = rubbish(ikon, fuzz, FUZZ_S * 3 / 4)

    assert (failed, ikon.unforeseen()) == ([], [])
    assert ikon.browse().status == 200
    assert ikon.memory_kib() - before < GROWTH_KIB
    assert all(image["status"] in ("queued", "active", "deactivated") for image in ikon.browse("?limit=1000", who=ADMIN).json["images"])
    with capsys.disabled():
        print(f"{sent} requests, {ikon.memory_kib() - before} KiB", end=" ")


@pytest.mark.slow
@pytest.mark.parametrize("database", ["mariadb_url", "postgres_url"])
def test_rubbish_never_makes_a_server_on_a_big_database_fail(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    with on_database(tmp_path, request.getfixturevalue(database)) as server:
        fuzz = Fuzz(SEED, [str(server.create()["id"]), server.active(b"data")])

        _, failed = rubbish(server, fuzz, 20)

        assert (failed, server.unforeseen()) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("database", ["mariadb_url", "postgres_url"])
def test_odd_names_are_not_found_on_a_big_database_either(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    with on_database(tmp_path, request.getfixturevalue(database)) as server:
        for name in ("%00", "a%00b", "%ff", "%ED%A0%80", "x" * 4000, "%F0%9F%90%A7"):
            assert server.get(f"/v2/images/{name}").status == 404
            assert server.get(f"/v2/images?marker={name}").status == 400
            for key in ("id", "name", "status", "owner", "checksum", "x", "tag"):
                assert server.get(f"/v2/images?{key}={name}").status in (200, 400)
        for key in ("size", "min_ram", "min_disk", "virtual_size", "size_min", "min_ram_max"):
            for number in ("9" * 18, "9" * 30, "-1", str(2**31), str(2**63)):
                assert server.get(f"/v2/images?{key}={number}").status == 200
        assert server.unforeseen() == []
