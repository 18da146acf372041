"""The one way out: every request that Ikon makes to a host that a user named goes through Fetcher, and Poster's through what it stands on.

Resumes what is cut, gives up what stalls, trickles or lies, and holds less than 1 MiB whatever comes. docs/design/outbound.md says how.
"""

import asyncio
import random
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import cached_property
from typing import Self, TypeVar

from ikon import __version__, log
from ikon.config import Settings
from ikon.problems import (
    SourceBroken,
    SourceChanged,
    SourceDenied,
    SourceNotAllowed,
    SourceProblem,
    SourceTooLarge,
    SourceTooSlow,
    SourceUnreachable,
    StartError,
)
from ikon.threads import Pool
from ikon.transfer.egress import Address, Gate, Resolver, Target, is_own, take_apart
from ikon.transfer.exchange import Answer, ask

T = TypeVar("T")
REDIRECTS = 5
FOLLOWED = (301, 302, 303, 307, 308)
#: Answers that may be other ones a moment later.
PASSING = (408, 425, 429, 500, 502, 503, 504)
#: Failures in a row after which a source is given up; PROGRESS_BYTES of data in between begin a new row.
TRIES, PROGRESS_BYTES = 5, 1 << 20
PAUSE_MOST_S = 30.0
RATE_BYTES_S = 10_000
ADDRESSES = 4
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
HEADERS = {"User-Agent": f"Ikon/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


class _Passing(Exception):
    """A failure that another try may mend: what to raise if none does, and how long the source asks to be left alone."""

    def __init__(self, problem: SourceProblem, wait_s: float = 0) -> None:
        super().__init__(problem.because)
        self.problem, self.wait_s = problem, wait_s


class Fetcher:
    """Opens sources. One for the whole process; it keeps no connection and no state of a source."""

    def __init__(
        self, settings: Settings, *, resolve: Resolver | None = None, own: Callable[[Address], bool] = is_own, pause_s: float = 0.5
    ) -> None:
        """pause_s: before the first retry; it doubles each time. Raises StartError when egress.ca_file or a region's URL is of no use."""
        self.settings, self.pause_s = settings.egress, pause_s
        self._pool = Pool("resolver", 4)
        self.resolve = resolve or self._look_up
        self.gate = Gate(settings.egress, self.resolve, settings.own_servers, own)
        if settings.egress.ca_file:
            _ = self.tls  # a wrong file stops the start, not the first fetch
        for name, region in settings.regions.items():
            try:
                take_apart(region.url)
            except ValueError as error:
                raise StartError(f"config: regions.{name}.url = {region.url!r}: {error}") from None

    @cached_property
    def tls(self) -> ssl.SSLContext:
        """Certificates and names are always verified."""
        context = ssl.create_default_context()
        if self.settings.ca_file:
            try:
                context.load_verify_locations(self.settings.ca_file)
            except OSError as error:
                raise StartError(
                    f"config: egress.ca_file = {self.settings.ca_file!r}: {error}. Allowed: a PEM file of certificates"
                ) from None
        return context

    async def _look_up(self, host: str) -> Sequence[str]:
        found = await self._pool.run(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        return [str(entry[4][0]) for entry in found]

    def check(self, url: str) -> None:
        """Whether a URL may be fetched as far as that can be told without looking its name up. Raises SourceNotAllowed."""
        try:
            self.gate.target(url)
        except SourceNotAllowed as problem:
            log.get().info("source not allowed", because=problem.because)
            raise

    @asynccontextmanager
    async def open(
        self,
        url: str,
        *,
        offset: int = 0,
        validator: str | None = None,
        limit: int | None = None,
        headers: Mapping[str, str] | None = None,
        chosen: bool = False,
        compared: bool = False,
    ) -> "AsyncIterator[Source]":
        """A source whose answer has begun; its blocks come by `async for`.

        offset: first byte wanted. validator: what an earlier source said of itself; other data then raises SourceChanged.
        limit: bytes that the whole may have. headers: sent to this URL alone, never on to where it redirects.
        chosen: see Gate.target. compared: the caller knows the data's digest, so that it may go on after a cut without a validator.
        Raises any SourceProblem, as does the reading; `at` and `validator` of the source then tell where another may go on.
        """
        source = Source(self, url, offset, validator, limit, dict(headers or {}), chosen=chosen, compared=compared)
        try:
            await source.begin()
            yield source
        finally:
            source.close()

    async def begin(self, url: str, offset: int) -> "Source":
        """A source of known data whose answer has begun, for the caller to close. Raises any SourceProblem, as does the reading."""
        source = Source(self, url, offset, None, None, {}, chosen=False, compared=True)
        with ExitStack() as failing:
            failing.callback(source.close)
            await source.begin()
            failing.pop_all()
        return source

    async def reach(self, gate: Gate, target: Target, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Ask the first of a target's addresses that takes a connection, after the gate has judged them all. Raises SourceUnreachable."""
        addresses: list[Address] = []
        tried = []
        try:
            addresses = await gate.addresses(target)
        except (OSError, ValueError) as error:
            tried.append(str(error) or f"{target.host} was not looked up in time")
        for address in addresses[:ADDRESSES]:
            try:
                return await ask(target, address, headers, self.tls if target.scheme == "https" else None, body)
            except OSError as error:
                tried.append(f"{address}: {str(error) or 'no connection in time'}")
        raise SourceUnreachable(because="; ".join(tried))

    def close(self) -> None:
        """Let the threads go."""
        self._pool.close()


class Source:
    """A source being read. `size` is its whole length in bytes, None where not announced; `validator` proves that data is the same later.

    Where both are None, the end of the connection is taken for the end of the data: have a digest to compare.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        url: str,
        offset: int,
        validator: str | None,
        limit: int | None,
        headers: dict[str, str],
        *,
        chosen: bool,
        compared: bool,
    ) -> None:
        self.size: int | None = None
        self.validator = validator
        self.at = offset  # bytes of the whole before the next block
        self._fetcher, self._limit, self._headers = fetcher, limit, headers
        self._url, self._origin = url, ""
        self._chosen, self._compared = chosen, compared
        self._answer: Answer | None = None
        self._known = False  # whether an answer has told what the source is
        self._failures, self._mark, self._because = 0, offset, ""
        self._waited, self._came = 0.0, 0
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + fetcher.settings.total_s

    async def begin(self) -> None:
        """Ask until an answer begins. Raises any SourceProblem."""
        with self._told():
            while self._answer is None:
                try:
                    await self._ask()
                except _Passing as failure:
                    await self._pause(failure)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with self._told():
            while True:
                try:
                    if self._answer is None:
                        await self._ask()
                    block = await self._read()
                    break
                except _Passing as failure:
                    await self._pause(failure)
        if not block:
            raise StopAsyncIteration
        self.at += len(block)
        return block

    def close(self) -> None:
        """Let the connection go."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The operator learns why a source failed, and of its URL no more than the host: the rest may be a secret."""
        try:
            yield
        except SourceProblem as problem:
            log.get().warning(
                "source failed", source=self._origin, at_byte=self.at, problem=type(problem).__name__, because=problem.because
            )
            raise

    async def _pause(self, failure: _Passing) -> None:
        """Wait before the next try, longer each time. Raises the failure's problem where there is none."""
        self.close()
        if self.at - self._mark >= PROGRESS_BYTES:
            self._failures = 0
        self._failures, self._mark, self._because = self._failures + 1, self.at, failure.problem.because
        pause = min(self._fetcher.pause_s * 2 ** (self._failures - 1), PAUSE_MOST_S) * random.uniform(0.5, 1)  # noqa: S311
        pause = max(pause, min(failure.wait_s, PAUSE_MOST_S))
        if self._failures >= TRIES or self._clock() + pause > self._deadline:
            raise failure.problem
        log.get().info("source tried again", source=self._origin, at_byte=self.at, because=failure.problem.because)
        await asyncio.sleep(pause)

    async def _ask(self) -> None:
        """Ask for what is still wanted, follow redirects, and see whether the answer is that."""
        headers = dict(HEADERS)
        if self.at:
            if self._known and self.validator is None and not self._compared:
                raise SourceChanged(because=f"it broke off ({self._because}), and has neither a strong ETag nor Last-Modified to go on by")
            headers["Range"] = f"bytes={self.at}-"
            headers |= {"If-Range": self.validator} if self.validator else {}
        url, secrets, target = self._url, self._headers, None
        for _ in range(REDIRECTS + 1):
            target = self._fetcher.gate.target(url, target, chosen=self._chosen)
            self._origin = target.origin
            try:
                self._answer = answer = await self._fetcher.reach(self._fetcher.gate, target, headers | secrets)
            except SourceUnreachable as problem:
                # a name that is refused is tried again like one that does not exist: neither the text nor the time tells them apart
                raise _Passing(problem) from None
            await self._timed(answer.read_head)
            if answer.status not in FOLLOWED or "location" not in answer.headers:
                return self._accept(answer)
            url, secrets = answer.headers["location"], {}
            self.close()
        raise SourceBroken(f"The source redirects more than {REDIRECTS} times", because="too many redirects")

    async def _timed(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read, as long as something comes at all. Time counts that is spent waiting for the source, not for whoever takes the blocks."""
        began = self._clock()
        left = self._deadline - began
        if left <= 0:
            raise SourceTooSlow(because=f"not done within egress.total_s = {self._fetcher.settings.total_s:g}")
        try:
            async with asyncio.timeout(min(self._fetcher.settings.stall_s, left)):
                return await read()
        except TimeoutError:
            raise _Passing(SourceTooSlow(because=f"no data for {self._clock() - began:.1f} s")) from None
        except OSError as error:
            raise _Passing(SourceBroken("The source broke off before its end", because=str(error) or type(error).__name__)) from None
        finally:
            self._waited += self._clock() - began

    def _accept(self, answer: Answer) -> None:
        """See whether an answer is what was asked for, and of the same data as any before. Raises SourceProblem or _Passing."""
        if answer.status in PASSING:
            wait = answer.headers.get("retry-after", "")
            raise _Passing(SourceDenied(answer.status), float(wait) if re.fullmatch("[0-9]{1,9}", wait) else 0)
        if self.at and answer.status in (200, 416):
            raise SourceChanged(because=f"asked to go on at byte {self.at}, it answered {answer.status}")
        if answer.status not in (200, 206):
            raise SourceDenied(answer.status)
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise SourceBroken(because=f"Content-Encoding {answer.headers['content-encoding']!r}, which was not asked for")
        size, validator = self._part(answer) if answer.status == 206 else answer.length, _validator(answer.headers)
        other_size = self.size is not None and size != self.size  # what came in chunks may tell its size only now
        if other_size or (self.at and self.validator and validator != self.validator):
            raise SourceChanged(because=f"it had {self.size} bytes as {self.validator}, and has {size} as {validator}")
        if self._limit is not None and size is not None and size > self._limit:
            raise SourceTooLarge(f"The source has {size} bytes, {self._limit} are allowed", because="as it announced")
        self.size, self.validator, self._known = size, validator, True
        self._waited, self._came = 0.0, 0

    def _part(self, answer: Answer) -> int:
        """The whole size, by an answer that is a part: the very one asked for, from the first byte to the end."""
        said = answer.headers.get("content-range", "")
        match = CONTENT_RANGE.fullmatch(said)
        if not self.at or match is None:
            raise SourceBroken(because=f"a part (Content-Range {said!r}) where bytes from {self.at} on were asked for")
        first, last = int(match[1]), int(match[2])
        size = int(match[3]) if match[3] != "*" else last + 1
        if first != self.at or last != size - 1 or answer.length not in (None, size - first):
            raise SourceBroken(because=f"Content-Range {said!r} with {answer.length} bytes where bytes from {self.at} on were asked for")
        return size

    async def _read(self) -> bytes:
        assert self._answer is not None
        block = await self._timed(self._answer.read)
        self._came += len(block)
        if self._waited >= self._fetcher.settings.stall_s:
            rate, self._waited, self._came = self._came / self._waited, 0.0, 0
            if block and rate < RATE_BYTES_S:
                raise _Passing(SourceTooSlow(because=f"{rate:.0f} bytes a second"))
        end = self.at + len(block)
        if self._limit is not None and end > self._limit:
            raise SourceTooLarge(f"The source has more than the {self._limit} bytes that are allowed", because="as it came")
        if self.size is not None and (end > self.size or (not block and end < self.size)):
            raise SourceBroken(because=f"{end} bytes where {self.size} were announced")
        return block


def _validator(headers: Mapping[str, str]) -> str | None:
    """What proves that data is still the same: a strong ETag, else the time of the last change."""
    etag, modified = headers.get("etag", ""), headers.get("last-modified", "")
    if re.fullmatch(r'"[!#-~]*"', etag):
        return etag
    return modified if re.fullmatch(r"[A-Za-z0-9:, +-]{1,64}", modified) else None
