"""Routes of image data: `/v2/images/{id}/file`."""

import re
from typing import NamedTuple

from starlette.responses import Response

from ikon.api.images import etag
from ikon.api.request import Request, empty
from ikon.model.image import Image
from ikon.problems import BadRequest, ClientGone, DataUnavailable, RangeNotSatisfiable, UnsupportedMediaType
from ikon.service import data
from ikon.transfer.digests import BLOCK


async def upload(request: Request) -> Response:
    """PUT /v2/images/{id}/file: store the data and make the image active; X-Image-Meta-Store names the store."""
    require_octets(request)
    store = request.headers.get("x-image-meta-store")
    await data.upload(request.kit, request.ctx, request.segments["id"], request.blocks(), store=store, size=announced(request))
    return empty()


def require_octets(request: Request) -> None:
    """Raises UnsupportedMediaType unless the body is said to be plain bytes."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/octet-stream":
        raise UnsupportedMediaType(
            f"The request media type {media_type or '(none)'} is not supported by this server. "
            "Image data is sent as application/octet-stream."
        )


def announced(request: Request) -> int | None:
    """Bytes that the client says it will send; None when it does not say."""
    text = request.headers.get("x-openstack-image-size")
    if text is None:
        text = request.headers.get("content-length")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise BadRequest("Invalid or missing image size in request headers.")
    return int(text)


class Part(NamedTuple):
    """Bytes of an image that are asked for: all of them, or a range."""

    offset: int
    length: int
    ranged: bool


async def download(request: Request) -> Response | None:
    """GET /v2/images/{id}/file: the data, or a Range of it, every block checked; `prefer` names stores to read first.

    Answers by itself when there is data, since only then it knows what it could read.
    """
    request.refuse_body()
    prefer = [name.strip() for name in dict(request.params()).get("prefer", "").split(",") if name.strip()]
    async with data.download(request.kit, request.ctx, request.segments["id"], prefer) as (image, reader):
        if not data.has_data(image):
            return empty()
        size = image.size or 0
        part = _part(request, size)
        headers = _headers(image, part, size)
        if request.method == "HEAD" or not part.length:
            return Response(status_code=206 if part.ranged else 200, headers=headers)
        checked = await reader.check(part.offset // BLOCK)
        send = request.scope["ikon.send"]
        await send({"type": "http.response.start", "status": 206 if part.ranged else 200, "headers": _raw(headers)})
        try:
            sends = request.scope["extensions"]
            await reader.send(sends["ikon.sendfile"], sends["ikon.sendbytes"], part.offset, part.length, checked)
        except ClientGone:
            return None
        except DataUnavailable:
            request.scope["extensions"]["ikon.abort"]()  # the client must see a broken connection, never a short answer that looks whole
            raise
        await send({"type": "http.response.body", "body": b""})
    return None


def _headers(image: Image, part: Part, size: int) -> dict[str, str]:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(part.length), "Accept-Ranges": "bytes"}
    if image.checksum:
        headers["Content-MD5"] = image.checksum  # in hex, and of the whole image, as clients check it
    if image.os_hash_value:
        headers["ETag"] = etag(image.os_hash_value)
    if part.ranged:
        headers["Content-Range"] = f"bytes {part.offset}-{part.offset + part.length - 1}/{size}"
    return headers


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def _part(request: Request, size: int) -> Part:
    """The part that Range, or the older Content-Range of a request, names. Raises BadRequest, RangeNotSatisfiable."""
    if text := request.headers.get("range"):
        return _range(text, size)
    if text := request.headers.get("content-range"):
        return _content_range(text, size)
    return Part(0, size, ranged=False)


def _range(text: str, size: int) -> Part:
    if "," in text:
        raise BadRequest("Requests with multiple ranges are not supported. You may make multiple single-range requests instead.")
    match = re.fullmatch(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", text.strip(), re.ASCII)
    if not match or match[1] == match[2] == "":
        raise unsatisfiable(size)
    if match[1] == "":
        count = int(match[2]) or size  # the last 0 bytes: the whole, as clients know it
        first, last = max(0, size - count), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if first > last:
        raise unsatisfiable(size)
    return Part(first, last - first + 1, ranged=True)


def _content_range(text: str, size: int) -> Part:
    match = re.fullmatch(r"bytes\s+(\d{1,18})-(\d{1,18})/(\*|\d{1,18})", text.strip(), re.ASCII)
    if not match or not int(match[1]) <= int(match[2]) < size:
        raise unsatisfiable(size)
    return Part(int(match[1]), int(match[2]) - int(match[1]) + 1, ranged=True)


def unsatisfiable(size: int) -> RangeNotSatisfiable:
    """The answer to a range that this image does not have."""
    return RangeNotSatisfiable(
        f"The Range requested is not available. The image has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}
    )
