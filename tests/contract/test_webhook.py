"""Webhooks: events told to a program outside by signed requests, in order for each image, whatever that program or Ikon's own end is like."""

import base64
import dataclasses
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from ikon.app import open_kit, prepare
from ikon.config import load
from ikon.db import deliveries, schema, tables
from ikon.db.engine import make_engine
from ikon.events import Webhook, senders
from ikon.kit import Kit
from ikon.periodic import teller
from ikon.problems import SourceNotAllowed, StartError
from ikon.service import members
from ikon.transfer.post import Poster
from tests.contract.test_events_databases import ALICE, age, hurry, left, new, rename
from tests.faults.world import MENDED_S, Ikon, eventually
from tests.services.servers import free_port
from tests.unit.cli.run import ikon

pytestmark = pytest.mark.slow

SECRET, OTHER = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in (1, 2))
PAGE = (Path(__file__).parents[2] / "docs/how-to/receive-webhooks.md").read_text(encoding="utf-8")
[PROGRAM] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def verifier(secret: str, monkeypatch: pytest.MonkeyPatch) -> FunctionType:
    """What the page of the docs verifies requests with."""
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    found: dict[str, Any] = {}
    exec(PROGRAM.partition("class Receiver")[0], found)
    return found["is_genuine"]  # type: ignore[no-any-return]


class Heard(NamedTuple):
    """One request. id: the message's."""

    id: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def image(self) -> str:
        return str(self.event["data"]["image"]["id"])


class Receiver(ThreadingHTTPServer):
    """A receiver that answers as it is told to: a status, or a way to be wrong. held: set while it keeps a request waiting."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.manner: int | str = 204
        self.requests: list[Heard] = []
        self.elsewhere: list[str] = []
        self.held, self.go_on = threading.Event(), threading.Event()
        self.hold_from: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hooks/hush"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ikon lets go of connections that are no use to it."""


class Answering(BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.elsewhere.append(self.path)

    def do_POST(self) -> None:
        if not self.path.startswith("/hooks"):
            self.server.elsewhere.append(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        heard = Heard(headers["webhook-id"], headers, self.rfile.read(int(headers["content-length"])))
        self.server.requests.append(heard)
        if self.server.hold_from is not None and len(self.server.requests) >= self.server.hold_from:
            self.server.held.set()
            self.server.go_on.wait()
        manner = self.server.manner
        if isinstance(manner, int):
            self.send_response(manner)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            getattr(self, manner)()
        self.close_connection = True

    def silence(self) -> None:
        self.server.go_on.wait()

    def cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def cut_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 O")

    def nonsense(self) -> None:
        self.wfile.write(b"250 OK\r\n\r\n")

    def endless_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            self.wfile.write(b"X-More: more\r\n" * 1000)

    def dripping_head(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.go_on.wait(0.05):
            self.wfile.write(b"X: y\r\n")

    def endless_body(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            self.wfile.write(bytes(65536))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


@pytest.fixture
async def kit(database_url: str, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    events = {"webhook": receiver.url, "webhook_secret": f"{OTHER} {SECRET}"}
    async with open_kit(load(None, {"data": str(tmp_path), "database": database_url, "events": events}, {})) as made:
        yield made


def impatient(kit: Kit, url: str) -> Kit:
    """The same, where a receiver has half a second."""
    return dataclasses.replace(kit, senders={"webhook": Webhook(SECRET, Poster(kit.fetcher, "events.webhook", url, 0.5).post)})


async def told(kit: Kit) -> tuple[int, int]:
    """How many were tried, and how many of them heard."""
    return (await teller.run_once(kit, "webhook"))["events"]


async def test_events_are_told_in_order_signed_and_as_the_docs_say(kit: Kit, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [await new(kit, name="a1", tags=["x"]) for _ in range(12)]
    for name in ("a2", "a3"):
        await rename(kit, many[0], name)
    await members.share(kit, ALICE, many[0], "beta")

    assert await told(kit) == (15, 15)

    assert await left(kit) == []
    assert {heard.image for heard in receiver.requests} == set(many)
    first = [heard.event for heard in receiver.requests if heard.image == many[0]]
    assert [event["type"] for event in first] == ["image.create", "image.update", "image.update", "image.member.create"]
    assert [event["data"]["image"]["name"] for event in first] == ["a1", "a2", "a3", "a3"]
    assert first[3]["data"]["detail"]["member_id"] == "beta"
    assert first[0]["data"]["actor"] == {"project": "alpha", "user": "alice", "request": ALICE.request_id}
    assert {"os_hash_value", "stores", "checksum", "tags", "properties"} < first[0]["data"]["image"].keys()
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first[0]["timestamp"])
    for secret in (SECRET, OTHER):
        is_genuine = verifier(secret, monkeypatch)
        assert all(is_genuine(heard.headers, heard.body) for heard in receiver.requests)
        assert not is_genuine(receiver.requests[0].headers, receiver.requests[0].body + b" ")
        assert not is_genuine(receiver.requests[0].headers | {"webhook-id": receiver.requests[1].id}, receiver.requests[0].body)
        assert not is_genuine(receiver.requests[0].headers | {"webhook-timestamp": "1700000000"}, receiver.requests[0].body)
    stranger = verifier("whsec_" + base64.b64encode(bytes(32)).decode(), monkeypatch)
    assert not stranger(receiver.requests[0].headers, receiver.requests[0].body)
    ids = [heard.id for heard in receiver.requests]
    assert len(set(ids)) == 15
    assert all(heard.event["data"]["id"] == heard.id for heard in receiver.requests)


WRONG = (200, 299, "endless_body", 199, 300, 301, 302, 303, 307, 308, 400, 404, 410, 429, 500, 503, "silence", "cut", "cut_head", "nonsense",
         "endless_head", "dripping_head")  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_an_answer_that_says_so_counts_as_heard(kit: Kit, receiver: Receiver) -> None:
    outcomes = {}
    for manner in WRONG:
        receiver.manner, impatiently = manner, impatient(kit, receiver.url)
        image = await new(kit)
        heard = (await told(impatiently))[1]
        receiver.manner = 204
        await kit.db.write(hurry)
        again = (await told(kit))[1]
        outcomes[manner] = heard, again, len({each.id for each in receiver.requests if each.image == image})
        assert await left(kit) == []
    assert outcomes == {manner: (1, 0, 1) if manner in (200, 299, "endless_body") else (0, 1, 1) for manner in WRONG}
    assert receiver.elsewhere == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_a_receiver_refuses_holds_up_its_image_alone_and_is_parked_after_a_day(kit: Kit, receiver: Receiver) -> None:
    receiver.manner = 500
    image = await new(kit)
    await rename(kit, image, "a")
    with capture_logs() as logs:
        assert await told(kit) == (1, 0)
        receiver.manner = 204
        other = await new(kit)
        assert await told(kit) == (1, 1)
        receiver.manner = 500
        await kit.db.write(age)
        assert await told(kit) == (1, 0)
    assert [entry["event"] for entry in logs if "event" in entry["event"]] == ["event not told yet", "event parked"]
    assert "hush" not in str(logs)
    receiver.manner = 204
    assert await told(kit) == (1, 1)
    assert [heard.event["type"] for heard in receiver.requests if heard.image == other] == ["image.create"]
    assert receiver.requests[-1].event["type"] == "image.update"
    [backlog] = await kit.db.read(deliveries.backlog)
    assert (backlog.sink, backlog.count, backlog.parked, backlog.refused, backlog.oldest_ms > deliveries.PARKED_MS) == (
        "webhook",
        1,
        1,
        1,
        True,
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_numbers_of_rows_come_again_and_ids_of_messages_never(kit: Kit, receiver: Receiver) -> None:
    image = await new(kit)
    await told(kit)
    for name in "abc":
        await rename(kit, image, name)
        [row] = await left(kit)
        assert row.n == 1
        await told(kit)
    assert len({heard.id for heard in receiver.requests}) == 4


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_receiver_must_prove_its_name(kit: Kit, tmp_path: Path, receiver: Receiver) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -days 1 -keyout key -out cert"
    subprocess.run(make.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    receiver.socket = tls.wrap_socket(receiver.socket, server_side=True)
    await new(kit)
    with capture_logs() as logs:
        assert await told(impatient(kit, receiver.url.replace("http:", "https:"))) == (1, 0)
    assert "certificate verify failed" in str(logs)
    assert receiver.requests == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_operators_url_may_lead_inside_where_users_urls_may_not(kit: Kit, receiver: Receiver) -> None:
    for inside in (receiver.url, "http://10.1.2.3/", "http://[fd00::1]:8080/"):
        Poster(kit.fetcher, "events.webhook", inside)
        with pytest.raises(SourceNotAllowed):
            kit.fetcher.check(inside)
    for closed in (
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
        "http://224.0.0.1/",
        "ftp://a/",
        "http://u:hush@a/",
        "http://0x7f1/hush",
    ):
        with pytest.raises(StartError, match=r"^config: events\.webhook: ") as refused:
            Poster(kit.fetcher, "events.webhook", closed)
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("secret", ["", "hush", "whsec_hush", "whsec_aHVzaA==", SECRET + " hush", "whsec_" + "A" * 100])
def test_a_webhook_without_a_sound_secret_is_refused_without_repeating_it(secret: str, tmp_path: Path) -> None:
    settings = load(None, {"data": str(tmp_path), "events": {"webhook": "https://a/", "webhook_secret": secret}}, {})
    with pytest.raises(StartError) as refused:
        prepare(settings)
    assert "events.webhook_secret" in str(refused.value)
    assert not secret or secret not in str(refused.value)


def test_a_misspelled_setting_is_not_repeated_with_its_value(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"events\.webhook_secrte is no setting") as refused:
        load(None, {"data": str(tmp_path), "events": {"webhook_secrte": SECRET}}, {})
    assert SECRET not in str(refused.value)


def versions(heard: Sequence[Heard], image: str) -> list[int]:
    """The versions of an image in the order in which they were heard first."""
    first = {each.id: each.event["data"]["version"] for each in reversed(heard) if each.image == image}
    return list(reversed(first.values()))


@pytest.mark.slow
def test_a_server_killed_in_the_middle_loses_none_and_keeps_the_order(database_url: str, tmp_path: Path, receiver: Receiver) -> None:
    schema.upgrade(make_engine(database_url))
    settings = f'[events]\nwebhook = "{receiver.url}"\nlog = true'
    receiver.hold_from = 6
    with Ikon(tmp_path, database=database_url, settings=settings, env={"IKON_EVENTS__WEBHOOK_SECRET": SECRET}) as server:
        images = [server.create() for _ in range(4)]
        for n in range(5):
            for image in images:
                assert server.patch(image, n=str(n)).status == 200
        assert receiver.held.wait(6 * MENDED_S)

        def logged() -> bool:
            return sum('"image event"' in line for line in server.log.read_text().splitlines()) >= 24

        eventually(logged, 6 * MENDED_S)  # the webhook, which is held, holds up nobody else
        assert server.rows("SELECT max(tries) FROM deliveries WHERE sink = 'webhook'") == [(0,)]
        server.kill()
        receiver.hold_from = None
        receiver.go_on.set()
        server.start()
        eventually(lambda: not server.rows("SELECT n FROM deliveries"), 6 * MENDED_S)
        server.stop()

    for image in images:
        assert versions(receiver.requests, image) == [1, 2, 3, 4, 5, 6]
    bodies = {(heard.id, heard.body) for heard in receiver.requests}
    assert len(bodies) == 24
    assert len(receiver.requests) > 24
    said = server.log.read_text()
    assert "hush" not in said
    assert SECRET not in said


@pytest.mark.slow
def test_a_teller_that_was_paused_past_its_lease_puts_nothing_out_of_order(mariadb_url: str, tmp_path: Path, receiver: Receiver) -> None:
    schema.upgrade(make_engine(mariadb_url))
    settings, env = f'[events]\nwebhook = "{receiver.url}"', {"IKON_EVENTS__WEBHOOK_SECRET": SECRET}
    receiver.hold_from = 3
    first, second = (Ikon(tmp_path / name, database=mariadb_url, settings=f'node = "{name}"\n{settings}', env=env) for name in "ab")
    with first, second:
        images = [first.create() for _ in range(3)]
        for n in range(3):
            for image in images:
                assert first.patch(image, n=str(n)).status == 200
        assert receiver.held.wait(6 * MENDED_S)
        holder = (
            first
            if first.rows("SELECT node FROM leases JOIN instances ON instance = id WHERE name = 'teller-webhook'") == [("a",)]
            else second
        )
        holder.signal(signal.SIGSTOP)
        with make_engine(mariadb_url).begin() as conn:  # its lease runs out
            conn.execute(
                sa.update(tables.instances).where(tables.instances.c.node == ("a" if holder is first else "b")).values(lease_until=0)
            )
        receiver.hold_from = None
        receiver.go_on.set()
        eventually(lambda: not first.rows("SELECT n FROM deliveries"), 6 * MENDED_S)
        holder.signal(signal.SIGCONT)
        last = holder.create()
        eventually(lambda: versions(receiver.requests, last) == [1], 6 * MENDED_S)
    for image in images:
        assert versions(receiver.requests, image) == [1, 2, 3, 4]


@pytest.mark.slow
def test_the_receiver_of_the_docs_hears_and_believes_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "receiver.py").write_text(PROGRAM)
    port = free_port()
    command = [sys.executable, tmp_path / "receiver.py", str(port)]
    with subprocess.Popen(
        command, env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        settings = f'[events]\nwebhook = "http://127.0.0.1:{port}/ikon"'
        with Ikon(tmp_path / "b", settings=settings, env={"IKON_EVENTS__WEBHOOK_SECRET": OTHER}) as stranger:
            stranger.create()
            eventually(lambda: "HTTP status 401" in stranger.log.read_text(), 6 * MENDED_S)
        said = ikon("doctor", "--config", tmp_path / "b/ikon.toml")  # as an operator would, who does not know the secret
        assert "events for webhook: 1 untold, 0 of them parked" in said.stdout
        assert "does not take them" in said.stdout
        with Ikon(tmp_path / "a", settings=settings, env={"IKON_EVENTS__WEBHOOK_SECRET": SECRET}) as server:
            image = server.create()
            assert program.stdout is not None
            assert program.stdout.readline() == f"image.create {image}\n"
        program.kill()


def test_a_url_that_cannot_be_a_webhook_stops_the_start(tmp_path: Path) -> None:
    settings = load(None, {"data": str(tmp_path), "events": {"webhook": "https://a b/hush", "webhook_secret": SECRET}}, {})

    def posting(setting: str, url: str) -> Any:
        return Poster(None, setting, url).post  # type: ignore[arg-type]  not used before the URL is judged

    with pytest.raises(StartError, match=r"events\.webhook") as refused:
        senders(settings, posting)
    assert "hush" not in str(refused.value)
