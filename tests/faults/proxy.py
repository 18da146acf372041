"""A TCP proxy that misbehaves on demand: it stalls, cuts, refuses, and cuts at the moment given words go by."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

BLOCK = 1 << 16
#: What a connection sends that changes something; drivers end what sets one up with a COMMIT too.
CHANGE = re.compile(rb"INSERT|UPDATE|DELETE")


class Proxy:
    """Stands on `port` of 127.0.0.1 before `target`, as a context manager. Its methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = 0  # connections taken so far
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows, self._refuses = threading.Event(), False
        self._flows.set()
        self._word: re.Pattern[bytes] | None = None
        self._answered = False
        self._cut_at_word = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()
        self.flow()
        self.cut()

    def stall(self) -> None:
        """Pass nothing on, in either direction, and keep every connection open. New ones are taken, and stall as well."""
        self._flows.clear()

    def flow(self) -> None:
        """Go on after a stall or a refusal."""
        self._refuses = False
        self._flows.set()

    def refuse(self) -> None:
        """Cut what is open, and everything new at once."""
        self._refuses = True
        self.cut()

    def refuse_new(self) -> None:
        """Cut everything new at once, and leave what is open."""
        self._refuses = True

    def cut(self) -> None:
        """Break every connection that is open now."""
        while self._pairs:
            _break(*self._pairs.pop())

    def cut_at(self, words: bytes, *, answered: bool) -> threading.Event:
        """Break the next connection whose client sends what the regular expression matches, after it has begun to change something.

        Returns an event that tells when.
        answered: the server gets the words, and the connection breaks in place of its answer. Otherwise the server never sees them.
        """
        self._cut_at_word = threading.Event()
        self._answered, self._word = answered, re.compile(words)
        return self._cut_at_word

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # the proxy has ended
            self.seen += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                _break(client)
                continue
            if self._refuses:
                _break(client, server)
                continue
            server.settimeout(None)
            self._pairs.append((client, server))
            link = _Link()
            threading.Thread(target=self._pump, args=(client, server, lambda data, of=link: self._asked(data, of)), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, lambda data, of=link: not of.doomed), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, passes: Callable[[bytes], bool]) -> None:
        with suppress(OSError):
            while data := source.recv(BLOCK):
                self._flows.wait()
                if not passes(data):
                    self._cut_at_word.set()
                    break
                target.sendall(data)
        _break(source, target)

    def _asked(self, data: bytes, link: "_Link") -> bool:
        """Whether what the client sent goes on to the server."""
        link.changes = link.changes or CHANGE.search(data) is not None
        if self._word is None or not link.changes or not self._word.search(data):
            return True
        self._word = None
        link.doomed = True
        return self._answered


class _Link:
    """A connection. changes: it has begun to change something. doomed: the server's next words must not arrive."""

    changes = doomed = False


def _break(*sockets: socket.socket) -> None:
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            sock.close()
