"""Requests made from what the server publishes of itself: what its schemas allow is done, what they forbid is refused by name, and answers keep to them."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ikon.api.door import ROUTES
from tests.wire.fuzz import PATHS, Fuzz, rubbish
from tests.wire.grammar import Grammar, invalid
from tests.wire.server import ADMIN, OLD_PATCH, PATCH, Answer, Ikon, on_database

pytestmark = pytest.mark.slow

#: A server of its own, whose memory is watched.
SETTINGS: dict[str, object] = {}
SHORT_S, LONG_S, SEED, GROWTH_KIB = 4.0, 300.0, 20260502, 24 * 1024
#: Good and bad values of each parameter of a list; what is not named here is a property, of which every value is good.
PARAMETERS: dict[str, tuple[list[str], list[str]]] = {
    "limit": (["0", "1", "25", "1000", "99999"], ["-1", "x", "", "1.5"]),
    "sort": (["name", "name:asc", "size:desc,name", "created_at:asc", " id : desc"], ["x", "name:up", "owner", "name,,size", ""]),
    "sort_key": (["name", "status", "updated_at"], ["x", "", "min_ram"]),
    "sort_dir": (["asc", "desc"], ["up", ""]),
    "visibility": (["public", "private", "shared", "community", "all", ""], ["Public", "x", "all "]),
    "member_status": (["accepted", "pending", "rejected", "all"], ["", "x"]),
    "os_hidden": (["true", "False"], ["1", "", "yes"]),
    "protected": (["true", "FALSE"], ["1", "", "yes"]),
    "created_at": (
        ["2020-01-01", "gt:2020-01-01T00:00:00Z", "neq:2020-01-01T00:00:00.5+02:00"],
        ["x", "in:2020-01-01", "gt:", "2020-02-30"],
    ),
    "updated_at": (["lte:2099-01-01", "eq:2020-01-01T00:00:00"], ["now", "like:2020-01-01"]),
    "size_min": (["0", "-1", "9" * 30], ["x", "", "1.5"]),
    "min_ram_max": (["0", "512"], ["x"]),
    "size": (["0", "gt:1", "in:1,2", "x"], ["gt:x", "in:x"]),
    "name": (["x", "in:a,b", 'in:"a,b",c', "eq:a:b", "a:b"], ['in:"a']),
    "tag": (["x", "", "\U0001f427"], []),
    "owner": (["x", ""], []),
    "id": (["x", "in:x,y"], ['in:"']),
    "marker": ([], ["x", "", "00000000-0000-4000-8000-000000000000"]),
    "changes-since": ([], ["2020-01-01"]),
    "colour": (["x", "in:a,b", ""], []),
}


class Fuzzer:
    """Makes requests that are nearly all right, and knows what each must come to."""

    def __init__(self, ikon: Ikon, seed: int) -> None:
        self.ikon, self.grammar, self.counts = ikon, Grammar(seed), Counter[str]()
        self.random = self.grammar.random
        self.schemas = {name: ikon.get(f"/v2/schemas/{name}").json for name in ("image", "images", "member", "members")}
        fields = self.schemas["image"]["properties"]
        self.read_only = [name for name in fields if fields[name].get("readOnly") or name == "locations"]
        self.writable = {name: fields[name] for name in fields if name not in self.read_only and name != "id"}
        self.images = [str(ikon.create(who=ADMIN)["id"]) for _ in range(5)]

    def step(self) -> None:
        """One request, and whether its answer is right."""
        self.random.choice([self.create, self.patch, self.patch, self.share, self.answer, self.tag, self.browse, self.browse])()

    def came(self, what: str, answer: Answer, status: int, schema: str | None = None, names: str = "", sent: Any = None) -> Answer:
        """Checks an answer: its status, its form, and that a refusal names what is wrong."""
        assert answer.status == status, (what, sent, answer.status, answer.body[:300])
        if status >= 400:
            assert set(answer.json["error"]) >= {"message", "code", "title"}, (what, answer)
            assert names in answer.message, (what, sent, names, answer.message)
        elif schema:
            assert (found := invalid(answer.json, self.schemas[schema])) is None, (what, found)
        self.counts[f"{what} {status}"] += 1
        return answer

    def _fields(self) -> tuple[dict[str, Any], str, int]:
        """Fields of an image, the name of what is wrong with them, and what that comes to."""
        names = self.random.sample(list(self.writable), self.random.randrange(6))
        fields = {name: self.grammar.good(self.writable[name]) for name in names}
        fields |= {self.grammar.text(): self.grammar.text() for _ in range(self.random.randrange(2))}
        fields = {
            name: value
            for name, value in fields.items()
            if (not name.startswith("os_glance") and name not in self.schemas["image"]["properties"]) or name in names
        }
        wrong = self.random.random()
        if wrong < 0.3:
            name = self.random.choice(list(self.writable))
            return fields | {name: self.grammar.bad(self.writable[name])}, name, 400
        if wrong < 0.4:
            name = self.random.choice([*self.read_only, "os_glance_x", "deleted"])
            return {name: "x"} | fields, name, 403
        if wrong < 0.5:
            return fields | {"colour": self.grammar.bad({"type": "string"})}, "colour", 400
        return fields, "", 201

    def create(self) -> None:
        fields, name, status = self._fields()
        answer = self.came("create", self.ikon.try_create(fields, who=ADMIN), status, "image", name, fields)
        if status == 201:
            record = answer.json
            assert {key: record.get(key) for key in fields} == fields | (
                {"tags": list(dict.fromkeys(fields["tags"]))} if "tags" in fields else {}
            )
            self.images.append(record["id"])
            self.drop(self.images.pop(0))

    def patch(self) -> None:
        fields, name, status = self._fields()
        fields = {key: value for key, value in fields.items() if value is not None or key == name}
        old = self.random.random() < 0.3
        kinds = {key: "replace" if key in BASE else "add" for key in fields}
        if old and status == 201:
            fields = {key: value for key, value in fields.items() if kinds[key] == "replace"}
        paths = {key: "/" + key.replace("~", "~0").replace("/", "~1") for key in fields}
        if any(key != key.strip() or (path.endswith("/") and key) for key, path in paths.items()):
            return  # blanks around a name in a pointer are none of it
        new = [{"op": kinds[key], "path": paths[key], "value": value} for key, value in fields.items()]
        body = [{change["op"]: change["path"], "value": change["value"]} for change in new] if old else new
        image = self.random.choice(self.images)
        answer = self.ikon.patch(image, body, OLD_PATCH if old else PATCH, who=ADMIN)
        if answer.status == 413 and "properties" in answer.message:
            return
        self.came("patch", answer, 200 if status == 201 else status, "image", name, body)

    def share(self) -> None:
        image = self._shared()
        good = self.random.random() < 0.6
        member = self.grammar.text() or "x" if good else self.grammar.bad({"type": "string", "maxLength": 255, "pattern": "."})
        answer = self.ikon.post(f"/v2/images/{image}/members", {"member": member}, who=ADMIN)
        self.came("share", answer, 200 if good else 400, "member", "" if good else "ember")
        self.came("members", self.ikon.get(f"/v2/images/{image}/members", who=ADMIN), 200, "members")
        self.drop(image)

    def answer(self) -> None:
        image, status = self._shared(), self.schemas["member"]["properties"]["status"]
        self.ikon.post(f"/v2/images/{image}/members", {"member": "m"}, who=ADMIN)
        good = self.random.random() < 0.5
        body = json.dumps({"status": self.grammar.good(status) if good else self.grammar.bad(status)}).encode()
        self.came(
            "answer",
            self.ikon.call("PUT", f"/v2/images/{image}/members/m", body, who=ADMIN),
            200 if good else 400,
            "member",
            "" if good else "tatus",
        )
        self.drop(image)

    def _shared(self) -> str:
        return str(self.ikon.create(who=ADMIN)["id"])

    def drop(self, image: str) -> None:
        """Delete an image, so that lists and memory stay as they are."""
        assert self.ikon.patch(image, [{"op": "replace", "path": "/protected", "value": False}], who=ADMIN).status == 200
        self.came("delete", self.ikon.delete(image, who=ADMIN), 204)

    def tag(self) -> None:
        tag = self.random.choice(["x", "a b", "\U0001f427", "%", "t" * 255, "t" * 256, "?", "#"])
        path = f"/v2/images/{self.random.choice(self.images)}/tags/{urlencode({'': tag}).removeprefix('=').replace('+', '%20')}"
        self.came("tag", self.ikon.call("PUT", path, who=ADMIN), 204 if len(tag) < 256 else 400)
        self.came("untag", self.ikon.call("DELETE", path, who=ADMIN), 204 if len(tag) < 256 else 400)

    def browse(self) -> None:
        names = self.random.sample(list(PARAMETERS), self.random.randrange(4))
        if "sort" in names:
            names = [name for name in names if name not in ("sort_key", "sort_dir")]
        query = [(name, self.random.choice(PARAMETERS[name][0])) for name in names if PARAMETERS[name][0]]
        wrong = ""
        if self.random.random() < 0.4:
            wrong = self.random.choice([name for name, (_, bad) in PARAMETERS.items() if bad])
            query = [
                (name, value)
                for name, value in query
                if name not in (wrong, "sort", "sort_key", "sort_dir") and (name, value) not in (("limit", "0"), ("visibility", ""))
            ]
            query.append((wrong, self.random.choice(PARAMETERS[wrong][1])))
        answer = self.ikon.browse(f"?{urlencode(query)}", who=ADMIN)
        self.came("list", answer, 400 if wrong else 200, "images", sent=query)


BASE = ("name", "visibility", "protected", "os_hidden", "owner", "disk_format", "container_format", "min_disk", "min_ram", "tags")


def fuzz(ikon: Ikon, seed: int, for_s: float) -> Counter[str]:
    """Fuzz for so many seconds."""
    fuzzer, end = Fuzzer(ikon, seed), time.monotonic() + for_s
    while time.monotonic() < end:
        fuzzer.step()
    for image in fuzzer.images:
        fuzzer.drop(image)
    return fuzzer.counts


def watched(ikon: Ikon, seed: int, for_s: float) -> str:
    """Fuzz, and see that memory stays; returns what to report."""
    fuzz(ikon, seed, for_s / 4)
    before = ikon.memory_kib()
    counts = fuzz(ikon, seed + 1, for_s * 3 / 4)
    growth = ikon.memory_kib() - before
    assert growth < GROWTH_KIB
    assert ikon.unforeseen() == []
    return f"{counts.total()} requests, {len(counts)} kinds of answers, {growth} KiB "


def test_what_the_schemas_allow_is_done_and_what_they_forbid_is_refused_by_name(ikon: Ikon, capsys: pytest.CaptureFixture[str]) -> None:
    said = watched(ikon, SEED, SHORT_S)
    with capsys.disabled():
        print(said, end="")


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_what_the_schemas_allow_is_done_for_long(ikon: Ikon, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    said = watched(ikon, seed, LONG_S)
    with capsys.disabled():
        print(said, end="")


@pytest.mark.slow
@pytest.mark.parametrize("database", ["mariadb_url", "postgres_url"])
def test_what_the_schemas_allow_is_done_on_a_big_database(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    with on_database(tmp_path, request.getfixturevalue(database)) as server:
        fuzz(server, SEED, SHORT_S)
        assert server.unforeseen() == []


@pytest.mark.full
def test_rubbish_never_makes_the_server_fail_for_long(ikon: Ikon, capsys: pytest.CaptureFixture[str]) -> None:
    supply = Fuzz(SEED, [str(ikon.create()["id"]), ikon.active(b"data"), ikon.active(b"", visibility="community")])
    rubbish(ikon, supply, LONG_S / 4)
    before = ikon.memory_kib()

    sent, failed = rubbish(ikon, supply, LONG_S * 3 / 4)

    assert (failed, ikon.unforeseen()) == ([], [])
    assert ikon.memory_kib() - before < GROWTH_KIB
    with capsys.disabled():
        print(f"{sent} requests, {ikon.memory_kib() - before} KiB", end=" ")


def test_rubbish_is_sent_to_every_route() -> None:
    assert {part.replace("{word}", "{}").replace("{id}", "{}") for part in PATHS} >= {pattern_of(pattern) for pattern in ROUTES}


def pattern_of(pattern: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in pattern.split("/"))
