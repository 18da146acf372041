"""Calls from an event loop to a few threads and back. Knows nothing of databases.

Threads that work while the loop works cost both: they fight for the interpreter's lock across processors. One read of a row from SQLite
for 16 callers took 286 us of CPU with 8 threads, 50 with one that answers in batches; the read itself is 32 of them. So in a pool either
all threads take calls as they come (`eager`, where they wait for a server), or one at a time, replaced when it is held up.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ikon.problems import Busy

#: Calls that wait for a thread; beyond it the caller hears Busy.
QUEUED = 1000
#: Answers that a thread keeps while there is more to do, and for how long: the loop looks at this interval.
HELD, TICK_S = 32, 0.002


class Outcome(asyncio.Future[Any]):
    """A future whose waiter cannot leave early: a task cancelled meanwhile, however often, goes on waiting and is then cancelled."""

    def cancel(self, msg: Any = None) -> bool:
        """No: the task remembers that it was cancelled, and asks no more."""
        return False


class Call:
    """A function on its way to a thread; its outcome goes to `future`."""

    __slots__ = ("answered", "args", "fn", "future", "given", "kwargs", "since")

    def __init__(self, fn: Callable[..., Any], args: Any, kwargs: Any, given: dict[str, Any], *, patient: bool) -> None:
        """given: what earlier tries lacked, by name. patient: its caller waits for the outcome even when cancelled."""
        self.fn, self.args, self.kwargs, self.given = fn, args, kwargs, given
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = Outcome(loop=loop) if patient else loop.create_future()
        self.since = time.monotonic()
        self.answered = False

    def run(self, first: Any) -> Any:
        """Call the function; on the thread."""
        return self.fn(first, *self.args, **self.kwargs)


class Worker(Protocol):
    """What a thread does; made by the thread itself."""

    def run(self, calls: list[Call]) -> None:
        """Carry out the calls and hand each result to `Pool.answer`; what it raises answers those that are left."""

    def close(self) -> None:
        """The thread ends."""


class Pool:
    """A bounded queue of calls and the threads that take them, started as they are needed. None of them keeps the process from ending."""

    def __init__(self, name: str, size: int, worker: Callable[["Pool"], Worker], *, eager: bool, batch: int = 1) -> None:
        """worker makes what a thread works with. batch is how many waiting calls one thread takes at once."""
        self._name, self._size, self._worker, self._batch = name, size, worker, batch
        self._wanted = size if eager else 1
        self._eager = eager
        self._lock = threading.Lock()  # held for a few instructions, guards from here ...
        self._calls: deque[Call] = deque()
        self._turn = 0  # threads of an earlier turn were held up, and take no more
        self._working = self._idle = 0  # threads of this turn; threads that wait for one
        self._ending = False
        self._taking: dict[str, list[Call]] = {}  # by thread
        self._threads: list[threading.Thread] = []  # ... to here
        self._turns: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: deque[tuple[Call, Any, BaseException | None]] = deque()
        self._woken = self._ticking = False
        self._in_flight = 0  # handed in and not yet answered
        self._taken = self._taken_before = 0

    def put(self, call: Call) -> None:
        """From the event loop. Raises Busy when too many wait."""
        if self._in_flight >= QUEUED + self._size:
            raise Busy("Too many requests wait for the database.", retry_after_s=1)
        self._loop = call.future.get_loop()
        self._in_flight += 1
        with self._lock:
            self._calls.append(call)
            if self._working < self._wanted and self._wake():
                self._working += 1
        if not (self._eager or self._ticking) and self._in_flight > 1:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)

    def answer(self, call: Call, result: Any, error: BaseException | None = None) -> None:
        """From a thread: call has ended. Several that ended reach the loop with one wake-up."""
        self._done.append((call, result, error))
        if self._woken or (self._calls and not self._eager and len(self._done) < HELD):
            return  # who sees the flag up has added before the loop takes it down, and so before the loop looks
        self._woken = True
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop has closed: nobody waits
            self._loop.call_soon_threadsafe(self._deliver)

    def end(self) -> list[threading.Thread]:
        """Let the threads end after what is queued, and return them."""
        with self._lock:
            self._ending = True
            for _ in self._threads:
                self._turns.put(self._turn)
            return self._threads

    def give_up(self, waiting: Callable[[], BaseException], begun: Callable[[], BaseException]) -> None:
        """From the event loop, at the very end: answer what no thread has taken, and what threads are held up with."""
        with self._lock:
            left = [(call, waiting()) for call in self._calls] + [(call, begun()) for calls in self._taking.values() for call in calls]
            self._calls.clear()
        for call, error in left:
            self._done.append((call, None, error))
        self._deliver()

    def _wake(self) -> bool:
        """With the lock: give this turn to one more thread."""
        if self._idle:
            self._idle -= 1
            self._turns.put(self._turn)
            return True
        if len(self._threads) == self._size:
            return False
        thread = threading.Thread(target=self._work, args=(self._turn,), name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()
        return True

    def _work(self, turn: int) -> None:
        worker, name = self._worker(self), threading.current_thread().name
        while True:
            with self._lock:
                if turn != self._turn and not self._working:
                    turn, self._working = self._turn, 1  # all others are held up
                mine = turn == self._turn
                calls = [self._calls.popleft() for _ in range(min(self._batch, len(self._calls)))] if mine else []
                self._taken += len(calls)
                self._taking[name] = calls
                if not calls:
                    if self._ending:
                        break
                    self._working -= mine
                    self._idle += 1
            if calls:
                try:
                    worker.run(calls)
                except BaseException as error:
                    for call in calls:
                        self.answer(call, None, error)
            else:
                turn = self._turns.get()
        worker.close()

    def _tick(self) -> None:
        """On the loop, while calls are in flight: fetch what a thread kept, and replace it if it was held up since the last tick."""
        self._deliver()
        with self._lock:
            if self._calls and self._taken == self._taken_before and not self._ending:
                self._turn += 1
                if not self._wake():
                    self._turn -= 1
        self._taken_before = self._taken
        self._ticking = self._in_flight > 1
        if self._ticking and self._loop is not None:
            self._loop.call_later(TICK_S, self._tick)

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            call, result, error = self._done.popleft()
            if call.answered:
                continue
            call.answered = True
            self._in_flight -= 1
            if call.future.done():
                continue  # its caller was cancelled
            if error is None:
                call.future.set_result(result)
            elif isinstance(error, StopIteration):  # a future takes none, and its caller would wait for ever
                call.future.set_exception(RuntimeError("a database function raised StopIteration"))
            else:
                call.future.set_exception(error)
