"""Several server processes on the same sockets: starts them, replaces those that end, passes on the signals that end all."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from ikon import log

#: Seconds before a process that ended is replaced, so that one that cannot start does not keep the machine busy.
AGAIN_S = 1.0
PR_SET_PDEATHSIG = 1  #: linux/prctl.h
STOPPING = (signal.SIGTERM, signal.SIGINT)


def supervise(count: int, work: Callable[[], None]) -> None:
    """Keep `count` processes at work until SIGTERM or SIGINT, then let them finish."""
    stopping = False
    children: set[int] = set()

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    for number in STOPPING:
        signal.signal(number, stop)
    while not stopping or children:
        while not stopping and len(children) < count:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # no child is missed by `stop`, and none runs it
            children.add(_start(work))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        if not children:
            break
        ended, status = os.wait()
        children.discard(ended)
        if not stopping:
            log.get().error("server process ended", pid=ended, status=os.waitstatus_to_exitcode(status))
            time.sleep(AGAIN_S)


def _start(work: Callable[[], None]) -> int:
    parent, pid = os.getpid(), os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # a supervisor that is killed leaves nobody who holds its address
    if os.getppid() != parent:
        os._exit(1)
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        log.get().exception("server process failed")
    finally:
        os._exit(code)
