"""Passwords: hashed with argon2 on a few threads, remembered for minutes, tried a few times in a minute. Knows no user, no table, no HTTP.

What was verified is remembered under a keyed hash of the name, the password *and the stored hash*: whoever asks brings the stored hash from
the database, so that a new password or a removed user counts at once, in every process, without anybody being told.
"""

import asyncio
import functools
import hashlib
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from ikon import log, metrics
from ikon.problems import Busy, TooManyTries
from ikon.threads import Pool

if TYPE_CHECKING:
    from argon2 import PasswordHasher

P = ParamSpec("P")
T = TypeVar("T")

#: argon2id's parameters as OWASP's Password Storage Cheat Sheet has them: 30 ms and 19 MiB for each password that is looked at.
TIME, MEMORY_KIB, LANES = 2, 19 * 1024, 1
#: Passwords looked at in one moment, and others that wait for that; more are told to come again.
THREADS, WAITING = 2, 64
#: A password that was right is known to be so for this long, in seconds, for so many users.
KEPT_S, KEPT = 300.0, 4096
#: With one name from one address so many wrong passwords are taken at once, then one in so many seconds.
TRIES, AGAIN_S = 10, 6.0
#: Names and addresses whose wrong passwords are counted; each entry costs an attacker one run of argon2.
COUNTED = 10_000
#: What the password of an unknown name is compared with: the same work, and no password has it.
NOBODY = f"$argon2id$v=19$m={MEMORY_KIB},t={TIME},p={LANES}${'A' * 22}${'A' * 43}"


class Passwords:
    """Makes hashes of passwords and compares passwords with them. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pool = Pool("passwords", THREADS)
        self._waiting = 0
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()  # until when, the oldest first
        self._owed: OrderedDict[bytes, float] = OrderedDict()  # when the wrong passwords so far will be forgotten
        self._asked: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    async def hash(self, password: str) -> str:
        """What to store of a password. Raises Busy."""
        return await self._run(lambda: self._hasher.hash(password))

    async def match(self, name: str, password: str, stored: str | None, address: str) -> bool:
        """Whether this is the password whose hash is stored. stored None, for a name that nobody has: False, after the same work.

        Raises TooManyTries when this address has been wrong about this name too often, Busy.
        """
        who, credentials = self._digest(name, address), self._digest(name, password, stored or "")
        if self._remembered(who, credentials):
            return True
        lock = self._asked.setdefault(credentials, asyncio.Lock())
        async with lock:  # many requests with one password look at it once
            if self._remembered(who, credentials):
                return True
            self._charge(who, AGAIN_S)  # before the work: many tries at one time are many tries
            try:
                right = await self._run(self._verify, stored or NOBODY, password)
            except Busy:
                self._charge(who, -AGAIN_S)  # it was not looked at
                raise
            if right:
                self._charge(who, -AGAIN_S)
                self._remember(credentials)
            else:
                metrics.PASSWORDS_REFUSED.labels("wrong").inc()
                if self._wait_s(who) > 0:
                    log.get().warning("too many wrong passwords", address=address)
            return right

    def close(self) -> None:
        """Let the threads end."""
        self._pool.close()

    def _remembered(self, who: bytes, credentials: bytes) -> bool:
        """Whether the password was found right lately. Raises TooManyTries: what is remembered must not help to guess on."""
        if (wait_s := self._wait_s(who)) > 0:
            metrics.PASSWORDS_REFUSED.labels("tries").inc()
            seconds = math.ceil(wait_s)
            raise TooManyTries(f"Too many wrong passwords for this name from this address. Wait {seconds} s", retry_after_s=seconds)
        return self._right.get(credentials, 0.0) > self._clock()

    def _remember(self, credentials: bytes) -> None:
        self._right[credentials] = self._clock() + KEPT_S
        self._right.move_to_end(credentials)
        if len(self._right) > KEPT:
            self._right.popitem(last=False)

    def _charge(self, who: bytes, seconds: float) -> None:
        """Put off by so much when the wrong passwords are forgotten."""
        now = self._clock()
        owed = max(self._owed.pop(who, 0.0), now) + seconds
        if owed > now:
            self._owed[who] = owed
        if len(self._owed) > COUNTED:
            self._owed.popitem(last=False)

    def _wait_s(self, who: bytes) -> float:
        """Seconds until another try is free; not above 0 when one is."""
        return self._owed.get(who, 0.0) - self._clock() - (TRIES - 1) * AGAIN_S

    def _digest(self, *parts: str) -> bytes:
        """A keyed hash: what is remembered tells nobody a password. No part holds a NUL."""
        return hashlib.blake2b("\0".join(parts).encode(), key=self._key, digest_size=32).digest()

    async def _run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._waiting >= THREADS + WAITING:
            raise Busy("Too many passwords are being checked", retry_after_s=1)
        self._waiting += 1
        try:
            return await self._pool.run(fn, *args, **kwargs)
        finally:
            self._waiting -= 1

    @functools.cached_property
    def _hasher(self) -> "PasswordHasher":
        from argon2 import PasswordHasher  # 20 ms and 3 MiB that a server without users does not pay

        return PasswordHasher(time_cost=TIME, memory_cost=MEMORY_KIB, parallelism=LANES)

    def _verify(self, stored: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False
