"""Rubbish: requests that no client in its senses sends, made from a seed, so that what broke once can be sent again."""

import http.client
import json
import random
import re
import time
from typing import Any, NamedTuple

from ikon.api.door import ROUTES
from tests.wire.server import ADMIN, BYTES, OLD_PATCH, PATCH, Answer, Ikon, Persona, q

ODD = [
    "", " ", "\0", "\n", "\r\n", "a\0b", "\ufeff", "\u202e", "\U0001f427", "é", "ß", "\x7f", "..", "../..", "/", "//", "\\", "%", "%00", "%zz", "~", "~2", "'", '"', "''",
    "null", "None", "true", "NaN", "-1", "0", "1", "00", "1e309", "9" * 30, "-" + "9" * 400, "0x1", "1_0", "٣", "in:", 'in:"', "in:a,,b", "eq:", "gt:", "gt:9" + "9" * 30, "lte:x",
    "like:%", "a:b:c", "2020-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "gt:2020-02-30", "eq:20200101T000000.123456789Z", "{}", "[]", "{x}", "*", "$",
    "';DROP TABLE images;--", "<script>alert(1)</script>", "${x}", "x" * 36, "x" * 256, "x" * 3000, "\u0bcc" * 300,
    "00000000-0000-0000-0000-000000000000", "os_glance_x", "__proto__", "x" * 255, "one", "two", "os_glance_staging_store",
]  # fmt: skip
NAMES = [
    "name",
    "id",
    "status",
    "visibility",
    "protected",
    "os_hidden",
    "owner",
    "disk_format",
    "container_format",
    "min_disk",
    "min_ram",
    "tags",
    "size",
    "virtual_size",
    "checksum",
    "member",
    "os_hash_value",
    "os_hash_algo",
    "created_at",
    "updated_at",
    "locations",
    "deleted",
    "kernel_id",
    "ramdisk_id",
    "stores",
    "self",
    "os_glance_import_task",
    "k",
    "x",
    "",
    "a/b",
]
#: Fields of metadata definitions.
DEFINED = ["namespace", "namespace", "name", "name", "title", "type", "properties", "objects", "tags", "resource_type_associations", "prefix", "required", "enum", "items", "default", "minimum", "minLength"]  # fmt: skip
PARAMETERS = [*NAMES, "limit", "marker", "sort", "sort_key", "sort_dir", "tag", "member_status", "size_min", "size_max", "min_ram_min", "changes-since", "prefer", "_method", "properties", "members", "foo_min", "resource_types", "resource_type"]  # fmt: skip
WORDS = [
    "active",
    "queued",
    "public",
    "private",
    "all",
    "raw",
    "bare",
    "asc",
    "desc",
    "name:asc",
    "size:desc,name",
    "created_at",
    "true",
    "false",
    "accepted",
    "one",
]
METHODS = ["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"]
#: Every route, those of images twice, and paths that are none. {word} is a segment that some route knows, or nothing does.
PATHS = [
    *(re.sub(r"\{(?!id\})\w+\}", "{word}", pattern) for pattern in [*ROUTES, *(each for each in ROUTES if "{" in each)]),
    *["/v2/images"] * 3, "/v2", "/v2/{word}", "/{word}", "/{word}/{word}", "/v2/info/{word}", "/v2/schemas/{word}", "/v2/images/{id}/{word}",
]  # fmt: skip
SEGMENTS = ["x", "x", "deactivate", "reactivate", "one", "two", "x", "home", "stores", "image", "members"]
HEADERS = [
    "Accept", "Content-Type", "If-Match", "Range", "Content-Range", "X-Image-Meta-Store", "X-Openstack-Image-Size", "X-Openstack-Request-ID", "X-Roles", "X-Project-Id", "X-User-Id",
    "X-Identity-Status", "OpenStack-System-Scope", "X-Domain-Id", "Expect", "Host", "Origin", "Accept-Language", "Cookie", "X-Forwarded-Proto", "X-HTTP-Method-Override", "Upgrade",
]  # fmt: skip
VALUES = ["*/*", "application/json", "text/html", "bytes=0-", "bytes=5-1", "bytes 0-1/*", "bytes=-0", "0", "12", "100-continue", "*", '"1"', "Confirmed", "admin", *BYTES.values(), *PATCH.values(), *OLD_PATCH.values()]  # fmt: skip


class Rubbish(NamedTuple):
    """One request."""

    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]


class Fuzz:
    """An endless supply of rubbish about these images."""

    def __init__(self, seed: int, image_ids: list[str]) -> None:
        self.random = random.Random(seed)
        self.image_ids = image_ids

    def request(self) -> Rubbish:
        """The next request."""
        choice = self.random.choice
        path = choice(PATHS)
        while "{" in path:
            path = path.replace("{id}", choice([*self.image_ids, *self.image_ids, q(choice(ODD))]), 1)
            path = path.replace("{word}", choice(SEGMENTS) if self.random.random() < 0.4 else q(choice(ODD)) or "x", 1)
        if self.random.random() < 0.5:
            path += "?" + "&".join(f"{self.key()}={self.text()}" for _ in range(self.random.randrange(4)))
        headers = {choice(HEADERS): self.header() for _ in range(self.random.randrange(3))}
        return Rubbish(choice(METHODS), path[:7000], self.body(), headers)

    def key(self) -> str:
        """The name of a query parameter."""
        return q(self.random.choice(PARAMETERS if self.random.random() < 0.9 else ODD)[:500])

    def text(self) -> str:
        """The value of a query parameter."""
        if self.random.random() < 0.05:
            return self.random.choice(["%ff", "%c3%28", "%", "%zz", "%00", "%ed%a0%80"])
        return q(self.random.choice(ODD if self.random.random() < 0.6 else WORDS))

    def header(self) -> str:
        """What fits into a header."""
        value: str = self.random.choice(VALUES if self.random.random() < 0.6 else ODD)
        return "".join(letter for letter in value if letter.isprintable()).encode().decode("latin-1")[:4000]

    def body(self) -> bytes | None:
        """A body: none, bytes, JSON, or nearly JSON."""
        kind = self.random.random()
        if kind < 0.25:
            return None
        if kind < 0.35:
            return self.random.randbytes(self.random.randrange(300))
        value = self.operations() if kind < 0.6 else self.fields() if kind < 0.75 else self.definition(3) if kind < 0.9 else self.value(4)
        text = json.dumps(value, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        if self.random.random() < 0.1:
            at = self.random.randrange(len(text) + 1)
            return text[:at] + self.random.randbytes(2) + text[at + 1 :]
        return text

    def fields(self) -> dict[str, Any]:
        """What could be an image."""
        return {self.random.choice(NAMES if self.random.random() < 0.8 else ODD): self.value(2) for _ in range(self.random.randrange(5))}

    def definition(self, depth: int) -> dict[str, Any]:
        """What could be a namespace of definitions, or something in one; many are called "x"."""
        made: dict[str, Any] = {}
        for name in self.random.sample(DEFINED, self.random.randrange(1, 7)):
            inside = [self.definition(depth - 1) for _ in range(self.random.randrange(3))] if depth else []
            keyed = {self.random.choice(NAMES): each for each in inside}
            likely = {"namespace": "x", "name": "x", "title": "x", "type": "string", "properties": keyed}.get(name, inside)
            made[name] = likely if self.random.random() < 0.8 else self.value(1)
        return made

    def operations(self) -> list[Any]:
        """What could be a patch."""
        made: list[Any] = []
        for _ in range(self.random.randrange(4)):
            path = "/" + self.random.choice(NAMES) if self.random.random() < 0.8 else self.value(1)
            if self.random.random() < 0.8:
                made.append({"op": self.random.choice(["add", "replace", "remove", "test", None]), "path": path, "value": self.value(2)})
            else:
                made.append({self.random.choice(["add", "replace", "remove"]): path, "value": self.value(2)})
        return made

    def value(self, depth: int) -> Any:
        """Any JSON value."""
        choice = self.random.choice
        kind = self.random.randrange(8 if depth else 6)
        if kind == 6:
            return [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        if kind == 7:
            return {choice(NAMES): self.value(depth - 1) for _ in range(self.random.randrange(3))}
        return choice(
            [
                choice(ODD),
                choice(WORDS),
                choice([0, -1, 1, 2**31, 2**63, 10**40, 1.0, 1.5, -0.0, 1e300]),
                None,
                choice([True, False]),
                choice(NAMES),
            ]
        )


def rubbish(ikon: Ikon, fuzz: Fuzz, for_s: float) -> tuple[int, list[tuple[object, Answer]]]:
    """Send rubbish for so many seconds. Returns how many requests that were, and those that failed inside."""
    sent, failed, end = 0, [], time.monotonic() + for_s
    while time.monotonic() < end:
        request = fuzz.request()
        try:
            answer = ikon.call(request.method, request.path, request.body, request.headers, who=ADMIN if sent % 2 else Persona("home"))
        except (ConnectionError, http.client.RemoteDisconnected):
            answer = None
        sent += 1
        if answer is None or (answer.status >= 500 and answer.status != 501):
            failed.append((request, answer))
    return sent, failed
