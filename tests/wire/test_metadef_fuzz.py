"""Definitions made at random from the published schemas: what they allow is kept as it was sent, what they forbid is refused by name."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.wire.fuzz import ODD
from tests.wire.grammar import invalid
from tests.wire.server import ADMIN, Answer, Ikon, on_database, q

pytestmark = pytest.mark.slow

#: A server of its own: whole lists are compared.
SETTINGS: dict[str, object] = {"metadefs": {"catalogue": False}}
CALLS, LONG, SEED = 900, 60_000, 20261126
N = "/v2/metadefs/namespaces"
NAMES = [*(odd for odd in ODD if 0 < len(odd) <= 80 and not {"/", "\0"} & set(odd) and odd not in (".", "..")), "n" * 80, "\U0001f427" * 80]
TEXTS = [odd for odd in ODD if "\0" not in odd]
WRONG = [
    None,
    True,
    -1,
    1.5,
    "",
    "x" * 600,
    [],
    ["x", "x"],
    [[]],
    [None],
    {},
    {"x": "y"},
    {"x": {"title": "T"}},
    {"name": "x", "colour": "red"},
]


class Definitions:
    """Makes what the schemas of a server allow, and what they do not."""

    def __init__(self, ikon: Ikon, seed: int) -> None:
        self.ikon, self.random, self.counts = ikon, random.Random(seed), Counter[str]()
        self.schemas = {name: self.read(name) for name in ("namespace", "object", "property", "tag", "resource_type")}

    def read(self, name: str) -> dict[str, Any]:
        """A schema without references."""
        schema = self.ikon.get(f"/v2/schemas/metadefs/{name}").json

        def whole(part: Any) -> Any:
            if isinstance(part, list):
                return [whole(each) for each in part]
            if not isinstance(part, dict):
                return part
            if "$ref" in part:
                return whole(schema["definitions"][part["$ref"].removeprefix("#/definitions/")])
            return whole(part["allOf"][0]) if "allOf" in part else {key: whole(each) for key, each in part.items() if key != "definitions"}

        return {"type": "object"} | dict(whole(schema))

    def good(self, schema: dict[str, Any], field: str = "") -> Any:
        """A value that a schema allows."""
        choice = self.random.choice
        if "enum" in schema and isinstance(schema["enum"], list):
            return choice([each for each in schema["enum"] if each is not None])
        kind = schema.get("type", "string")
        if kind == "string":
            pool = (
                NAMES if field in ("name", "namespace", "prefix", "properties_target") else TEXTS
            )  # inside a namespace, no schema limits them
            return choice([text for text in pool if len(text) <= schema.get("maxLength", len(text))])
        if kind == "array":
            made = [self.good(schema.get("items", {})) for _ in range(self.random.randrange(max(1, schema.get("minItems", 0)), 4))]
            return list({json.dumps(each.get("name") if isinstance(each, dict) else each): each for each in made}.values())
        if kind == "object":
            return self.good_object(schema)
        return {"integer": choice([0, 1, 2**31]), "number": choice([0, -1, 0.5, 2**53]), "boolean": choice([True, False])}[kind]

    def good_object(self, schema: dict[str, Any]) -> dict[str, Any]:
        if isinstance(others := schema.get("additionalProperties"), dict):
            keys = [self.random.choice(NAMES) for _ in range(self.random.randrange(3))]
            return {key: {field: each for field, each in self.good(others).items() if field != "name"} for key in keys}
        known = {name: each for name, each in schema["properties"].items() if not each.get("readOnly")}
        needed = set(schema.get("required", [])) | ({"name", "namespace"} & known.keys())
        chosen = [name for name in known if name in needed or self.random.random() < 0.4]
        return {name: self.good(known[name], name) for name in chosen}

    def sent(self, what: str) -> tuple[dict[str, Any], str]:
        """What is to be sent, and the name of what is wrong with it, if anything is."""
        schema, made = self.schemas[what], {}
        made = self.good_object(schema)
        wrong = self.random.random()
        if wrong < 0.15:
            return made | {"colour": "red"}, "colour"
        if wrong < 0.4:
            known = {
                name: each for name, each in schema["properties"].items() if not each.get("readOnly") and name not in ("default", "enum")
            }
            name = self.random.choice(list(known))
            bad = [
                value
                for value in WRONG
                if invalid(value, known[name]) and not (isinstance(value, bool) and known[name].get("type") == "boolean")
            ]
            return made | {name: self.random.choice(bad)}, name
        if wrong < 0.45:
            name = self.random.choice(sorted(set(schema["required"])))
            return {field: value for field, value in made.items() if field != name}, name
        return made, ""

    def came(self, what: str, answer: Answer, status: int, names: str, sent: Any) -> None:
        """Whether an answer is right: its status, its form, and that a refusal names what is wrong."""
        assert answer.status == status, (what, sent, answer)
        if status >= 400:
            assert names in answer.message, (what, sent, names, answer.message)
        self.counts[f"{what} {status}"] += 1

    def step(self) -> None:
        """A namespace is made, filled, read, listed and deleted; or one of these is refused."""
        tree, wrong = self.sent("namespace")
        status = 400 if wrong else 201
        self.came("namespace", self.ikon.post(N, tree, who=ADMIN), status, wrong, tree)
        if wrong:
            return
        path = f"{N}/{q(tree['namespace'])}"
        self.same("namespace", tree, self.ikon.get(path, who=ADMIN).json)
        for what, part in (("object", "objects"), ("property", "properties"), ("resource_type", "resource_types"), ("tag", "tags")):
            self.fill(path, tree, what, part)
        listed = self.ikon.get(f"{N}?limit=1000", who=ADMIN).json["namespaces"]
        assert [each["namespace"] for each in listed] == [tree["namespace"]]
        self.ikon.call("PUT", path, json.dumps({"namespace": tree["namespace"]}).encode(), who=ADMIN)
        self.came("delete", self.ikon.call("DELETE", path, who=ADMIN), 204, "", tree)

    def fill(self, path: str, tree: dict[str, Any], what: str, part: str) -> None:
        entry, wrong = self.sent(what)
        if what == "tag" and wrong:
            return  # its name stands in the path
        held = tree.get("resource_type_associations" if what == "resource_type" else part, [])
        taken = not wrong and entry["name"] in ([each["name"] for each in held] if isinstance(held, list) else held)
        where = f"{path}/tags/{q(entry['name'])}" if what == "tag" else f"{path}/{part}"
        answer = self.ikon.post(where, None if what == "tag" else entry, who=ADMIN)
        self.came(what, answer, 400 if wrong else 409 if taken else 201, wrong, entry)
        if not wrong and not taken:
            self.same(what, entry, answer.json)
            if what != "resource_type":
                shown = self.ikon.get(f"{path}/{part}/{q(entry['name'])}", who=ADMIN)
                self.came(f"show {what}", shown, 200, "", entry)
                self.same(what, entry, shown.json)

    def same(self, what: str, sent: Any, got: Any) -> None:
        """Whether what was sent is what is shown, and what is shown is what the schema says."""
        assert (found := invalid(got, self.schemas[what])) is None, (what, found)
        for name, value in sent.items():
            shown = got.get(name)
            if isinstance(value, list) and value and isinstance(value[0], dict):
                pairs = {each["name"]: each for each in shown}
                assert len(value) == len(shown)
                for each in value:
                    assert pairs[each["name"]].items() >= each.items(), (what, name, each)
            elif value not in ([], {}):
                assert shown == value, (what, name, value, shown)


def fuzz(ikon: Ikon, seed: int, calls: int) -> Counter[str]:
    definitions = Definitions(ikon, seed)
    while definitions.counts.total() < calls:
        definitions.step()
    return definitions.counts


def test_what_the_schemas_allow_is_kept_and_what_they_forbid_is_refused_by_name(ikon: Ikon, capsys: pytest.CaptureFixture[str]) -> None:
    counts = fuzz(ikon, SEED, CALLS)
    with capsys.disabled():
        print(f"{counts.total()} calls, {len(counts)} kinds of answers", end=" ")


@pytest.mark.parametrize("database", ["mariadb_url", "postgres_url"])
def test_what_the_schemas_allow_is_kept_on_a_big_database(request: pytest.FixtureRequest, tmp_path: Path, database: str) -> None:
    with on_database(tmp_path, request.getfixturevalue(database)) as server:
        fuzz(server, SEED + 1, CALLS)
        assert server.unforeseen() == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_what_the_schemas_allow_is_kept_for_long(ikon: Ikon, seed: int) -> None:
    fuzz(ikon, seed, LONG)
