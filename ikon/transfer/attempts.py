"""Attempts to write a copy, from their first row to their end: finished, or undone. Also what other tasks need to stop one."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TypeVar

from ikon.problems import ImageDeleted, Problem
from ikon.stores.base import Writer

T = TypeVar("T")


class Attempt:
    """One try to write one copy in this process.

    reserved: bytes that it was promised in its store. stored: its bytes are durable, so that from now on they may be an image's.
    stopped_by: why it must end, once somebody has said so.
    """

    def __init__(self, image_id: str, copy_id: str, store: str, url: str) -> None:
        self.image_id, self.copy_id, self.store, self.url = image_id, copy_id, store, url
        self.writer: Writer | None = None
        self.reserved = 0
        self.stored = False
        self.stopped_by: Problem | None = None
        self._stop = asyncio.Event()

    def stop(self, why: Problem) -> None:
        """Make the attempt end at its next block, with this problem."""
        if self.stopped_by is None:
            self.stopped_by = why
            self._stop.set()

    def check(self) -> None:
        """Raises the problem that the attempt was stopped with, if it was."""
        if self.stopped_by is not None:
            raise self.stopped_by

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """Wait for something that may take long, but no longer than until the attempt is stopped."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            self.check()
            return await task
        finally:
            for waiting in (task, stop):
                waiting.cancel()
            with contextlib.suppress(BaseException):
                await task


class Attempts:
    """The attempts at work in this process, by copy id."""

    def __init__(self) -> None:
        self._running: dict[str, Attempt] = {}

    def __contains__(self, copy_id: str) -> bool:
        return copy_id in self._running

    def __len__(self) -> int:
        return len(self._running)

    def writing(self) -> list[Attempt]:
        """The attempts whose rows are committed and whose bytes are still coming in."""
        return [attempt for attempt in self._running.values() if attempt.writer is not None and not attempt.stored]

    @contextlib.contextmanager
    def running(self, attempt: Attempt):  # type: ignore[no-untyped-def]
        """Know the attempt while it runs, its undoing included."""
        self._running[attempt.copy_id] = attempt
        try:
            yield attempt
        finally:
            del self._running[attempt.copy_id]

    def stop(self, copy_id: str) -> None:
        """End an attempt whose image was deleted. One that is not at work here is not looked for."""
        if attempt := self._running.get(copy_id):
            attempt.stop(deleted(attempt.image_id))


def deleted(image_id: str) -> ImageDeleted:
    """What an upload hears whose image was deleted meanwhile."""
    return ImageDeleted(f"Image {image_id} could not be found after upload. The image may have been deleted during the upload.")
