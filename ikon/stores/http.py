"""Images whose bytes stay where they are, at an http or https URL: read through the one fetcher, never written, never deleted."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ikon.problems import SourceDenied, SourceProblem, StoreDenied, StoreDown
from ikon.stores.base import CopyMissing, Fetch, Found, Source, StoreSettings, Usage, Writer

#: Answers by which a source says that it has nothing there.
GONE = (404, 410)


class HttpSettings(StoreSettings, frozen=True, kw_only=True):
    """Servers of others, from which images are read where they are."""


class HttpStore:
    """All http and https URLs that callers name as locations. What may be read is said by [egress]."""

    Settings = HttpSettings
    schemes, read_only, local = ("http", "https"), True, False
    disk: object | None = None

    def __init__(self, name: str, settings: HttpSettings, fetch: Fetch) -> None:
        self.name, self.settings, self._fetch = name, settings, fetch

    def url(self, image_id: str, copy_id: str) -> str:
        """See Store. Raises StoreDenied: nothing is written here."""
        raise StoreDenied(f"Store {self.name} is read-only")

    async def create(self, url: str, size: int | None) -> Writer:
        """See Store. Raises StoreDenied."""
        raise StoreDenied(f"Store {self.name} is read-only")

    async def open(self, url: str) -> "Web":
        """See Store. Raises StoreDown too where the source does not tell how many bytes it has."""
        source = await self.begin(url, 0)
        if source.size is None:
            source.close()
            raise StoreDown(f"Store {self.name}: the source does not say how many bytes it has")
        return Web(self, url, source, source.size)

    async def begin(self, url: str, offset: int) -> Source:
        """Ask a source for its bytes from one on. Raises CopyMissing, StoreDown."""
        try:
            return await self._fetch(url, offset)
        except SourceProblem as problem:
            raise self.meaning(problem) from problem

    def meaning(self, problem: SourceProblem) -> Exception:
        """What a source's failure means to who reads an image."""
        if isinstance(problem, SourceDenied) and problem.code in GONE:
            return CopyMissing(problem.because)
        return StoreDown(f"Store {self.name}: {problem}")

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
        if offset != self._at or self._source is None:
            self.close()
            self._source = await self._store.begin(self._url, offset)
            self._at, self._rest = offset, b""
        pieces, have = [self._rest], len(self._rest)
        while have < length:
            try:
                piece = await anext(self._source, b"")
            except SourceProblem as problem:
                self.close()
                raise self._store.meaning(problem) from problem
            if not piece:
                break
            pieces.append(piece)
            have += len(piece)
        data = b"".join(pieces)
        self._rest = data[length:]
        self._at += min(have, length)
        return data[:length]

    def close(self) -> None:
        """See Remote."""
        if self._source is not None:
            self._source.close()
            self._source = None
