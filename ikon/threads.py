"""Bounded pools of threads for work that blocks, and waiting for what must not be abandoned.

Threads are daemons: a hung store never keeps the process from ending. What is done for jobs beside requests has a thread of
its own in every pool, with less of a claim to the processors.
"""

import asyncio
import contextlib
import functools
import math
import os
import queue
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
#: How often a call is found at work before it is given up.
LOOKS = 8
#: Set in a task, and so in all that it begins: its calls go to one thread a pool, which gives way to all others. With as many
#: threads as others have, four imports made a read of a record take three times as long in the middle, with one 1.5 times; as much went in.
GIVES_WAY: ContextVar[bool] = ContextVar("gives_way", default=False)
#: How much these threads give way, as nice(1) counts.
NICE = 10


class Late(Exception):
    """A call took longer than its pool has patience, or all threads of the pool are held up by such calls."""


class _Call:
    """A function on its way to a thread. looks: how often it was found at work, so that a process that was paused blames nobody."""

    __slots__ = ("error", "fn", "future", "looks", "result")

    def __init__(self, fn: Callable[[], Any], future: "asyncio.Future[Any] | None") -> None:
        self.fn: Callable[[], Any] | None = fn
        self.future, self.looks = future, 0
        self.result: Any = None
        self.error: BaseException | None = None

    def make(self) -> None:
        """On a thread: make the call, and keep what came of it."""
        assert self.fn is not None
        try:
            self.result = self.fn()
        except BaseException as error:
            self.error = error

    def answer(self) -> None:
        """On the loop: hand over what came of it."""
        result, error = self.result, self.error
        self.result = self.error = None
        if self.future is None or self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class Pool:
    """A fixed number of threads, started as they are needed. Calls beyond that number wait in order.

    A call that a thread has been at for `patience_s` is given up; the thread is of use again when it comes back. While all threads are
    held up so, nobody waits for them: calls are refused at once. So what hangs takes its own threads, a bounded time, and no memory.
    """

    def __init__(self, name: str, size: int, patience_s: float = math.inf, *, nice: int = 0) -> None:
        self._name, self._size, self._patience_s, self._nice = name, size, patience_s, nice
        self._giving_way: Pool | None = None  # for tasks that give way
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._at_work: list[_Call | None] = [None] * size  # by thread
        self._waiting = 0  # calls handed in and not yet ended; these three are touched by the event loop only
        self._held_up = 0  # threads at calls that were given up
        self._looking = False

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call fn on a thread and return what it returns. Raises Late. A cancelled caller leaves at once; a call that began goes on."""
        if GIVES_WAY.get() and not self._nice:
            if self._giving_way is None:
                self._giving_way = Pool(f"{self._name}-nice", 1, self._patience_s, nice=NICE)
            return await self._giving_way.run(fn, *args, **kwargs)
        if self._held_up == self._size:
            raise Late
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        if self._waiting > len(self._threads) < self._size:
            self._start()
        self._calls.put(_Call(functools.partial(fn, *args, **kwargs), future))
        if self._patience_s < math.inf and not self._looking:
            self._looking = True
            loop.call_later(self._patience_s / LOOKS, self._look, loop)
        try:
            return await future
        finally:
            del future  # an exception holds this frame, and would with it hold itself, and all that its other frames hold

    def leave(self, fn: Callable[[], Any]) -> None:
        """Have fn called by a thread when there is one for it. From anywhere, even a destructor, once `run` has been used."""
        pool = self._giving_way if self._giving_way is not None and not self._threads else self
        pool._calls.put(_Call(fn, None))

    def _start(self) -> None:
        number = len(self._threads)
        thread = threading.Thread(target=self._work, args=(number,), name=f"{self._name}-{number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, number: int) -> None:
        if self._nice:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)  # on Linux: of this thread alone
        while (call := self._calls.get()) is not None:
            if call.future is None or not call.future.cancelled():
                self._at_work[number] = call
                call.make()
                self._at_work[number] = None
            call.fn = None  # before anyone hears of it: what it holds is closed when nobody holds it any more
            if call.future is not None:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    call.future.get_loop().call_soon_threadsafe(self._ended, call)

    def _ended(self, call: _Call) -> None:
        self._waiting -= 1
        self._held_up -= call.looks > LOOKS
        call.answer()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up calls that have been at work for too long."""
        for call in self._at_work:
            if call is not None and call.future is not None:
                call.looks += 1
                if call.looks == LOOKS + 1:
                    self._held_up += 1
                    _refuse(call.future)
        if self._held_up == self._size:
            self._refuse_waiting()
        self._looking = self._waiting > self._held_up
        if self._looking:
            loop.call_later(self._patience_s / LOOKS, self._look, loop)

    def _refuse_waiting(self) -> None:
        kept = []
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()
                if call is None or call.future is None:
                    kept.append(call)
                else:
                    self._waiting -= 1
                    _refuse(call.future)
        for call in kept:
            self._calls.put(call)

    def close(self) -> None:
        """Let the threads end after what is queued. Does not wait."""
        if self._giving_way is not None:
            self._giving_way.close()
        for _ in self._threads:
            self._calls.put(None)


def _refuse(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(Late())


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
