"""Memory for image data on its way in: one number of bytes for all uploads of this process."""

import asyncio
from collections import deque

#: What an upload may hold however many there are, and the most it holds however few.
SHARE_LEAST, SHARE_MOST = 512 * 1024, 4 << 20


class Budget:
    """Bytes that may be in memory at once. Who asks for more waits, in order; consumers always drain, so nobody waits for ever."""

    def __init__(self, size: int) -> None:
        self._free = self._size = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def share(self) -> int:
        """Bytes that one upload should hold at most just now."""
        return max(SHARE_LEAST, min(SHARE_MOST, self._free // 4))

    @property
    def used(self) -> int:
        """Bytes in memory now."""
        return self._size - self._free

    async def take(self, count: int) -> None:
        """Count bytes as held. A block larger than the whole budget passes alone."""
        count = min(count, self._size)
        if self._free >= count and not self._waiting:
            self._free -= count
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((count, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(count)
            raise

    def give(self, count: int) -> None:
        """Count bytes as held no more."""
        self._free += min(count, self._size)
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            need, future = self._waiting.popleft()
            if not future.done():
                self._free -= need
                future.set_result(None)
