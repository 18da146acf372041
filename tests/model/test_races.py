"""Many clients at once, on one server and on two that share a database: no acknowledged change is lost, and of those that exclude each other one happens."""

import contextlib
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests.wire.server import ADMIN, OLD_PATCH, PATCH, Answer, Ikon, Persona, on_database

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS = 8, 6
OWNER = Persona("red")
SHORT_S, LONG_S = 3.0, 180.0


class World:
    """Servers of one catalogue, and clients that all begin at the same moment."""

    def __init__(self, servers: list[Ikon]) -> None:
        self.servers = servers

    def at_once(self, deed: Callable[[Ikon, int], Any]) -> list[Any]:
        """What each client's deed returned. Client n talks to server n, and round again."""
        start = Barrier(CLIENTS)

        def one(n: int) -> Any:
            start.wait()
            return deed(self.servers[n % len(self.servers)], n)

        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(one, range(CLIENTS)))

    def image(self, **fields: Any) -> str:
        return str(self.servers[0].create(who=OWNER, **fields)["id"])


@contextlib.contextmanager
def two_servers(directory: Path, url: str) -> Iterator[list[Ikon]]:
    """Two servers that share a database and their stores."""
    stores = {name: {"path": str(directory / name)} for name in ("one", "two")}
    with on_database(directory / "left", url, stores=stores) as left, Ikon(directory / "right", database=url, stores=stores) as right:
        yield [left, right]


@pytest.fixture(scope="module", params=["sqlite", "mariadb", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("races")
    if request.param == "sqlite":
        with Ikon(directory) as server:
            yield World([server])
            assert server.unforeseen() == []
        return
    database = request.getfixturevalue(request.param)
    url = database.new_database()
    with two_servers(directory, url) as servers:
        yield World(servers)
        assert [server.unforeseen() for server in servers] == [[], []]
    database.drop_database(url)


def statuses(answers: list[Answer]) -> Counter[int]:
    return Counter(answer.status for answer in answers)


def test_of_many_who_create_one_id_one_does(world: World) -> None:
    for _ in range(ROUNDS):
        image_id = str(uuid.uuid4())
        answers = world.at_once(lambda server, n, i=image_id: server.try_create({"id": i, "name": str(n)}, who=Persona(f"project-{n}")))

        assert statuses(answers) == {201: 1, 409: CLIENTS - 1}
        [winner] = [n for n, answer in enumerate(answers) if answer.status == 201]
        assert {server.show(image_id)["name"] for server in world.servers} == {str(winner)}


def test_of_many_who_upload_to_one_image_one_does_and_its_bytes_are_kept(world: World) -> None:
    for _ in range(ROUNDS):
        image_id = world.image()
        answers = world.at_once(lambda server, n, i=image_id: server.upload(i, bytes([n]) * 300_000, who=OWNER))

        assert statuses(answers) == {204: 1, 409: CLIENTS - 1}
        [winner] = [n for n, answer in enumerate(answers) if answer.status == 204]
        assert {server.download(image_id, who=OWNER).body for server in world.servers} == {bytes([winner]) * 300_000}


def test_of_many_who_delete_an_image_one_does(world: World) -> None:
    for _ in range(ROUNDS):
        image_id = world.image()

        assert statuses(world.at_once(lambda server, n, i=image_id: server.delete(i, who=OWNER))) == {204: 1, 404: CLIENTS - 1}
        assert {server.try_create({"id": image_id}, who=OWNER).status for server in world.servers} == {409}


def test_of_many_who_add_what_is_not_there_one_does(world: World) -> None:
    image_id = world.image()
    for n in range(ROUNDS):
        adds = world.at_once(lambda server, c, n=n: server.patch(image_id, [{"add": f"/k{n}", "value": str(c)}], OLD_PATCH, who=OWNER))
        shares = world.at_once(lambda server, c, n=n: server.post(f"/v2/images/{image_id}/members", {"member": f"m{n}"}, who=OWNER))

        assert (statuses(adds), statuses(shares)) == ({200: 1, 409: CLIENTS - 1}, {200: 1, 409: CLIENTS - 1})
        [winner] = [c for c, answer in enumerate(adds) if answer.status == 200]
        assert world.servers[-1].show(image_id)[f"k{n}"] == str(winner)


def test_of_many_who_set_one_tag_all_do_and_it_is_there_once(world: World) -> None:
    image_id = world.image()
    for n in range(ROUNDS):
        assert statuses(world.at_once(lambda server, c, n=n: server.call("PUT", f"/v2/images/{image_id}/tags/t{n}", who=OWNER))) == {
            204: CLIENTS
        }
    assert sorted(world.servers[-1].show(image_id)["tags"]) == [f"t{n}" for n in range(ROUNDS)]


def test_changes_guarded_by_a_version_are_each_made_on_what_was_read(world: World) -> None:
    image_id = world.image(count="0")

    def count(server: Ikon, n: int) -> int:
        done = 0
        while done < ROUNDS:
            read = server.get(f"/v2/images/{image_id}", who=OWNER)
            change = [{"op": "replace", "path": "/count", "value": str(int(read.json["count"]) + 1)}]
            answer = server.patch(image_id, change, PATCH | {"If-Match": read.headers["ETag"]}, who=OWNER)
            assert answer.status in (200, 412)
            done += answer.status == 200
        return done

    assert sum(world.at_once(count)) == int(world.servers[-1].show(image_id)["count"]) == CLIENTS * ROUNDS


# All of it at random


class Client:
    """One client among many. Some things only it changes, so it knows what they are; of others it knows what it did."""

    def __init__(self, server: Ikon, n: int, images: list[str]) -> None:
        self.server, self.n, self.images, self.random = server, n, images, random.Random(n)
        self.mark = f"c{n}"
        self.value: dict[str, str] = {}
        self.tagged: set[str] = set()
        self.shared: dict[str, str] = {}
        self.named: dict[str, list[str]] = {}
        self.uploaded: dict[str, bytes] = {}
        self.read: list[tuple[str, bytes]] = []
        self.listed: list[tuple[set[str], set[str]]] = []
        self.deleted: set[str] = set()
        self.counts: Counter[str] = Counter()

    def run(self, for_s: float) -> "Client":
        end = time.monotonic() + for_s
        deeds = (
            [self.patch] * 4
            + [self.tag] * 3
            + [self.share] * 2
            + [self.answer, self.name, self.upload, self.download, self.act, self.flip, self.find, self.make]
        )
        while time.monotonic() < end:
            deed = self.random.choice(deeds) if self.random.random() > 0.01 else self.delete
            deed(self.random.choice(self.images))
        return self

    def did(self, deed: str, answer: Answer, *allowed: int) -> int:
        """The status, which is one of those that may be."""
        assert answer.status in allowed, (deed, answer)
        self.counts[f"{deed} {answer.status}"] += 1
        return answer.status

    def patch(self, image: str) -> None:
        value = str(self.random.random())
        change = [{"op": "add", "path": f"/{self.mark}", "value": value}]
        if self.did("patch", self.server.patch(image, change, who=OWNER), 200, 404) == 200:
            self.value[image] = value

    def tag(self, image: str) -> None:
        path = f"/v2/images/{image}/tags/{self.mark}"
        if image in self.tagged and self.random.random() < 0.5:
            if self.did("untag", self.server.call("DELETE", path, who=OWNER), 204, 404) == 204:
                self.tagged.discard(image)
        elif self.did("tag", self.server.call("PUT", path, who=OWNER), 204, 404) == 204:
            self.tagged.add(image)

    def share(self, image: str) -> None:
        path = f"/v2/images/{image}/members"
        if image not in self.shared:
            if self.did("share", self.server.post(path, {"member": self.mark}, who=OWNER), 200, 403, 404) == 200:
                self.shared[image] = "pending"
        elif (
            self.random.random() < 0.3
            and self.did("unshare", self.server.call("DELETE", f"{path}/{self.mark}", who=OWNER), 204, 403, 404) == 204
        ):
            del self.shared[image]

    def answer(self, image: str) -> None:
        status = self.random.choice(["accepted", "rejected"])
        body = f'{{"status": "{status}"}}'.encode()
        answer = self.server.call("PUT", f"/v2/images/{image}/members/{self.mark}", body, who=Persona(self.mark))
        if self.did("answer", answer, 200, 403, 404) == 200:
            assert image in self.shared
            self.shared[image] = status

    def name(self, image: str) -> None:
        name = f"{self.mark} {self.random.random()}"
        if self.did("name", self.server.patch(image, [{"op": "replace", "path": "/name", "value": name}], who=OWNER), 200, 404) == 200:
            self.named.setdefault(image, []).append(name)

    def upload(self, image: str) -> None:
        data = self.random.randbytes(self.random.choice([0, 1, 5000, 200_000]))
        if self.did("upload", self.server.upload(image, data, who=OWNER), 204, 404, 409, 410) == 204:
            self.uploaded[image] = data

    def download(self, image: str) -> None:
        answer = self.server.download(image, who=OWNER)
        if self.did("download", answer, 200, 204, 403, 404) == 200:
            self.read.append((image, answer.body))

    def act(self, image: str) -> None:
        self.did("act", self.server.act(image, self.random.choice(["deactivate", "reactivate"]), who=OWNER), 204, 403, 404)

    def flip(self, image: str) -> None:
        change = [{"op": "replace", "path": "/visibility", "value": self.random.choice(["shared", "shared", "private", "community"])}]
        self.did("flip", self.server.patch(image, change, who=OWNER), 200, 404)

    def find(self, _: str) -> None:
        answer = self.server.browse(f"?tag={self.mark}&limit=1000", who=OWNER)
        self.did("find", answer, 200)
        self.listed.append(({image["id"] for image in answer.json["images"]}, set(self.tagged)))

    def make(self, _: str) -> None:
        answer = self.server.try_create({"disk_format": "raw", "container_format": "bare"}, who=OWNER)
        self.did("make", answer, 201)
        self.images.append(answer.json["id"])

    def delete(self, image: str) -> None:
        if self.did("delete", self.server.delete(image, who=OWNER), 204, 404) == 204:
            self.deleted.add(image)


def check(server: Ikon, clients: list[Client], images: set[str]) -> None:
    """Everything that was acknowledged is true, as this server tells it, and lists know of it."""
    deleted = [image for client in clients for image in client.deleted]
    assert len(deleted) == len(set(deleted)), "deleted twice"
    records = {image: server.show(image) for image in images - set(deleted)}
    assert {server.get(f"/v2/images/{image}", who=ADMIN).status for image in deleted} <= {404}
    for image, record in records.items():
        members = {client.mark: client.shared[image] for client in clients if image in client.shared}
        there = server.get(f"/v2/images/{image}/members", who=ADMIN)
        if record["visibility"] == "shared":
            assert {entry["member_id"]: entry["status"] for entry in there.json["members"]} == members
        assert set(record["tags"]) == {client.mark for client in clients if image in client.tagged}
        assert {name: record[name] for name in record if name.startswith("c") and name[1:].isdigit()} == {
            c.mark: c.value[image] for c in clients if image in c.value
        }
        names = [client.named[image][-1] for client in clients if image in client.named]
        assert record["name"] in names or not names
        data = [client.uploaded[image] for client in clients if image in client.uploaded]
        assert [len(each) for each in data] == ([record["size"]] if record["status"] != "queued" else [])
    for client in clients:
        for image, body in client.read:
            assert [body] == [each.uploaded[image] for each in clients if image in each.uploaded]
        for found, tagged in client.listed:
            assert found <= tagged, "a list holds an image that has not the tag"
            assert tagged - found <= set(deleted), "a list lacks an image that has the tag"
        wanted = {image for image in client.tagged if image in records}
        assert set(server.ids(f"?tag={client.mark}&limit=1000", who=OWNER)) == wanted
        accepted = {
            i for i, status in client.shared.items() if status == "accepted" and i in records and records[i]["visibility"] == "shared"
        }
        assert set(server.ids("?limit=1000", who=Persona(client.mark))) == accepted
        for image in [image for image in client.value if image in records][:50]:
            assert image in server.ids(f"?{client.mark}={client.value[image]}", who=OWNER)
    by_name = [image["name"] for page in server.walk("?sort=name:asc&limit=50&visibility=all", who=OWNER) for image in page]
    assert by_name == sorted((record["name"] for record in records.values()), key=lambda name: (name is not None, name or ""))


def scramble(world: World, for_s: float) -> Counter[str]:
    """Let the clients loose, then look. Returns how many of each call there were."""
    for server in world.servers:
        for page in server.walk("?limit=1000&visibility=all", who=OWNER):
            for image in page:
                server.delete(image["id"], who=OWNER)
    images = [world.image() for _ in range(12)]
    clients: list[Client] = world.at_once(lambda server, n: Client(server, n, images).run(for_s))
    everything = {*images}
    for server in world.servers:
        check(server, clients, everything)
    return sum((client.counts for client in clients), Counter[str]())


def test_nothing_acknowledged_is_lost_when_all_happens_at_once(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    counts = scramble(world, SHORT_S)
    with capsys.disabled():
        print(f"{counts.total()} calls by {CLIENTS} clients of {len(world.servers)} servers, {len(counts)} kinds of answers", end=" ")


@pytest.mark.full
def test_nothing_acknowledged_is_lost_for_long(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    counts = scramble(world, LONG_S)
    with capsys.disabled():
        print(f"{counts.total()} calls by {CLIENTS} clients of {len(world.servers)} servers", end=" ")
