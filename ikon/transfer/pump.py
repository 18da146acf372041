"""One stream to several consumers at once: each takes what has arrived as it can, and the slowest sets the pace."""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

from ikon.transfer.budget import Budget

Consumer = Callable[[Sequence[bytes]], Awaitable[None]]


class Pump:
    """Hands every block of a stream to every consumer, in order. A failure of one of them, or of the stream, ends all.

    A consumer is called with all blocks that have come since its last call, so that a slow one is called less often with more.
    """

    def __init__(self, budget: Budget, consumers: Sequence[Consumer]) -> None:
        self._budget, self._consumers = budget, consumers
        self._queues: list[deque[bytes]] = [deque() for _ in consumers]
        self._ready = [asyncio.Event() for _ in consumers]
        self._pending: deque[list[int]] = deque()  # of each block still held: bytes, consumers that have yet to end it
        self._first = 0  # number of the oldest block in _pending
        self._held = 0
        self._room = asyncio.Event()
        self._gathered = 0  # bytes that no consumer has been woken for
        self._ended = False

    async def run(self, blocks: AsyncIterable[bytes]) -> int:
        """Move the whole stream and return its length in bytes. Raises what the stream or the first consumer to fail raised."""
        total = 0
        try:
            async with asyncio.TaskGroup() as group:
                for at in range(len(self._consumers)):
                    group.create_task(self._consume(at))
                async for block in blocks:
                    if block:
                        total += len(block)
                        await self._put(block)
                self._ended = True
                self._wake()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._budget.give(self._held)
            self._held = 0
        return total

    async def _put(self, block: bytes) -> None:
        share = self._budget.share
        while self._held and self._held + len(block) > share:
            self._wake()
            self._room.clear()
            await self._room.wait()
        await self._budget.take(len(block))
        self._held += len(block)
        self._pending.append([len(block), len(self._consumers)])
        for queue in self._queues:
            queue.append(block)
        self._gathered += len(block)
        if self._gathered >= share // 4:  # a hop to a thread costs as much as the digest of 50 KiB
            self._wake()

    def _wake(self) -> None:
        self._gathered = 0
        for ready in self._ready:
            ready.set()

    async def _consume(self, at: int) -> None:
        queue, ready, consumer = self._queues[at], self._ready[at], self._consumers[at]
        done = 0
        while True:
            await ready.wait()
            ready.clear()
            if not queue:
                if self._ended:
                    return
                continue
            batch = list(queue)
            queue.clear()
            await consumer(batch)
            count = len(batch)
            del batch
            self._end(done, count)
            done += count
            if self._ended:
                ready.set()

    def _end(self, first: int, count: int) -> None:
        """One consumer has ended blocks: let go of those that all have ended."""
        for number in range(first, first + count):
            self._pending[number - self._first][1] -= 1
        freed = 0
        while self._pending and self._pending[0][1] == 0:
            freed += self._pending.popleft()[0]
            self._first += 1
        if freed:
            self._held -= freed
            self._budget.give(freed)
            self._room.set()
