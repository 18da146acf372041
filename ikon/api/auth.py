"""Who asks: from what the connection and the headers say to a Context. The rest of the house never looks at either."""

import base64
import ipaddress

from starlette.datastructures import Headers

from ikon import policy
from ikon.api.address import Proxies, ip
from ikon.api.request import Request
from ikon.config import is_loopback
from ikon.context import Context
from ikon.keystone import TOKEN_FORM
from ikon.kit import Kit
from ikon.model.user import CONTROL, with_implied
from ikon.problems import Forbidden, HeadersTooLarge, Unauthenticated
from ikon.service import users

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
CHALLENGE = {"WWW-Authenticate": 'Basic realm="Ikon", charset="UTF-8"'}
READING = frozenset(("GET", "HEAD", "OPTIONS"))


class Identity:
    """Establishes callers as the setting `identity` says."""

    def __init__(self, kit: Kit, proxies: Proxies) -> None:
        self._kit, settings = kit, kit.settings
        self._mode = settings.identity
        self._anywhere = settings.none_beyond_loopback
        self._origins = frozenset(settings.cors.allowed_origins)
        uri = settings.keystone.www_authenticate_uri or settings.keystone.url
        challenges = {"users": CHALLENGE, "keystone": {"WWW-Authenticate": f'Keystone uri="{uri}"'}}
        self._challenge = challenges.get(settings.identity)
        self._service_roles = frozenset(role.lower() for role in settings.keystone.service_roles)
        self._proxies = proxies

    async def context(self, request: Request, request_id: str) -> Context:
        """The caller of one request. Raises Unauthenticated, Forbidden, HeadersTooLarge, TooManyTries, Busy, IdentityDown."""
        client, headers = request.scope["client"], request.headers
        if request.scope["server"][1] is None:  # the Unix socket: only this server's own user can connect to it
            return Context("operator", "default", "default", ADMIN_ROLES, request_id=request_id, local=True)
        if client is None:  # the connection is over: nobody knows any more whose it was
            raise Unauthenticated(UNVERIFIED, headers=self._challenge)
        if self._mode == "none":
            self._refuse_web_pages(headers)
            return Context("admin", "default", "default", ADMIN_ROLES, request_id=request_id)
        if self._mode == "users":
            return policy.appointed(await self._from_users(client[0], request, request_id))
        if self._mode == "keystone":
            return policy.appointed(await self._from_keystone(request, request_id))
        return policy.appointed(self._from_headers(client[0], headers, request_id))

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

    async def _from_users(self, peer: str, request: Request, request_id: str) -> Context:
        """A built-in user, by HTTP Basic. A wrong password and a name that nobody has are answered alike."""
        headers = request.headers
        origin = headers.get("origin", "")
        own = origin.partition("://")[2] == headers.get("host") or (request.public or "").startswith(f"{origin}/")
        if origin and request.method not in READING and origin not in self._origins and not own:
            # a browser that has asked for the password once sends it along with what any page makes it send
            raise Forbidden("Pages of this origin may not use this service. The operator may name it in cors.allowed_origins")
        name, password = _credentials(headers)
        user = await users.authenticate(self._kit, name, password, self._address(peer, headers))
        if user is None:
            raise Unauthenticated(UNVERIFIED, headers=self._challenge)
        return Context(user.name, user.project, "default", with_implied(user.roles), request_id=request_id)

    async def _from_keystone(self, request: Request, request_id: str) -> Context:
        """The owner of a token.

        A service that passes a request on proves with a token of its own that it may: then the user's may have expired meanwhile, and is
        not held to access rules, which name the requests that the user makes. A bad token of a service is as none, and so are two of one
        kind in one request.
        """
        keystone = self._kit.keystone
        assert keystone is not None
        said, service_said = _only(request.headers, "x-auth-token"), _only(request.headers, "x-service-token")
        service = await keystone.token(service_said) if service_said else None
        passed_on = service is not None and not service.roles.isdisjoint(self._service_roles)
        token = await keystone.token(said, expired=passed_on)
        if token is None or not (passed_on or token.allows(request.method, request.scope["path"])):
            raise Unauthenticated(UNVERIFIED, headers=self._challenge)
        return Context(
            user=token.user,
            project=token.project,
            domain=token.domain,
            roles=token.roles,
            system_scope=token.system,
            service_roles=service.roles if service and passed_on else frozenset(),
            token=said,
            request_id=request_id,
        )

    def _address(self, peer: str, headers: Headers) -> str:
        """Where a request comes from: proxies of `trusted_proxies` are believed about it, and nobody else. IPv6 by network, /64."""
        hops = [hop.strip() for hop in ",".join(headers.getlist("x-forwarded-for")).split(",") if hop.strip()]
        while hops and self._proxies.list(peer) and ip(hops[-1]):  # what is no address may be new each time: the proxy's own counts
            peer = hops.pop()
        address = ip(peer)
        return str(ipaddress.ip_network((address, 64), strict=False)) if address and address.version == 6 else str(address or peer)

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
            token=token if TOKEN_FORM.fullmatch(token := headers.get("x-auth-token", "")) else None,
            request_id=request_id,
        )

    def _trusted(self, peer: str) -> bool:
        return is_loopback(peer) or self._proxies.list(peer)


def _only(headers: Headers, name: str) -> str:
    """The value of a header that came once; empty otherwise, since nobody can tell which of two counts."""
    said = headers.getlist(name)
    return said[0] if len(said) == 1 else ""


def _credentials(headers: Headers) -> tuple[str, str]:
    """Name and password of HTTP Basic (RFC 7617). Raises Unauthenticated, with what is wrong about the form."""
    said = headers.getlist("authorization")
    scheme, _, encoded = said[0].strip().partition(" ") if len(said) == 1 else ("", "", "")
    if scheme.lower() != "basic":
        raise Unauthenticated(UNVERIFIED, headers=CHALLENGE)
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except ValueError:  # of the decoder of base64, and of that of UTF-8
        text = ""
    name, colon, password = text.partition(":")
    if not colon or CONTROL.search(text):
        wanted = "Authorization: after Basic comes the base64 of NAME:PASSWORD in UTF-8, without control characters"
        raise Unauthenticated(wanted, headers=CHALLENGE)
    return name, password
