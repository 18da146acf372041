"""Which web pages may use the API: what browsers are told about the origins that the operator has configured, and nothing about others."""

from starlette.datastructures import Headers

RawHeaders = list[tuple[bytes, bytes]]

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
#: Headers that a page may send: what clients of this API send. Those that say who asks are a proxy's alone.
SENDABLE = frozenset(
    (
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "content-language",
        "content-md5",
        "content-type",
        "expires",
        "if-match",
        "last-modified",
        "pragma",
        "range",
        "x-auth-token",
        "x-image-meta-checksum",
        "x-image-meta-store",
        "x-openstack-image-size",
        "x-openstack-request-id",
        "x-storage-token",
    )
)
#: Headers of answers that a page may read. The first five are those that dashboards know from other services of OpenStack.
READABLE = (
    "X-Image-Meta-Checksum,X-Auth-Token,X-Subject-Token,X-Service-Token,X-OpenStack-Request-ID,"
    "Accept-Patch,Accept-Ranges,Allow,Content-MD5,Content-Range,ETag,Location,OpenStack-image-import-methods,OpenStack-image-store-ids,"
    "Retry-After,WWW-Authenticate"
)
MAX_AGE_S = 3600
VARY = (b"vary", b"Origin")


class Cors:
    """Tells browsers what pages of some origins may do. Without origins it says nothing."""

    def __init__(self, origins: list[str]) -> None:
        self._origins = frozenset(origins)

    def headers(self, method: str, asked: Headers) -> RawHeaders:
        """What to add to the answer of one request, be it a preflight or what follows it."""
        if not self._origins:
            return []
        origin = asked.get("origin", "")
        if origin not in self._origins:
            return [VARY]  # a cache must not hand this answer to a page that may have another
        about = _preflight(asked) if method == "OPTIONS" else [(b"access-control-expose-headers", READABLE.encode())]
        if not about:
            return [VARY]
        return [VARY, (b"access-control-allow-origin", origin.encode()), (b"access-control-allow-credentials", b"true"), *about]


def _preflight(asked: Headers) -> RawHeaders:
    """Leave for the request that a page announces; nothing when its method or one of its headers is not allowed, or it announces none."""
    method, names = asked.get("access-control-request-method", ""), asked.get("access-control-request-headers", "")
    if method not in METHODS or not {name.strip().lower() for name in names.split(",") if name.strip()} <= SENDABLE:
        return []
    said = [(b"access-control-max-age", b"%d" % MAX_AGE_S), (b"access-control-allow-methods", method.encode())]
    return said + ([(b"access-control-allow-headers", names.encode("latin-1"))] if names else [])
