"""Recorded exchanges about metadata definitions, replayed in order: statuses, bodies and links are those of the record, or differ for a reason."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.wire.server import Answer, Ikon, Persona

pytestmark = pytest.mark.slow

EXCHANGES = [json.loads(line) for line in (Path(__file__).with_name("recorded") / "metadefs.jsonl").read_text().splitlines()]
#: A server of its own: whole lists are compared.
SETTINGS: dict[str, object] = {"metadefs": {"catalogue": False}}
PERSONAS = {
    "admin": Persona("operators", "admin,member,reader"),
    "alice": Persona("home"),
    "areader": Persona("home", "reader"),
    "bob": Persona("elsewhere"),
    "norole": Persona("home", ""),
    "noproj": Persona(None),
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Deviation(NamedTuple):
    """Where Ikon answers otherwise, on purpose. answer: what replaces the record's; a body of None is not compared."""

    reason: str
    cases: str
    answer: dict[str, Any]


REFUSED = {"status": 400, "body": None, "location": None, "says": None}
# fmt: off
DEVIATIONS = [
    Deviation("a name that is taken is a conflict", "put rename taken (2); put prop rename taken", {"status": 409, "says": "already exists in namespace=ns3"}),
    Deviation("what the schema allows is kept", "prop field enum (3)", {"status": 201, "body": {"name": "v16", "title": "t", "type": "string", "enum": ["1"]}}),
    Deviation("what the schema allows is kept", "prop field items (4)", {"status": 201, "body": {"name": "v22", "title": "t", "type": "string", "items": {}}}),
    Deviation("what the schema allows is kept", "prop field required", {"status": 201, "body": {"name": "v28", "title": "t", "type": "string", "required": ["a"]}}),
    Deviation("what was read can be sent again", "times of an object", {"status": 201, "location": "/v2/metadefs/namespaces/j5"}),
    Deviation("what was read can be sent again", "times of an association", {"body": None}),
    Deviation("a fraction is kept", "post o4; get o4", {"body": None}),
    Deviation("a fraction is kept", "prop field minimum (2)", {"body": {"name": "v7", "title": "t", "type": "string", "minimum": -1.5}}),
    Deviation("a default of any form is kept as text", "prop field default (3)", {"body": {"name": "v2", "title": "t", "type": "string", "default": '[1,"a"]'}}),
    Deviation("a default of any form is kept as text", "prop field default (4)", {"body": {"name": "v3", "title": "t", "type": "string", "default": '{"a":1}'}}),
    Deviation("null is no default", "prop field default (6)", {"body": {"name": "v5", "title": "t", "type": "string"}}),
    Deviation("the key is the name, and lists of properties say both", "post prop name; get z6; objs limit; props; props bob; props rt; props after; ns after", {"body": None}),
    Deviation("a key is a name, and is the name", "a key too long; a property says another name", REFUSED),
    Deviation("no part of a path, no name", "empty name; name with a slash; odd names; odd names (2); odd names (3); odd names (4); odd names (5); odd names (6); odd names (7); odd names (9); rename to a slash", REFUSED),
    Deviation("no text holds NUL", "NUL; odd names (10)", REFUSED),
    Deviation("every character may be in a name", "four bytes", {"status": 201, "says": None, "location": "/v2/metadefs/namespaces/%F0%9F%98%80"}),
    Deviation("every character may be in a name", "odd names (8)", {"body": {"name": "\U0001f600", "created_at": "{time}", "updated_at": "{time}"}}),
    Deviation("links are paths that can be asked for", "post blank", {"location": "/v2/metadefs/namespaces/a%20b.c", "body": None}),
    Deviation("links are paths that can be asked for", "post accent", {"location": "/v2/metadefs/namespaces/%C3%A9", "body": None}),
    Deviation("links are paths that can be asked for", "list after; list (2); list (4)", {"body": None}),
    Deviation("no tags in place of all there are leaves none", "tags (4)", {"body": {"tags": []}}),
    Deviation("what was not kept names no resource type", "rts; rts bob", {"body": None}),
    Deviation("all objects are listed, whatever else is asked", "objs marker", {"status": 200, "says": None}),
    Deviation("no project, no list", "list noproj; rts noproj", {"status": 404, "body": None}),
    Deviation("a marker that is hidden is one that is not there", "list ?marker=l3", {"status": 404, "says": "Metadata definition namespace=l3 was not found"}),
    Deviation("what is empty is no visibility, and no type", "list ?visibility=", REFUSED),
    Deviation("what is empty is no visibility, and no type", "list ?resource_types=", {"body": None}),
    Deviation("links keep every parameter, and the last one counts", "list ?limit=1&limit=3; list ?sort_key=namespace&sort_key=owner", {"body": None}),
    Deviation("HEAD is served wherever GET is", "405 (24)", {"status": 200, "allow": None}),
    Deviation("refusals name what is wrong", "post str", {"says": "Expected an object"}),
    Deviation("refusals name what is wrong", "del assoc again; del assoc unknown", {"says": "Could not find resource type"}),
    Deviation("what the server says may not be set", "post schema", {"says": "Attribute 'schema' is read-only."}),
]
# fmt: on


def deviations(exchange: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reasons to answer otherwise, and how."""
    named = [each for each in DEVIATIONS if exchange["case"] in each.cases.split("; ")]
    yield from ((each.reason, each.answer) for each in named)
    if exchange["status"] == 500 and not named:
        yield "what cannot be understood is refused", REFUSED
    hidden = exchange["as"] != "admin" or exchange["case"] == "slash name"
    if hidden and exchange.get("says") == "The resource could not be found" and re.search(r"/namespaces/[^/]", exchange["path"]):
        yield "one text for what is hidden and what is not there", {"says": "Metadata definition namespace="}


def test_each_deviation_is_of_an_exchange() -> None:
    cases = {exchange["case"] for exchange in EXCHANGES}
    assert [case for each in DEVIATIONS for case in each.cases.split("; ") if case not in cases] == []


def test_recorded_exchanges_go_as_recorded_or_deviate_for_a_named_reason(ikon: Ikon, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, reasons = [], Counter[str]()
    for exchange in EXCHANGES:
        wanted = exchange
        for reason, changed in deviations(exchange):
            reasons[reason] += 1
            wanted = {key: value for key, value in (wanted | changed).items() if value is not None}
        wrong += [f"{exchange['case']}: {difference}" for difference in compare(wanted, send(ikon, exchange))]
    with capsys.disabled():
        print(f"{len(EXCHANGES)} exchanges, {reasons.total()} answers that deviate for {len(reasons)} reasons", end=" ")
    assert wrong == [], "\n".join(wrong)


def send(ikon: Ikon, exchange: dict[str, Any]) -> Answer:
    body = json.dumps(exchange["json"]).encode() if "json" in exchange else exchange["text"].encode() if "text" in exchange else None
    return ikon.call(exchange["method"], exchange["path"], body, exchange.get("headers"), who=PERSONAS[exchange["as"]])


def compare(wanted: dict[str, Any], answer: Answer) -> Iterator[str]:
    """In what an answer differs."""
    if answer.status != wanted["status"]:
        yield f"status {answer.status} instead of {wanted['status']} {answer.body[:150]!r}"
        return
    location = answer.headers["Location"]
    if (urlsplit(location).path if location else None) != wanted.get("location"):
        yield f"Location {location}"
    if "allow" in wanted and not set(wanted["allow"].split(", ")) <= set(answer.headers["Allow"].split(", ")):
        yield f"Allow {answer.headers['Allow']}"
    if "says" in wanted and wanted["says"] not in answer.message:
        yield f"says {answer.message!r} instead of {wanted['says']!r}"
    if "body" in wanted and (got := known(json.loads(TIME.sub("{time}", answer.body.decode())))) != wanted["body"]:
        yield f"{got} instead of {wanted['body']}"


def known(body: Any) -> Any:
    """A body without what schemas say in words."""
    if isinstance(body, dict) and ("additionalProperties" in body or "links" in body):
        return wordless(body)
    return body


def wordless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: wordless(each) for key, each in value.items() if not (key == "description" and isinstance(each, str))}
    return [wordless(each) for each in value] if isinstance(value, list) else value
