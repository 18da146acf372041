"""Where clients find this server: what absolute links begin with, and which proxies are believed about it."""

import ipaddress
import re
from collections.abc import Sequence

from ikon.api.request import Request
from ikon.config import Settings
from ikon.problems import BadRequest

#: A host as it stands in a URL, an address of IPv6 in brackets, with or without its port.
HOST = re.compile(r"([A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
#: What a proxy may take off the front of a path. No segment is dots alone.
PREFIX = re.compile(r"(/(?!\.+(/|$))[A-Za-z0-9._~-]+){1,10}/?|/")
#: Characters of one value.
LONGEST = 260
USUAL = {"http": "80", "https": "443"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The networks of the setting `trusted_proxies`."""

    def __init__(self, settings: Settings) -> None:
        self._networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = [
            ipaddress.ip_network(network) for network in settings.trusted_proxies
        ]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._networks)

    def list(self, peer: str) -> bool:
        """Whether an address is one of a proxy's."""
        address = ip(peer)
        return address is not None and any(address in network for network in self._networks)


class PublicAddress:
    """What links begin with, by the setting `public_endpoint`, or else by what a trusted proxy says of the request that it got."""

    def __init__(self, settings: Settings, proxies: Proxies) -> None:
        self._endpoint, self._proxies = settings.public_endpoint.rstrip("/"), proxies

    def of(self, request: Request) -> str | None:
        """The URL, ended by a slash; None where the request itself names it, by its Host. Raises BadRequest naming the proxy's header."""
        if self._endpoint:
            return f"{self._endpoint}/"
        client = request.scope["client"]
        if not self._proxies or client is None or not self._proxies.list(client[0]):
            return None
        scheme = _said(request, "proto", re.compile("(?i)https?"), "http or https").lower()
        host = _said(request, "host", HOST, "a host, with or without a port")
        port = _said(request, "port", re.compile("[0-9]{1,5}"), "the number of a port")
        prefix = _said(request, "prefix", PREFIX, "a path that begins with a slash").rstrip("/")
        if not (scheme or host or port or prefix):
            return None
        base = request.base_url
        scheme, host = scheme or base.scheme, host or base.netloc
        if port and port != USUAL[scheme] and not re.search(r":[0-9]+$", host):
            host = f"{host}:{port}"
        return f"{scheme}://{host}{prefix}/"


def _said(request: Request, name: str, form: re.Pattern[str], allowed: str) -> str:
    """What the nearest proxy says in an X-Forwarded- header: its last value, those before came from further away. Empty: nothing."""
    value = ",".join(request.headers.getlist(f"x-forwarded-{name}")).rpartition(",")[2].strip()
    port = value.rpartition(":")[2] if name == "host" else value if name == "port" else ""
    if value and (len(value) > LONGEST or not form.fullmatch(value) or (port.isdigit() and not 0 < int(port) < 65536)):
        raise BadRequest(f"X-Forwarded-{name.capitalize()} is not {allowed}.")
    return value


def ip(text: str) -> Address | None:
    """The address of a host, that of IPv4 where IPv6 only wraps it; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
