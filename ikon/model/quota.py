"""What a project may hold, and what it holds: four amounts, and how settings, Keystone and clients call and count them."""

import re
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from ikon.problems import BadValue

#: The store of data that waits for its import; what lies in it is no image's yet, and counts by itself.
STAGING = "os_glance_staging_store"
#: Statuses of images that data comes into, or waits to.
COMING_IN = ("saving", "uploading", "importing")
MIB = 1 << 20
#: What clients see where there is no limit, as Keystone writes it.
UNLIMITED = -1
#: The largest amount that databases count to.
MOST = (1 << 63) - 1
PROJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class Resource(NamedTuple):
    """One thing that is limited. name: in settings and tables. wire: in Keystone and for clients, who count sizes in MiB (is_size)."""

    name: str
    wire: str
    is_size: bool


RESOURCES = (
    Resource("bytes", "image_size_total", is_size=True),
    Resource("staged_bytes", "image_stage_total", is_size=True),
    Resource("images", "image_count_total", is_size=False),
    Resource("uploading", "image_count_uploading", is_size=False),
)


NAMES = ", ".join(each.name for each in RESOURCES)


class Usage(Struct, frozen=True):
    """What a project holds, or what a change adds to that."""

    bytes: int = 0
    staged_bytes: int = 0
    images: int = 0
    uploading: int = 0

    def __add__(self, more: "Usage") -> "Usage":
        return Usage(*(getattr(self, each.name) + getattr(more, each.name) for each in RESOURCES))

    def __sub__(self, less: "Usage") -> "Usage":
        return Usage(*(getattr(self, each.name) - getattr(less, each.name) for each in RESOURCES))


class Limits(Struct, frozen=True):
    """What a project may hold; None: as much as it likes."""

    bytes: int | None = None
    staged_bytes: int | None = None
    images: int | None = None
    uploading: int | None = None


Own = Annotated[int, Meta(ge=0, le=MOST)] | None


class OwnLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that one project was given by itself. None: what holds for all; 0: it has no limit."""

    bytes: Own = None
    staged_bytes: Own = None
    images: Own = None
    uploading: Own = None

    def over(self, defaults: Limits) -> Limits:
        """What holds for the project."""
        pairs = ((getattr(self, each.name), getattr(defaults, each.name)) for each in RESOURCES)
        return Limits(*(default if own is None else own or None for own, default in pairs))


class Quota(NamedTuple):
    """All about one project. limits None: they are not known here."""

    project: str
    usage: Usage
    own: OwnLimits
    limits: Limits | None


def from_wire(given: dict[str, int]) -> Limits:
    """Limits as Keystone names and counts them. One that it does not name is 0, one below 0 is none."""
    amounts = [given.get(each.wire, 0) * (MIB if each.is_size else 1) for each in RESOURCES]
    return Limits(*(amount if amount >= 0 else None for amount in amounts))


def to_wire(usage: Usage, limits: Limits) -> dict[str, dict[str, int]]:
    """Both as clients read them: in MiB, what is held rounded up and what is allowed down, so that nobody is promised too much."""
    shown = {}
    for each in RESOURCES:
        used, limit, unit = getattr(usage, each.name), getattr(limits, each.name), MIB if each.is_size else 1
        shown[each.wire] = {"usage": -(-used // unit), "limit": UNLIMITED if limit is None else limit // unit}
    return shown


def parse_own(body: Any) -> dict[str, int | None]:
    """The limits that a request gives, by name. Raises BadValue naming the field."""
    try:
        made = msgspec.convert(body, OwnLimits)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`") or "body"
        raise BadValue(
            f"{field}: {said}; allowed: {NAMES}, each a number, 0 for no limit, or null for what holds for all projects"
        ) from None
    if not body:
        raise BadValue(f"body: name a limit; allowed: {NAMES}")
    return {name: getattr(made, name) for name in body}


def is_over(resource: Resource, project: str, limit: int, held: int, by: int) -> str:
    """What is said to whoever asks for more than a limit allows, in the words that clients know."""
    if resource.name == "bytes":
        free = max(0, limit - held)
        return f"Image exceeds the storage quota: The size of the data {by} will exceed the limit. {free} bytes remaining."
    unit = " bytes" if resource.is_size else ""
    over = f"Resource {resource.wire} is over limit of {limit}{unit} due to current usage {held} and delta {by}"
    return f"Project {project} is over a limit for [{over}]"
