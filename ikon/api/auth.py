"""Who asks: from what the connection and the headers say to a Context. The rest of the house never looks at either."""

import ipaddress
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers

from ikon.config import Settings, is_loopback
from ikon.context import Context
from ikon.problems import Forbidden, HeadersTooLarge, Unauthenticated

ADMIN_ROLES = frozenset(("admin", "member", "reader"))
#: Headers that say who asks.
SAID = frozenset(
    (b"x-identity-status", b"x-user-id", b"x-project-id", b"x-tenant-id", b"x-domain-id", b"x-roles", b"openstack-system-scope")
)
#: Characters of an id of a user, project or domain, as tables hold them.
LONGEST = 255
UNVERIFIED = (
    "This server could not verify that you are authorized to access the document you requested. Either you supplied the wrong credentials "
    "(e.g., bad password), or your browser does not understand how to supply the credentials required."
)


class Identity:
    """Establishes callers as the setting `identity` says."""

    def __init__(self, settings: Settings) -> None:
        self._mode = settings.identity
        self._anywhere = settings.none_beyond_loopback
        self._origins = frozenset(settings.cors.allowed_origins)
        self._proxies = [ipaddress.ip_network(network) for network in settings.trusted_proxies]

    def context(self, scope: MutableMapping[str, Any], headers: Headers, request_id: str) -> Context:
        """The caller of one request. Raises Unauthenticated, Forbidden, HeadersTooLarge."""
        if scope["client"] is None:  # the Unix socket: only this server's own user can connect to it
            return Context("operator", "default", "default", ADMIN_ROLES, request_id=request_id)
        if self._mode == "none":
            self._refuse_web_pages(headers)
            return Context("admin", "default", "default", ADMIN_ROLES, request_id=request_id)
        return self._from_headers(scope["client"][0], headers, request_id)

    def _refuse_web_pages(self, headers: Headers) -> None:
        """Without identities, a web page that somebody on this machine looks at must not be able to act as the admin."""
        if self._anywhere:
            return
        host = headers.get("host", "localhost")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        foreign = "origin" in headers and headers["origin"] not in self._origins
        if foreign or not is_loopback(name.strip("[]")):
            raise Forbidden(
                'With identity "none" only requests to a loopback address are served, and none that a web page made. '
                "Use http://127.0.0.1, or set another identity"
            )

    def _from_headers(self, peer: str, headers: Headers, request_id: str) -> Context:
        said: dict[bytes, str] = {}
        for name, value in headers.raw:
            if name in SAID:
                if name in said:  # one by the middleware, one by the client: nobody can tell which
                    raise Unauthenticated(UNVERIFIED)
                if len(value) > LONGEST and name != b"x-roles":
                    raise HeadersTooLarge(f"{name.decode()} is longer than {LONGEST} characters")
                said[name] = value.decode("latin-1")
        if not self._trusted(peer) or said.get(b"x-identity-status") != "Confirmed":
            raise Unauthenticated(UNVERIFIED)
        roles = frozenset(role.strip().lower() for role in said.get(b"x-roles", "").split(",") if role.strip())
        return Context(
            user=said.get(b"x-user-id") or None,
            project=said.get(b"x-project-id") or said.get(b"x-tenant-id") or None,
            domain=said.get(b"x-domain-id") or None,
            roles=roles,
            system_scope=bool(said.get(b"openstack-system-scope")),
            request_id=request_id,
        )

    def _trusted(self, peer: str) -> bool:
        if is_loopback(peer):
            return True
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)
