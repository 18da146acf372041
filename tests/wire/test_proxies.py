"""Absolute links behind proxies: what `public_endpoint` says, what a trusted proxy says, and nobody else."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.servers import Server
from tests.wire.server import ADMIN, MEMBER, NOBODY, Ikon, head

FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "cloud.example", "X-Forwarded-Prefix": "/image"}
#: From where a task may be made to fetch: nobody answers there.
SETTINGS = {"egress": {"allowed_networks": ["127.0.0.2/32"]}}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server that trusts a proxy on this machine."""
    with Ikon(tmp_path_factory.mktemp("behind"), trusted_proxies=["127.0.0.1"], **SETTINGS) as server:
        yield server
        assert server.unforeseen() == []


def links(ikon: Ikon, headers: dict[str, str] | None = None) -> set[str]:
    """What every absolute link of a server begins with."""
    found = set()
    for path in ("/", "/versions", "/unknown"):
        for version in ikon.get(path, headers, who=NOBODY).json["versions"]:
            found |= {link["href"].removesuffix("v2/") for link in version["links"]}
    moved = ikon.get("/v2", headers, who=NOBODY)
    assert moved.status == 302
    found.add(moved.headers["Location"].removesuffix("v2/"))
    made = ikon.post("/v2/images", {}, headers)
    assert made.status == 201
    found.add(made.headers["Location"].removesuffix(f"v2/images/{made.json['id']}"))
    source = {
        "import_from": "http://127.0.0.2/",
        "import_from_format": "raw",
        "image_properties": {"disk_format": "raw", "container_format": "bare"},
    }
    task = ikon.post("/v2/tasks", {"type": "import", "input": source}, headers, who=ADMIN)
    assert task.status == 201, task
    found.add(task.headers["Location"].removesuffix(f"v2/tasks/{task.json['id']}"))
    # what is relative stays so, as clients put it behind the endpoint that they know
    page = ikon.get("/v2/images?limit=1", headers).json
    assert (page["first"], page["next"][:17]) == ("/v2/images?limit=1", "/v2/images?limit=")
    assert page["images"][0]["self"] == f"/v2/images/{page['images'][0]['id']}"
    return found


@pytest.mark.parametrize(
    ("said", "base"),
    [
        ({}, "http://HOST/"),
        ({"X-Forwarded-Proto": "https"}, "https://HOST/"),
        ({"X-Forwarded-Proto": "HTTPS", "X-Forwarded-Host": "Cloud.example:8443"}, "https://Cloud.example:8443/"),
        (FORWARDED, "https://cloud.example/image/"),
        (FORWARDED | {"X-Forwarded-Port": "443"}, "https://cloud.example/image/"),
        (FORWARDED | {"X-Forwarded-Port": "9292"}, "https://cloud.example:9292/image/"),
        (FORWARDED | {"X-Forwarded-Host": "cloud.example:1", "X-Forwarded-Port": "2"}, "https://cloud.example:1/image/"),
        (FORWARDED | {"X-Forwarded-Host": "[2001:db8::1]", "X-Forwarded-Port": "9292"}, "https://[2001:db8::1]:9292/image/"),
        (FORWARDED | {"X-Forwarded-Prefix": "/a/b-c_d/"}, "https://cloud.example/a/b-c_d/"),
        (FORWARDED | {"X-Forwarded-Prefix": "/"}, "https://cloud.example/"),
        ({"X-Forwarded-Host": "spoofed.example, cloud.example", "X-Forwarded-Proto": "http, https"}, "https://cloud.example/"),
        ({"Forwarded": "proto=https;host=cloud.example"}, "http://HOST/"),  # a proxy that does not know it passes on a client's
    ],
)
def test_links_begin_with_what_a_trusted_proxy_says(behind: Ikon, said: dict[str, str], base: str) -> None:
    assert links(behind, said) == {base.replace("HOST", f"127.0.0.1:{behind.port}")}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Proto", "ftp"),
        ("Proto", "https://evil.example/?"),
        ("Host", "evil.example/path"),
        ("Host", "user@evil.example"),
        ("Host", "evil.example:0"),
        ("Host", "evil.example:65536"),
        ("Host", "evil.example:port"),
        ("Host", 'evil"><script>'),
        ("Host", "evil example"),
        ("Host", "h\u00f6st"),
        ("Host", "[::1"),
        ("Host", "[evil.example]"),
        ("Host", "a" * 300),
        ("Port", "0"),
        ("Port", "99999"),
        ("Port", "80@evil.example"),
        ("Prefix", "image"),
        ("Prefix", "//evil.example"),
        ("Prefix", "/image/../admin"),
        ("Prefix", "/image?x="),
        ("Prefix", "/im age"),
        ("Prefix", "/" + "a" * 300),
    ],
)
def test_what_is_no_part_of_a_url_is_refused_by_its_name_and_changes_nothing(behind: Ikon, name: str, value: str) -> None:
    before = len(behind.get("/v2/images?limit=1000").json["images"])

    answer = behind.post("/v2/images", {}, {f"X-Forwarded-{name}": value})

    assert (answer.status, f"X-Forwarded-{name} is not" in answer.body.decode()) == (400, True)
    assert len(behind.get("/v2/images?limit=1000").json["images"]) == before


@pytest.mark.parametrize("value", ["cloud.example\r\nX-Injected: yes", "cloud.example\nX-Injected: yes", "cloud.example\rX-Injected: yes"])
def test_no_header_can_be_slipped_into_an_answer(behind: Ikon, value: str) -> None:
    answer = behind.raw(head("GET", "/v2", f"X-Forwarded-Host: {value}", "Connection: close"))

    assert answer.status in (302, 400)
    assert "x-injected" not in {name.lower() for name in answer.headers}
    assert "X-Injected" not in answer.headers.get("Location", "")


def test_without_trusted_proxies_nobody_is_believed(tmp_path: Path) -> None:
    with Ikon(tmp_path, **SETTINGS) as ikon:
        assert links(ikon, FORWARDED | {"X-Forwarded-Port": "1"}) == {f"http://127.0.0.1:{ikon.port}/"}
        assert ikon.get("/", {"X-Forwarded-Host": "evil example"}, who=NOBODY).status == 300


def test_a_proxy_that_is_not_listed_is_not_believed(tmp_path: Path) -> None:
    with Ikon(tmp_path, trusted_proxies=["127.0.0.2", "10.0.0.0/8"], **SETTINGS) as ikon:
        assert links(ikon, FORWARDED) == {f"http://127.0.0.1:{ikon.port}/"}
        with socket.create_connection(("127.0.0.1", ikon.port), timeout=10, source_address=("127.0.0.2", 0)) as sock:
            lines = [f"{name}: {value}" for name, value in FORWARDED.items()]
            sock.sendall(head("GET", "/versions", *lines, "Connection: close"))
            body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[2]
        assert json.loads(body)["versions"][0]["links"][0]["href"] == "https://cloud.example/image/v2/"


@pytest.mark.parametrize("endpoint", ["https://cloud.example:9292/image", "http://cloud.example/"])
def test_the_setting_wins_over_everyone(tmp_path: Path, endpoint: str) -> None:
    with Ikon(tmp_path, public_endpoint=endpoint, trusted_proxies=["127.0.0.1"], **SETTINGS) as ikon:
        assert links(ikon) == links(ikon, FORWARDED | {"Host": "elsewhere"}) == {f"{endpoint.rstrip('/')}/"}


def test_pages_of_the_public_address_are_our_own(tmp_path: Path) -> None:
    with Ikon(tmp_path, identity="users", public_endpoint="https://cloud.example/image") as ikon:
        assert ikon.post("/v2/images", {}, {"Origin": "https://cloud.example"}, who=NOBODY).status == 401
        for origin in ("https://cloud.example.evil", "http://cloud.example", "https://cloud.exampl", "null"):
            assert ikon.post("/v2/images", {}, {"Origin": origin}, who=NOBODY).status == 403


@pytest.mark.slow
def test_through_a_real_proxy_with_a_prefix_a_client_follows_every_link(tmp_path: Path) -> None:
    """HAProxy set up as docs/how-to/run-behind-a-proxy-with-headers.md says."""
    with Ikon(tmp_path, trusted_proxies=["127.0.0.1"]) as ikon, Server("haproxy", NODE=f"127.0.0.1:{ikon.port}") as proxy:
        endpoint = f"http://127.0.0.1:{proxy.port}/image"

        def call(method: str, url: str, body: bytes | None = None, content_type: str = "application/json") -> tuple[int, str, bytes]:
            hostile = {
                "X-Forwarded-Proto": "https",
                "X-Forwarded-Host": "evil.example",
                "X-Forwarded-Port": "1",
                "X-Forwarded-Prefix": "/evil",
            }
            headers = dict(MEMBER.headers) | hostile | {"Content-Type": content_type}
            assert url.startswith(endpoint), url
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
            connection.request(method, url[len(f"http://127.0.0.1:{proxy.port}") :], body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("Location", ""), answer.read()

        status, _, found = call("GET", f"{endpoint}/")
        links = {link["href"] for version in json.loads(found)["versions"] for link in version["links"]}
        assert (status, links) == (300, {f"{endpoint}/v2/"})
        assert call("GET", f"{endpoint}/v2")[:2] == (302, f"{endpoint}/v2/")
        status, location, _ = call("POST", f"{endpoint}/v2/images", b'{"disk_format": "raw", "container_format": "bare"}')
        assert status == 201
        record = json.loads(call("GET", location)[2])
        assert call("PUT", f"{endpoint}{record['file']}", b"data", "application/octet-stream")[0] == 204
        assert call("GET", f"{endpoint}{record['file']}")[2] == b"data"
