"""The Image API as plain Python over plain objects: what each call must answer, and what is then true. Shares no code with the product."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.wire.server import Persona

#: Fields of a record that the model does not foresee.
UNFORESEEN = {"created_at", "updated_at"}
OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


class Expected(NamedTuple):
    """An answer: its status and, where there is one, its body: JSON, or bytes."""

    status: int
    body: Any = None


class Refused(Exception):
    """The call is refused with this status."""

    def __init__(self, status: int) -> None:
        self.status = status


@dataclass
class Image:
    """One image. made, changed: steps of the model's clock."""

    id: str
    owner: str | None
    made: int
    changed: int
    name: str | None = None
    visibility: str = "shared"
    protected: bool = False
    os_hidden: bool = False
    status: str = "queued"
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    tags: list[str] = field(default_factory=list)
    properties: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    data: bytes | None = None
    stores: list[str] = field(default_factory=list)
    copied: bool = False

    @property
    def size(self) -> int | None:
        return None if self.data is None else len(self.data)

    def record(self, who: Persona) -> dict[str, Any]:
        """What the persona is shown of it."""
        facts: dict[str, Any] = {"size": None, "virtual_size": None, "checksum": None, "os_hash_algo": None, "os_hash_value": None}
        if self.data is not None:
            facts |= {
                "size": self.size,
                "virtual_size": self.size if self.disk_format == "raw" else None,
                "checksum": hashlib.md5(self.data).hexdigest(),
            }
            facts |= {"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(self.data).hexdigest()}
        if self.stores and (is_admin(who) or self.owner == who.project):
            facts["stores"] = ",".join(self.stores)
        if self.copied:
            facts |= {"os_glance_importing_to_stores": "", "os_glance_failed_import": ""}
        own = (
            "id",
            "owner",
            "name",
            "visibility",
            "protected",
            "os_hidden",
            "status",
            "disk_format",
            "container_format",
            "min_disk",
            "min_ram",
        )
        path = f"/v2/images/{self.id}"
        links = {"self": path, "file": f"{path}/file", "schema": "/v2/schemas/image"}
        return {**self.properties, **{name: getattr(self, name) for name in own}, "tags": self.tags, **facts, **links}


BASE = ("name", "visibility", "protected", "os_hidden", "owner", "disk_format", "container_format", "min_disk", "min_ram", "tags")


NO_FILTERS = ("limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status", "os_hidden")


def is_admin(who: Persona) -> bool:
    return "admin" in who.roles


def has(who: Persona, role: str) -> bool:
    return role in who.roles.split(",")


class Catalogue:
    """All images, and every call as a method: it answers Expected, or raises Refused and leaves everything as it is."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.gone: set[str] = set()
        self.clock = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def sees(self, who: Persona, image: Image) -> bool:
        open_to_all = image.visibility in ("public", "community")
        return is_admin(who) or image.owner == who.project or open_to_all or (image.visibility == "shared" and who.project in image.members)

    def reach(self, who: Persona, image_id: str) -> Image:
        """The image, if it exists for the persona."""
        image = self.images.get(image_id)
        if image is None or not self.sees(who, image) or not (is_admin(who) or has(who, "reader")):
            raise Refused(404)
        return image

    def own(self, who: Persona, image_id: str) -> Image:
        """The image, if the persona may change it."""
        image = self.reach(who, image_id)
        if not is_admin(who) and not (has(who, "member") and image.owner == who.project):
            raise Refused(403)
        return image

    # Records

    def create(self, who: Persona, image: str, fields: dict[str, Any]) -> Expected:
        owner = fields.get("owner", who.project)
        if not is_admin(who) and (not has(who, "member") or owner != who.project or fields.get("visibility") == "public"):
            raise Refused(403)
        if image in self.images or image in self.gone:
            raise Refused(409)
        now = self.tick()
        made = Image(image, owner, now, now)
        for name, value in fields.items():
            self._set(made, name, value)
        self.images[image] = made
        return Expected(201, made.record(who))

    def _set(self, image: Image, name: str, value: Any) -> None:
        if name == "tags":
            value = list(dict.fromkeys(value))
        if name in BASE:
            setattr(image, name, value)
        else:
            image.properties[name] = value

    def show(self, who: Persona, image: str) -> Expected:
        return Expected(200, self.reach(who, image).record(who))

    def patch(self, who: Persona, image: str, changes: list[tuple[str, str, Any]], old: bool) -> Expected:
        """changes: operation, name, value. old: in the older media type, which adds only what is not there."""
        if not changes:
            return self.show(who, image)
        found = self.own(who, image)
        after = Image(
            **{
                name: list(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else value
                for name, value in vars(found).items()
            }
        )
        for operation, name, value in changes:
            if name in BASE:
                self._patch_base(who, found, operation, name, old)
            elif name in after.properties if operation == "add" and old else operation != "add" and name not in after.properties:
                raise Refused(409)
            if operation == "remove":
                del after.properties[name]
            else:
                self._set(after, name, value)
        if after.visibility == "public" != found.visibility and not is_admin(who):
            raise Refused(403)
        after.changed = self.tick()
        self.images[image] = after
        return Expected(200, after.record(who))

    def _patch_base(self, who: Persona, image: Image, operation: str, name: str, old: bool) -> None:
        if operation == "remove":
            raise Refused(403)
        if operation == "add" and old:
            raise Refused(409)
        if name == "owner" and not is_admin(who):
            raise Refused(403)
        if name.endswith("_format") and image.status != "queued":
            raise Refused(403)

    def delete(self, who: Persona, image: str) -> Expected:
        if self.own(who, image).protected:
            raise Refused(403)
        del self.images[image]
        self.gone.add(image)
        return Expected(204)

    def act(self, who: Persona, image: str, action: str) -> Expected:
        found = self.own(who, image)
        old, new = ("active", "deactivated") if action == "deactivate" else ("deactivated", "active")
        if found.status == "queued":
            raise Refused(403)
        if found.status == old:
            found.status, found.changed = new, self.tick()
        return Expected(204)

    # Data

    def upload(self, who: Persona, image: str, data: bytes, announced: int | None, store: str | None) -> Expected:
        if store not in (None, "one", "two"):
            raise Refused(400)
        found = self.own(who, image)
        if found.status == "queued" and (found.disk_format is None or found.container_format is None):
            raise Refused(400)
        if found.status != "queued":
            raise Refused(409)
        found.changed = self.tick()  # it is saving, if only for a moment
        if announced not in (None, len(data)):
            raise Refused(400)
        if found.disk_format not in ("raw", "aki"):
            raise Refused(415)
        found.data, found.status, found.stores = data, "active", [store or "one"]
        return Expected(204)

    def download(self, who: Persona, image: str, span: tuple[int, int] | None) -> Expected:
        found = self.reach(who, image)
        if not is_admin(who) and (not has(who, "member") or found.status == "deactivated"):
            raise Refused(403)
        if found.data is None:
            return Expected(204)
        if span is None:
            return Expected(200, found.data)
        if span[0] > span[1] or span[0] >= len(found.data):
            raise Refused(416)
        return Expected(206, found.data[span[0] : span[1] + 1])

    def copy(self, who: Persona, image: str, store: str) -> Expected:
        if store not in ("one", "two"):
            raise Refused(400)
        found = self.reach(who, image)
        if found.status != "active":
            raise Refused(409)
        if not is_admin(who):
            raise Refused(403)
        if store in found.stores:
            raise Refused(400)
        found.stores, found.changed, found.copied = [*found.stores, store], self.tick(), True
        return Expected(202)

    def remove_copy(self, who: Persona, image: str, store: str) -> Expected:
        if store not in ("one", "two"):
            raise Refused(409)
        found = self.reach(who, image)
        if not is_admin(who):
            raise Refused(403)
        if found.status != "active":
            raise Refused(409)
        if store not in found.stores:
            raise Refused(404)
        if len(found.stores) == 1:
            raise Refused(403)
        found.stores, found.changed = [name for name in found.stores if name != store], self.tick()
        return Expected(204)

    # Tags

    def tag(self, who: Persona, image: str, tag: str) -> Expected:
        found = self.own(who, image)
        if tag not in found.tags:
            found.tags, found.changed = [*found.tags, tag], self.tick()
        return Expected(204)

    def untag(self, who: Persona, image: str, tag: str) -> Expected:
        found = self.own(who, image)
        if tag not in found.tags:
            raise Refused(404)
        found.tags, found.changed = [kept for kept in found.tags if kept != tag], self.tick()
        return Expected(204)

    # Members

    def entry(self, image: Image, project: str) -> dict[str, str]:
        return {"member_id": project, "image_id": image.id, "status": image.members[project], "schema": "/v2/schemas/member"}

    def owns(self, who: Persona, image: Image) -> bool:
        return is_admin(who) or image.owner == who.project

    def members(self, who: Persona, image: str) -> Expected:
        found = self.reach(who, image)
        if found.visibility != "shared":
            raise Refused(403)
        shown = [self.entry(found, project) for project in found.members if self.owns(who, found) or project == who.project]
        return Expected(200, {"members": shown, "schema": "/v2/schemas/members"})

    def member(self, who: Persona, image: str, project: str) -> Expected:
        found = self.reach(who, image)
        if found.visibility != "shared" or project not in found.members or not (self.owns(who, found) or project == who.project):
            raise Refused(404)
        return Expected(200, self.entry(found, project))

    def share(self, who: Persona, image: str, project: str) -> Expected:
        found = self.reach(who, image)
        if found.visibility != "shared":
            raise Refused(403)
        self.own(who, image)
        if project in found.members:
            raise Refused(409)
        found.members[project] = "pending"
        return Expected(200, self.entry(found, project))

    def answer(self, who: Persona, image: str, project: str, status: str) -> Expected:
        found = self.reach(who, image)
        if found.visibility != "shared":
            raise Refused(403)
        self.member(who, image, project)
        if not is_admin(who) and not (has(who, "member") and project == who.project):
            raise Refused(403)
        found.members[project] = status
        return Expected(200, self.entry(found, project))

    def unshare(self, who: Persona, image: str, project: str) -> Expected:
        found = self.reach(who, image)
        if found.visibility != "shared":
            raise Refused(403)
        if not is_admin(who) and not (has(who, "member") and who.project in (found.owner, project)):
            raise Refused(403)
        if project not in found.members:
            raise Refused(404)
        del found.members[project]
        return Expected(204)

    # Lists

    def list(self, who: Persona, image: str, query: list[tuple[str, str]]) -> Expected:
        """One page. image: a marker, where the query has one."""
        if not is_admin(who) and not has(who, "reader"):
            raise Refused(403)
        asked = dict(query)
        limit = int(asked.get("limit", 25))
        before = compare_by(sorts(query))
        found = sorted(
            (each for each in self.images.values() if self._listed(who, each, asked) and matches(each, query)),
            key=functools.cmp_to_key(before),
        )
        if "marker" in asked and limit:
            marker = self.images.get(asked["marker"])
            if marker is None or not self.sees(who, marker):
                raise Refused(400)
            found = [each for each in found if before(marker, each) < 0]
        return Expected(200, [each.record(who) for each in found[:limit]])

    def _listed(self, who: Persona, image: Image, asked: dict[str, str]) -> bool:
        visibility, answers = asked.get("visibility"), asked.get("member_status", "accepted")
        if visibility not in (None, "all", image.visibility) or image.os_hidden != (asked.get("os_hidden", "false") == "true"):
            return False
        if image.owner == who.project or image.visibility == "public":
            return True
        if image.visibility == "community":
            return visibility is not None
        return is_admin(who) or (
            image.visibility == "shared" and who.project in image.members and answers in ("all", image.members[who.project])
        )


def sorts(query: list[tuple[str, str]]) -> list[tuple[str, int]]:
    """Fields and their directions, 1 ascending and -1 descending, ended by what makes the order total."""
    given = [part for name, value in query if name == "sort" for part in value.split(",")]
    pairs = [(key, direction or "desc") for key, _, direction in (part.partition(":") for part in given)]
    keys, directions = ([value for name, value in query if name == wanted] for wanted in ("sort_key", "sort_dir"))
    if keys:
        pairs = list(zip(keys, directions if len(directions) > 1 else (directions or ["desc"]) * len(keys), strict=True))
    only = {direction for _, direction in pairs} or set(directions)
    pairs.append(("created_at", "asc" if only == {"asc"} else "desc"))
    return [(key, 1 if direction == "asc" else -1) for key, direction in pairs]


def compare_by(order: list[tuple[str, int]]) -> Callable[[Image, Image], int]:
    """Which of two comes first. What is missing comes before everything that is there, and text goes by its bytes."""

    def place(image: Image, key: str) -> Any:
        value = getattr(image, {"created_at": "made", "updated_at": "changed"}.get(key, key))
        return (value is not None, value.encode() if isinstance(value, str) else value or 0)

    def compare(one: Image, other: Image) -> int:
        for key, direction in order:
            left, right = place(one, key), place(other, key)
            if left != right:
                return direction if left > right else -direction
        return 0

    return compare


def matches(image: Image, query: list[tuple[str, str]]) -> bool:
    """Whether an image meets all filters of a query."""
    last = dict(query)
    for name, value in query:
        if name == "tag":
            if value not in image.tags:
                return False
        elif name not in NO_FILTERS and not _matches(image, name, last[name]):
            return False
    return True


def _matches(image: Image, name: str, value: str) -> bool:
    operator, colon, rest = value.partition(":")
    if name == "protected":
        return image.protected == (value.lower() == "true")
    if name.endswith(("_min", "_max")):
        number = getattr(image, name[:-4])
        return number is not None and (number >= int(value) if name.endswith("_min") else number <= int(value))
    if name in ("size", "min_ram", "min_disk"):
        number = getattr(image, name)
        if operator == "in":
            return number is not None and str(number) in rest.split(",")
        return number is not None and OPERATORS[operator if colon else "eq"](number, int(rest or value))
    if name == "checksum":
        return image.data is not None and hashlib.md5(image.data).hexdigest() == value
    held = (
        getattr(image, name) if name in ("name", "status", "id", "owner", "disk_format", "container_format") else image.properties.get(name)
    )
    if operator == "in" and colon:
        return held in rest.split(",") or (name not in BASE and held == value)
    if operator == "eq" and colon and name in ("name", "status", "id", "owner", "disk_format", "container_format"):
        return bool(held == rest)
    return bool(held == value)
