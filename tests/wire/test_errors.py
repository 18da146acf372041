"""The four forms of an error, and who gets which: clients crash on the wrong one, or lose the reason."""

import re

import pytest

from tests.wire.server import ADMIN, BYTES, NOBODY, PATCH, Ikon, head

MISSING = "/v2/images/zz"
SENTENCE = "No image found with ID zz"


def ask(ikon: Ikon, accept: str | None, path: str = MISSING, who: object = ADMIN) -> tuple[str | None, str]:
    answer = ikon.get(path, {"Accept": accept}, who=who)  # type: ignore[arg-type]
    assert (answer.status, answer.reason) == (404, "Not Found")
    return answer.headers["Content-Type"], answer.body.decode()


@pytest.mark.parametrize(
    "accept", ["*/*", "text/html", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json, */*"]
)
def test_whoever_takes_anything_gets_html(ikon: Ikon, accept: str) -> None:
    media_type, body = ask(ikon, accept)

    assert media_type is not None
    assert media_type.lower() == "text/html; charset=utf-8"
    assert body == (
        "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  "
        f"{SENTENCE}<br /><br />\n\n\n\n </body>\n</html>"
    )


@pytest.mark.parametrize(
    "accept", ["application/json", "application/json; charset=utf-8", "application/json;q=0.9", "application/json, text/plain"]
)
def test_whoever_asks_for_json_by_name_gets_it_flat_and_without_markup(ikon: Ikon, accept: str) -> None:
    answer = ikon.get(MISSING, {"Accept": accept})

    assert answer.headers["Content-Type"] == "application/json"
    request_id = answer.headers["X-Openstack-Request-Id"]
    assert answer.json == {"message": SENTENCE, "code": "404 Not Found", "title": "Not Found", "request_id": request_id}


@pytest.mark.parametrize("accept", [None, ""])
def test_whoever_says_nothing_gets_json_with_the_error_inside(ikon: Ikon, accept: str | None) -> None:
    answer = ikon.get(MISSING, {"Accept": accept})

    assert answer.headers["Content-Type"] == "application/json"
    request_id = answer.headers["X-Openstack-Request-Id"]
    assert answer.json == {"error": {"message": SENTENCE, "code": 404, "title": "Not Found", "request_id": request_id}}


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/xml", "application/octet-stream", "application/vnd.openstack.images-v2", "nonsense"]
)
def test_whoever_asks_for_anything_else_gets_plain_text(ikon: Ikon, accept: str) -> None:
    media_type, body = ask(ikon, accept)

    assert media_type is not None
    assert media_type.lower() == "text/plain; charset=utf-8"
    assert body == f"404 Not Found\n\n{SENTENCE}\n\n   "


def test_what_the_caller_sent_is_escaped_in_html(ikon: Ikon) -> None:
    _, body = ask(ikon, "*/*", "/v2/images/%3Cscript%3Ealert(%22x%22)%3C%2Fscript%3E")
    _, named = ask(ikon, "*/*", "/v2/images/%3Cimg%20src=x%3E%26%22'")

    query = ikon.get("/v2/images?sort=<script>", {"Accept": "*/*"}).body

    assert "<script>" not in body
    assert (b"<script>" in query, b"&lt;script&gt;" in query) == (False, True)
    assert "&lt;img src=x&gt;&amp;&quot;&#x27;" in named


def test_what_the_caller_sent_is_escaped_in_a_schema_error(ikon: Ikon) -> None:
    answer = ikon.post("/v2/images", {"disk_format": "<b>x</b>", "<i>": 1}, {"Accept": "*/*"})

    assert answer.status == 400
    assert b"<b>" not in answer.body
    assert b"<i>" not in answer.body


def test_a_failed_update_tells_the_reason_to_clients_that_send_no_accept(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]

    answer = ikon.patch(image_id, [{"op": "replace", "path": "/status", "value": "active"}], PATCH)

    assert (answer.status, answer.reason) == (403, "Forbidden")
    assert answer.json["error"]["message"] == "Attribute 'status' is read-only."


def test_phrases_are_those_that_clients_know(ikon: Ikon) -> None:
    image_id = ikon.active(b"data")

    unsatisfiable = ikon.download(image_id, {"Range": "bytes=9-"})
    too_large = ikon.post("/v2/images", b'"' + b"x" * (1 << 20) + b'"')
    media_type = ikon.call("PUT", f"/v2/images/{image_id}/file", b"x", {"Content-Type": "text/plain"})
    conflict = ikon.upload(image_id, b"x")

    assert (unsatisfiable.status, unsatisfiable.reason) == (416, "Request Range Not Satisfiable")
    assert (too_large.status, too_large.reason) == (413, "Request Entity Too Large")
    assert (media_type.status, media_type.reason) == (415, "Unsupported Media Type")
    assert (conflict.status, conflict.reason) == (409, "Conflict")


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/plain"])
def test_an_error_to_head_has_no_body(ikon: Ikon, accept: str | None) -> None:
    answer = ikon.call("HEAD", MISSING, None, {"Accept": accept})

    assert (answer.status, answer.body) == (404, b"")


def test_without_an_identity_nothing_is_said_but_401(ikon: Ikon) -> None:
    for path in ("/v2/images", "/v2/images/zz", "/v2/nothing", "/v2/schemas/image"):
        answer = ikon.get(path, {"Accept": "*/*"}, who=NOBODY)
        assert (answer.status, answer.reason) == (401, "Unauthorized")
        assert b"could not verify" in answer.body


def test_the_connection_goes_on_after_an_error(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]
    requests = head("GET", MISSING) + head("PUT", f"/v2/images/{image_id}/file", "Content-Type: text/plain", "Content-Length: 0")

    with ikon.connect() as sock:
        sock.sendall(requests + head("GET", f"/v2/images/{image_id}", "Connection: close"))
        got = b"".join(iter(lambda: sock.recv(65536), b""))

    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"404", b"415", b"200"]


def test_a_wrong_body_is_told_before_whether_the_image_exists(ikon: Ikon) -> None:
    assert ikon.patch("zz", [{"op": "replace", "path": "/size", "value": 1}]).status == 403
    assert ikon.patch("zz", {}).status == 400
    assert ikon.call("PUT", "/v2/images/zz/file", b"", BYTES | {"x-openstack-image-size": "x"}).status == 400
