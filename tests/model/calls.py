"""Calls at random from a seed, how each is sent, and how its answer is compared with the model's."""

import json
import random
import uuid
from typing import Any, NamedTuple
from urllib.parse import urlencode

from tests.model.catalogue import UNFORESEEN, Catalogue, Expected, Refused
from tests.wire.server import ADMIN, BYTES, OLD_PATCH, PATCH, Answer, Ikon, Persona, q

PROJECTS = ("red", "green", "blue")
PEOPLE = [
    *(Persona(project) for project in PROJECTS * 3),
    *(Persona(project, "reader") for project in PROJECTS),
    ADMIN,
    Persona("red", "member"),
    Persona("green", "service"),
]
NAMES = [None, "", "a", "A", "a ", "b", "in:a", "eq:b", "x:y", "ä", "a\u0308", "я", "\U0001f427", "z" * 255]
TAGS = ["t", "T", "", "ü", "\U0001f427", "a b", "%41"]
KEYS, VALUES = ["k", "K", "os_type", "a b", "ключ"], ["1", "2", "", "linux", "in:1,2", "\U0001f427"]
FORMATS, CONTAINERS = [None, "raw", "raw", "raw", "aki", "iso"], [None, "bare", "bare", "bare", "aki"]
VISIBILITIES = ["public", "community", "shared", "shared", "shared", "private"]
NUMBERS = [0, 1, 5, 512, 2**31 - 1]
SORTABLE = ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"]
MISSING = "00000000-0000-4000-8000-000000000000"


class Call(NamedTuple):
    """One call: a method of the model, who makes it, and on which image."""

    verb: str
    who: Persona
    image: str
    args: dict[str, Any]


class Caller:
    """Calls without end. It looks at the model for ids, so that most calls are about something."""

    def __init__(self, seed: int, catalogue: Catalogue) -> None:
        self.random, self.catalogue = random.Random(seed), catalogue

    def next(self) -> Call:
        """The next call."""
        choice = self.random.choice
        verb = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if verb == "create" and len(self.catalogue.images) > 40:
            verb = "delete"
        image = (
            str(uuid.UUID(int=self.random.getrandbits(128), version=4))
            if verb == "create" and self.random.random() < 0.95
            else self.image()
        )
        who = choice(PEOPLE)
        if verb not in ("create", "list") and image in self.catalogue.images and self.random.random() < 0.7:
            who = Persona(self.catalogue.images[image].owner or "red")  # who may do something
        return Call(verb, who, image, getattr(self, f"_{verb}")())

    def image(self) -> str:
        """An image: mostly one that is there, or was."""
        known = list(self.catalogue.images)
        return self.random.choice([*known * 5, *sorted(self.catalogue.gone)[:5], MISSING])

    def _create(self) -> dict[str, Any]:
        return {
            "fields": {name: self._value(name) for name in self.random.sample([*FIELDS, *KEYS], self.random.randrange(7))} | self._formats()
        }

    def _formats(self) -> dict[str, Any]:
        return {"disk_format": self._value("disk_format"), "container_format": self._value("container_format")}

    def _value(self, name: str) -> Any:
        if name == "tags":
            return [self.random.choice(TAGS) for _ in range(self.random.randrange(4))]
        return self.random.choice(FIELDS.get(name, VALUES))

    def _nothing(self) -> dict[str, Any]:
        return {}

    _show = _delete = _members = _nothing

    def _patch(self) -> dict[str, Any]:
        changes = []
        for _ in range(self.random.randrange(4)):
            name = self.random.choice([*FIELDS, *KEYS * 3])
            operation = self.random.choice(
                ["add", "replace", "remove"] if name in KEYS or self.random.random() < 0.1 else ["add", "replace"]
            )
            changes.append((operation, name, self._value(name)))
        return {"changes": changes, "old": self.random.random() < 0.2}

    def _act(self) -> dict[str, Any]:
        return {"action": self.random.choice(["deactivate", "reactivate"])}

    def _upload(self) -> dict[str, Any]:
        data = self.random.choice([b"", b"x", b"data", b"y" * 512, b"z" * 70_000])
        wrong = self.random.random() < 0.1
        return {
            "data": data,
            "announced": len(data) + 1 if wrong else None,
            "store": self.random.choice([None, None, None, "one", "two", "three"]),
        }

    def _download(self) -> dict[str, Any]:
        return {"span": self.random.choice([None, None, (0, 0), (1, 2), (0, 10**6), (5, 2), (600, 700)])}

    def _copy(self) -> dict[str, Any]:
        return {"store": self.random.choice(["one", "two", "two", "three"])}

    _remove_copy = _copy

    def _tag(self) -> dict[str, Any]:
        return {"tag": self.random.choice([tag for tag in TAGS if tag])}

    _untag = _tag

    def _member(self) -> dict[str, Any]:
        return {"project": self.random.choice([*PROJECTS, "nobody"])}

    _share = _unshare = _member

    def _answer(self) -> dict[str, Any]:
        return self._member() | {"status": self.random.choice(["accepted", "accepted", "pending", "rejected"])}

    def _list(self) -> dict[str, Any]:
        choice, chance = self.random.choice, self.random.random
        query = [filter_(choice, self.image) for _ in range(choice([0, 0, 1, 1, 2, 3]))]
        for name, values in {
            "visibility": [*VISIBILITIES, "all"],
            "member_status": ["accepted", "pending", "rejected", "all"],
            "os_hidden": ["true", "false"],
        }.items():
            if chance() < 0.3:
                query.append((name, choice(values)))
        if chance() < 0.4:
            keys = self.random.sample(SORTABLE, choice([1, 1, 2, 3]))
            query.append(("sort", ",".join(f"{key}{choice([':asc', ':desc', ''])}" for key in keys)))
        elif chance() < 0.3:
            query += [("sort_key", key) for key in self.random.sample(SORTABLE, choice([1, 2]))]
            query += [("sort_dir", choice(["asc", "desc"]))] if chance() < 0.7 else []
        if chance() < 0.6:
            query.append(("limit", str(choice([0, 1, 2, 3, 5, 1000]))))
        if chance() < 0.3:
            query.append(("marker", self.image()))
        self.random.shuffle(query)
        return {"query": query}


FIELDS: dict[str, list[Any]] = {
    "name": NAMES, "visibility": VISIBILITIES, "protected": [False, False, True], "os_hidden": [False, False, True], "owner": list(PROJECTS), "tags": TAGS,
    "disk_format": FORMATS, "container_format": CONTAINERS, "min_disk": NUMBERS, "min_ram": NUMBERS,
}  # fmt: skip
WEIGHTS = {
    "create": 10, "show": 4, "patch": 14, "delete": 4, "act": 4, "upload": 8, "download": 4, "copy": 2, "remove_copy": 2, "tag": 4, "untag": 3,
    "members": 3, "member": 2, "share": 9, "answer": 8, "unshare": 2, "list": 30,
}  # fmt: skip


def filter_(choice: Any, image: Any) -> tuple[str, str]:
    """One filter of a list."""
    name = choice(
        [
            "name",
            "name",
            "status",
            "disk_format",
            "container_format",
            "owner",
            "id",
            "protected",
            "size",
            "min_ram",
            "min_disk",
            "size_min",
            "size_max",
            "min_ram_min",
            "min_disk_max",
            "checksum",
            "tag",
            "tag",
            "tag",
            *KEYS,
        ]
    )
    plain = {
        "name": [text or "" for text in NAMES], "status": ["queued", "active", "deactivated"], "disk_format": ["raw", "iso", "aki"], "container_format": ["bare", "aki"],
        "owner": list(PROJECTS), "tag": TAGS, "checksum": ["8d777f385d3dfec8815d20f7496026dc", "d41d8cd98f00b204e9800998ecf8427e"], "protected": ["true", "False"],
    }  # fmt: skip
    if name == "id":
        return name, choice(["", "in:", "eq:"]) + image()
    if name in plain:
        value = choice(plain[name])
        if name in ("tag", "checksum", "protected"):
            return name, value
        return name, choice(["", "", "eq:", f"in:{choice(plain[name]).replace('in:', '')},"]) + value
    if name in ("size", "min_ram", "min_disk"):
        return name, choice(["", "eq:", "neq:", "gt:", "gte:", "lt:", "lte:", "in:4,"]) + str(choice([0, 1, 4, 512]))
    if name.endswith(("_min", "_max")):
        return name, str(choice([0, 1, 4, 512]))
    return name, choice(["", "", "in:1,"]) + choice(["1", "2", "linux", "\U0001f427", "in:1,2"])


def send(ikon: Ikon, call: Call) -> Answer:
    """Make a call."""
    who, path, args = call.who, f"/v2/images/{call.image}", call.args
    match call.verb:
        case "create":
            return ikon.try_create(args["fields"] | {"id": call.image}, who=who)
        case "show":
            return ikon.get(path, who=who)
        case "patch":
            new = [{"op": operation, "path": pointer(name), "value": value} for operation, name, value in args["changes"]]
            old = [{operation: pointer(name), "value": value} for operation, name, value in args["changes"]]
            return ikon.patch(call.image, old if args["old"] else new, OLD_PATCH if args["old"] else PATCH, who=who)
        case "delete":
            return ikon.delete(call.image, who=who)
        case "act":
            return ikon.act(call.image, args["action"], who=who)
        case "upload":
            announced = None if args["announced"] is None else str(args["announced"])
            return ikon.upload(
                call.image, args["data"], {"X-Openstack-Image-Size": announced, "X-Image-Meta-Store": args["store"]} | BYTES, who=who
            )
        case "download":
            span = args["span"]
            return ikon.download(call.image, span and {"Range": f"bytes={span[0]}-{span[1]}"}, who=who)
        case "copy":
            return ikon.copy(call.image, args["store"], who=who)
        case "remove_copy":
            return ikon.call("DELETE", f"/v2/stores/{args['store']}/{call.image}", who=who)
        case "tag" | "untag":
            return ikon.call("PUT" if call.verb == "tag" else "DELETE", f"{path}/tags/{q(args['tag'])}", who=who)
        case "members":
            return ikon.get(f"{path}/members", who=who)
        case "member":
            return ikon.get(f"{path}/members/{args['project']}", who=who)
        case "share":
            return ikon.post(f"{path}/members", {"member": args["project"]}, who=who)
        case "answer":
            return ikon.call("PUT", f"{path}/members/{args['project']}", json.dumps({"status": args["status"]}).encode(), who=who)
        case "unshare":
            return ikon.call("DELETE", f"{path}/members/{args['project']}", who=who)
        case "list":
            return ikon.browse(f"?{urlencode(args['query'])}", who=who)
    raise AssertionError(call.verb)


def pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def expect(catalogue: Catalogue, call: Call) -> Expected:
    """What the model answers."""
    try:
        made: Expected = getattr(catalogue, call.verb)(call.who, call.image, **call.args)
        return made
    except Refused as refused:
        return Expected(refused.status)


def differs(call: Call, expected: Expected, answer: Answer) -> str | None:
    """In what an answer is not the model's; None when it is."""
    if answer.status != expected.status:
        return f"{answer.status} {answer.body[:200]!r}, and should be {expected.status}"
    if expected.body is None:
        return None
    if isinstance(expected.body, bytes):
        return None if answer.body == expected.body else f"{len(answer.body)} other bytes than the {len(expected.body)} that were sent"
    got, wanted = answer.json, expected.body
    if call.verb == "list":
        limit = int(dict(call.args["query"]).get("limit", 25))
        if ("next" in got) != (len(wanted) == limit != 0):
            return f"a page of {len(got['images'])} with{'' if 'next' in got else 'out'} next"
        got = got["images"]
        if [each["id"] for each in got] != [each["id"] for each in wanted]:
            return f"images {[each['id'][:8] for each in got]}, and should be {[each['id'][:8] for each in wanted]}"
    return unlike(got, wanted)


def unlike(got: Any, wanted: Any) -> str | None:
    """Where two values differ, what the model does not foresee aside."""
    if isinstance(wanted, list):
        return next((found for one, other in zip(got, wanted, strict=True) if (found := unlike(one, other))), None)
    if isinstance(wanted, dict):
        for name in (got.keys() | wanted.keys()) - UNFORESEEN:
            if isinstance(wanted.get(name), list) and name == "members" and len(got[name]) == len(wanted[name]):
                return unlike(got[name], wanted[name])
            if got.get(name, ...) != wanted.get(name, ...):
                return f"{name} is {got.get(name, 'missing')!r:.200}, and should be {wanted.get(name, 'missing')!r:.200} (image {wanted.get('id')})"
    return None
