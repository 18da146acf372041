"""SQLite's write-ahead log, kept small beside the writer."""

import os
import sqlite3
import threading
from contextlib import suppress

#: From the first size on the log is copied back. From the second on the writer stands back for each try to empty it.
BYTES, LARGE_BYTES = 4 << 20, 16 << 20
#: How long a try waits for the writer's lock and for readers of an older state; and after one in vain, until the next.
TRY_S, REST_S = 0.05, 0.1


class Wal:
    """Copies the log back into the database on a thread of its own: no commit pays for it, and the log stays small."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._grown, self._tried, self._closing = threading.Event(), threading.Event(), threading.Event()
        self._resting = False
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """From the writer, after a commit: see whether it is time."""
        size = self._size()
        if size < BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="db-wal", daemon=True)
            self._thread.start()
        self._tried.clear()
        self._grown.set()
        if size >= LARGE_BYTES and not self._resting:
            self._tried.wait(2 * TRY_S)  # a writer that never pauses takes its lock back before SQLite's waiting looks again

    def end(self) -> list[threading.Thread]:
        """Let the thread end, and return it where there is one. The last connection to close empties the log."""
        self._closing.set()
        self._grown.set()
        return [self._thread] if self._thread else []

    def _size(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def _work(self) -> None:
        conn = sqlite3.connect(self._path, isolation_level=None)
        conn.execute("PRAGMA synchronous=FULL")
        while self._grown.wait() and not self._closing.is_set():
            self._grown.clear()
            busy = True
            with suppress(sqlite3.OperationalError):  # full disk, I/O error: the next commit meets it too, and says so
                conn.execute("PRAGMA busy_timeout=0")
                conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the bulk, beside readers and the writer
                conn.execute(f"PRAGMA busy_timeout={int(TRY_S * 1000)}")
                busy = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]  # the rest, while the writer waits
            self._resting = bool(busy)
            self._tried.set()
            if busy:
                self._closing.wait(REST_S)
                self._resting = False
        conn.close()
