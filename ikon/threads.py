"""Bounded pools of threads for work that blocks, and waiting for what must not be abandoned.

Threads are daemons: a hung store never keeps the process from ending.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A fixed number of threads, started as they are needed. Calls beyond that number wait in order."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0  # calls handed in and not yet ended; touched by the event loop only

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call fn on a thread and return what it returns. A cancelled caller leaves at once; the call ends by itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def ended(result: Any, error: BaseException | None) -> None:
            self._waiting -= 1
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def call() -> None:
            result, error = None, None
            try:
                result = fn(*args, **kwargs)
            except BaseException as raised:
                error = raised
            try:
                loop.call_soon_threadsafe(ended, result, error)
            except RuntimeError:
                return  # the loop has closed: nobody waits any more

        self._waiting += 1
        if self._waiting > len(self._threads) < self._size:
            self._start()
        self._calls.put(call)
        return await future

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    def close(self) -> None:
        """Let the threads end after what is queued. Does not wait."""
        for _ in self._threads:
            self._calls.put(None)


async def outcome(work: Awaitable[T]) -> T:
    """Wait for work that must not be abandoned: a cancelled caller waits for its end, then is cancelled."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.done() and task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    if cancelled:
        task.exception()
        raise cancelled
    return task.result()
