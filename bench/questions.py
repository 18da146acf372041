"""The lists that are asked for, and the writes that pay for them. Each is a series of like requests: no answer comes from one warm row."""

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import client as http
from catalogue import BIG, EMPTY, SMALLS, Entry, some
from client import identity
from measure import per_request, spread
from sides import Side, together

Facts = dict[str, Any]
#: Requests of one series.
SERIES = 300
SMALL = f"small-{SMALLS // 20:04d}"
ADMIN = identity(BIG, "admin")


@dataclass(frozen=True)
class Question:
    """One kind of list. series: query strings for a set of so many images. goals: which of report_lists.py's are for it."""

    name: str
    title: str
    series: Callable[[int], list[str]]
    project: str = BIG
    admin: bool = False
    clients: int = 1
    limit: int = 25
    goals: frozenset[str] = frozenset()

    @property
    def headers(self) -> dict[str, str]:
        return ADMIN if self.admin else identity(self.project)

    def paths(self, images: int) -> list[str]:
        return [f"/v2/images?limit={self.limit}&{query}".rstrip("&") for query in self.series(images)]


def plain(query: str = "") -> Callable[[int], list[str]]:
    return lambda images: [query]


def each(template: str, *values: int) -> Callable[[int], list[str]]:
    """The template with numbers below those given, every one in turn, as far as a series goes."""
    return lambda images: [template.format(*(i * 7919 % value for value in values)) for i in range(min(SERIES, max(values)))]


def of_images(template: str, among: tuple[float, float] = (0, 1), whose: str | None = BIG) -> Callable[[int], list[str]]:
    """The template with what images of a project have."""

    def fits(one: Entry) -> bool:
        return one.size is not None and not one.os_hidden and (whose is None or one.owner == whose)

    return lambda images: [template.format(one=one, role=one.properties["bench_role"]) for one in some(images, SERIES, fits, among=among)]


FIRST, X500, EQUAL = (frozenset([goal]) for goal in ("first", "x500", "equal"))
DEEP, OLDER = "marker={one.id}", (0, 0.5)
BOTH = X500 | EQUAL
QUESTIONS = [
    Question("nothing", "no image at all: limit=0", plain(), limit=0),
    Question("first", "first page", plain(), goals=FIRST),
    Question("first16", "first page, 16 clients", plain(), clients=16, goals=FIRST),
    Question("first1000", "first 1000", plain(), limit=1000),
    Question("deep", "deep page", of_images(DEEP, OLDER), goals=X500),
    Question("deep1000", "deep 1000", of_images(DEEP, OLDER), limit=1000),
    Question("small", "small tenant", plain(), project=SMALL, goals=FIRST),
    Question("empty", "tenant without images", plain(), project=EMPTY, goals=FIRST),
    Question("admin", "admin", plain(), admin=True, goals=FIRST),
    Question("admin_deep", "admin, deep page", of_images(DEEP, OLDER, None), admin=True, goals=X500),
    # one equality, in the default order
    Question("property90", "property, 90 %", plain("hw_disk_bus=virtio"), goals=BOTH),
    Question("property1", "property, 1 %", each("bench_role=role-{0}", 100), goals=BOTH),
    Question("property_deep", "property, 1 %, deep", of_images("bench_role={role}&marker={one.id}", OLDER), goals=BOTH),
    Question("property_one", "property, one image", of_images("bench_serial={one.properties[bench_serial]}"), goals=BOTH),
    Question("property_none", "property, absent", each("bench_role=none-{0}", SERIES), goals=BOTH),
    Question("tag5", "tag, 5 %", each("tag=bench-t{0}", 20), goals=BOTH),
    Question("tag01", "tag, 0.1 %", each("tag=bench-u{0}", 1000), goals=BOTH),
    Question("tag_none", "tag, absent", each("tag=none-{0}", SERIES), goals=BOTH),
    Question("name", "name", of_images("name={one.name}"), goals=BOTH),
    Question("name_none", "name, absent", each("name=none-{0}", SERIES), goals=BOTH),
    Question("active", "status, 98 %", plain("status=active"), goals=BOTH),
    Question("queued", "status, 2 %", plain("status=queued"), goals=BOTH),
    Question("raw", "disk format, 14 %", plain("disk_format=raw"), goals=BOTH),
    Question("min_disk", "min_disk, 14 %", plain("min_disk=20"), goals=BOTH),
    Question("checksum", "checksum", of_images("os_hash_value={one.os_hash_value}"), goals=BOTH),
    Question("owner", "owner=self", plain(f"owner={BIG}"), goals=BOTH),
    Question("public", "visibility=public", plain("visibility=public"), goals=BOTH),
    Question("private", "visibility=private", plain("visibility=private"), goals=BOTH),
    Question("shared", "visibility=shared", plain("visibility=shared"), goals=BOTH),
    Question("pending", "shares not answered", plain("visibility=shared&member_status=pending"), goals=BOTH),
    Question("hidden", "os_hidden=true", plain("os_hidden=true"), goals=BOTH),
    Question("small_property", "small tenant, property 1 %", each("bench_role=role-{0}", 100), project=SMALL, goals=BOTH),
    Question("empty_property", "no images, property 1 %", each("bench_role=role-{0}", 100), project=EMPTY, goals=BOTH),
    Question("admin_property", "admin, property 1 %", each("bench_role=role-{0}", 100), admin=True, goals=BOTH),
    # several
    Question(
        "two_and_tag", "2 properties (3 %, 1 %), tag", each("os_version={0}.04&bench_role=role-{1}&tag=bench-t{2}", 30, 100, 20), goals=X500
    ),
    Question("frequent_tag", "property 90 %, tag 5 %", each("hw_disk_bus=virtio&tag=bench-t{0}", 20), goals=X500),
    Question("tags5", "2 tags, 5 % each", each("tag=bench-t{0}&tag=bench-t{1}", 20, 19), goals=X500),
    Question("tags01", "2 tags, 0.1 % each", each("tag=bench-u{0}&tag=bench-u{1}", 1000, 997), goals=X500),
    Question("frequent_none", "property 90 %, absent one", each("hw_disk_bus=virtio&bench_role=none-{0}", SERIES), goals=X500),
    # other orders
    Question("by_name", "by name", plain("sort=name:asc")),
    Question("by_name_deep", "by name, deep", of_images("sort=name:asc&" + DEEP)),
    Question("by_size", "by size", plain("sort=size:asc")),
    Question("by_size_deep", "by size, deep", of_images("sort=size:asc&" + DEEP)),
    Question("by_updated", "by updated_at", plain("sort=updated_at:desc")),
    Question("by_updated_deep", "by updated_at, deep", of_images("sort=updated_at:desc&" + DEEP)),
    Question("small_by_name", "small tenant, by name", plain("sort=name:asc"), project=SMALL),
    Question("admin_by_size", "admin, by size", plain("sort=size:desc"), admin=True),
    Question("property_by_name", "property 1 %, by name", each("bench_role=role-{0}&sort=name:asc", 100)),
    Question("tag_by_size", "tag 0.1 %, by size", each("tag=bench-u{0}&sort=size:asc", 1000)),
    # what no row says
    Question("size_min", "size_min, half", plain("size_min=5000000000")),
    Question("size_max", "size_max, hardly any", plain("size_max=200000")),
    Question("created", "created_at=lt:, deep", of_images("created_at=lt:{one.created_at}", OLDER)),
]


def ask(side: Side, question: Question, images: int, window_s: int) -> Facts:
    """Rate, delays and CPU of one kind of list, how many images the first of its series found, and a digest of their ids in order."""
    paths, headers = question.paths(images), question.headers
    began = time.perf_counter()
    page = side.client.call("GET", paths[0], headers=headers)["images"]
    slow = (time.perf_counter() - began) * question.clients > window_s / 20
    if slow:
        facts = per_request(side.watch(), lambda: _one_by_one(side.client, paths, question, window_s))
    else:
        facts = per_request(side.watch(), lambda: http.wrk_each(side.client, question.clients, window_s, paths, headers=headers))
    answer = hashlib.blake2b(" ".join(one["id"] for one in page).encode(), digest_size=8).hexdigest()
    return facts | {"found": len(page), "answer": answer}


def _one_by_one(client: http.Client, paths: list[str], question: Question, window_s: int) -> Facts:
    """For answers that take so long that a window holds few: each that was begun is waited for, and there are two at least."""
    todo, took = itertools.cycle(paths), []
    end = time.perf_counter() + window_s

    def work() -> None:
        session = client.session()
        while time.perf_counter() < end or len(took) < 2:
            began = time.perf_counter()
            client.call("GET", next(todo), headers=question.headers, session=session)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    together([work] * question.clients)
    return {"requests": len(took), "rate": round(len(took) / (time.perf_counter() - began), 2)} | spread(took)


# ---- what keeping the index costs

_MANY = ", ".join(f'"bench_{n:02d}":"value-{n}"' for n in range(20))
_TURN = "(math.floor((n - 1) / #paths) %% 2 == 0) and '%s' or '%s'"


@dataclass(frozen=True)
class Write:
    """One kind of change. paths: which images, in a set of so many. body: a Lua expression; n counts the requests."""

    name: str
    title: str
    method: str
    paths: Callable[[int], list[str]]
    body: str
    admin: bool = False


def own(images: int) -> list[str]:
    """Images of the big tenant, shared with nobody."""
    return [f"/v2/images/{one.id}" for one in some(images, SERIES, lambda one: one.owner == BIG and one.visibility == "shared")]


def offered(images: int) -> list[str]:
    """Shares that wait for the big tenant's answer."""
    return [f"/v2/images/{one.id}/members/{BIG}" for one in some(images, SERIES, lambda one: "pending" in one.members.values())]


def in_turn(first: str, then: str) -> str:
    """One body for all images, then another for all, and so on: each request changes something."""
    return _TURN % (first, then)


def _replace(field: str, value: str) -> str:
    return f'[{{"op":"replace","path":"/{field}","value":"{value}"}}]'


WRITES = [
    Write(
        "create",
        "create, 20 properties",
        "POST",
        lambda images: ["/v2/images"],
        f"""'{{"name":"bench-create-' .. n .. '","disk_format":"raw","container_format":"bare",{_MANY}}}'""",
    ),
    Write("patch", "patch a property", "PATCH", own, """'[{"op":"add","path":"/bench_patch","value":"' .. n .. '"}]'"""),
    Write("rename", "change the name", "PATCH", own, """'[{"op":"replace","path":"/name","value":"renamed-' .. n .. '"}]'"""),
    Write(
        "publish",
        "shared to public, and back",
        "PATCH",
        own,
        in_turn(_replace("visibility", "public"), _replace("visibility", "shared")),
        True,
    ),
    Write("accept", "accept a share, and undo it", "PUT", offered, in_turn('{"status":"accepted"}', '{"status":"pending"}')),
]


def change(side: Side, write: Write, images: int, clients: int, window_s: int) -> Facts:
    """Rate, delays and CPU of one kind of write."""
    paths, headers = write.paths(images), ADMIN if write.admin else identity(BIG)
    return per_request(side.watch(), lambda: http.wrk_each(side.client, clients, window_s, paths, write.method, write.body, headers))
