"""What may be fetched: the rules for URLs and addresses that users name. Pure but for the look-up of a name, which is handed in.

docs/design/outbound.md says why each rule is there.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urljoin

from ikon.config import PRIVATE, Egress
from ikon.problems import SourceNotAllowed

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: Looks a name up: every address that it has, as text. Raises OSError.
Resolver = Callable[[str], Awaitable[Sequence[str]]]

URL_BYTES = 8 * 1024
DNS_S = 10.0
#: What RFC 3986 lets a URL hold; no space, control, backslash or anything beyond ASCII.
CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
PARTS = re.compile(r"(https?)://([^/?#]*)([^?#\[\]]*)(\?[^#\[\]]*)?(#[^#]*)?", re.IGNORECASE)
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([1-9][0-9]{0,4}))?")
NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
#: A name that ends in a number is an IPv4 address to someone (WHATWG URL, "ends in a number"): only the form that all read alike passes.
NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
QUAD = re.compile(r"(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})")


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part) for part in text.split())


#: Never a source of data, whatever is allowed (IANA special-purpose registries; metadata services of clouds).
NEVER = {
    "unspecified": _networks("0.0.0.0/8 ::/128"),
    "a metadata service": _networks("169.254.169.254 100.100.100.200 168.63.129.16 fd00:ec2::254 fd20:ce::254"),
    "link-local": _networks("169.254.0.0/16 fe80::/10"),
    "multicast": _networks("224.0.0.0/4 ff00::/8"),
    "reserved": _networks("192.0.0.0/24 192.88.99.0/24 240.0.0.0/4 2001::/23 100::/64"),
    "for documentation": _networks("192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20"),
    "for benchmarks": _networks("198.18.0.0/15"),
}
LOCAL = _networks(" ".join(PRIVATE))
MAPPED, NAT64, SIX_TO_FOUR, GLOBAL = (ipaddress.IPv6Network(n) for n in ("::ffff:0:0/96", "64:ff9b::/96", "2002::/16", "2000::/3"))
#: The middle of an ISATAP address, before its IPv4 address (RFC 5214, 6.1).
ISATAP = (0x00005EFE, 0x02005EFE)


class Target(NamedTuple):
    """One URL, taken apart: what to connect to and what to ask for. `path` begins with a slash and holds the query.

    chosen: its origin is written in the settings or in Keystone's catalogue, so that only addresses that are never a source are closed.
    """

    scheme: str
    host: str
    port: int
    path: str
    literal: Address | None
    chosen: bool = False

    @property
    def authority(self) -> str:
        """The host as a URL and the Host header write it, with the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a log may say of a URL, whose path and query may hold a secret."""
        return f"{self.scheme}://{self.authority}"


def take_apart(url: str) -> Target:
    """A URL in the one reading that everybody shares. Raises ValueError with the reason, for the operator."""
    parts = PARTS.fullmatch(url) if len(url) <= URL_BYTES and CHARACTERS.fullmatch(url) else None
    authority = AUTHORITY.fullmatch(parts[2]) if parts else None
    if parts is None or authority is None:
        raise ValueError("not an http or https URL of host, port and path in the strict form of RFC 3986")
    scheme, host, port = parts[1].lower(), authority[1].lower(), int(authority[2] or 0)
    port = port or (443 if scheme == "https" else 80)
    if port > 65535:
        raise ValueError(f"port {port} does not exist")
    name, literal = _host(host)
    return Target(scheme, name, port, (parts[3] or "/") + (parts[4] or ""), literal)


def _host(host: str) -> tuple[str, Address | None]:
    if host.startswith("["):
        address = ipaddress.IPv6Address(host[1:-1])
        return str(address), address
    name = host.removesuffix(".")
    if NUMBER.fullmatch(name):
        if not QUAD.fullmatch(host):
            raise ValueError(f"{host} is a number that not everybody reads alike")
        return host, ipaddress.IPv4Address(host)
    if not NAME.fullmatch(name):
        raise ValueError(f"{host} is not a host name")
    return name, None


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address carries and that some machine on the way may take it for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    number = int(address)
    if address in MAPPED or address in NAT64 or (number >> 32) & 0xFFFFFFFF in ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF) if address in SIX_TO_FOUR else None


def why_not(address: Address, opened: Sequence[Network] = ()) -> str | None:
    """Why an address may not be a source; None when it may: globally routable unicast, or private or loopback and in an opened network."""
    for what, networks in NEVER.items():
        if any(address in network for network in networks):
            return f"{address} is {what}"
    if (inner := _inner(address)) is not None:
        # who translates NAT64 or 6to4 would take loopback for his own, and not this machine's, which alone may be opened
        if why := why_not(inner, opened if address in MAPPED else [network for network in opened if not network.is_loopback]):
            return f"{address} carries an address: {why}"
        if address in MAPPED or address in NAT64:
            return None
    if any(address in network for network in opened):
        return None
    if any(address in network for network in LOCAL):
        return f"{address} is private or loopback, and not in egress.allowed_networks"
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL:
        return f"{address} is not globally routable"
    return None


def is_own(address: Address) -> bool:
    """Whether an address is this machine's: what is sent to it would leave from it. Nothing is sent."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False  # no way there, so no way to fetch from it either


class Gate:
    """Judges every URL, and every address that its host has, before a connection is made.

    closed: hosts that Ikon itself stands on; no URL leads to them.
    """

    def __init__(
        self,
        settings: Egress,
        resolve: Resolver,
        closed: Iterable[str] = (),
        own: Callable[[Address], bool] = is_own,
    ) -> None:
        self._resolve, self._closed, self._own = resolve, tuple(closed), own
        self._ports = settings.allowed_ports
        self._hosts = frozenset(settings.allowed_hosts)
        self._networks = tuple(ipaddress.ip_network(network) for network in settings.allowed_networks)
        self._private = tuple(network for network in LOCAL if not network.is_loopback)

    def target(self, url: str, base: Target | None = None, *, chosen: bool = False) -> Target:
        """The target of a URL, or of a redirect from `base`. Looks no name up. Raises SourceNotAllowed.

        chosen: the operator chose where the URL leads; so does a redirect that stays at the origin of one that was.
        """
        try:
            if base is not None:
                if not CHARACTERS.fullmatch(url):
                    raise ValueError("the redirect is not a URL")
                url = urljoin(base.origin + base.path, url)
            target = take_apart(url)
            if base is not None and base.scheme == "https" and target.scheme == "http":
                raise ValueError("a redirect from https to http")
            chosen = chosen if base is None else base.chosen and base.origin == target.origin
            target = target._replace(chosen=chosen)
            if not chosen and target.port not in self._ports:
                raise ValueError(f"port {target.port} is not in egress.allowed_ports")
            if target.literal is not None and (why := self._why_not(target, target.literal)):
                raise ValueError(why)
        except ValueError as error:
            raise SourceNotAllowed(self._ports, because=str(error)) from None
        return target

    async def addresses(self, target: Target) -> list[Address]:
        """The addresses of a target, each judged; whoever connects to another has not asked. One bad answer spoils the name.

        Raises ValueError with the reason, and OSError where the name cannot be looked up within DNS_S seconds.
        """
        async with asyncio.timeout(DNS_S):
            found = [target.literal] if target.literal is not None else await self._look_up(target.host)
            closed = {address for host in self._closed for address in await self._look_up(host)} if not target.chosen else set()
        for address in found:
            if why := self._why_not(target, address):
                raise ValueError(f"{target.host}: {why}")
            if address in closed or _inner(address) in closed:
                raise ValueError(f"{target.host}: {address} is a server that Ikon itself uses")
        if not found:
            raise ValueError(f"{target.host} has no address")
        return list(dict.fromkeys(found))

    async def _look_up(self, host: str) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            return [ipaddress.ip_address(text) for text in await self._resolve(host)]

    def _why_not(self, target: Target, address: Address) -> str | None:
        if target.chosen:
            return why_not(address, LOCAL)
        opened = self._networks + (self._private if target.host in self._hosts else ())
        if why := why_not(address, opened):
            return why
        inner = _inner(address)
        for each in (address, inner) if inner else (address,):
            named = any(network.num_addresses == 1 and each in network for network in self._networks)
            if not named and not each.is_loopback and self._own(each):
                return f"{each} is this machine's own, and not itself in egress.allowed_networks"
        return None
