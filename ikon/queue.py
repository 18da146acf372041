"""The bell of durable jobs: verbs ring it when a transaction that enqueues one has committed, workers wait for it. Knows no job kind."""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Sequence

from ikon.broker import Broker
from ikon.model.job import ANY


def new_id() -> str:
    """An id that begins with the time, as UUID version 7, so that jobs lie in the order in which they came."""
    head = (time.time_ns() // 1_000_000) << 80
    bits = head | int.from_bytes(os.urandom(10), "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=bits & ~(0x3 << 62) | 0x2 << 62))


class Queue:
    """Wakes whoever claims jobs. A ring that is lost costs time, never a job: workers look by themselves now and then."""

    def __init__(self, broker: Broker | None = None) -> None:
        """broker: None where this process does all the work there is, or finds what others have for it by looking now and then."""
        self._rung, self._broker = asyncio.Event(), broker

    def ring(self, queue: str = ANY) -> None:
        """There is work, for this process or another."""
        self._rung.set()
        if self._broker is not None:
            self._broker.ring(queue)

    @property
    def unheard(self) -> bool:
        """Whether other processes are not told of work now, and have to find it by looking."""
        return self._broker is not None and self._broker.away

    def wake(self) -> None:
        """This process has something to look at."""
        self._rung.set()

    def listen(self, queues: Sequence[str], has_room: Callable[[], bool]) -> None:
        """Have this process woken by what others ring as well, while it has room."""
        loop = asyncio.get_running_loop()

        def heard() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._rung.set)

        if self._broker is not None:
            self._broker.listen(queues, heard, has_room)

    async def wait(self, seconds: float) -> bool:
        """Return when somebody rings, or after that time. Whether somebody rang."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def close(self) -> None:
        """Let the broker go."""
        if self._broker is not None:
            self._broker.close()
