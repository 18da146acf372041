"""Locations: places that callers name as having an image's data. What requests and patches may say of one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ikon.model.image import schema_problem
from ikon.problems import BadRequest, BadValue, Conflict, Forbidden, QuotaExceeded

#: Bytes that the algorithms give which may say what data must be.
ALGORITHMS = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
#: Characters of a URL in a request of its own, and in a patch.
URL_LENGTH, PATCH_URL_LENGTH = 2000, 255
#: Characters of what may be said of a location, as JSON.
METADATA_LENGTH = 65_535
HEX = re.compile("[0-9a-fA-F]*")


class Validation(Struct, frozen=True):
    """What the data of a location must be: its digest, and where given its MD5."""

    os_hash_algo: str
    os_hash_value: str
    checksum: str | None = None


class New(Struct, frozen=True):
    """A checked location. metadata: what the caller says of it, without what Ikon says."""

    url: str
    metadata: dict[str, Any] = {}
    validation: Validation | None = None


class Patch(Struct, frozen=True):
    """One operation of a patch on an image's locations. at: the place that it names, None: the end. new: none for a removal.

    strict: adding what is there already is a conflict (the older media type).
    """

    op: str
    at: int | None = None
    new: tuple[New, ...] = ()


def parse(body: Any) -> New:
    """Read a request to add a location. Raises BadValue naming the field; what else the body holds is left alone."""
    if not isinstance(body, dict):
        raise schema_problem(f"{body!r:.60} is not an object", "location")
    url = _url(body, URL_LENGTH, "location")
    given = body.get("validation_data", {})
    if given == {}:
        return New(url)
    validation = _validation(given, ("os_hash_algo", "os_hash_value"), "location")
    if validation.os_hash_algo not in ALGORITHMS:
        raise schema_problem(f"os_hash_algo: {validation.os_hash_algo!r:.60} is not one of {', '.join(ALGORITHMS)}", "location")
    _check_hex("os_hash_value", validation.os_hash_value, validation.os_hash_algo, BadValue)
    return New(url, {}, validation)


def parse_patch(op: str, place: Sequence[str], value: Any) -> Patch:
    """Read an operation on `/locations/...`. place: the parts of its path behind that. Raises BadRequest or BadValue."""
    if op == "replace" and not place:
        if not isinstance(value, list):
            raise schema_problem(f"locations: {value!r:.60} is not a list")
        return Patch(op, None, tuple(_patched(each) for each in value))
    doing = "removing" if op == "remove" else "adding"
    if op == "replace" or len(place) != 1:
        raise BadRequest(f"Invalid JSON pointer for this resource: '/{'/'.join(('locations', *place))}'")
    if place[0] != "-" and not re.fullmatch("[0-9]{1,9}", place[0]):
        raise BadRequest(f"Invalid position for {doing} a location.")
    at = None if place[0] == "-" else int(place[0])
    if op == "remove":
        if at is None:
            raise BadRequest("Invalid position for removing a location.")
        return Patch(op, at)
    return Patch(op, at, (_patched(value),))


def _patched(value: Any) -> New:
    if not isinstance(value, dict):
        raise schema_problem(f"locations: {value!r:.60} is not an object")
    url, metadata = _url(value, PATCH_URL_LENGTH, "image"), value.get("metadata")
    if not isinstance(metadata, dict):
        raise schema_problem("locations: 'metadata' is a required property, an object")
    for name in metadata:
        if name.startswith("os_glance"):
            raise schema_problem(f"locations: metadata {name!r:.60}: names that begin with os_glance are reserved")
    said = {name: each for name, each in metadata.items() if name != "store"}
    if len(msgspec.json.encode(said)) > METADATA_LENGTH:
        raise schema_problem(f"locations: metadata is longer than {METADATA_LENGTH} characters")
    validation = None
    if "validation_data" in value:
        validation = _validation(value["validation_data"], ("os_hash_algo", "os_hash_value", "checksum"), "image")
    return New(url, said, validation)


def _url(given: Mapping[str, Any], most: int, schema: str) -> str:
    url = given.get("url")
    if not isinstance(url, str):
        raise schema_problem("'url' is a required property, a string", schema)
    if len(url) > most:
        raise schema_problem(f"url: longer than {most} characters", schema)
    if not url.isascii() or "\0" in url:
        raise schema_problem("url: holds characters that no URL has", schema)
    return url


def _validation(given: Any, allowed: Sequence[str], schema: str) -> Validation:
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise schema_problem("validation_data: is not an object of strings", schema)
    for name in ("os_hash_algo", "os_hash_value"):
        if name not in given:
            raise schema_problem(f"validation_data: '{name}' is a required property", schema)
    for name in given:
        if name not in allowed:
            raise schema_problem(f"validation_data: {name!r:.60} is none of its properties; allowed: {', '.join(allowed)}", schema)
    return Validation(**{name: each if name == "os_hash_algo" else each.lower() for name, each in given.items()})


def _check_hex(name: str, value: str, algorithm: str, wrong: type[BadValue] | type[Conflict]) -> None:
    """Raises `wrong` unless a value can be a digest of that algorithm."""
    if not HEX.fullmatch(value):
        raise wrong(f"{name} ({value:.130}) is not a valid hexadecimal value")
    if len(value) != 2 * ALGORITHMS[algorithm]:
        raise wrong(f"{name} ({value:.130}) is not the correct size for {algorithm} (should be {ALGORITHMS[algorithm]} bytes)")


def check_patched(validation: Validation, algorithm: str) -> None:
    """Raises Conflict unless what a patch says of data can be true of it. algorithm: the one of this service's images."""
    if validation.os_hash_algo != algorithm:
        raise Conflict(f"os_hash_algo must be {algorithm}, not {validation.os_hash_algo:.60}")
    if validation.checksum is not None:
        _check_hex("checksum", validation.checksum, "md5", Conflict)
    _check_hex("os_hash_value", validation.os_hash_value, algorithm, Conflict)


def require_same(validation: Validation, checksum: str | None, os_hash_algo: str | None, os_hash_value: str | None) -> None:
    """Raises Conflict where what is said of a further location is not what is said of the image's data already."""
    for name, given, there in (
        ("checksum", validation.checksum, checksum),
        ("os_hash_algo", validation.os_hash_algo, os_hash_algo),
        ("os_hash_value", validation.os_hash_value, os_hash_value),
    ):
        if given is not None and given != there:
            raise Conflict(f"{name} is already set with a different value")


def require_count(count: int, most: int) -> None:
    """Raises QuotaExceeded when an image would have more locations than `most`."""
    if count > most:
        raise QuotaExceeded(f"The limit has been exceeded on the number of allowed image locations. Attempted: {count}, Maximum: {most}")


def invisible() -> Forbidden:
    """The answer to a patch of locations where they are not shown."""
    return Forbidden("It's not allowed to add locations if locations are invisible.")
