"""What a list request asks for: scope, filters, order and page, read from the query string; and whether an image is part of the answer.

Every filter is tested on the record itself, so that case, Unicode and NULL mean the same on every database. Where the index of lists has a
term for it (model/terms.py), the filter names the term, and the database need not hand out what cannot match.
"""

import csv
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from ikon.context import Context
from ikon.model.image import Image, shared
from ikon.model.terms import USUAL_HASH, encoded, text
from ikon.problems import BadValue

Test = Callable[[Image], bool]
#: What the index can look an image up by: a term, or a field and its value as sorted by.
Need = str | tuple[str, bytes]

VISIBILITIES = ("public", "private", "shared", "community")
ANSWERS = ("accepted", "pending", "rejected")
SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
NUMBERS = ("size", "virtual_size", "min_ram", "min_disk")
#: The letter of a field's terms.
LETTERS = {"name": "n", "status": "s", "disk_format": "d", "container_format": "f", "min_disk": "g", "min_ram": "r", "virtual_size": "z"}
TEXTS = ("name", "status", "id", "disk_format", "container_format", "checksum", "os_hash_value", "os_hash_algo", "owner")
#: Columns of images with an index of their own.
COLUMNS = ("id", "checksum", "os_hash_value")
#: A term that no image has.
NEVER = "!"
#: Values of one filter that are looked up one by one; with more of them, images are.
MOST_VALUES = 50
#: Filters of one list: each costs a look-up, and a probe of every candidate.
MOST_FILTERS = 20
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


class Span(NamedTuple):
    """Values of a field as sorted by, from the least to the most, both included."""

    field: str
    least: bytes
    most: bytes


class Filter(msgspec.Struct, frozen=True):
    """One condition. needs: an image that meets it has one of these in the index; none: the index does not know.

    span: where the images that meet it lie in the order of a field, None: anywhere. property: the name of the one that it is about.
    """

    test: Test
    needs: tuple[Need, ...] = ()
    span: Span | None = None
    property: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A checked list request. visibility None: the default set. answers: which of the shares with the caller's project are wanted.

    owners: projects whose images are wanted, None: all. column: (name, value) of a column with an index of its own that must be equal.
    created: the first and last k that may be listed, in microseconds.
    sorts: (field, ascending) in order, ended by `k`, which makes every order total. limit: images on the page.
    """

    visibility: str | None = None
    os_hidden: bool = False
    answers: tuple[str, ...] = ("accepted",)
    filters: tuple[Filter, ...] = ()
    owners: tuple[str, ...] | None = None
    column: tuple[str, str] | None = None
    created: tuple[int, int] = (0, 2**63 - 1)
    sorts: tuple[tuple[str, bool], ...] = (("k", False),)
    marker: str | None = None
    limit: int = 25


def includes(ctx: Context, listing: Listing, image: Image) -> bool:
    """Whether an image is in the set that the caller's list is made of, before filters."""
    wanted = listing.visibility
    if image.os_hidden != listing.os_hidden:
        return False
    own = ctx.project is not None and image.owner == ctx.project
    if ctx.admin:
        return wanted in ("all", image.visibility) or (wanted is None and (own or image.visibility != "community"))
    answered = shared(ctx, image) and image.members[ctx.project or ""].status in listing.answers
    if wanted in (None, "all"):
        return own or answered or image.visibility == "public" or (wanted == "all" and image.visibility == "community")
    return image.visibility == wanted and (own or answered or wanted in ("public", "community"))


def parse(params: list[tuple[str, str]], page: int, page_max: int) -> Listing:
    """Read a list's query parameters. Raises BadValue naming the parameter. page, page_max: the default and the largest page."""
    last = dict(params)
    if "changes-since" in last:
        raise BadValue('The "changes-since" filter is no longer available on v2.')
    visibility = last.get("visibility")
    if visibility not in (None, "", "all", *VISIBILITIES):
        raise BadValue(f"Invalid visibility value: {visibility}")
    answer = last.get("member_status", "accepted")
    if answer not in (*ANSWERS, "all"):
        raise BadValue(f"Invalid status: {answer}. It must be one of {', '.join(ANSWERS)}, all.")
    found: dict[str, Any] = {}
    filters = [nothing()] if visibility == "" else []
    for name, value in params:
        if name == "tag":
            filters.append(Filter(_has_tag(value), (f"t:{value}",)))
        elif last[name] is value and name not in NOT_FILTERS:
            filters.append(_filter(name, value, found))
    if len(filters) > MOST_FILTERS:
        raise BadValue(f"A list takes {MOST_FILTERS} filters at most, tags included: these are {len(filters)}.")
    return Listing(
        visibility=visibility or None,
        os_hidden=boolean("os_hidden", last.get("os_hidden", "false")),
        answers=ANSWERS if answer == "all" else (answer,),
        filters=tuple(filters),
        sorts=_sorts(params),
        marker=last.get("marker"),
        limit=page_limit(last.get("limit"), page, page_max),
        **found,
    )


#: Parameters that say something else than which images are wanted; `deleted` is ignored, since deleted images are gone.
NOT_FILTERS = frozenset(["limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status", "os_hidden", "deleted", "tag"])


def boolean(name: str, value: str) -> bool:
    """`true` or `false` in any case. Raises BadValue."""
    if value.lower() not in ("true", "false"):
        raise BadValue(f"Invalid value '{value}' for '{name}' filter. Valid values are true and false.")
    return value.lower() == "true"


def page_limit(given: str | None, page: int, page_max: int) -> int:
    """Entries on a page: `page` when none are named, `page_max` at most. Raises BadValue."""
    if given is None:
        return page
    try:
        limit = int(given)
    except ValueError:
        raise BadValue("limit param must be an integer") from None
    if limit < 0:
        raise BadValue("limit param must be positive")
    return min(limit, page_max)


def _sorts(params: list[tuple[str, str]]) -> tuple[tuple[str, bool], ...]:
    sort = [value for name, value in params if name == "sort"]
    keys = [value for name, value in params if name == "sort_key"]
    dirs = [value for name, value in params if name == "sort_dir"]
    if sort and (keys or dirs):
        raise BadValue("Old and new sorting syntax cannot be combined")
    if sort:
        parts = [part.partition(":") for value in sort for part in value.split(",")]
        pairs = [(key.strip(), direction.strip() or "desc") for key, _, direction in parts]
    else:
        if len(dirs) > 1 and len(dirs) != len(keys):
            raise BadValue("Number of sort dirs does not match the number of sort keys")
        pairs = [(key, dirs[i] if len(dirs) > 1 else (dirs or ["desc"])[0]) for i, key in enumerate(keys)]
    for key, _ in pairs:
        if key not in SORT_KEYS:
            raise BadValue(f"Invalid sort key: {key}. It must be one of the following: {', '.join(SORT_KEYS)}.")
    for direction in (*dirs, *(direction for _, direction in pairs)):
        if direction not in ("asc", "desc"):
            raise BadValue(f"Invalid sort direction: {direction}. It must be one of the following: asc, desc.")
    found: list[tuple[str, bool]] = []
    for key, direction in pairs:
        column = {"created_at": "k", "updated_at": "updated"}.get(key, key)
        if column not in [name for name, _ in found]:
            found.append((column, direction == "asc"))
        if column == "k":
            return tuple(found)  # k is unique: later keys change nothing
    tie = {direction for _, direction in pairs} or set(dirs)
    return (*found, ("k", tie == {"asc"}))


def _has_tag(tag: str) -> Test:
    return lambda image: tag in image.tags


def nothing() -> Filter:
    """A condition that no image meets."""
    return Filter(lambda image: False, (NEVER,))


def _filter(name: str, value: str, found: dict[str, Any]) -> Filter:
    """One filter. What narrows the list in another way than by terms goes into `found`, as fields of a Listing."""
    if name == "protected":
        wanted = boolean(name, value)
        return Filter(lambda image: image.protected == wanted, ("x",) if wanted else ())
    if name in ("created_at", "updated_at"):
        return _time(name, value, found)
    if name.endswith(("_min", "_max")) and name[:-4] in NUMBERS:
        return _compared(name[:-4], "gte" if name.endswith("_min") else "lte", _number(name, value))
    if name in NUMBERS:
        return _number_filter(name, value)
    if name in TEXTS:
        return _text_filter(name, value, found)
    return _property_filter(name, value)


def _numeric(name: str, compare: Callable[[Any, Any], bool], number: int) -> Test:
    return lambda image: (got := getattr(image, name)) is not None and compare(got, number)


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise BadValue(f"Unable to filter on a range with a non-numeric value. '{name}' takes an integer.") from None


def _number_filter(name: str, value: str) -> Filter:
    op, colon, rest = value.partition(":")
    if colon and op == "in":
        among = {_number(name, item) for item in quoted_list(rest)}
        return Filter(lambda image: getattr(image, name) in among, _number_needs(name, among))
    if colon and op in COMPARE:
        return _compared(name, op, _number(name, rest))
    if re.fullmatch(r"[0-9]{1,18}", value):
        return _compared(name, "eq", int(value))
    return nothing()


def _compared(name: str, op: str, number: int) -> Filter:
    test, span = _numeric(name, COMPARE[op], number), None
    if name == "size" and op not in ("eq", "neq"):
        span = _span(name, *_bounds(op, number, 1))
    return Filter(test, _number_needs(name, {number}) if op == "eq" else (), span)


def _span(field: str, least: int, most: int) -> Span:
    return Span(field, encoded(least), encoded(most))


def _number_needs(name: str, among: set[int]) -> tuple[Need, ...]:
    """What the index says of images that have one of these numbers; numbers that none can have are left out."""
    possible = [number for number in among if 0 <= number < 2**63]
    if not possible:
        return (NEVER,)
    if len(possible) > MOST_VALUES or (name in ("min_disk", "min_ram") and 0 in possible):  # no term says that they are 0
        return ()
    if name == "size":
        return tuple((name, encoded(number)) for number in possible)
    return tuple(f"{LETTERS[name]}:{number}" for number in possible)


def _text_filter(name: str, value: str, found: dict[str, Any]) -> Filter:
    op, colon, rest = value.partition(":")
    if colon and op == "in":
        among = quoted_list(rest)
    else:
        among = [rest if colon and op == "eq" else value]  # any other prefix is part of the value: `name=ubuntu:22.04`
    among = list(dict.fromkeys(item for item in among if "\0" not in item))  # no text holds one, and PostgreSQL refuses to look for it
    if not among:
        return nothing()
    few = len(among) <= MOST_VALUES
    if name == "owner" and few:
        found["owners"] = tuple(among)
    elif name in COLUMNS and len(among) == 1:
        found["column"] = (name, among[0])
    return Filter(_among(name, frozenset(among)), _text_needs(name, among) if few else ())


def _text_needs(name: str, among: Iterable[str]) -> tuple[Need, ...]:
    if name in LETTERS:
        return tuple(text(LETTERS[name], item) for item in among)
    if name == "os_hash_algo" and USUAL_HASH not in among:
        return tuple(text("h", item) for item in among)
    return ()


def _among(name: str, among: frozenset[str]) -> Test:
    return lambda image: getattr(image, name) in among


def _property_filter(name: str, value: str) -> Filter:
    """`name=value` of a property; `in:a,b` stands for one of several values, or for itself."""
    among = [value]
    if value.startswith("in:"):
        among += quoted_list(value[3:])
    wanted = frozenset(among)
    needs = tuple(f"p:{name}\0{item}" for item in dict.fromkeys(among)) if len(among) <= MOST_VALUES else ()
    return Filter(lambda image: image.properties.get(name) in wanted, needs, property=name)


def quoted_list(given: str) -> list[str]:
    """The items of `a,"b,c",d`. Raises BadValue for a quote that is not closed."""
    try:
        return next(csv.reader([given], strict=True), [])
    except csv.Error:
        raise BadValue(f"Invalid filter value {given}. The quote is not closed.") from None


def _time(name: str, value: str, found: dict[str, Any]) -> Filter:
    op, colon, rest = value.partition(":")
    if not re.fullmatch("[a-z]+", op):
        op, rest = "eq", value
    elif not colon or op not in COMPARE:
        raise BadValue(f"Unable to filter on a unknown operator. '{name}' takes one of {', '.join(COMPARE)}.")
    try:
        moment = datetime.fromisoformat(rest.replace(" ", "+"))  # a "+" of an offset arrives as a blank where the client left it unescaped
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        us = round(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise BadValue(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.') from None
    unit = 1 if moment.microsecond else 1_000_000  # compared at the precision given: records show whole seconds
    bounds = _bounds(op, us // unit * unit, unit)
    if name == "created_at":
        found["created"] = bounds
        return Filter(lambda image: COMPARE[op](image.k // unit, us // unit))
    span = _span("updated", *bounds) if op != "neq" else None
    return Filter(lambda image: COMPARE[op](image.updated // unit, us // unit), (), span)


def _bounds(op: str, us: int, unit: int) -> tuple[int, int]:
    """The least and the most number of those that compare so with one that stands for `unit` numbers from itself on."""
    least, most = 0, 2**63 - 1
    start, end = {
        "eq": (us, us + unit - 1),
        "neq": (least, most),
        "gt": (us + unit, most),
        "gte": (us, most),
        "lt": (least, us - 1),  # nothing, where that is below the least: the test says so
        "lte": (least, us + unit - 1),
    }[op]
    return min(max(start, least), most), min(max(end, least), most)
