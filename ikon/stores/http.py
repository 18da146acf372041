"""Images whose bytes stay where they are, at an http or https URL: read through the one fetcher, never written, never deleted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from msgspec import Meta

from ikon.problems import SourceBroken, SourceChanged, SourceDenied, SourceProblem, SourceTooSlow, StoreDenied, StoreDown
from ikon.stores.base import CopyMissing, Fetch, Found, Source, StoreSettings, Usage, Writer

#: Answers by which a source says that it has nothing there.
GONE = (404, 410)


class HttpSettings(StoreSettings, frozen=True, kw_only=True):
    """Servers of others, from which images are read where they are: docs/how-to/use-images-where-they-are.md."""

    read_s: Annotated[
        float, Meta(gt=0, description="Seconds after which a MiB that does not come is given up, and another copy is read.")
    ] = 30.0


class HttpStore:
    """All http and https URLs that callers name as locations. What may be read is said by [egress]."""

    Settings = HttpSettings
    read_only, local = True, False
    disk: object | None = None

    def __init__(self, name: str, settings: HttpSettings, fetch: Fetch) -> None:
        self.name, self.settings, self._fetch = name, settings, fetch

    def url(self, image_id: str, copy_id: str) -> str:
        """See Store. Raises StoreDenied: nothing is written here."""
        raise StoreDenied(f"Store {self.name} is read-only")

    def claims(self, url: str) -> bool:
        """See Store."""
        return url.partition(":")[0].lower() in ("http", "https")

    async def create(self, url: str, size: int | None) -> Writer:
        """See Store. Raises StoreDenied."""
        raise StoreDenied(f"Store {self.name} is read-only")

    async def open(self, url: str) -> "Web":
        """See Store. Raises StoreDown too where the source does not tell how many bytes it has."""
        async with self.told():
            source = await self.begin(url, 0)
            if source.size is None:
                source.close()
                raise SourceBroken("The source does not say how many bytes it has")
        return Web(self, url, source, source.size)

    async def begin(self, url: str, offset: int) -> Source:
        """Ask a source for its bytes from one on, or for all where it does not know parts. Raises SourceProblem."""
        try:
            return await self._fetch(url, offset)
        except SourceChanged:  # so the fetcher calls it when a part was asked for and all comes
            return await self._fetch(url, 0)

    @contextlib.asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Raise what a source's failure means to who reads an image: CopyMissing or StoreDown."""
        try:
            async with asyncio.timeout(self.settings.read_s):
                yield
        except SourceProblem as problem:
            if isinstance(problem, SourceDenied) and problem.code in GONE:
                raise CopyMissing(problem.because) from problem
            raise StoreDown(f"Store {self.name}: {problem}") from problem
        except TimeoutError:
            slow = SourceTooSlow(because=f"no MiB in {self.settings.read_s} s")
            raise StoreDown(f"Store {self.name}: {slow}") from slow

    async def delete(self, url: str) -> None:
        """See Store. What is not ours stays."""

    async def list(self) -> AsyncIterator[Found]:
        """See Store. Nothing there is ours."""
        nothing: tuple[Found, ...] = ()
        for found in nothing:
            yield found

    async def usage(self) -> Usage:
        """See Store."""
        return Usage(None, None)

    async def written(self, urls: Sequence[str]) -> Sequence[int]:
        """See Store."""
        return [0] * len(urls)

    def details(self) -> dict[str, Any]:
        """See Store."""
        return {}

    def close(self) -> None:
        """See Store."""


class Web:
    """The bytes at a URL, see Remote: one connection while they are read in order, another one for each leap."""

    def __init__(self, store: HttpStore, url: str, source: Source, size: int) -> None:
        self.size = size
        self._store, self._url = store, url
        self._source: Source | None = source
        self._at, self._rest = 0, b""  # where `_rest` begins, which came with what was read before

    async def read(self, offset: int, length: int) -> bytes:
        """See Remote."""
        with contextlib.ExitStack() as failing:
            failing.callback(self.close)
            async with self._store.told():
                data = await self._read(offset, length)
            failing.pop_all()
        return data

    async def _read(self, offset: int, length: int) -> bytes:
        if offset != self._at or self._source is None:
            self.close()
            self._source = await self._store.begin(self._url, offset)
            self._at, self._rest = offset, await _skip(self._source, offset)
        pieces, have = [self._rest], len(self._rest)
        while have < length and (piece := await anext(self._source, b"")):
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        self._at, self._rest = offset + min(have, length), data[length:]
        return data[:length]

    def close(self) -> None:
        """See Remote."""
        if self._source is not None:
            self._source.close()
            self._source = None


async def _skip(source: Source, offset: int) -> bytes:
    """Let all pass that a source gives before a byte. Returns what came with that byte."""
    piece = b""
    while source.at < offset and (piece := await anext(source, b"")):
        pass
    return piece[len(piece) - (source.at - offset) :] if source.at > offset else b""
