"""What stands before another image service: turns tokens and names into identity headers, and answers otherwise where a test wants it."""

import base64
import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from tests.wire.server import Persona

BLOCK = 1 << 16


class Reply(NamedTuple):
    """An answer on its way. cut: bytes after which the connection breaks, None: not at all."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


#: What becomes of an answer: given the path and how often it was asked for, from 1.
Change = Callable[[str, int, Reply], Reply]


class Front(ThreadingHTTPServer):
    """A front of the service at a port. known: who may come, by token or by `NAME:PASSWORD`; others are answered 401."""

    daemon_threads = True

    def __init__(self, port: int, known: dict[str, Persona]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.known = port, known
        self.change: Change | None = None
        self.held = threading.Event()  # while it is not set, an answer with data stops after its first block
        self.held.set()
        self.asked: list[tuple[str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append((self.path, dict(self.headers)))
        reply = self._ask()
        if self.server.change is not None:
            reply = self.server.change(self.path, [path for path, _ in self.server.asked].count(self.path), reply)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent = reply.body if reply.cut is None else reply.body[: reply.cut]
        chunked = "Transfer-Encoding" in reply.headers
        with contextlib.suppress(OSError):
            for at in range(0, len(sent), BLOCK):
                block = sent[at : at + BLOCK]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
                self.server.held.wait(30)
            if chunked and reply.cut is None:
                self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def _ask(self) -> Reply:
        """The service's answer."""
        who = self.server.known.get(self.headers.get("X-Auth-Token", "")) or self.server.known.get(self._basic())
        if who is None:
            return Reply(401, {"Content-Length": "0"}, b"")
        headers = who.headers | ({"Range": self.headers["Range"]} if "Range" in self.headers else {})
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        try:
            connection.request("GET", self.path, headers=headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in ("connection", "transfer-encoding")}
            return Reply(answer.status, kept, answer.read())
        finally:
            connection.close()

    def _basic(self) -> str:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(given).decode() if scheme == "Basic" else ""
