"""Several server processes on the same sockets: starts them, replaces those that end, passes on the signals that end all."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from ikon import log

#: Seconds before a process that ended is replaced, so that one that cannot start does not keep the machine busy.
AGAIN_S = 1.0


def supervise(count: int, work: Callable[[], None]) -> None:
    """Keep `count` processes at work until SIGTERM or SIGINT, then let them finish."""
    stopping = False
    children: set[int] = set()

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while not stopping or children:
        while not stopping and len(children) < count:
            children.add(_start(work))
        try:
            ended, status = os.wait()
        except InterruptedError:
            continue
        children.discard(ended)
        if not stopping:
            log.get().error("server process ended", pid=ended, status=os.waitstatus_to_exitcode(status))
            time.sleep(AGAIN_S)


def _start(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)
