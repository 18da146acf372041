"""A web server of images, whose shelf a test fills and changes while it serves."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RANGE = re.compile(r"bytes=(\d+)-")


class Shelf:
    """What is served, by name. Range is honoured where `ranges` is set; `gate`, while it is clear, holds back all but the first KiB."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ranges = True
        self.gate = threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port

    @contextmanager
    def open(self) -> Iterator["Shelf"]:
        """Serve inside."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.gate.set()
            self._server.shutdown()
            self._server.server_close()

    def url(self, name: str, data: bytes | None = None) -> str:
        """The URL of an image, put on the shelf if there is something to put."""
        if data is not None:
            self.data[name] = data
        return f"http://127.0.0.1:{self.port}/{name}"

    def _handler(shelf) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.lstrip("/").partition("?")[0]
                shelf.asked.append(self.path)
                data, match = shelf.data.get(name), RANGE.fullmatch(self.headers.get("Range", ""))
                self.close_connection = True
                if data is None:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                first = int(match[1]) if match and shelf.ranges else 0
                self.send_response(206 if match and shelf.ranges else 200)
                self.send_header("Content-Length", str(len(data) - first))
                if match and shelf.ranges:
                    self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                self.wfile.write(data[first : first + 1024])
                shelf.gate.wait(30)
                self.wfile.write(data[first + 1024 :])

            def log_message(self, *said: object) -> None:
                pass

        return Handler
