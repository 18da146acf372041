"""Requests to import data into an image: what a body may say, and which image may be imported into in which way."""

import re
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ikon.model.image import FORMATS, UUID, Image
from ikon.problems import BadRequest, Conflict, StatusConflict

#: Hexadecimal digits of digests.
DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
INTERFACES, FACE = ("public", "internal", "admin"), "glance_service_interface"
DIRECT, COPY, WEB, REMOTE = "glance-direct", "copy-image", "web-download", "glance-download"
#: What a job is for that reads a location, beside those.
LOCATION = "location"


class Request(Struct, frozen=True):
    """A checked request. stores: None where the caller named none. must_succeed: any store that fails fails the import.

    uri, digest: of web-download, the latter `ALGORITHM:HEX` of the data that must come. region, remote_id, interface: of
    glance-download; a region of the settings has one endpoint for all INTERFACES. Where one of these is not there the import fails, not the
    request, as clients expect.
    """

    method: str
    stores: tuple[str, ...] | None = None
    all_stores: bool = False
    must_succeed: bool = True
    uri: str | None = None
    digest: str | None = None
    region: str | None = None
    remote_id: str | None = None
    interface: str | None = None


def parse(body: Any, header_store: str | None, offered: Sequence[str]) -> Request:
    """Read an import request. header_store: X-Image-Meta-Store. offered: methods of this service.

    Raises BadRequest naming the field.
    """
    if not isinstance(body, dict) or "method" not in body:
        raise BadRequest("Import request requires a 'method' field.")
    method = body["method"]
    if not isinstance(method, dict) or not isinstance(method.get("name"), str):
        raise BadRequest("Import request requires a 'name' field: 'method' must be an object with the 'name' of an import method.")
    name = method["name"]
    if name not in offered:
        raise BadRequest(f"Unknown import method name '{name[:60]}'. Methods here: {', '.join(offered)}.")
    for flag in ("all_stores", "all_stores_must_succeed"):
        if not isinstance(body.get(flag, False), bool):
            raise BadRequest(f"'{flag}' must be boolean value only")
    stores, every = _stores(body, header_store), body.get("all_stores", False)
    if every and (stores is not None):
        raise BadRequest("All_stores parameter can't be used with x-image-meta-store header or stores parameter")
    return Request(
        method=name,
        stores=stores,
        all_stores=every,
        must_succeed=body.get("all_stores_must_succeed", True),
        uri=_text(method, "uri", "web-download") if name == WEB else None,
        digest=_digest(method) if name == WEB else None,
        region=_text(method, "glance_region", name) if name == REMOTE else None,
        remote_id=_remote_id(method) if name == REMOTE else None,
        interface=_text({FACE: "public"} | method, FACE, name) if name == REMOTE else None,
    )


def _stores(body: dict[str, Any], header: str | None) -> tuple[str, ...] | None:
    named = body.get("stores")
    if named is None:
        return None if header is None else (header,)
    if header is not None:
        raise BadRequest("Stores parameter and x-image-meta-store header can't be both specified")
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        raise BadRequest("'stores' must be a list of names of stores, with one at least")
    return tuple(dict.fromkeys(named))


def _text(method: dict[str, Any], field: str, name: str) -> str:
    value = method.get(field)
    if not isinstance(value, str) or not value or len(value) > 2000 or "\0" in value:
        raise BadRequest(f"'{field}' needs to be set for {name} import method: a text of 1 to 2000 characters")
    return value


def _digest(method: dict[str, Any]) -> str | None:
    """Ikon's own: what the fetched data must be."""
    value = method.get("digest")
    if value is None:
        return None
    match = re.fullmatch(r"(md5|sha256|sha512):([0-9a-fA-F]+)", value) if isinstance(value, str) else None
    if not match or len(match[2]) != DIGITS[match[1]]:
        raise BadRequest(f"'digest' must be md5, sha256 or sha512, a colon, and the digest in hexadecimal: {value!r:.80}")
    return match[0]


def _remote_id(method: dict[str, Any]) -> str:
    value = _text(method, "glance_image_id", REMOTE)
    if not UUID.fullmatch(value):
        raise BadRequest(f"Remote image id does not look like a UUID: {value[:60]}")
    return value


def require_ready(image: Image, request: Request) -> None:
    """Raises StatusConflict or Conflict unless this image may be imported into in this way now."""
    if image.importing.job is not None:
        raise Conflict("Image has active task")
    if request.method == COPY:
        if image.status != "active":
            raise StatusConflict("Only images with status active can be targeted for copying")
        return
    for name in reversed(FORMATS):
        if getattr(image, name) is None and request.method != REMOTE:  # which brings them along
            raise StatusConflict(f"'{name}' needs to be set before import")
    wanted, text = (
        ("uploading", "Image needs to be staged before 'glance-direct' method can be used")
        if request.method == DIRECT
        else ("queued", f"Image needs to be in 'queued' state to use '{request.method}' method")
    )
    if image.status not in ("queued", "uploading"):
        raise StatusConflict(f"Image with status {image.status} cannot be target for import")
    if image.status != wanted:
        raise StatusConflict(text)
