"""A web server that is wrong in the ways web servers are.   http_broken.py ADDRESS PORT     (port 0: any; the first line printed is the port)

Every body is part of one fixed sequence: body(n, a). An answer without a word about it has Content-Length and closes when asked to.

GET /ok/N                 N bytes, Range honoured, ETag
GET /cut/N/M              promises N bytes, sends M, closes
GET /stall/N/M            promises N, sends M, then silence for 600 s
GET /reset/N/M            promises N, sends M, then RST
GET /flaky/N/M            Range honoured, ETag; every answer breaks off after M bytes
GET /changed/N/M          the same with another ETag each time;  /undated/N/M without any ETag
GET /other-range/N/M      breaks off after M; answers the Range that follows with 206 of other bytes, and says so
GET /lie-range/N/M        breaks off after M; answers the Range that follows with 200 and everything
GET /nolength/N           no Content-Length, ends by closing
GET /chunked/N            chunked;  /chunkcut/N: chunked without the last chunk;  /crumbs/N: chunks of one byte
GET /more/N/M             promises N, sends M > N;  /twice/N: a second answer after the first
GET /endless              no Content-Length, no end
GET /two-lengths/N, /length-and-chunks/N, /coded-chunks/N    what can be read in two ways
GET /status/CODE[/AFTER]  CODE on each request, or 200 from the AFTERth on
GET /slow/N/BYTES_PER_S   trickles; Range honoured, ETag
GET /drip-head            a header byte now and then;  /interim: 100 Continue for ever
GET /headers/N            N kB of headers;  /trailers: trailers for ever
GET /gzip/N               N zero bytes with Content-Encoding: gzip
GET /silent               takes the request and says nothing;  /nonsense: not HTTP
GET /redirect/CODE/URL    CODE to URL (anything: file:, http://169.254.169.254/, ...)
GET /seen                 the heads of all requests so far
"""

import collections
import gzip
import re
import socket
import struct
import sys
import threading
import time
from urllib.parse import unquote

requests: list[str] = []
counted: collections.Counter[str] = collections.Counter()


def body(n: int, a: int = 0) -> bytes:
    """n bytes from offset a of a fixed sequence."""
    unit = bytes(range(251))
    return (unit * (n // 251 + 2))[a % 251 : a % 251 + n]


def serve(c: socket.socket) -> None:
    """Answer until the connection ends."""
    with c, c.makefile("rb") as f:
        while line := f.readline(65536).strip():
            path = line.decode("latin1").split()[1]
            headers = {}
            requests.append(path)
            while x := f.readline(65536).strip():
                name, _, value = x.decode("latin1").partition(":")
                headers[name.lower()] = value.strip()
                requests.append(x.decode("latin1"))
            if not answer(c, path, headers) or headers.get("connection") == "close":
                return


def answer(c: socket.socket, path: str, headers: dict[str, str]) -> bool:
    """Answer one request; False when the connection is to be closed."""
    what, *arg = path.lstrip("/").split("/")
    counted[path] += 1

    def head(status: int, length: int | None, *more: str) -> None:
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/octet-stream", *more]
        c.sendall("\r\n".join([*lines, *([] if length is None else [f"Content-Length: {length}"]), "", ""]).encode("latin1"))

    def drip(count: int, piece: bytes, pause_s: float = 0) -> None:
        for _ in range(count):
            c.sendall(piece)
            time.sleep(pause_s)

    n, m = (int(arg[i]) if len(arg) > i and arg[i].isdigit() else 0 for i in (0, 1))
    asked = re.match(r"bytes=(\d+)-", headers.get("range", ""))
    start = int(asked[1]) if asked else 0
    if what == "redirect":
        head(n, 0, "Location: " + unquote(path.split("/", 3)[3]))
    elif what == "status":
        ok = len(arg) > 1 and counted[path] >= m
        head(200 if ok else n, 2, *([] if ok else ["Retry-After: 1"]))
        c.sendall(b"ok")
    elif what in ("ok", "flaky", "changed", "undated", "other-range", "lie-range"):
        sent = n if what == "ok" else m
        etag = {"undated": [], "changed": [f'ETag: "{counted[path]}"']}.get(what, [f'ETag: "{what}"'])
        if asked and what != "lie-range":
            start += what == "other-range"
            head(206, n - start, f"Content-Range: bytes {start}-{n - 1}/{n}", *etag)
            c.sendall(body(min(sent, n - start), start))
        else:
            head(200, n, *etag)
            c.sendall(body(sent))
        return sent == n
    elif what in ("cut", "stall", "reset", "more"):
        head(200, n)
        c.sendall(body(m))
        if what == "stall":
            time.sleep(600)
        if what == "reset":
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    elif what == "twice":
        for _ in range(2):
            head(200, None, "Transfer-Encoding: chunked")
            c.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (n, body(n)))
    elif what == "nolength":
        head(200, None)
        c.sendall(body(n))
        return False
    elif what == "endless":
        head(200, None)
        drip(1 << 30, body(65536))
    elif what in ("chunked", "chunkcut", "crumbs"):
        head(200, None, "Transfer-Encoding: chunked")
        size = 1 if what == "crumbs" else 4096
        pieces = [body(min(size, n - i), i) for i in range(0, n, size)]
        c.sendall(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces))
        if what == "chunkcut":
            return False
        c.sendall(b"0\r\n\r\n")
    elif what == "two-lengths":
        head(200, n, f"Content-Length: {n - 1}")
    elif what == "length-and-chunks":
        head(200, n, "Transfer-Encoding: chunked")
    elif what == "coded-chunks":
        head(200, None, "Transfer-Encoding: gzip, chunked")
    elif what == "slow":
        more = [f"Content-Range: bytes {start}-{n - 1}/{n}"] if asked else []
        head(206 if asked else 200, n - start, 'ETag: "slow"', *more)
        step = max(1, m // 10)
        for i in range(start, n, step):
            drip(1, body(min(step, n - i), i), 0.1)
    elif what == "drip-head":
        c.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        drip(6000, b"a", 0.1)
    elif what == "interim":
        drip(1 << 30, b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
    elif what == "headers":
        head(200, 0, *[f"X-{i}: {'a' * 1000}" for i in range(n)])
    elif what == "trailers":
        head(200, None, "Transfer-Encoding: chunked")
        c.sendall(b"1\r\na\r\n0\r\nX: ")
        drip(1 << 30, b"a" * 65536)
    elif what == "gzip":
        packed = gzip.compress(bytes(n))
        head(200, len(packed), "Content-Encoding: gzip")
        c.sendall(packed)
    elif what == "silent":
        time.sleep(600)
    elif what == "nonsense":
        c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    elif what == "seen":
        text = "\n".join(requests).encode("latin1")
        head(200, len(text))
        c.sendall(text)
    else:
        head(404, 0)
    return True


def safe(c: socket.socket) -> None:
    """Whatever one client does, the others are served."""
    try:
        serve(c)
    except (OSError, ValueError, IndexError):
        return


if __name__ == "__main__":
    server = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128)
    print(server.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=safe, args=(server.accept()[0],), daemon=True).start()
