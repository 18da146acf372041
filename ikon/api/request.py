"""A request at the door: who asks, what for, and its body read within bounds."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response

from ikon.context import Context
from ikon.kit import Kit
from ikon.problems import BadRequest, ClientGone, TooLarge

BODY_BYTES = 1 << 20
DEPTH = 20


class Request(StarletteRequest):
    """One request with the kit, the caller and the values that its path names."""

    kit: Kit
    ctx: Context
    segments: dict[str, str]
    #: What absolute links begin with, where it is not the Host that the request names.
    public: str | None = None

    def link(self, path: str) -> str:
        """The absolute URL of a path that has no slash in front."""
        return f"{self.public or self.base_url}{path}"

    def params(self) -> list[tuple[str, str]]:
        """The query's parameters in order, repeated ones too. Raises BadRequest when they are not UTF-8."""
        try:
            return parse_qsl(self.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=200)
        except (UnicodeDecodeError, ValueError):
            raise BadRequest(
                "Error decoding your request. Either the URL or the request body contained characters that could not be decoded"
            ) from None

    def refuse_body(self) -> None:
        """Raises BadRequest when the request announces a body that nothing would read."""
        if self.headers.get("content-length", "0").strip("0") or (
            "transfer-encoding" in self.headers and self.method in ("POST", "PUT", "PATCH")
        ):
            raise BadRequest("A body is not expected with this request.")

    async def blocks(self) -> AsyncIterator[bytes]:
        """The body as it comes in. Raises ClientGone when it ends before it is complete."""
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The client closed the connection, or sent a malformed body, before all data had arrived")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def json_body(self, most_bytes: int = BODY_BYTES) -> Any:
        """The body as JSON: at most 1 MiB if nothing else is said, 20 levels deep. Raises BadRequest, TooLarge."""
        if int(self.headers.get("content-length", "0")) > most_bytes:
            raise TooLarge(f"The request body is larger than {most_bytes} bytes")
        body = bytearray()
        async for block in self.blocks():
            body += block
            if len(body) > most_bytes:
                raise TooLarge(f"The request body is larger than {most_bytes} bytes")
        if not body:
            raise BadRequest("Body expected in request.")
        try:
            value = msgspec.json.decode(body)
        except RecursionError:
            raise BadRequest(f"Malformed JSON in request body: nested deeper than {DEPTH} levels.") from None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadRequest(f"Malformed JSON in request body: {error}") from None
        if not _shallow(value, DEPTH):
            raise BadRequest(f"Malformed JSON in request body: nested deeper than {DEPTH} levels.")
        return value


def _shallow(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        return levels > 0 and all(_shallow(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return levels > 0 and all(_shallow(item, levels - 1) for item in value)
    return True


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def empty(status: int = 204) -> Response:
    """An answer without a body."""
    return Response(status_code=status)
