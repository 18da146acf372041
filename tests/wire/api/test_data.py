"""Image data over the wire: upload, download, ranges, stores, quota."""

import hashlib
import threading
import time

import pytest

from tests.faults.world import BYTES, Ikon, eventually, noise
from tests.wire.api.world import ask, fresh_project, persona, raw

DATA = noise(3_000_000)
MEMBER = "member,reader"


def head(server: Ikon, image: str, *lines: str) -> bytes:
    identity = [f"{name}: {value}" for name, value in persona("p", "admin,member,reader").items()]
    return "\r\n".join([f"PUT /v2/images/{image}/file HTTP/1.1", "Host: x", *identity, *lines, "", ""]).encode()


def waits_for(server: Ikon, image: str, status: str) -> dict[str, object]:
    """The record once it has this status."""
    for _ in range(100):
        record = server.show(image)
        if record["status"] == status:
            return record
        time.sleep(0.05)
    raise AssertionError(f"{record['status']}, not {status}")


@pytest.mark.parametrize("chunked", [False, True])
def test_what_goes_in_comes_out_under_its_digests(server: Ikon, chunked: bool) -> None:
    image = server.create()
    assert server.upload(image, iter([DATA[:1], DATA[1:100], DATA[100:]]) if chunked else DATA).status == 204
    record = server.show(image)
    assert (record["status"], record["size"], record["stores"]) == ("active", len(DATA), "one")
    assert record["checksum"] == hashlib.md5(DATA).hexdigest()
    assert (record["os_hash_algo"], record["os_hash_value"]) == ("sha512", hashlib.sha512(DATA).hexdigest())
    answer = server.download(image)
    assert answer.body == DATA
    assert answer.headers["Content-MD5"] == record["checksum"]
    assert answer.headers["ETag"] == f'"{record["os_hash_value"]}"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    empty = ask(server, "HEAD", f"/v2/images/{image}/file")
    assert (empty.status, empty.body, empty.headers["Content-Length"]) == (200, b"", str(len(DATA)))
    server.delete(image)


def test_an_empty_image_is_active_and_empty(server: Ikon) -> None:
    image = server.create()
    assert ask(server, "GET", f"/v2/images/{image}/file").status == 204
    assert server.upload(image, b"").status == 204
    assert server.show(image)["checksum"] == hashlib.md5(b"").hexdigest()
    assert (server.download(image).status, server.download(image).body) == (200, b"")
    assert server.download(image, part="0-").status == 416


@pytest.mark.parametrize(
    ("part", "first", "end"),
    [
        ("0-0", 0, 1),
        ("5-", 5, None),
        ("1048570-1048590", 1048570, 1048591),
        ("2999999-99999999", 2999999, 3000000),
        ("-10", 2999990, None),
        ("-99999999", 0, None),
        ("-0", 0, None),
    ],
)
def test_a_range_is_answered_with_its_bytes(ranged: tuple[Ikon, str], part: str, first: int, end: int | None) -> None:
    server, image = ranged
    answer = server.download(image, part=part)
    wanted = DATA[first:end]
    assert (answer.status, answer.body) == (206, wanted)
    assert answer.headers["Content-Range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(DATA)}"
    assert answer.headers["Content-MD5"] == hashlib.md5(DATA).hexdigest()


@pytest.mark.parametrize("text", ["bytes=3000000-", "bytes=5-3", "lines=1-2", "bytes=x-y", "bytes=-", "bytes=", "bytes=٣-٤"])
def test_a_range_that_is_not_there_says_how_long_the_image_is(ranged: tuple[Ikon, str], text: str) -> None:
    server, image = ranged
    answer = ask(server, "GET", f"/v2/images/{image}/file", Range=text.encode().decode("latin-1"))
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


def test_odd_ways_to_ask_for_ranges(ranged: tuple[Ikon, str]) -> None:
    server, image = ranged
    path = f"/v2/images/{image}/file"
    assert ask(server, "GET", path, Range="bytes=0-1,3-4").status == 400
    assert ask(server, "GET", path, Content_Range="bytes 3-9/*").body == DATA[3:10]
    assert ask(server, "GET", path, Content_Range="bytes 3-9999999/*").status == 416
    assert ask(server, "GET", path, Content_Range="bytes */5").status == 416


@pytest.fixture(scope="module")
def ranged(server: Ikon) -> tuple[Ikon, str]:
    image = server.create()
    assert server.upload(image, DATA).status == 204
    return server, image


# Uploads that do not end well


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Content-Type": "text/plain"}, 415, "text/plain"),
        ({"Content-Type": ""}, 415, "octet-stream"),
        ({"X-OpenStack-Image-Size": "many"}, 400, "image size"),
        ({"X-OpenStack-Image-Size": "-1"}, 400, "image size"),
        ({"X-OpenStack-Image-Size": "5"}, 400, "Size exceeds: expected 5 bytes"),
        ({"X-OpenStack-Image-Size": "500"}, 400, "Size mismatch: expected 500 bytes, got 100 bytes"),
        ({"X-OpenStack-Image-Size": "20000001"}, 413, "too large"),
        ({"X-Image-Meta-Store": "nope"}, 400, "nope"),
        ({"X-Image-Meta-Store": ""}, 400, "not found"),
        ({"X-Image-Meta-Store": "os_glance_staging_store"}, 400, "os_glance_staging_store"),
    ],
)
def test_an_upload_that_is_not_allowed_leaves_no_trace(server: Ikon, headers: dict[str, str], status: int, words: str) -> None:
    image = server.create()
    before = sorted(path for store in server.stores.values() for path in store.iterdir())
    answer = server.call("PUT", f"/v2/images/{image}/file", b"x" * 100, {**BYTES, **headers})
    assert answer.status == status, answer
    assert words in answer.json["error"]["message"]
    assert server.show(image)["status"] == "queued"
    assert sorted(path for store in server.stores.values() for path in store.iterdir()) == before
    assert server.upload(image, b"good").status == 204


def test_data_needs_formats_first(server: Ikon) -> None:
    image = ask(server, "POST", "/v2/images", {}).json["id"]
    answer = server.upload(image, b"x")
    assert answer.status == 400
    assert "disk_format, container_format must be set" in answer.json["error"]["message"]


def test_a_second_upload_is_a_conflict_and_the_first_goes_on(server: Ikon) -> None:
    image = server.create()
    with server.begin_upload(image, 100) as sock:
        sock.sendall(b"x" * 50)
        waits_for(server, image, "saving")
        answer = server.upload(image, b"other")
        assert answer.status == 409
        assert "from saving to saving is not allowed" in answer.json["error"]["message"]
        sock.sendall(b"x" * 50)
        assert sock.recv(100).startswith(b"HTTP/1.1 204")
    assert server.upload(image, b"again").status == 409
    assert server.download(image).body == b"x" * 100


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 1000", b"x" * 10),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"-5\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_a_body_that_is_cut_or_malformed_is_never_an_image(server: Ikon, framing: str, body: bytes) -> None:
    image = server.create()
    raw(server, head(server, image, framing, "Content-Type: application/octet-stream") + body, end=True)
    eventually(lambda: server.upload(image, b"good").status == 204)  # until then the server is still busy with undoing the first one
    assert server.download(image).body == b"good"
    assert len([path for store in server.stores.values() for path in store.iterdir() if image in path.name]) == 1


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "chunked, chunked", "identity"])
def test_a_coded_body_is_not_taken_for_the_image(server: Ikon, coding: str) -> None:
    image = server.create()
    answer = raw(server, head(server, image, f"Transfer-Encoding: {coding}", "Content-Type: application/octet-stream") + b"0\r\n\r\n")
    assert answer.split()[1] in (b"501", b"400")
    assert server.show(image)["status"] == "queued"


def test_an_upload_that_will_be_refused_is_not_asked_for(server: Ikon) -> None:
    image = server.create()
    lines = ("Content-Length: 99000000", "Expect: 100-continue", "Content-Type: application/octet-stream")
    answer = raw(server, head(server, image, *lines))
    assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large")


def test_a_chunked_upload_over_the_limit_ends_there(server: Ikon) -> None:
    image = server.create()
    block = noise(1 << 20)
    answer = server.call("PUT", f"/v2/images/{image}/file", (block for _ in range(21)), BYTES)
    assert answer.status == 413
    assert server.show(image)["status"] == "queued"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_quota_holds_and_is_given_back(server: Ikon, chunked: bool) -> None:
    who = persona(fresh_project(), MEMBER)
    block = noise(1_500_000)

    def upload(image: str, count: int) -> int:
        body = (block for _ in range(count)) if chunked else block * count
        return server.call("PUT", f"/v2/images/{image}/file", body, {**who, **BYTES}).status

    def create() -> str:
        return str(ask(server, "POST", "/v2/images", {"disk_format": "raw", "container_format": "bare"}, who).json["id"])

    first, second = create(), create()
    assert upload(first, 12) == 204
    assert upload(second, 9) == 413
    assert ask(server, "GET", f"/v2/images/{second}", who=who).json["status"] == "queued"
    assert upload(second, 8) == 204
    assert upload(create(), 1) == 413
    ask(server, "DELETE", f"/v2/images/{first}", who=who)
    assert upload(create(), 12) == 204
    for image in ask(server, "GET", "/v2/images?limit=10&owner=" + who["X-Project-Id"], who=who).json["images"]:
        ask(server, "DELETE", f"/v2/images/{image['id']}", who=who)


def test_uploads_that_race_for_the_last_of_a_quota_never_pass_it(server: Ikon) -> None:
    who = persona(fresh_project(), MEMBER)
    made = [ask(server, "POST", "/v2/images", {"disk_format": "raw", "container_format": "bare"}, who).json["id"] for _ in range(6)]
    block, statuses = noise(1_000_000), []

    def upload(at: int) -> None:
        body = (block for _ in range(8)) if at % 2 else block * 8
        statuses.append(server.call("PUT", f"/v2/images/{made[at]}/file", body, {**who, **BYTES}).status)

    threads = [threading.Thread(target=upload, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = sum(ask(server, "GET", f"/v2/images/{image}", who=who).json["size"] or 0 for image in made)
    assert set(statuses) <= {204, 413}
    assert held == 8_000_000 * statuses.count(204)
    assert held <= 30_000_000
    for image in made:
        ask(server, "DELETE", f"/v2/images/{image}", who=who)


def test_deactivated_data_is_for_administrators(server: Ikon) -> None:
    image = server.create(visibility="public")
    server.upload(image, b"data")
    ask(server, "POST", f"/v2/images/{image}/actions/deactivate")
    assert ask(server, "GET", f"/v2/images/{image}/file", who=persona("q", MEMBER)).status == 403
    assert server.download(image).body == b"data"


# Stores


def test_a_second_copy_is_made_shown_preferred_and_taken_away(server: Ikon) -> None:
    image = server.create(visibility="public")
    assert server.call("PUT", f"/v2/images/{image}/file", DATA, {**BYTES, "X-Image-Meta-Store": "two"}).status == 204
    assert server.show(image)["stores"] == "two"
    assert "stores" not in ask(server, "GET", f"/v2/images/{image}", who=persona("q", MEMBER)).json
    assert ask(server, "DELETE", f"/v2/stores/two/{image}").status == 403
    assert ask(server, "DELETE", f"/v2/stores/one/{image}").status == 404
    assert ask(server, "DELETE", f"/v2/stores/nope/{image}").status == 409
    assert server.copy(image, "one").status == 204
    assert server.copy(image, "one").status == 400
    assert server.copy(image, "nope").status == 400
    assert server.show(image)["stores"] == "two,one"
    for store in ("one", "two"):
        assert server.download(image, store=store).body == DATA
    assert server.download(image, store="nope").status == 400
    assert ask(server, "DELETE", f"/v2/stores/two/{image}", who=persona("p", MEMBER)).status == 403
    assert ask(server, "DELETE", f"/v2/stores/two/{image}").status == 204
    assert server.show(image)["stores"] == "one"
    assert not any(image in path.name for path in server.stores["two"].iterdir())
    assert server.download(image).body == DATA
    assert ask(server, "DELETE", f"/v2/stores/one/{server.create()}").status == 409


def test_stores_are_described(server: Ikon) -> None:
    assert ask(server, "GET", "/v2/info/stores").json == {"stores": [{"id": "one", "default": "true"}, {"id": "two"}]}
    detail = ask(server, "GET", "/v2/info/stores/detail").json["stores"]
    assert [(store["type"], store["weight"]) for store in detail] == [("file", 20), ("file", 19)]
    assert ask(server, "GET", "/v2/info/stores/detail", who=persona("q", MEMBER)).status == 403
    assert ask(server, "GET", "/v2/info/stores/detail", who=persona("q", "service")).status == 200
    assert ask(server, "GET", "/v2/info/import", who=persona("q", "")).json["import-methods"]["value"] == ["glance-direct", "copy-image"]
