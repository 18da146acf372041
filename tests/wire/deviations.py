"""Where Ikon answers otherwise than was recorded, and why."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.wire.server import NOBODY, Headers, Persona

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
    "svcreader": Persona("9" * 32, "service,reader"),
    "sysadmin": Persona(None, "admin,member,reader", system=True),
    "ADM": Persona("a" * 29 + "d00", "Admin,Member,READER"),
    "noproj": Persona(None),
    "memonly": Persona(ALICE, "member"),
}


class Deviation(NamedTuple):
    """Where Ikon answers otherwise, on purpose. area, case: which exchanges. answer: what replaces the record's."""

    reason: str
    area: str
    case: str
    answer: dict[str, Any]


NOTHING: dict[str, Any] = {
    "first": None,
    "ids": None,
    "known": None,
    "keys": None,
    "record": None,
    "gives": None,
    "says": None,
    "size": None,
    "members": None,
}
BAD = {"status": 400, "type": "json", **NOTHING}
FORBIDDEN = {"status": 403, "type": "json", **NOTHING}
ABSENT = {"status": 409, "type": "json", **NOTHING}
EMPTY_PAGE = {"status": 200, "type": "json", "keys": ["first", "images", "schema"], "ids": [], "known": True}


def on_record(**changed: Any) -> dict[str, Any]:
    """A plain image of alice's as the answer."""
    plain = {"name": "img", "disk_format": "raw", "container_format": "bare", "owner": ALICE}
    return NOTHING | {"status": 200, "type": "json", "record": plain | changed}


DEACTIVATED = {"name": "n", "disk_format": "raw", "container_format": "bare", "size": 1000, "virtual_size": 1000, "status": "deactivated", "checksum": "398533d48111e9f664b1f64cb10c4b63", "owner": ALICE, "stores": "fast"}  # fmt: skip
# fmt: off
DEVIATIONS = [
    Deviation("minor versions are listed once all that they stand for is served", "versions", "GET /v2.18/images", {**NOTHING, "status": 300, "keys": ["versions"], "unnumbered": True}),
    Deviation("HEAD says what GET would", "versions", "HEAD healthcheck", {"status": 200, "type": "text"}),
    Deviation("HEAD is served wherever GET is", "versions", "HEAD /v2/images", {"status": 200, "type": "json", "gives": None}),
    Deviation("HEAD is served wherever GET is", "versions", "HEAD /v2/images/0*", {"status": 404, "type": "json", "gives": None}),
    Deviation("health is told as text and as JSON", "versions", "healthcheck html", {"type": "text"}),
    Deviation("a method that HTTP does not know is no request", "versions", "FOO *", {"status": 400, "type": "text", "unnumbered": True, "gives": None}),
    Deviation("a request id that is too long is refused as such", "versions", "client req id too long", {"status": 431, "type": "json"}),
    Deviation("what is not understood is a bad request", "create", "body list*", BAD),
    Deviation("what is not understood is a bad request", "patch", "path int", BAD),
    Deviation("JSON may come in chunks", "create", "chunked create", {**NOTHING, "status": 201, "type": "json", "record": {"name": "chunk", "owner": ALICE}}),
    Deviation("digests are the server's to set", "create", "os_hash_*", FORBIDDEN),
    Deviation("every format that an operator may allow is allowed", "create", "disk_format 'gpt'", {**NOTHING, "status": 201, "type": "json", "record": {"disk_format": "gpt", "owner": ALICE}}),
    Deviation("a property's name is as long in a patch as at creation", "patch", "prop key 256", BAD),
    Deviation("all of Unicode is text", "create", "name 4-byte unicode", {"status": 201, "type": "json", "record": {"name": "😀 naïve", "owner": ALICE}}),
    Deviation("NUL is kept by no database the same", "create", "name newline/ctrl", BAD),
    Deviation("reserved names are refused whatever comes with them", "create", "deleted*", FORBIDDEN),
    Deviation("a property's value has a length that all databases keep", "create", "custom value 65536", BAD),
    Deviation("a property's value has a length that all databases keep", "patch", "prop value 70000", BAD),
    Deviation("a property's value has a length that all databases keep", "patch", "remove long", ABSENT),
    Deviation("a property set to null is not set", "create", "kernel_id null", {"record": {"owner": ALICE}}),
    Deviation("stores are the server's to set, in a patch too", "patch", "* stores*", FORBIDDEN),
    Deviation("what is no base field is a property, and this image has it not", "patch", "|".join(f"replace {name}='x'" for name in ("extra_properties", "image_id", "member", "context", "base", "__class__", "delete", "get_data") ) + "|remove image_id", ABSENT),
    Deviation("what is no base field is a property, and this image has it not", "patch-names", "replace /image_id*", ABSENT),
    *(Deviation("what is no base field is a property", "patch", f"add {name}='x'", on_record(**{name: "x"})) for name in ("extra_properties", "member", "delete", "context")),
    Deviation("what is no base field is a property", "patch", "add image_id=*", on_record(image_id="00000000-0000-4000-8000-0000000000aa")),
    Deviation("only an administrator gives images away", "patch-names", "member gives community image away*", FORBIDDEN),
    Deviation("all of Unicode is text", "patch", "4-byte unicode*", {**NOTHING, "status": 200, "type": "json"}),
    Deviation("If-Match is heeded", "patch", "chunk", {**NOTHING, "status": 412, "type": "json"}),
    Deviation("a marker that is hidden is answered like one that does not exist", "list", "*marker={*} as mike", BAD | {"says": "No image found with ID"}),
    Deviation("no page ends early where values are missing", "list", "list [?]limit=3&sort=size%3Aasc&marker=*", {"keys": ["first", "images", "next", "schema"], "ids": ["i10", "i11", "i12"]}),
    Deviation("of a limit given twice the last counts", "list", "list [?]limit=2&limit=3*", {"keys": ["first", "images", "next", "schema"], "ids": ["i15", "i12", "i11"]}),
    Deviation("a prefix that is no operator belongs to the value", "list", "*=neq:a1*", EMPTY_PAGE | {"first": "/v2/images?name=neq:a1"}),
    Deviation("a prefix that is no operator belongs to the value", "odd-list", "*status=neq:*", EMPTY_PAGE | {"first": "/v2/images?status=neq:active"}),
    Deviation("a prefix that is no operator belongs to the value", "odd-list", "*name=ubuntu*", EMPTY_PAGE | {"ids": ["i17"]}),
    Deviation("numbers can be compared", "list", "*size=gt:100*", {"ids": ["i8", "i6"]}),
    Deviation("numbers can be compared", "list", "*size=in:100,200*", {"ids": ["i6", "i4"]}),
    Deviation("what is no field is a property, which no image has", "*list", "*properties=x*|*foo_m??=1*|*locations=x*|*members=x*", EMPTY_PAGE),
    Deviation("no number is too large to compare with", "odd-list", "*size_min=9999*", EMPTY_PAGE),
    Deviation("true and false are read in any case", "list", "*protected=True*", EMPTY_PAGE | {"ids": ["i10"]}),
    Deviation("tags are asked for by `tag`", "list", "*tags=x*", {"ids": []}),
    Deviation("a quote inside a quoted value is not guessed at", "list", "*uote%22*", BAD),
    Deviation("only configured stores are stores", "data", "reserved staging store*", BAD),
    Deviation("only configured stores are stores", "prefer", "*staging_store*", BAD),
    Deviation("`prefer` is always checked", "download", "prefer=nope", BAD),
    Deviation("what is not there cannot be the last copy", "copies", "not there, last location", {"status": 404}),
    Deviation("of a filter given twice the last counts", "odd-list", "*visibility=public&visibility=private", {"ids": ["i7"]}),
    Deviation("all sort keys count", "list", "*sort=name:asc&sort=size:asc*", {"ids": ["i2", "i11", "i6", "i4", "i5", "i8", "i10", "i15", "i7", "i12"]}),
    Deviation("properties can be compared with several values", "list", "*os_type=in:*", {"ids": ["i5", "i4"]}),
    Deviation("what is no number has no least value", "odd-list", "*name_min=1|*id_min=1|*created_at_min=1", EMPTY_PAGE),
    Deviation("an image's stores are shown in every status", "actions", "patch deactivated", {"record": DEACTIVATED}),
    Deviation("a tag is the same text in a path, a record and a filter", "tags-unicode", "tags after", on_record(tags=["т"])),
    Deviation("a tag is the same text in a path, a record and a filter", "tags-unicode", "list by *", {"ids": ["i77"]}),
    Deviation("a tag is the same text in a path, a record and a filter", "tags-unicode", "DELETE of a tag set by PATCH", {"status": 204, "type": "none"}),
    Deviation("a member is named by text", "members", "int member|list member", BAD),
    Deviation("a member may leave", "members", "member deletes self", {"status": 204, "type": "none"}),
    Deviation("all of Unicode is text", "members", "4byte", {"status": 200, "type": "json"}),
    Deviation("a project's id is kept by all databases", "members", "256 chars", BAD),
    Deviation("a project that is a member already is told so", "quotas", "duplicate member at quota", {"status": 409}),
    Deviation("an upload that was refused leaves the image as it was", "quotas", "admin uploads over quota*", {"status": 413}),
    Deviation("a token without a project has no images to list and makes none", "roles", "no project, member role|create without project", FORBIDDEN),
]
# fmt: on


def applies(deviation: Deviation, exchange: dict[str, Any]) -> bool:
    return (
        "given" not in exchange
        and fnmatchcase(exchange["area"], deviation.area)
        and any(fnmatchcase(exchange["case"], case) for case in deviation.case.split("|"))
    )


#: Answers about images whose location has been verified before.
VERIFIED = ("add second location", "add at index 0", "add at index 99", "remove location 0 as admin", "image after add with validation", "image after sha256 validation")  # fmt: skip


def _of_locations(exchange: dict[str, Any], record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What differs in records with locations; each reason's record holds what those before it have changed."""
    if "," in record.get("stores", "") and exchange["area"].startswith("locations-"):
        record = record | {"stores": ",".join(dict.fromkeys(record["stores"].split(",")))}
        yield "a store is named once", {"record": record}
    if exchange.get("case") in VERIFIED:
        record = record | {"virtual_size": 50000}
        yield "data that was read has a virtual size", {"record": record}
    if exchange.get("case") in ("add at index 0", "add at index 99"):
        urls = [f"{{web}}/disk.raw{n}" for n in ("", "?2", "?3", "?4")[: len(record["locations"])]]
        record = record | {"locations": [{"url": url, "metadata": {"store": "web"}} for url in urls], "direct_url": urls[0]}
        yield "locations are shown in the order in which they came", {"record": record}
    if any("validation_data" in each for each in record.get("locations", [])):
        shown = [{"url": each["url"], "metadata": each["metadata"]} for each in record["locations"]]
        record = record | {"locations": shown}
        yield "what data must be is shown as what it is", {"record": record}
    if exchange.get("case") == "image after failed validation":
        yield "nothing is read from a place that was refused", {"record": {k: v for k, v in record.items() if k != "direct_url"}}


def rules(exchange: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Reasons that hold for whole kinds of answers, each with what it changes of the record's."""
    headers = exchange.get("headers", {})
    if wanted["status"] in (202, 204) and wanted["type"] == "html":
        yield "no media type where there is no body", {"type": "none"}
    if wanted["status"] >= 400 and (wanted["type"] == "text" or exchange["method"] == "HEAD") and "Accept" not in headers:
        yield "a client that names no media type gets JSON, which all of them read", {"type": "json"}
    record = wanted.get("record", {})
    if "stores" in record and record.get("owner") != getattr(PERSONAS[exchange["as"]], "project", None) and exchange["as"] != "admin":
        yield (
            "where data is kept is for its owner to know",
            {"record": {name: value for name, value in record.items() if name != "stores"}},
        )
    if long := {name for name in record if name.endswith("*256}")}:
        yield (
            "a property's name is as long in a patch as at creation",
            {"record": {name: value for name, value in record.items() if name not in long}},
        )
    yield from _of_locations(exchange, record)
    members = [each for each in wanted.get("members", []) if each[0] != "5" and not each[0].endswith("*256}")]
    if len(members) < len(wanted.get("members", [])):
        yield "a member is named by text that all databases keep", {"members": members}
    query = parse_qsl(urlsplit(exchange["path"]).query, keep_blank_values=True)
    if "first" in wanted and len(dict(query)) < len(query):
        yield "links keep every parameter", {"first": "/v2/images?" + urlencode([each for each in query if each[0] != "marker"])}
    if "Allow" in wanted.get("gives", {}):
        allowed = set(wanted["gives"]["Allow"].split(", ")) | {"OPTIONS"}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        yield "HEAD and OPTIONS are served, and so allowed", {"gives": wanted["gives"] | {"Allow": ", ".join(sorted(allowed))}}
