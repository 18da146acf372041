"""Keystone, through keystoneauth1: whose a token is, remembered for a while in this process and, where configured, in memcached; and
the limits that it sets for projects.

The library is imported only here: it and what it brings along cost a fifth of a second and 30 MB. It blocks, so it works on threads.
"""

import asyncio
import functools
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from ikon import log, metrics
from ikon.config import Settings, check_keystone
from ikon.problems import IdentityDown, StartError
from ikon.threads import Late, Pool

if TYPE_CHECKING:
    from keystoneauth1.session import Session

T = TypeVar("T")
#: Tokens asked about at one time, and answers that a process remembers.
THREADS, KEPT = 8, 10_000
#: Seconds for which it is remembered that a text is no token. Shorter, as a token may come before its replica has it.
REFUSED_S = 10.0
#: Seconds after which a client should come again whose token nobody can look at now, and that memcached may take.
AGAIN_S, MEMCACHED_S = 5, 0.5
#: What can be a token, and be sent on in a header.
TOKEN_FORM = re.compile(r"[!-~]{1,8192}")
#: The type under which an access rule, and Keystone's catalogue, know an image service.
SERVICE = "image"
#: Parts of an access rule's path: a name in braces and a star are one segment, or a part of it; two stars are anything.
PART = re.compile(r"\{[^}]*\}|\*\*|\*|[^{*]+|\{")


class AccessRule(Struct, frozen=True):
    """What an application credential was made for: requests of one method to some paths of one service."""

    service: str
    method: str
    path: str

    def allows(self, method: str, path: str) -> bool:
        """Whether it covers a request to the image service."""
        return self.service == SERVICE and self.method == method and _covers(self.path, path)


def _covers(pattern: str, path: str) -> bool:
    """Whether an access rule's path is that of a request. Users write both: a regular expression could be made to try for years.

    Bit n of `there` says that what was read of the pattern may end before the path's n-th character.
    """
    letters, inside = _places(path)
    there = 1
    for part in PART.findall(pattern):
        if part == "**":
            there = -(there & -there) & ((2 << len(path)) - 1)  # from the first on, anywhere
        elif part == "*" or (part[0] == "{" and part[-1] == "}"):
            begun = there & inside
            there = (((inside + begun) ^ inside | begun) & inside) << 1  # the sum's carries run to the end of the segment
        else:
            for letter in part:
                there = (there & letters.get(letter, 0)) << 1
    return there >> len(path) == 1


@functools.lru_cache(16)
def _places(path: str) -> tuple[dict[str, int], int]:
    """Where in a path each character stands, and where any but a slash does, as bits."""
    letters: dict[str, int] = {}
    for at, letter in enumerate(path):
        letters[letter] = letters.get(letter, 0) | 1 << at
    return letters, ((1 << len(path)) - 1) & ~letters.get("/", 0)


class Token(Struct, frozen=True):
    """What Keystone says of a token. expires: seconds since 1970. rules: None where the token is good for every request."""

    user: str
    project: str | None
    domain: str | None
    roles: frozenset[str]
    system: bool
    expires: float
    rules: tuple[AccessRule, ...] | None = None

    def allows(self, method: str, path: str) -> bool:
        """Whether its access rules, if it has any, cover a request to the image service."""
        return self.rules is None or any(rule.allows(method, path) for rule in self.rules)


class Kept(Struct, frozen=True):
    """What is remembered of a text: the token, or that it is none; and until when, in seconds since 1970."""

    token: Token | None
    until: float


class Keystone:
    """Asks one Keystone about tokens, as a user of its own. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Nobody is asked yet: a Keystone that is away does not keep a server from starting. Raises StartError."""
        check_keystone(settings.keystone)
        self._settings = settings.keystone
        self._session = _session(settings)
        self._memcached = Memcached(settings) if settings.keystone.memcached else None
        self._pool = Pool("keystone", THREADS, 2 * self._settings.timeout_s)
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()  # the oldest first
        self._asked: dict[bytes, asyncio.Task[Kept]] = {}

    async def token(self, text: str, *, expired: bool = False) -> Token | None:
        """What a text is a token for; None when it is none, or expired or revoked. expired: such a one is good too.

        A revoked token is known as good for up to `cache_s` more. Raises IdentityDown.
        """
        if not TOKEN_FORM.fullmatch(text):
            return None
        key = hashlib.sha256(f"{int(expired)}{text}".encode()).digest()
        kept = self._kept.get(key)
        if kept is None or kept.until <= time.time():
            if key not in self._asked:  # many requests with one token ask once
                self._asked[key] = asyncio.create_task(self._find(key, text, expired=expired))
                self._asked[key].add_done_callback(lambda _: self._asked.pop(key, None))
            try:
                async with asyncio.timeout(2 * self._settings.timeout_s):  # the others in front of it may all be waiting for Keystone
                    kept = await asyncio.shield(self._asked[key])
            except TimeoutError:
                raise IdentityDown(retry_after_s=AGAIN_S) from None
        else:
            metrics.TOKENS.labels("memory").inc()
        token = kept.token
        return token if token and (expired or token.expires > time.time()) else None

    def endpoint(self, service: str) -> str | None:
        """Where the catalogue has a service of this type in our region; None: nowhere. Blocks. Raises what keystoneauth1 raises."""
        found = self._session.get_endpoint(service_type=service, region_name=self._settings.region or None)
        return str(found) if found else None

    async def endpoints(self, text: str, interface: str) -> dict[str, str]:
        """Where image services are by the catalogue of a token, which may have expired: URLs by region.

        interface: public, internal or admin. The catalogue is the operator's, users only see it. Raises IdentityDown.
        """
        try:
            return await self._pool.run(self._ask, text, "?allow_expired=1", lambda said: _endpoints(said, interface)) or {}
        except Late:
            raise IdentityDown(retry_after_s=AGAIN_S) from None

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()

    async def _find(self, key: bytes, text: str, *, expired: bool) -> Kept:
        try:
            kept = await self._pool.run(self._look_up, key, text, expired)
        except Late:
            raise IdentityDown(retry_after_s=AGAIN_S) from None
        self._kept[key] = kept
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept

    def _look_up(self, key: bytes, text: str, expired: bool) -> Kept:
        if self._memcached and (kept := self._memcached.get(key)) and kept.until > time.time():
            metrics.TOKENS.labels("memcached").inc()
            return kept
        token = self._ask(text, "?nocatalog" + ("&allow_expired=1" if expired else ""), _token)
        kept = Kept(token, time.time() + (self._settings.cache_s if token else min(REFUSED_S, self._settings.cache_s)))
        metrics.TOKENS.labels("keystone" if token else "refused").inc()
        if self._memcached and token:
            self._memcached.put(key, kept)
        return kept

    def _ask(self, text: str, query: str, read: Callable[[dict[str, Any]], T]) -> T | None:
        """What is read of Keystone's description of a token; None where it is none. Raises IdentityDown."""
        from keystoneauth1.exceptions import ClientException

        headers = {"X-Subject-Token": text, "OpenStack-Identity-Access-Rules": "1.0"}
        try:
            answer = self._session.get(
                f"{self._settings.url.rstrip('/')}/auth/tokens{query}", headers=headers, raise_exc=False, redirect=False, log=False
            )
            if answer.status_code == 404:
                return None
            if answer.status_code == 200:
                return read(answer.json()["token"])
            why = f"it answers {answer.status_code}: {answer.text[:200]}"
        except (ClientException, ValueError, KeyError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
        metrics.TOKENS.labels("failed").inc()
        log.get().warning("identity service cannot be asked", url=self._settings.url, because=why)
        raise IdentityDown(retry_after_s=AGAIN_S)


class UnifiedLimits:
    """Asks one Keystone what projects may hold, as a user that may read the system. Remembers nothing."""

    def __init__(self, settings: Settings) -> None:
        """Nobody is asked yet. Raises StartError."""
        check_keystone(settings.keystone)
        if settings.keystone.application_credential_id:
            raise StartError(
                "config: quota.from_keystone: an application credential is good for one project, and limits are those of all. "
                "Set keystone.username and keystone.password, of a user with the role reader on the system"
            )
        self._settings = settings.keystone
        self._session = _session(settings, system=True)
        self._pool = Pool("limits", THREADS, 2 * self._settings.timeout_s)

    async def of(self, project: str) -> dict[str, int]:
        """All limits of the image service that hold for a project, by name; -1: there is none. Raises IdentityDown."""
        try:
            async with asyncio.timeout(2 * self._settings.timeout_s):
                return await self._pool.run(self._ask, project)
        except (Late, TimeoutError):
            raise IdentityDown("The service that sets your project's limits does not answer", retry_after_s=AGAIN_S) from None

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()

    def _ask(self, project: str) -> dict[str, int]:
        from keystoneauth1.exceptions import ClientException

        try:
            service, region = self._service()
            registered = self._list("registered_limits", {"service_id": service})
            own = [each for each in self._list("limits", {"service_id": service, "project_id": project}) if each["project_id"] == project]
            found: dict[str, int] = {}
            for listed, name in ((registered, "default_limit"), (own, "resource_limit")):
                for wanted in (None, region):  # one of the region is closer
                    found |= {str(each["resource_name"]): int(each[name]) for each in listed if each["region_id"] == wanted}
            return found
        except (ClientException, ValueError, LookupError, TypeError) as error:
            why = f"{type(error).__name__}: {error}"
        log.get().warning("limits cannot be asked for", url=self._settings.url, because=why)
        raise IdentityDown("The service that sets your project's limits does not answer", retry_after_s=AGAIN_S)

    def _service(self) -> tuple[str, str]:
        """Id and region of the image service, by the catalogue. Raises LookupError, ValueError."""
        catalogue = self._session.auth.get_access(self._session).service_catalog.catalog  # type: ignore[union-attr]
        found = [entry for entry in catalogue if entry["type"] == SERVICE]
        regions = {endpoint["region_id"] for entry in found for endpoint in entry["endpoints"]}
        if len(found) != 1 or (not self._settings.region and len(regions) != 1):
            listed = ", ".join(sorted(map(str, regions))) or "none"
            raise LookupError(f"the catalogue has {len(found)} image services, in regions {listed}; [keystone] region names one of several")
        return str(found[0]["id"]), self._settings.region or str(regions.pop())

    def _list(self, what: str, wanted: dict[str, str]) -> list[dict[str, Any]]:
        answer = self._session.get(f"{self._settings.url.rstrip('/')}/{what}", params=wanted, redirect=False, log=False)
        return list(answer.json()[what])


class Memcached:
    """What the processes of a cluster tell each other of tokens. Entries are signed; one that is not ours, or no memcached, is none."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartError."""
        try:
            from pymemcache.client.hash import HashClient  # type: ignore[import-untyped]
        except ImportError:
            raise _missing() from None
        servers = [(host.strip("[]"), int(port)) for host, _, port in (server.rpartition(":") for server in settings.keystone.memcached)]
        self._client = HashClient(servers, connect_timeout=MEMCACHED_S, timeout=MEMCACHED_S, use_pooling=True, ignore_exc=True)
        self._secret = settings.keystone.memcached_secret.encode()

    def get(self, key: bytes) -> Kept | None:
        """What is known of a token by its hash."""
        found = self._client.get(self._name(key))
        if not isinstance(found, bytes) or not hmac.compare_digest(found[:32], self._mac(key, found[32:])):
            return None
        return msgspec.json.decode(found[32:], type=Kept)

    def put(self, key: bytes, kept: Kept) -> None:
        """Tell the others, for as long as it counts."""
        body = msgspec.json.encode(kept)
        self._client.set(self._name(key), self._mac(key, body) + body, expire=max(1, int(kept.until - time.time())))

    def _name(self, key: bytes) -> str:
        return f"ikon-token-{self._mac(key, b'').hex()}"  # keyed: who reads memcached cannot find the entry of a token that he holds

    def _mac(self, key: bytes, body: bytes) -> bytes:
        return hmac.digest(self._secret, key + body, "sha256")


def _token(said: dict[str, Any]) -> Token:
    """A token as Keystone describes it. Raises KeyError, TypeError, ValueError when it is no such description."""
    rules = said.get("application_credential", {}).get("access_rules")
    return Token(
        user=said["user"]["id"],
        project=said["project"]["id"] if "project" in said else None,
        domain=said["domain"]["id"] if "domain" in said else None,
        roles=frozenset(role["name"].lower() for role in said.get("roles", ())),
        system=bool(said.get("system", {}).get("all")),
        expires=datetime.fromisoformat(said["expires_at"]).timestamp(),
        rules=None if rules is None else tuple(AccessRule(rule["service"], rule["method"], rule["path"]) for rule in rules),
    )


def _endpoints(said: dict[str, Any], interface: str) -> dict[str, str]:
    """The image services of a token's catalogue, by region. Raises KeyError, TypeError when it is no catalogue."""
    services = [service for service in said.get("catalog", ()) if service["type"] == SERVICE]
    found = [endpoint for service in services for endpoint in service["endpoints"] if endpoint["interface"] == interface]
    return {endpoint["region_id"]: endpoint["url"] for endpoint in reversed(found) if endpoint["region_id"]}  # of two in a region the first


def _session(settings: Settings, *, system: bool = False) -> "Session":
    """What asks as the user of the settings, in its project. system: as one who may read the system."""
    try:
        from keystoneauth1.identity import v3
        from keystoneauth1.session import Session
    except ImportError:
        raise _missing() from None
    chosen = settings.keystone
    auth: v3.base.Auth
    if chosen.application_credential_id:
        auth = v3.ApplicationCredential(
            chosen.url,
            application_credential_id=chosen.application_credential_id,
            application_credential_secret=chosen.application_credential_secret,
        )
    else:
        auth = v3.Password(
            chosen.url,
            username=chosen.username,
            password=chosen.password,
            user_domain_name=chosen.domain,
            system_scope="all" if system else None,
            project_name=None if system else chosen.project,
            project_domain_name=None if system else chosen.domain,
        )
    return Session(auth=auth, verify=chosen.ca_file or True, timeout=chosen.timeout_s, user_agent="ikon")


def _missing() -> StartError:
    return StartError("config: identity: install what speaks to Keystone first: pip install 'ikon[openstack]'")
