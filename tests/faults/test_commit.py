"""A connection that breaks at the COMMIT of a change: a client hears that it was done if it was, and may repeat what it does not know."""

import json
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy
from tests.faults.test_crash import upgrade
from tests.faults.world import BYTES, Ikon, is_whole, noise
from tests.services.servers import Server

pytestmark = pytest.mark.slow
COMMIT = rb"COMMIT(?!TED)"
DATA = noise(100_000)
ID = "c0111117-0000-4000-8000-%012x"


@pytest.fixture(params=["mariadb", "postgres"], scope="module")
def link(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Proxy]]:
    """A database server, and the link to it."""
    db: Server = request.getfixturevalue(request.param)
    with Proxy(db.port) as proxy:
        yield db, proxy


@pytest.fixture(scope="module")
def server(link: tuple[Server, Proxy], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """A server whose link to its database can be cut at any word. It works on no jobs, which would commit meanwhile."""
    db, proxy = link
    url = db.new_database()
    upgrade(url)
    database = db.url(url.rsplit("/", 1)[1], port=proxy.port)
    with Ikon(tmp_path_factory.mktemp("server"), database=database, settings="[jobs]\nslots = 0") as running:
        yield running
        assert "Traceback" not in running.log.read_text(errors="replace")
    db.drop_database(url)


def test_a_change_whose_commit_was_made_is_acknowledged_though_its_answer_was_lost(server: Ikon, link: tuple[Server, Proxy]) -> None:
    _, proxy = link
    image = ID % 1
    path = f"/v2/images/{image}"
    record = json.dumps({"id": image, "disk_format": "raw", "container_format": "bare"}).encode()
    for method, at, body, headers, status in (
        ("POST", "/v2/images", record, {}, 201),
        ("PUT", f"{path}/tags/blue", b"", {}, 204),
        ("PUT", f"{path}/file", DATA, BYTES, 204),
        ("POST", f"{path}/actions/deactivate", b"", {}, 204),
        ("DELETE", path, None, {}, 204),
    ):
        cut = proxy.cut_at(COMMIT, answered=True)
        answer = server.call(method, at, body, headers)
        assert (answer.status, cut.is_set()) == (status, True), (method, at, answer)
        seen = server.call("GET", path)
        assert seen.status == (404 if method == "DELETE" else 200)
        if at.endswith("/file"):
            assert is_whole(server, image, DATA)


def test_a_change_whose_commit_never_came_is_a_503_and_can_be_repeated(server: Ikon, link: tuple[Server, Proxy]) -> None:
    _, proxy = link
    image = ID % 2
    path = f"/v2/images/{image}"
    record = json.dumps({"id": image}).encode()
    for method, at, body, status in (
        ("POST", "/v2/images", record, 201),
        ("PUT", f"{path}/tags/blue", b"", 204),
        ("DELETE", path, None, 204),
    ):
        cut = proxy.cut_at(COMMIT, answered=False)
        answer = server.call(method, at, body)
        assert (answer.status, answer.headers["Retry-After"], cut.is_set()) == (503, "1", True), (method, at, answer)
        assert server.call(method, at, body).status == status
    assert server.call("POST", "/v2/images", record).status == 409  # an id is never given twice
