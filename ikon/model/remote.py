"""An image as another service shows it: read with suspicion, and what of it an image here takes over."""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
from msgspec import Struct

from ikon.model.image import BASE, READ_ONLY, RESERVED, ContainerFormat, DiskFormat, Image, Status, check_counts, check_property
from ikon.model.patch import May
from ikon.model.signature import NAMES as SIGNED
from ikon.problems import BadRequest, BadValue, RemoteNotActive, SourceBroken

#: Bytes of the largest record that is read: 128 properties of 8 KiB.
RECORD_BYTES = 1 << 20
#: Digests that can be compared, those of fixed length that every Python has.
ALGORITHMS = frozenset(("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512", "blake2b", "blake2s"))
FORMATS = {"disk_format": get_args(DiskFormat), "container_format": get_args(ContainerFormat)}
#: Attributes of an image itself, which no property is; and what says how its data is signed: only who imports it can say that here.
NO_PROPERTY = READ_ONLY | RESERVED | BASE | {"id"} | set(SIGNED)


class Remote(Struct, frozen=True):
    """A checked record of an active image. size: bytes, None where its service does not say. digest: `ALGORITHM:HEX` of its data, or None.

    formats, properties: what an image here takes over.
    """

    size: int | None
    digest: str | None
    formats: dict[str, str]
    properties: dict[str, str]
    visibility: str
    owner: str | None


def parse(body: bytes, image_id: str, prefixes: Sequence[str]) -> Remote:
    """Read a record that must be of this image. prefixes: beginnings of the names of properties to take over.

    Raises RemoteNotActive, and SourceBroken, which names the field, for what no image service would say.
    """
    try:
        record = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken("it is not JSON", because=str(error)) from None
    if not isinstance(record, dict) or str(record.get("id")).lower() != image_id.lower():
        raise _broken("it is not that of this image")
    if (status := record.get("status")) != "active":
        raise RemoteNotActive(f"The remote image is not active: it is {status if status in get_args(Status) else 'in an unknown status'}")
    return Remote(
        size=_size(record.get("size")),
        digest=_digest(record),
        formats={name: _format(record, name) for name in FORMATS},
        properties=_properties(record, prefixes),
        visibility=str(record.get("visibility")),
        owner=owner if isinstance(owner := record.get("owner"), str) and owner else None,
    )


def open_to(remote: Remote, image: Image, *, admin: bool) -> bool:
    """Whether somebody, an administrator here or not, may have a remote image in this image's project, where Ikon itself looked it up.

    To whom the image's own service shows it does not count then: it was Ikon who asked. A project has the same id in all regions.
    """
    return admin or remote.visibility in ("public", "community") or (remote.owner is not None and remote.owner == image.owner)


def taken_over(image: Image, remote: Remote, limit: int, may: May) -> dict[str, Any]:
    """What changes of an image. limit: properties that it may have. may: of the properties, what whoever asked for it may not write stays
    as it is. Raises QuotaExceeded.
    """
    mine = {
        name: value
        for name, value in remote.properties.items()
        if may("read", name) and may("update" if name in image.properties else "create", name)
    }
    properties = image.properties | mine
    check_counts(sum(may("read", name) for name in properties), None, (limit, 0))
    return {**remote.formats, "properties": properties}


def _size(value: Any) -> int | None:
    if value is not None and (type(value) is not int or not 0 <= value < 1 << 63):
        raise _broken("its size is not a number of bytes")
    return value


def _digest(record: dict[str, Any]) -> str | None:
    """The record's best digest that can be compared."""
    for name, value in ((record.get("os_hash_algo"), record.get("os_hash_value")), ("md5", record.get("checksum"))):
        if value is None or (isinstance(name, str) and name not in ALGORITHMS):
            continue
        digits = 2 * hashlib.new(name, usedforsecurity=False).digest_size if isinstance(name, str) else 0
        if not isinstance(value, str) or not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value) or not digits:
            raise _broken("its digest is not one of its algorithm")
        return f"{name}:{value.lower()}"
    return None


def _format(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if value not in FORMATS[name]:
        said = value if isinstance(value, str) and re.fullmatch("[A-Za-z0-9_-]{1,30}", value) else "not a format"
        raise _broken(f"its {name} is {said}; taken are {', '.join(FORMATS[name])}")
    return str(value)


def _properties(record: dict[str, Any], prefixes: Sequence[str]) -> dict[str, str]:
    chosen = {
        name: value
        for name, value in record.items()
        if name.startswith(tuple(prefixes)) and name not in NO_PROPERTY and not name.startswith("os_glance") and value is not None
    }
    for name, value in chosen.items():
        try:
            check_property(name, value)
        except (BadValue, BadRequest) as problem:
            raise _broken(f"its property {name!r:.60} cannot be kept", because=str(problem)) from None
    return chosen


def _broken(what: str, *, because: str = "") -> SourceBroken:
    return SourceBroken(f"The remote image's record cannot be used: {what}", because=because or what)
