"""What no type says of settings: what follows from others is filled in, and what contradicts itself refused."""

import base64
import functools
import ipaddress
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ikon.config.callers import Keystone
from ikon.config.environment import PREFIX, in_environment
from ikon.config.imports import PRIVATE, Egress
from ikon.config.messages import help_of
from ikon.config.settings import Settings
from ikon.problems import StartError

#: An origin in the one form in which browsers send it (RFC 6454, 6.2).
ORIGIN = re.compile(r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
#: URL of a service: a region, the key manager, this one. All readers of URLs agree on it; the fetcher reads it more strictly still.
ENDPOINT = re.compile(r"https?://([a-z0-9]([a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~/-]*)?")
#: Characters of a secret that nobody guesses.
SECRET = 32


def completed(settings: Settings) -> Settings:
    """Fill in what follows from other settings, and refuse what contradicts itself. Raises StartError."""
    data = Path(settings.data).absolute()
    changes: dict[str, Any] = {"data": str(data), "node": settings.node or socket.gethostname()}
    changes["database"] = settings.database or f"sqlite:///{data}/ikon.db"
    if not changes["database"].startswith(("sqlite:////", "mysql+", "postgresql+")):
        raise StartError(f"config: database = {settings.database!r}: not a database this server knows. {help_of(Settings, ['database'])}")
    if settings.broker:
        _check_broker(settings.broker)
    if settings.workers > 1 and changes["database"].startswith("sqlite:"):
        raise StartError(
            f"config: workers = {settings.workers}: SQLite is served by one process. Allowed: 1, or set database to MariaDB or PostgreSQL"
        )
    changes["staging"] = msgspec.structs.replace(settings.staging, path=str(Path(settings.staging.path or data / "staging").absolute()))
    changes |= _stores(settings, data)
    _check_address(settings)
    _check_clients(settings)
    if (address := settings.signatures.key_manager) and not ENDPOINT.fullmatch(address):
        raise StartError(f"config: signatures.key_manager = {address!r}: {help_of(Settings, ['signatures', 'key_manager'])}")
    _check_egress(settings.egress)
    _check_regions(settings)
    regions = settings.regions or (settings.identity == "keystone" and settings.secret)  # else the catalogue has them
    offered = [method for method in settings.imports.methods if method != "glance-download" or regions]
    changes["imports"] = msgspec.structs.replace(settings.imports, methods=offered)
    return msgspec.structs.replace(settings, **changes)


def _stores(settings: Settings, data: Path) -> dict[str, Any]:
    """The stores and the default one; where none are set, one of files in the data directory."""
    stores = settings.stores or {"local": {"type": "file", "path": str(data / "images")}}
    for name in stores:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("os_glance"):
            raise StartError(
                f"config: stores.{name}: a store's name has 1 to 64 letters, digits, '_', '.' or '-', and does not begin with os_glance"
            )
    default = settings.default_store or next(iter(stores))
    if default not in stores:
        raise StartError(f"config: default_store = {default!r}: no such store. Allowed: {', '.join(stores)}")
    return {"stores": stores, "default_store": default}


def _check_clients(settings: Settings) -> None:
    """Where clients come from, and what they know this server by."""
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise StartError(f"config: trusted_proxies: {network!r}: {error}. {help_of(Settings, ['trusted_proxies'])}") from None
    if settings.public_endpoint and not ENDPOINT.fullmatch(settings.public_endpoint):
        raise StartError(
            f"config: public_endpoint: {settings.public_endpoint!r} is no URL of a service. "
            "Allowed: http:// or https://, a host in lower case, :PORT and a path, without user, query or fragment. "
            f"{help_of(Settings, ['public_endpoint'])}"
        )
    for origin in settings.cors.allowed_origins:
        if not ORIGIN.fullmatch(origin):
            raise StartError(
                f"config: cors.allowed_origins: {origin!r} is no origin as browsers send it. "
                "Allowed: http:// or https://, a host in lower case, and :PORT where it is not the usual one; no path"
            )


def _check_egress(egress: Egress) -> None:
    for text in egress.allowed_networks:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise StartError(f"config: egress.allowed_networks: {text!r}: {error}. {help_of(Egress, ['allowed_networks'])}") from None
        ranges = [ipaddress.ip_network(name) for name in PRIVATE]
        if not any(network.network_address in wide and network.broadcast_address in wide for wide in ranges):
            raise StartError(
                f"config: egress.allowed_networks: {text!r}: public addresses are open anyway, and others stay closed. "
                f"Allowed: networks within {', '.join(PRIVATE)}"
            )
    for host in egress.allowed_hosts:
        if not re.fullmatch(r"(?!.*\.[0-9]+$)(?![0-9]+$)[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", host) or is_loopback(host):
            raise StartError(
                f"config: egress.allowed_hosts: {host!r}: not the name of a host. "
                "Allowed: names in lower case, without port; addresses belong into allowed_networks, and so does loopback"
            )


def _check_regions(settings: Settings) -> None:
    if settings.secret and len(settings.secret) < SECRET:
        raise StartError(
            f"config: secret: it has {len(settings.secret)} characters. Allowed: {SECRET} or more, as `openssl rand -hex 32` makes"
        )
    for name, region in settings.regions.items():
        alike = [other for other in settings.regions if in_environment(other) == in_environment(name)]
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or len(alike) > 1:
            raise StartError(
                f"config: regions.{name}: a region's name has 1 to 64 letters, digits, '_', '.' or '-', "
                "and differs from others in letters or digits"
            )
        if not ENDPOINT.fullmatch(region.url):
            raise StartError(
                f"config: regions.{name}.url: this is no endpoint. Allowed: http:// or https://, a host in lower case, :PORT and a path "
                "where it has them; no user name, no query"
            )
        if bool(region.user) != bool(region.password) or ":" in region.user or not (region.user + region.password).isprintable():
            raise StartError(
                f"config: regions.{name}: user and password go together, are printable, and the user has no colon. "
                f"The password may come from {PREFIX}REGIONS__{in_environment(name).upper()}__PASSWORD"
            )
        for prefix in region.properties:
            if not prefix or prefix.startswith("os_glance"):
                raise StartError(f"config: regions.{name}.properties: {prefix!r}: the beginning of a property's name, and not os_glance")


def _check_broker(url: str) -> None:
    """The URL is a secret, so that no message repeats it."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise StartError(f"config: broker: this is no URL of a RabbitMQ. {help_of(Settings, ['broker'])}")


def check_keystone(chosen: Keystone) -> None:
    """Only for who serves: commands run where the secrets are not. Raises StartError."""
    parts = urlsplit(chosen.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.rstrip("/").endswith("/v3"):
        raise StartError(f"config: keystone.url = {chosen.url!r}: {help_of(Settings, ['keystone', 'url'])}")
    if not (chosen.application_credential_secret if chosen.application_credential_id else chosen.password):
        name = "application_credential_secret" if chosen.application_credential_id else "password"
        raise StartError(f"config: keystone.{name} is missing. {help_of(Settings, ['keystone', name])}")
    for server in chosen.memcached:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise StartError(f"config: keystone.memcached: {server!r}: {help_of(Settings, ['keystone', 'memcached'])}")
    if chosen.memcached and not chosen.memcached_secret:
        raise StartError(f"config: keystone.memcached_secret is missing. {help_of(Settings, ['keystone', 'memcached_secret'])}")


def webhook_keys(secret: str) -> list[bytes]:
    """The keys that webhooks are signed with, in the form of Standard Webhooks 1.0.0. Raises StartError, which does not repeat them."""
    try:
        keys = [base64.b64decode(text.removeprefix("whsec_"), validate=True) for text in secret.split()]
    except ValueError:
        keys = []
    if not keys or not all(24 <= len(key) <= 64 for key in keys):
        raise StartError(
            "config: events.webhook_secret is missing, or is none. Allowed: whsec_ and base64 of 24 to 64 random bytes. "
            'Make one: echo "whsec_$(openssl rand -base64 32)"'
        )
    return keys


def _check_address(settings: Settings) -> None:
    host, colon, port = settings.listen.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise StartError(f"config: listen = {settings.listen!r}: {help_of(Settings, ['listen'])}")
    if settings.identity == "none" and not is_loopback(settings.address[0]) and not settings.none_beyond_loopback:
        raise StartError(
            f'config: listen = {settings.listen!r}: with identity = "none" everyone who can connect is admin, so only loopback is served. '
            'Set identity = "keystone", "headers" or "users", or none_beyond_loopback = true if this is what you want'
        )


@functools.lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
