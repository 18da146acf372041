"""Recorded exchanges, replayed in order: status, keys, values and headers are those of the record, or differ for a reason named here."""

import hashlib
import json
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from tests.wire.deviations import DEVIATIONS, PERSONAS, applies, rules
from tests.wire.server import ADMIN, PATIENCE_S, Answer, Ikon
from tests.wire.shelf import Shelf

pytestmark = pytest.mark.slow

EXCHANGES = Path(__file__).with_name("recorded") / "exchanges.jsonl"
SERVERS: dict[str, dict[str, Any]] = {
    "main": {
        "stores": {"fast": {"weight": 20, "description": "fast store"}, "slow": {}, "third": {}},
        "limits": {"image_bytes": 1_000_000},
    },
    "small": {"limits": {"properties": 3, "tags": 2, "members": 1, "page": 3, "page_max": 4}, "quota": {"bytes": 5000}},
    "located": {
        "stores": {"fast": {"weight": 20}, "slow": {}, "third": {}, "web": {"type": "http"}},
        "show_locations": True,
        "show_direct_url": True,
    },
    "cors": {"cors": {"allowed_origins": ["http://dashboard.example"]}},
}
ELSEWHERE = {"quotas": "small", "pages": "small", "cors": "cors", "locations-patch": "located", "locations-api": "located"}
#: What lies at `{web}/disk.raw`.
DISK = bytes(range(250)) * 200

NEW = {
    "name": None, "disk_format": None, "container_format": None, "visibility": "shared", "size": None, "virtual_size": None, "status": "queued", "checksum": None,
    "protected": False, "min_ram": 0, "min_disk": 0, "owner": None, "os_hidden": False, "tags": [],
}  # fmt: skip
VOLATILE = {"id", "created_at", "updated_at", "self", "file", "schema", "os_hash_algo", "os_hash_value"}


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_recorded_exchanges_go_as_recorded_or_deviate_for_a_named_reason(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exchanges = [each for each in map(json.loads, EXCHANGES.read_text().splitlines()) if ELSEWHERE.get(each["area"], "main") == server]
    wrong, reasons = [], Counter[str]()
    ids = {name: hashlib.new(name, DISK, usedforsecurity=False).hexdigest() for name in ("md5", "sha256", "sha512")}
    with (
        Shelf().open() as shelf,
        Ikon(tmp_path, egress={"allowed_networks": ["127.0.0.1/32"], "allowed_ports": [80, shelf.port]}, **SERVERS[server]) as ikon,
    ):
        ids["web"] = shelf.url("disk.raw", DISK).removesuffix("/disk.raw")
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
            if exchange["area"].startswith("locations-") and exchange["method"] != "GET" and answer.status < 300:
                verified(ikon, expand(exchange["path"], ids).removesuffix("/locations"))
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


def verified(ikon: Ikon, path: str) -> None:
    """Wait until all tasks of an image have ended."""
    end = time.monotonic() + PATIENCE_S
    while {task["status"] for task in ikon.get(f"{path}/tasks", who=ADMIN).json["tasks"]} - {"success", "failure"}:
        assert time.monotonic() < end
        time.sleep(0.01)


def prepare(ikon: Ikon, exchange: dict[str, Any], ids: dict[str, str]) -> None:
    """Do what must have been done before."""
    for n in range(exchange.get("times", 1)):
        answer = send(ikon, exchange, ids | {"n": str(n)})
        assert answer.status < 300, (exchange, answer)
        if exchange["path"].endswith("/copies"):
            assert ikon.ended(answer.json["job"])["state"] == "done"
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
        if name == "Access-Control-Expose-Headers" and got:
            got = ",".join(each for each in got.split(",") if each in value.split(","))  # web pages may read more of ours
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
    listed = body if isinstance(body, list) else []
    if "locations" in wanted and listed != whole(wanted["locations"], ids):
        yield f"locations {listed} instead of {whole(wanted['locations'], ids)}"
    if "stores" in wanted and [each["metadata"]["store"] for each in listed] != wanted["stores"]:
        yield f"locations {listed} instead of some in {wanted['stores']}"
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
