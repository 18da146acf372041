"""Which versions there are, and what every answer has in common: methods, request ids, bodies where none belongs."""

import re

import pytest

from tests.wire.server import ADMIN, MEMBER, NOBODY, Ikon, head

PATHS = {  # every path of this API, with what it allows
    "/v2/images": "GET, HEAD, OPTIONS, POST",
    "/v2/images/{id}": "DELETE, GET, HEAD, OPTIONS, PATCH",
    "/v2/images/{id}/stage": "OPTIONS, PUT",
    "/v2/images/{id}/import": "OPTIONS, POST",
    "/v2/images/{id}/tasks": "GET, HEAD, OPTIONS",
    "/v2/tasks": "GET, HEAD, OPTIONS, POST",
    "/v2/images/{id}/file": "GET, HEAD, OPTIONS, PUT",
    "/v2/images/{id}/actions/deactivate": "OPTIONS, POST",
    "/v2/images/{id}/actions/reactivate": "OPTIONS, POST",
    "/v2/images/{id}/members": "GET, HEAD, OPTIONS, POST",
    "/v2/images/{id}/members/p": "DELETE, GET, HEAD, OPTIONS, PUT",
    "/v2/images/{id}/tags/x": "DELETE, OPTIONS, PUT",
    "/v2/stores/one/{id}": "DELETE, OPTIONS",
    "/v2/info/import": "GET, HEAD, OPTIONS",
    "/v2/info/stores": "GET, HEAD, OPTIONS",
    "/v2/info/stores/detail": "GET, HEAD, OPTIONS",
    "/v2/schemas/image": "GET, HEAD, OPTIONS",
    "/v2/schemas/images": "GET, HEAD, OPTIONS",
    "/v2/schemas/member": "GET, HEAD, OPTIONS",
    "/v2/schemas/members": "GET, HEAD, OPTIONS",
    "/v2/tenants": "GET, HEAD, OPTIONS",
    "/v2/metadefs/namespaces": "GET, HEAD, OPTIONS, POST",
    "/v2/metadefs/namespaces/x": "DELETE, GET, HEAD, OPTIONS, PUT",
    **{f"/v2/metadefs/namespaces/x/{part}": "DELETE, GET, HEAD, OPTIONS, POST" for part in ("objects", "properties", "tags")},
    **{f"/v2/metadefs/namespaces/x/{part}/y": "DELETE, GET, HEAD, OPTIONS, PUT" for part in ("objects", "properties")},
    "/v2/metadefs/namespaces/x/tags/y": "DELETE, GET, HEAD, OPTIONS, POST, PUT",
    "/v2/metadefs/namespaces/x/resource_types": "GET, HEAD, OPTIONS, POST",
    "/v2/metadefs/namespaces/x/resource_types/y": "DELETE, OPTIONS",
    "/v2/metadefs/resource_types": "GET, HEAD, OPTIONS",
    "/v2/schemas/metadefs/namespace": "GET, HEAD, OPTIONS",
}
LATER = [  # paths of the Image API that this server does not serve yet
    ("GET", "/v2/cache"),
    ("POST", "/v2/cache/clean"),
]


@pytest.fixture(scope="module")
def image_id(ikon: Ikon) -> str:
    return str(ikon.create()["id"])


# Versions


def test_a_client_finds_the_versions_without_saying_who_it_is(ikon: Ikon) -> None:
    root, versions = ikon.get("/", who=NOBODY), ikon.get("/versions", who=NOBODY)

    assert (root.status, root.reason, versions.status) == (300, "Multiple Choices", 200)
    assert root.headers.get_content_type() == "application/json"
    assert root.json == versions.json == ikon.get("/versions/", who=NOBODY).json
    entries = root.json["versions"]
    assert [entry["id"] for entry in entries if entry["status"] == "CURRENT"] == ["v2.17"]
    assert {entry["id"] for entry in entries} == {"v2.17", "v2.15", *(f"v2.{minor}" for minor in range(14))}
    assert all(entry["links"] == [{"rel": "self", "href": f"http://127.0.0.1:{ikon.port}/v2/"}] for entry in entries)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_root_shows_the_versions_whatever_is_asked_of_it(ikon: Ikon, method: str) -> None:
    assert ikon.call(method, "/", b"{}", who=NOBODY).status == 300


def test_links_name_the_host_that_the_client_asked(ikon: Ikon) -> None:
    answer = ikon.get("/", {"Host": "image.example:1234"}, who=NOBODY)

    assert answer.json["versions"][0]["links"][0]["href"] == "http://image.example:1234/v2/"


@pytest.mark.parametrize("path", ["/foo", "/v1/images", "/v3", "/v2.99/images", "/v2x"])
def test_an_unknown_first_segment_shows_the_versions_to_get_and_is_404_to_what_would_change_something(ikon: Ikon, path: str) -> None:
    assert ikon.get(path, who=NOBODY).status == 300
    assert ikon.call("HEAD", path, who=NOBODY).status == 300
    assert ikon.post(path, {}, who=NOBODY).status == 404


@pytest.mark.parametrize("path", ["/v2", "/v2.0", "/v2.17"])
def test_a_version_without_a_slash_leads_to_it(ikon: Ikon, path: str) -> None:
    answer = ikon.get(path)

    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["Location"] == f"http://127.0.0.1:{ikon.port}/v2/"


@pytest.mark.parametrize(
    "path", ["/v2/", "/v2/images/", "/v2/nothing", "/v2/images/x/y/z", "/v2/images//", "/v2/info", "/v2/schemas/", "/v2/%ff%fe"]
)
def test_an_unknown_path_of_the_version_is_not_found(ikon: Ikon, path: str) -> None:
    assert ikon.get(path).status == 404


@pytest.mark.parametrize("path", ["/v2/images", "/v2.0/images", "/v2.17/images", "//v2//images", "///v2/images", "/v2///images?limit=1"])
def test_every_minor_version_and_any_number_of_slashes_serve_the_same(ikon: Ikon, path: str) -> None:
    assert "images" in ikon.get(path).json


def test_a_media_type_may_name_the_version_in_place_of_the_path(ikon: Ikon) -> None:
    vendor = {"Accept": "application/vnd.openstack.images-v2"}

    assert "images" in ikon.get("/images", vendor).json
    assert ikon.get("/", vendor).status == 404


@pytest.mark.parametrize(("method", "path"), LATER)
def test_what_is_not_served_yet_is_not_found(ikon: Ikon, image_id: str, method: str, path: str) -> None:
    assert ikon.call(method, path.format(id=image_id), who=ADMIN).status == 404


# Methods


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_a_path_lacks_is_answered_with_those_it_has(ikon: Ikon, image_id: str, path: str) -> None:
    url, allowed = path.format(id=image_id), PATHS[path]
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "FOO"):
        if method in allowed.split(", "):
            continue
        answer = ikon.call(method, url, who=ADMIN)
        if method == "FOO":
            assert answer.status in (400, 405)  # the parser takes registered methods only
            continue
        assert (method, answer.status, answer.headers["Allow"]) == (method, 405, allowed)
        assert method == "HEAD" or f"The method {method} is not allowed" in answer.message


def test_a_method_that_no_path_has_is_not_implemented(ikon: Ikon) -> None:
    assert ikon.call("PROPFIND", "/v2/nothing").status == 501


@pytest.mark.parametrize("path", PATHS)
def test_options_tells_the_methods_to_anyone(ikon: Ikon, image_id: str, path: str) -> None:
    for who in (MEMBER, NOBODY):
        answer = ikon.call("OPTIONS", path.format(id=image_id), who=who)
        assert (answer.status, answer.body, answer.headers["Allow"]) == (200, b"", PATHS[path])


def test_options_of_an_unknown_path_is_empty(ikon: Ikon) -> None:
    answer = ikon.call("OPTIONS", "/v2/nothing", who=NOBODY)

    assert (answer.status, answer.body, answer.headers["Allow"]) == (200, b"", None)


@pytest.mark.parametrize("path", [path for path, allowed in PATHS.items() if "HEAD" in allowed])
def test_head_says_what_get_would_without_the_body(ikon: Ikon, image_id: str, path: str) -> None:
    url = path.format(id=image_id)
    full, bare = ikon.get(url, who=ADMIN), ikon.call("HEAD", url, who=ADMIN)

    assert (bare.status, bare.body) == (full.status, b"")
    assert bare.headers["Content-Type"] == full.headers["Content-Type"]
    assert bare.headers["ETag"] == full.headers["ETag"]
    assert path == "/v2/images" or bare.headers["Content-Length"] == full.headers["Content-Length"]


@pytest.mark.parametrize("method", ["DELETE", "PUT", "PATCH", "GET"])
def test_a_method_in_the_query_changes_nothing(ikon: Ikon, method: str) -> None:
    image_id = ikon.create()["id"]

    shown = ikon.get(f"/v2/images/{image_id}?_method={method}")
    posted = ikon.post(f"/v2/images/{image_id}?_method={method}")
    overridden = ikon.post(f"/v2/images/{image_id}", None, {"X-HTTP-Method-Override": method})

    assert (shown.status, posted.status, overridden.status) == (200, 405, 405)
    assert ikon.show(image_id)["status"] == "queued"


# Bodies where none belongs


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/images/{id}"),
        ("DELETE", "/v2/images/{id}"),
        ("GET", "/v2/images/{id}/file"),
        ("POST", "/v2/images/{id}/actions/deactivate"),
        ("GET", "/v2/images/{id}/members"),
        ("GET", "/v2/images/{id}/members/p"),
        ("DELETE", "/v2/images/{id}/members/p"),
        ("PUT", "/v2/images/{id}/tags/x"),
        ("DELETE", "/v2/images/{id}/tags/x"),
        ("POST", "/v2/images/{id}/actions/reactivate"),
        ("DELETE", "/v2/stores/one/{id}"),
        ("GET", "/v2/info/import"),
        ("GET", "/v2/info/stores"),
        ("GET", "/v2/info/stores/detail"),
        ("GET", "/v2/schemas/image"),
        ("GET", "/v2/schemas/images"),
        ("GET", "/v2/schemas/member"),
        ("GET", "/v2/schemas/members"),
    ],
)
def test_a_body_where_none_belongs_is_refused(ikon: Ikon, image_id: str, method: str, path: str) -> None:
    answer = ikon.call(method, path.format(id=image_id), b"{}", who=ADMIN)

    assert (answer.status, answer.message) == (400, "A body is not expected with this request.")
    assert ikon.show(image_id)["status"] == "queued"


def test_a_chunked_body_of_an_action_is_refused_and_a_length_of_zero_is_none(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")
    path = f"/v2/images/{image_id}/actions/deactivate"

    chunked = ikon.call("POST", path, iter([b"x"]))
    empty = ikon.call("POST", path, b"", {"Content-Length": "0"})

    assert (chunked.status, empty.status) == (400, 204)
    assert ikon.call("DELETE", f"/v2/images/{image_id}", b"", {"Content-Length": "0"}).status == 204


def test_a_list_may_carry_a_body_which_is_dropped(ikon: Ikon) -> None:
    assert ikon.call("GET", "/v2/images", b"{}").status == 200


# Request ids


def test_every_answer_of_the_api_has_an_id_of_its_own(ikon: Ikon, image_id: str) -> None:
    answers = [
        ikon.get(path) for path in ("/v2/images", f"/v2/images/{image_id}", "/v2/images/nothing", "/v2/nothing", "/v2/images?limit=x")
    ]
    ids = [answer.headers["X-Openstack-Request-Id"] for answer in answers]

    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("req-[0-9a-f-]{36}", found) for found in ids)


def test_an_id_that_the_client_sent_comes_back(ikon: Ikon) -> None:
    assert ikon.get("/v2/images", {"X-Openstack-Request-ID": "req-abc"}).headers["X-Openstack-Request-Id"] == "req-abc"
    assert ikon.get("/v2/images", {"X-Openstack-Request-ID": "abc"}).headers["X-Openstack-Request-Id"] == "req-abc"


def test_the_id_of_an_answer_can_be_sent_with_the_next_request(ikon: Ikon) -> None:
    first = ikon.get("/v2/images").headers["X-Openstack-Request-Id"]
    second = ikon.get("/v2/images", {"X-Openstack-Request-ID": first}).headers["X-Openstack-Request-Id"]

    assert second == first
    assert len(first) <= 64


def test_an_id_that_is_too_long_is_431(ikon: Ikon) -> None:
    assert ikon.get("/v2/images", {"X-Openstack-Request-ID": "x" * 65}).status == 431
    assert ikon.get("/v2/images", {"X-Openstack-Request-ID": "x" * 60}).status == 200


@pytest.mark.parametrize("sent", ["a b", "<script>", "x;y", "\xe4", "x'y", "", "%0d%0aX-Evil: 1"])
def test_an_id_that_is_no_plain_word_is_replaced(ikon: Ikon, sent: str) -> None:
    answer = ikon.raw(head("GET", "/v2/images", f"X-Openstack-Request-ID: {sent}", "Connection: close"))

    assert re.fullmatch("req-[0-9a-f-]{36}", answer.headers["X-Openstack-Request-Id"])


@pytest.mark.parametrize("path", ["/", "/versions", "/healthcheck"])
def test_answers_outside_the_api_have_no_id(ikon: Ikon, path: str) -> None:
    assert ikon.get(path, who=NOBODY).headers["X-Openstack-Request-Id"] is None


# Health


def test_the_server_says_that_it_is_well(ikon: Ikon) -> None:
    plain, as_json = ikon.get("/healthcheck", who=NOBODY), ikon.get("/healthcheck", {"Accept": "application/json"}, who=NOBODY)

    assert (plain.status, plain.body, plain.headers.get_content_type()) == (200, b"OK", "text/plain")
    assert as_json.json == {"detailed": False, "reasons": ["OK"]}
    assert ikon.get("/healthcheck/ready", who=NOBODY).body == b"OK"
    assert ikon.post("/healthcheck", who=NOBODY).status == 200
    assert ikon.call("HEAD", "/healthcheck", who=NOBODY).status in (200, 204)


def test_the_server_counts_what_it_answers(ikon: Ikon) -> None:
    def created() -> int:
        answer = ikon.get("/metrics", who=NOBODY)
        assert answer.status == 200
        lines = answer.body.decode().splitlines()
        return sum(int(float(line.split()[1])) for line in lines if line.startswith(counter))

    counter = 'ikon_requests_total{method="POST",route="/v2/images",status="201"}'
    before = created()
    ikon.create()

    assert created() == before + 1
