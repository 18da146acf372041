"""Recorded exchanges, replayed in order: status, keys, values and headers are those of the record, or differ for a reason named here."""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest

from tests.wire.server import NOBODY, Answer, Headers, Ikon, Persona

EXCHANGES = Path(__file__).with_name("recorded") / "exchanges.jsonl"
SERVERS: dict[str, dict[str, Any]] = {
    "main": {
        "stores": {"fast": {"weight": 20, "description": "fast store"}, "slow": {}, "third": {}},
        "limits": {"image_bytes": 1_000_000},
    },
    "small": {"limits": {"properties": 3, "tags": 2, "page": 3, "page_max": 4}, "quota": {"bytes": 5000}},
    "cors": {},
}
ELSEWHERE = {"quotas": "small", "pages": "small", "cors": "cors"}

ALICE, BOB, CAROL, LENA, MIKE = (str(n) * 32 for n in range(1, 6))
PERSONAS: dict[str, Persona | Headers] = {
    "none": NOBODY,
    "admin": Persona("a" * 29 + "d00", "admin,manager,member,reader"),
    "manager": Persona(ALICE, "manager,member,reader"),
    "alice": Persona(ALICE),
    "areader": Persona(ALICE, "reader"),
    "norole": Persona(ALICE, ""),
    "bob": Persona(BOB),
    "breader": Persona(BOB, "reader"),
    "carol": Persona(CAROL),
    "lena": Persona(LENA),
    "mike": Persona(MIKE),
    "service": Persona("9" * 32, "service"),
    "sysadmin": Persona(None, "admin,member,reader", system=True),
    "ADM": Persona("a" * 29 + "d00", "Admin,Member,READER"),
    "noproj": Persona(None),
    "memonly": Persona(ALICE, "member"),
}
NEW = {
    "name": None, "disk_format": None, "container_format": None, "visibility": "shared", "size": None, "virtual_size": None, "status": "queued", "checksum": None,
    "protected": False, "min_ram": 0, "min_disk": 0, "owner": None, "os_hidden": False, "tags": [],
}  # fmt: skip
VOLATILE = {"id", "created_at", "updated_at", "self", "file", "schema", "os_hash_algo", "os_hash_value"}


class Deviation(NamedTuple):
    """Where Ikon answers otherwise, on purpose. area, case: which exchanges. answer: what replaces the record's."""

    reason: str
    area: str
    case: str
    answer: dict[str, Any]


NOTHING: dict[str, Any] = {"first": None, "ids": None, "known": None, "keys": None, "record": None, "gives": None, "says": None}
BAD = {"status": 400, "type": "json", **NOTHING}
FORBIDDEN = {"status": 403, "type": "json", **NOTHING}
ABSENT = {"status": 409, "type": "json", **NOTHING}
EMPTY_PAGE = {"status": 200, "type": "json", "keys": ["first", "images", "schema"], "ids": [], "known": True}


def on_record(**changed: Any) -> dict[str, Any]:
    """A plain image of alice's as the answer."""
    plain = {"name": "img", "disk_format": "raw", "container_format": "bare", "owner": ALICE}
    return {"status": 200, "type": "json", "record": plain | changed}


DEVIATIONS = [
    Deviation(
        "minor versions are listed once all that they stand for is served",
        "versions",
        "GET /v2.18/images",
        {**NOTHING, "status": 300, "keys": ["versions"]},
    ),
    Deviation("HEAD says what GET would", "versions", "HEAD healthcheck", {"status": 200, "type": "text"}),
    Deviation("E13: HEAD is served wherever GET is", "versions", "HEAD /v2/images", {"status": 200, "type": "json", "gives": None}),
    Deviation("E13: HEAD is served wherever GET is", "versions", "HEAD /v2/images/0*", {"status": 404, "type": "json", "gives": None}),
    Deviation("health is told as text and as JSON", "versions", "healthcheck html", {"type": "text"}),
    Deviation(
        "a method that HTTP does not know is no request",
        "versions",
        "FOO *",
        {"status": 400, "type": "text", "unnumbered": True, "gives": None},
    ),
    Deviation(
        "E32: a request id that is too long is refused as such", "versions", "client req id too long", {"status": 431, "type": "json"}
    ),
    Deviation("E8: what is not understood is a bad request", "create", "body list*", BAD),
    Deviation("E8: what is not understood is a bad request", "patch", "path int", BAD),
    Deviation("E9: JSON may come in chunks", "create", "chunked create", on_record(name="chunk", disk_format=None, container_format=None)),
    Deviation("E10: digests are the server's to set", "create", "os_hash_*", FORBIDDEN),
    Deviation("E11: a property's name is as long in a patch as at creation", "patch", "prop key 256", BAD),
    Deviation(
        "E12: all of Unicode is text",
        "create",
        "name 4-byte unicode",
        {"status": 201, "type": "json", "record": {"name": "😀 naïve", "owner": ALICE}},
    ),
    Deviation("NUL is kept by no database the same", "create", "name newline/ctrl", BAD),
    Deviation("reserved names are refused whatever comes with them", "create", "deleted*", FORBIDDEN),
    Deviation("a property's value has a length that all databases keep", "create", "custom value 65536", BAD),
    Deviation("a property's value has a length that all databases keep", "patch", "prop value 70000", BAD),
    Deviation("a property's value has a length that all databases keep", "patch", "remove long", ABSENT),
    Deviation("a property set to null is not set", "create", "kernel_id null", {"record": {"owner": ALICE}}),
    Deviation("stores are the server's to set, in a patch too", "patch", "* stores*", FORBIDDEN),
    Deviation(
        "S2: what is no base field is a property, and this image has it not",
        "patch",
        "|".join(
            f"replace {name}='x'"
            for name in ("extra_properties", "image_id", "member", "context", "base", "__class__", "delete", "get_data")
        )
        + "|remove image_id",
        ABSENT,
    ),
    Deviation("S2: what is no base field is a property, and this image has it not", "patch-names", "replace /image_id*", ABSENT),
    *(
        Deviation("S2: what is no base field is a property", "patch", f"add {name}='x'", on_record(**{name: "x"}))
        for name in ("extra_properties", "member", "delete", "context")
    ),
    Deviation(
        "S2: what is no base field is a property", "patch", "add image_id=*", on_record(image_id="00000000-0000-4000-8000-0000000000aa")
    ),
    Deviation("S1: only an administrator gives images away", "patch-names", "member gives community image away*", FORBIDDEN),
    Deviation("E12: all of Unicode is text", "patch", "4-byte unicode*", {**NOTHING, "status": 200, "type": "json"}),
    Deviation("If-Match is heeded", "patch", "chunk", {**NOTHING, "status": 412, "type": "json"}),
    Deviation(
        "S8: a marker that is hidden is answered like one that does not exist",
        "list",
        "*marker={*} as mike",
        BAD | {"says": "No image found with ID"},
    ),
    Deviation(
        "E1: no page ends early where values are missing",
        "list",
        "list [?]limit=3&sort=size%3Aasc&marker=*",
        {"keys": ["first", "images", "next", "schema"], "ids": ["i10", "i11", "i12"]},
    ),
    Deviation(
        "E2: of a limit given twice the last counts",
        "list",
        "list [?]limit=2&limit=3*",
        {"keys": ["first", "images", "next", "schema"], "ids": ["i15", "i12", "i11"]},
    ),
    Deviation(
        "E5: a prefix that is no operator belongs to the value", "list", "*=neq:a1*", EMPTY_PAGE | {"first": "/v2/images?name=neq:a1"}
    ),
    Deviation(
        "E5: a prefix that is no operator belongs to the value",
        "odd-list",
        "*status=neq:*",
        EMPTY_PAGE | {"first": "/v2/images?status=neq:active"},
    ),
    Deviation("E5: a prefix that is no operator belongs to the value", "odd-list", "*name=ubuntu*", EMPTY_PAGE | {"ids": ["i16"]}),
    Deviation("E7: numbers can be compared", "list", "*size=gt:100*", {"ids": ["i8", "i6"]}),
    Deviation("E7: numbers can be compared", "list", "*size=in:100,200*", {"ids": ["i6", "i4"]}),
    Deviation(
        "E8: what is no field is a property, which no image has",
        "*list",
        "*properties=x*|*foo_m??=1*|*locations=x*|*members=x*",
        EMPTY_PAGE,
    ),
    Deviation("E8: no number is too large to compare with", "odd-list", "*size_min=9999*", EMPTY_PAGE),
    Deviation("E21: true and false are read in any case", "list", "*protected=True*", EMPTY_PAGE | {"ids": ["i10"]}),
    Deviation("tags are asked for by `tag`", "list", "*tags=x*", {"ids": []}),
    Deviation("a quote inside a quoted value is not guessed at", "list", "*uote%22*", BAD),
    Deviation("S5: only configured stores are stores", "data", "reserved staging store*", BAD),
    Deviation("S5: only configured stores are stores", "prefer", "*staging_store*", BAD | {"size": None}),
    Deviation("E25: `prefer` is always checked", "download", "prefer=nope", BAD),
    Deviation("what is not there cannot be the last copy", "copies", "not there, last location", {"status": 404}),
    Deviation(
        "S11: a token without a project has no images to list and makes none",
        "roles",
        "no project, member role|create without project",
        FORBIDDEN,
    ),
]


def rules(exchange: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reasons that hold for whole kinds of answers, each with what it changes of the record's."""
    headers = exchange.get("headers", {})
    if wanted["status"] in (202, 204) and wanted["type"] == "html":
        yield "E14: no media type where there is no body", {"type": "none"}
    if wanted["status"] >= 400 and (wanted["type"] == "text" or exchange["method"] == "HEAD") and "Accept" not in headers:
        yield "E16: a client that names no media type gets JSON, which all of them read", {"type": "json"}
    record = wanted.get("record", {})
    if "stores" in record and record.get("owner") != getattr(PERSONAS[exchange["as"]], "project", None) and exchange["as"] != "admin":
        yield (
            "S6: where data is kept is for its owner to know",
            {"record": {name: value for name, value in record.items() if name != "stores"}},
        )
    if long := {name for name in record if name.endswith("*256}")}:
        yield (
            "E11: a property's name is as long in a patch as at creation",
            {"record": {name: value for name, value in record.items() if name not in long}},
        )
    query = parse_qsl(urlsplit(exchange["path"]).query, keep_blank_values=True)
    if "first" in wanted and len(dict(query)) < len(query):
        yield "E2: links keep every parameter", {"first": "/v2/images?" + urlencode([each for each in query if each[0] != "marker"])}
    if "Allow" in wanted.get("gives", {}):
        allowed = set(wanted["gives"]["Allow"].split(", ")) | {"OPTIONS"}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        yield "E13: HEAD and OPTIONS are served, and so allowed", {"gives": wanted["gives"] | {"Allow": ", ".join(sorted(allowed))}}


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_recorded_exchanges_go_as_recorded_or_deviate_for_a_named_reason(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exchanges = [each for each in map(json.loads, EXCHANGES.read_text().splitlines()) if ELSEWHERE.get(each["area"], "main") == server]
    wrong, reasons, ids = [], Counter[str](), {}
    with Ikon(tmp_path, **SERVERS[server]) as ikon:
        for exchange in exchanges:
            if "given" in exchange:
                prepare(ikon, exchange, ids)
                continue
            wanted = exchange
            for reason, changed in list(rules(exchange, wanted)):
                wanted = wanted | changed
                reasons[reason] += 1
            for deviation in DEVIATIONS:
                if applies(deviation, exchange):
                    assert any(wanted.get(key) != value for key, value in deviation.answer.items()), f"no deviation: {deviation}"
                    wanted = {key: value for key, value in (wanted | deviation.answer).items() if value is not None}
                    reasons[deviation.reason] += 1
            answer = send(ikon, exchange, ids)
            if "name" in exchange:
                ids[exchange["name"]] = answer.json["id"]
            differs = list(compare(wanted, answer, ids))
            wrong += [f"{exchange['area']}: {exchange['case']}: {difference}" for difference in differs]
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
    with capsys.disabled():
        print(
            f"{sum('given' not in each for each in exchanges)} exchanges, {sum(reasons.values())} answers that deviate for {len(reasons)} reasons",
            end=" ",
        )
    assert wrong == [], "\n".join(wrong)


def test_each_deviation_is_of_an_exchange() -> None:
    exchanges = [json.loads(line) for line in EXCHANGES.read_text().splitlines()]
    assert [each for each in DEVIATIONS if not any(applies(each, exchange) for exchange in exchanges)] == []


def applies(deviation: Deviation, exchange: dict[str, Any]) -> bool:
    return (
        "given" not in exchange
        and fnmatchcase(exchange["area"], deviation.area)
        and any(fnmatchcase(exchange["case"], case) for case in deviation.case.split("|"))
    )


def prepare(ikon: Ikon, exchange: dict[str, Any], ids: dict[str, str]) -> None:
    """Do what must have been done before."""
    for n in range(exchange.get("times", 1)):
        answer = send(ikon, exchange, ids | {"n": str(n)})
        assert answer.status < 300, (exchange, answer)
        if "name" in exchange:
            ids[exchange["name"]] = answer.json["id"]


def send(ikon: Ikon, exchange: dict[str, Any], ids: dict[str, str]) -> Answer:
    headers = {name: expand(value, ids) for name, value in exchange.get("headers", {}).items()}
    if "patch" in exchange:
        headers["Content-Type"] = f"application/openstack-images-v{exchange['patch']}-json-patch"
    body: Any = None
    if "json" in exchange:
        body = json.dumps(whole(exchange["json"], ids)).encode()
    elif "text" in exchange:
        body = BYTES.get(exchange["text"]) or expand(exchange["text"], ids).encode()
    if headers.pop("Transfer-Encoding", None):
        body = iter([body])
    return ikon.call(exchange["method"], expand(exchange["path"], ids), body, headers, who=PERSONAS[exchange["as"]])


def qcow2(backing: bytes = b"") -> bytes:
    """A sound empty disk of 1 MiB, or one that needs another file."""
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        512 if backing else 0,
        len(backing),
        16,
        1 << 20,
        0,
        1,
        0x30000,
        0x10000,
        1,
        0,
        0,
        0,
        0,
        0,
        4,
        104,
    )
    table = struct.pack(">Q", 0x20000)
    counts = b"\0\1" * 4
    return (head.ljust(512, b"\0") + backing).ljust(0x10000, b"\0") + table.ljust(0x10000, b"\0") + counts.ljust(0x10000, b"\0") + bytes(8)


BYTES = {"{qcow2}": qcow2(), "{qcow2 with a backing file}": qcow2(b"/etc/passwd"), "{not UTF-8}": b'{"name":"\xff"}'}
TOKEN = re.compile(r"\{\{|\}\}|\{([^{}*]+)\*(\d+)\}|\{([^{}.]+)(\.upper)?\}")


def expand(text: str, ids: dict[str, str]) -> str:
    """Text with what its tokens stand for."""

    def token(match: re.Match[str]) -> str:
        if match[1]:
            return match[1] * int(match[2])
        if match[3]:
            return ids[match[3]].upper() if match[4] else ids[match[3]]
        return match[0][0]

    return TOKEN.sub(token, text)


def whole(value: Any, ids: dict[str, str]) -> Any:
    """A JSON value with what its tokens stand for."""
    if isinstance(value, list) and value and isinstance(value[0], str) and (span := re.fullmatch(r"\{(add p)?0\.\.p?(\d+)\}", value[0])):
        names = [str(n) for n in range(int(span[2]) + 1)]
        return [{"op": "add", "path": f"/p{n}", "value": "x"} for n in names] if span[1] else names
    if isinstance(value, list):
        return [whole(item, ids) for item in value]
    if isinstance(value, dict):
        if span := re.fullmatch(r"\{p0\.\.p(\d+)\}", next(iter(value), "")):
            return {f"p{n}": "x" for n in range(int(span[1]) + 1)}
        return {expand(name, ids): whole(item, ids) for name, item in value.items()}
    return expand(value, ids) if isinstance(value, str) else value


def compare(wanted: dict[str, Any], answer: Answer, ids: dict[str, str]) -> Iterator[str]:
    """In what an answer differs."""
    if answer.status != wanted["status"]:
        yield f"status {answer.status} instead of {wanted['status']} {answer.body[:150]!r}"
        return
    kinds = {"application/json": "json", "application/octet-stream": "data", "text/plain": "text", "text/html": "html"}
    kind = kinds.get(answer.headers.get_content_type(), "?") if answer.headers["Content-Type"] else "none"
    if kind != wanted["type"]:
        yield f"type {kind} instead of {wanted['type']}"
    if "unnumbered" not in wanted and not answer.headers["X-Openstack-Request-Id"]:
        yield "no request id"
    body = answer.json if kind == "json" and answer.body else {}
    for name, value in wanted.get("gives", {}).items():
        got = answer.headers[name]
        if name == "Location" and got:
            got = urlsplit(got).path
        value = value.replace("{id}", body.get("id", "")) if name == "Location" else expand(value, ids)
        if got != value:
            yield f"{name} {got!r} instead of {value!r}"
    if "says" in wanted and wanted["says"] not in answer.message:
        yield f"says {answer.message!r} instead of {wanted['says']!r}"
    if "size" in wanted and len(answer.body) != wanted["size"]:
        yield f"{len(answer.body)} bytes instead of {wanted['size']}"
    if "record" in wanted:
        yield from compare_record(wanted, body, ids)
    if "properties" in wanted and sorted(body["properties"]) != wanted["properties"]:
        yield f"properties {set(body['properties']) ^ set(wanted['properties'])} differ"
    if "keys" in wanted and sorted(set(body) - ({"next"} if "first" in wanted and "known" not in wanted else set())) != wanted["keys"]:
        yield f"keys {sorted(body)} instead of {wanted['keys']}"
    if "items" in wanted:
        listed = next(value for value in body.values() if isinstance(value, list))
        if (sorted(listed[0]) if listed else []) != wanted["items"]:
            yield f"items with {sorted(listed[0]) if listed else []} instead of {wanted['items']}"
    if "members" in wanted:
        got = [[each["member_id"], each["status"]] for each in body.get("members", [body])]
        if got != [[expand(name, ids), status] for name, status in wanted["members"]]:
            yield f"members {got} instead of {wanted['members']}"
    yield from compare_list(wanted, body, ids)


def compare_record(wanted: dict[str, Any], body: dict[str, Any], ids: dict[str, str]) -> Iterator[str]:
    if missing := (NEW.keys() | VOLATILE) - body.keys():
        yield f"keys {missing} missing"
    record = {name: whole(value, ids) for name, value in whole(wanted["record"], ids).items()}
    got = {name: value for name, value in body.items() if name not in VOLATILE and not (name in NEW and NEW[name] == value)}
    for each in (got, record):
        each.update({"tags": sorted(each["tags"])} if "tags" in each else {})
    for name in sorted(got.keys() | record.keys()):
        if got.get(name, "nothing") != record.get(name, "nothing"):
            yield f"{name} {got.get(name, 'nothing')!r:.90} instead of {record.get(name, 'nothing')!r:.90}"
    if "id" in wanted and body["id"] != ids[wanted["id"]]:
        yield f"image {body['id']} instead of {wanted['id']}"


def compare_list(wanted: dict[str, Any], body: dict[str, Any], ids: dict[str, str]) -> Iterator[str]:
    if "ids" in wanted:
        names = {image_id: name for name, image_id in ids.items()}
        got = [names[image["id"]] for image in body["images"] if image["id"] in names]
        if got != wanted["ids"]:
            yield f"images {got} instead of {wanted['ids']}"
    if "first" in wanted:
        got, first = (
            parse_qsl(urlsplit(link).query, keep_blank_values=True)
            for link in (body["first"], quote(expand(wanted["first"], ids), safe="/?&=%+"))
        )
        if got != first:
            yield f"first {got} instead of {first}"
