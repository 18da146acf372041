"""SQLite's write-ahead log, kept small beside the writer."""

import os
import sqlite3
import threading
from contextlib import suppress

#: From the first size on the log is copied back. From the second on writers wait up to a second for readers, so that it can be emptied.
BYTES, LARGE_BYTES = 4 << 20, 64 << 20
#: When readers keep the log from being emptied, it is not tried all the time.
REST_S = 0.1


class Wal:
    """Copies the log back into the database on a thread of its own: no commit pays for it, and the log stays small."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._grown, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """From the writer, after a commit: see whether it is time."""
        if self._size() < BYTES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="db-wal", daemon=True)
            self._thread.start()
        self._grown.set()

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
            with suppress(sqlite3.OperationalError):  # full disk, I/O error: the next commit meets it too, and says so
                conn.execute("PRAGMA busy_timeout=0")
                conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the bulk, beside readers and the writer
                conn.execute(f"PRAGMA busy_timeout={1000 if self._size() > LARGE_BYTES else 50}")
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the rest; the writer waits for this
            self._closing.wait(REST_S)
        conn.close()
