"""What a list request asks for: scope, filters, order and page, read from the query string; and whether an image matches.

Filters are tested on the record itself, so that case, Unicode and NULL mean the same on every database.
"""

import csv
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ikon.model.image import Image
from ikon.problems import BadValue

Test = Callable[[Image], bool]

VISIBILITIES = ("public", "private", "shared", "community")
SORT_KEYS = ("name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at")
NUMBERS = ("size", "virtual_size", "min_ram", "min_disk")
TEXTS = ("name", "status", "id", "disk_format", "container_format", "checksum", "os_hash_value", "os_hash_algo", "owner")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A checked list request. visibility None: the default set. equal: what a database may select by; tests: what else must hold.

    sorts: (field, ascending) in order, ended by `k`, which makes every order total. limit: images on the page.
    """

    visibility: str | None = None
    os_hidden: bool = False
    equal: dict[str, Any] = {}
    tests: list[Test] = []
    sorts: tuple[tuple[str, bool], ...] = (("k", False),)
    marker: str | None = None
    limit: int = 25


def parse(params: list[tuple[str, str]], page: int, page_max: int) -> Listing:
    """Read a list's query parameters. Raises BadValue naming the parameter. page, page_max: the default and the largest page."""
    last = dict(params)
    if "changes-since" in last:
        raise BadValue('The "changes-since" filter is no longer available on v2.')
    visibility = last.get("visibility")
    if visibility not in (None, "", "all", *VISIBILITIES):
        raise BadValue(f"Invalid visibility value: {visibility}")
    if last.get("member_status", "accepted") not in ("accepted", "pending", "rejected", "all"):
        raise BadValue(f"Invalid status: {last['member_status']}")
    equal: dict[str, Any] = {}
    tests: list[Test] = []
    for name, value in params if visibility != "" else []:
        if name == "tag":
            tests.append(_has_tag(value))
        elif last[name] is value and name not in NOT_FILTERS:
            _filter(name, value, equal, tests)
    if visibility == "":
        tests.append(lambda image: False)
    return Listing(
        visibility=visibility or None,
        os_hidden=boolean("os_hidden", last.get("os_hidden", "false")),
        equal=equal,
        tests=tests,
        sorts=_sorts(params),
        marker=last.get("marker"),
        limit=_limit(last.get("limit"), page, page_max),
    )


#: Parameters that say something else than which images are wanted; `deleted` is ignored, since deleted images are gone.
NOT_FILTERS = frozenset(["limit", "marker", "sort", "sort_key", "sort_dir", "visibility", "member_status", "os_hidden", "deleted", "tag"])


def boolean(name: str, value: str) -> bool:
    """`true` or `false` in any case. Raises BadValue."""
    if value.lower() not in ("true", "false"):
        raise BadValue(f"Invalid value '{value}' for '{name}' filter. Valid values are true and false.")
    return value.lower() == "true"


def _limit(text: str | None, page: int, page_max: int) -> int:
    if text is None:
        return page
    try:
        limit = int(text)
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
    for key, direction in pairs:
        if key not in SORT_KEYS:
            raise BadValue(f"Invalid sort key: {key}. It must be one of the following: {', '.join(SORT_KEYS)}.")
        if direction not in ("asc", "desc"):
            raise BadValue(f"Invalid sort direction: {direction}. It must be one of the following: asc, desc.")
    for direction in dirs:
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


def _filter(name: str, value: str, equal: dict[str, Any], tests: list[Test]) -> None:
    """One filter: an equality goes to `equal` as well, so that the database need not hand out what cannot match."""
    if name == "protected":
        wanted = boolean(name, value)
        equal[name] = wanted
        tests.append(lambda image: image.protected == wanted)
    elif name in ("created_at", "updated_at"):
        tests.append(_time(name, value))
    elif name.endswith(("_min", "_max")) and name[:-4] in NUMBERS:
        number = _number(name, value)
        compare = COMPARE["gte" if name.endswith("_min") else "lte"]
        tests.append(_numeric(name[:-4], compare, number))
    elif name in NUMBERS:
        _number_filter(name, value, equal, tests)
    elif name in TEXTS:
        _text_filter(name, value, equal, tests)
    else:
        tests.append(lambda image: image.properties.get(name) == value)


def _numeric(name: str, compare: Callable[[Any, Any], bool], number: int) -> Test:
    return lambda image: (got := getattr(image, name)) is not None and compare(got, number)


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise BadValue(f"Unable to filter on a range with a non-numeric value. '{name}' takes an integer.") from None


def _number_filter(name: str, value: str, equal: dict[str, Any], tests: list[Test]) -> None:
    op, colon, rest = value.partition(":")
    if colon and op in COMPARE:
        tests.append(_numeric(name, COMPARE[op], _number(name, rest)))
    elif colon and op == "in":
        among = {_number(name, item) for item in quoted_list(rest)}
        tests.append(lambda image: getattr(image, name) in among)
    elif re.fullmatch(r"[0-9]{1,18}", value):
        number = int(value)
        if number < 2**31 or name in ("size", "virtual_size"):  # the columns of the others end there
            equal[name] = number
        tests.append(_numeric(name, COMPARE["eq"], number))
    else:
        tests.append(lambda image: False)


def _text_filter(name: str, value: str, equal: dict[str, Any], tests: list[Test]) -> None:
    op, colon, rest = value.partition(":")
    if colon and op == "in":
        among = set(quoted_list(rest))
        tests.append(lambda image: getattr(image, name) in among)
        return
    wanted = rest if colon and op == "eq" else value  # any other prefix is part of the value: `name=ubuntu:22.04`
    if "\0" not in wanted:  # no text has one, and PostgreSQL refuses to look for it
        equal[name] = wanted
    tests.append(lambda image: getattr(image, name) == wanted)


def quoted_list(text: str) -> list[str]:
    """The items of `a,"b,c",d`. Raises BadValue for a quote that is not closed."""
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise BadValue(f"Invalid filter value {text}. The quote is not closed.") from None


def _time(name: str, value: str) -> Test:
    op, colon, rest = value.partition(":")
    if not re.fullmatch("[a-z]+", op):
        op, rest = "eq", value
    elif not colon or op not in COMPARE:
        raise BadValue(f"Unable to filter on a unknown operator. '{name}' takes one of {', '.join(COMPARE)}.")
    try:
        moment = datetime.fromisoformat(rest.replace(" ", "+"))  # a "+" of an offset arrives as a blank where the client left it unescaped
    except ValueError:
        raise BadValue(f'Bad "{name}" query filter format. Use ISO 8601 DateTime notation.') from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    us = round(moment.timestamp() * 1_000_000)
    unit = 1 if moment.microsecond else 1_000_000  # compared at the precision given: records show whole seconds
    column = "k" if name == "created_at" else "updated"
    return lambda image: COMPARE[op](getattr(image, column) // unit, us // unit)
