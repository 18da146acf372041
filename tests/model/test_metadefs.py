"""Random sequences of calls about metadata definitions, from several projects: every answer is the one that a model of plain dicts gives."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.wire.server import ADMIN, Answer, Ikon, Persona, on_database, q

pytestmark = pytest.mark.slow

CALLS, LONG, SEED = 1500, 60_000, 20261127
N = "/v2/metadefs/namespaces"
PEOPLE = [ADMIN] * 6 + [Persona("red"), Persona("red", "reader"), Persona("blue"), Persona("red", ""), Persona(None)]
NAMES = ["a", "A", "b", "a b", "ä", "\U0001f427"]
KINDS = {"objects": "object", "properties": "property", "resource_types": "resource_type", "tags": "tag"}
DEFINITION = {"title": "T", "type": "string"}

#: Namespaces by name: owner, visibility and protection, and their entries by kind: what is said of each, by name, oldest first.
World = dict[str, dict[str, Any]]


class Model:
    """What the answers should be."""

    def __init__(self, seed: int) -> None:
        self.random, self.world = random.Random(seed), World()

    def readable(self, who: Persona, name: str) -> bool:
        space = self.world.get(name)
        if space is None or "admin" in who.roles:
            return space is not None
        return "reader" in who.roles and (space["visibility"] == "public" or (who.project is not None and space["owner"] == who.project))

    def refusal(self, who: Persona, name: str, *, writes: bool) -> int:
        """The status of what this caller may not do; 0: it may."""
        if not self.readable(who, name):
            return 404
        return 403 if writes and "admin" not in who.roles else 0

    def step(self, ikon: Ikon) -> str:
        """One call, and whether its answer is right; says what it was."""
        choice = self.random.choice
        verb = self.random.choices(
            ["make", "change", "drop", "show", "list", "add", "replace", "remove", "clear", "entries", "tags"],
            [6, 3, 2, 4, 4, 12, 5, 5, 1, 5, 3],
        )[0]
        who, name = choice(PEOPLE), choice(NAMES)
        answer, wanted = getattr(self, verb)(ikon, who, name)
        assert answer.status == wanted, (verb, who, name, answer, wanted, self.world.get(name))
        return f"{verb} {answer.status}"

    def about(self, name: str) -> dict[str, Any]:
        owner, protected = self.random.choice(["red", "blue"]), self.random.random() < 0.2
        return {"namespace": name, "visibility": self.random.choice(["public", "private"]), "owner": owner, "protected": protected}

    def make(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        about, tags = self.about(name), self.random.sample(NAMES, 2)
        answer = ikon.post(N, about | {"tags": [{"name": tag} for tag in tags]}, who=who)
        if "admin" not in who.roles:
            return answer, 403 if "reader" in who.roles and who.project else 404
        if name in self.world:
            return answer, 409
        self.world[name] = about | {kind: {} for kind in KINDS} | {"tags": dict.fromkeys(tags)}
        return answer, 201

    def change(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        about = self.about(self.random.choice([name, name, self.random.choice(NAMES)]))
        answer = self.put(ikon, who, f"{N}/{q(name)}", about)
        if refused := self.refusal(who, name, writes=True):
            return answer, refused
        new = about["namespace"]
        if new != name and new in self.world:
            return answer, 409
        self.world = {new if each == name else each: space | about if each == name else space for each, space in self.world.items()}
        return answer, 200

    def drop(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        answer = ikon.call("DELETE", f"{N}/{q(name)}", who=who)
        refused = self.refusal(who, name, writes=True) or (403 if self.world[name]["protected"] else 0)
        if not refused:
            del self.world[name]
        return answer, refused or 204

    def show(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        answer = ikon.get(f"{N}/{q(name)}", who=who)
        if refused := self.refusal(who, name, writes=False):
            return answer, refused
        space, got = self.world[name], answer.json
        assert [tag["name"] for tag in got.get("tags", [])] == list(space["tags"])[::-1]
        assert {each["name"]: each.get("description") for each in got.get("objects", [])} == space["objects"]
        assert {key: each.get("description") for key, each in got.get("properties", {}).items()} == space["properties"]
        assert [each["name"] for each in got.get("resource_type_associations", [])] == list(space["resource_types"])
        return answer, 200

    def list(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        answer = ikon.get(f"{N}?limit=100", who=who)
        if "admin" not in who.roles and not ("reader" in who.roles and who.project):
            return answer, 404
        assert [each["namespace"] for each in answer.json["namespaces"]] == [
            each for each in reversed(self.world) if self.readable(who, each)
        ]
        return answer, 200

    def entry(self, kind: str, name: str) -> tuple[dict[str, Any], Any]:
        """A body, and what the model keeps of it."""
        word = self.random.choice(["x", "y", None]) if kind in ("objects", "properties") else None
        said = {"description": word} if isinstance(word, str) else {}
        return {"name": name} | said | (DEFINITION if kind == "properties" else {}), word

    def add(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        kind, entry = self.random.choice(list(KINDS)), self.random.choice(NAMES)
        body, kept = self.entry(kind, entry)
        path = f"{N}/{q(name)}/{kind}"
        answer = ikon.post(f"{path}/{q(entry)}", who=who) if kind == "tags" else ikon.post(path, body, who=who)
        if refused := self.refusal(who, name, writes=True):
            return answer, refused
        if entry in self.world[name][kind]:
            return answer, 409
        self.world[name][kind][entry] = kept
        return answer, 201

    def replace(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        kind, old, new = self.random.choice(["objects", "properties", "tags"]), *self.random.choices(NAMES, k=2)
        body, kept = self.entry(kind, new)
        answer = self.put(ikon, who, f"{N}/{q(name)}/{kind}/{q(old)}", body)
        if refused := self.refusal(who, name, writes=True):
            return answer, refused
        there = self.world[name][kind]
        if old not in there:
            return answer, 404
        if new != old and new in there:
            return answer, 409
        self.world[name][kind] = {new if each == old else each: kept if each == old else value for each, value in there.items()}
        return answer, 200

    def remove(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        kind, entry = self.random.choice(list(KINDS)), self.random.choice(NAMES)
        answer = ikon.call("DELETE", f"{N}/{q(name)}/{kind}/{q(entry)}", who=who)
        if refused := self.refusal(who, name, writes=True):
            return answer, refused
        space = self.world[name]
        if entry not in space[kind] or space["protected"]:
            return answer, 404 if entry not in space[kind] else 403
        del space[kind][entry]
        return answer, 204

    def clear(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        kind = self.random.choice(["objects", "properties", "tags"])
        answer = ikon.call("DELETE", f"{N}/{q(name)}/{kind}", who=who)
        refused = self.refusal(who, name, writes=True) or (403 if self.world[name]["protected"] else 0)
        if not refused:
            self.world[name][kind] = {}
        return answer, refused or 204

    def entries(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        kind = self.random.choice(list(KINDS))
        answer = ikon.get(f"{N}/{q(name)}/{kind}", who=who)
        if refused := self.refusal(who, name, writes=False):
            return answer, refused
        (listed,) = (value for field, value in answer.json.items() if field != "schema")
        assert sorted(each if isinstance(each, str) else each["name"] for each in listed) == sorted(self.world[name][kind])
        return answer, 200

    def tags(self, ikon: Ikon, who: Persona, name: str) -> tuple[Answer, int]:
        append, new = self.random.random() < 0.5, self.random.choices(NAMES, k=self.random.randrange(4))
        headers = {"X-Openstack-Append": "True"} if append else {}
        answer = ikon.post(f"{N}/{q(name)}/tags", {"tags": [{"name": each} for each in new]}, headers, who=who)
        if refused := self.refusal(who, name, writes=True):
            return answer, refused
        kept = self.world[name]["tags"] if append else {}
        if len(set(new)) < len(new) or kept.keys() & set(new):
            return answer, 409
        self.world[name]["tags"] = kept | dict.fromkeys(new)
        return answer, 201

    def put(self, ikon: Ikon, who: Persona, path: str, body: Any) -> Answer:
        return ikon.call("PUT", path, json.dumps(body).encode(), who=who)


def follow(ikon: Ikon, seed: int, calls: int) -> Counter[str]:
    model = Model(seed)
    return Counter(model.step(ikon) for _ in range(calls))


@pytest.mark.parametrize("database", ["sqlite_url", "mariadb_url", "postgres_url"])
def test_each_answer_about_definitions_is_the_one_that_the_model_gives(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    with on_database(tmp_path, request.getfixturevalue(database), metadefs={"catalogue": False}) as ikon:
        counts = follow(ikon, SEED, CALLS)
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
    with capsys.disabled():
        print(f"{counts.total()} calls compared, {len(counts)} kinds of answers", end=" ")


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_each_answer_about_definitions_is_the_one_that_the_model_gives_for_long(tmp_path: Path, seed: int) -> None:
    with Ikon(tmp_path, metadefs={"catalogue": False}) as ikon:
        follow(ikon, seed, LONG)
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
