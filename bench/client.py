"""A light client of an Image API v2 server: plain sockets for bytes, wrk for rates. It checks what it gets and times nothing by itself."""

import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloud import Cloud

MIB = 1 << 20
CHUNK = MIB  #: the chunk that python-glanceclient sends
RECV = 256 * 1024  #: the buffer that loopback recv was fastest with
MEMBER = {"X-Identity-Status": "Confirmed", "X-User-Id": "bench", "X-Project-Id": "bench", "X-Roles": "member,reader"}
PATCH_TYPE = "application/openstack-images-v2.1-json-patch"


def identity(project: str, *roles: str) -> dict[str, str]:
    return MEMBER | {"X-Project-Id": project, "X-Roles": ",".join(("member", "reader", *roles))}


class Client:
    """cloud: whose tokens are sent in place of identity headers."""

    def __init__(self, port: int, cloud: Cloud | None = None) -> None:
        self.host, self.port, self.cloud = "127.0.0.1", port, cloud

    def said(self, headers: dict[str, str]) -> dict[str, str]:
        """Headers with their identity as the server wants it shown."""
        if not self.cloud or "X-Project-Id" not in headers:
            return headers
        token = self.cloud.token(headers["X-Project-Id"], admin="admin" in headers["X-Roles"].split(","))
        return {name: value for name, value in headers.items() if name not in MEMBER} | {"X-Auth-Token": token}

    def session(self, timeout_s: float = 600) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        ok: tuple[int, ...] = (200, 201, 204),
        headers: dict[str, str] = MEMBER,
        session: http.client.HTTPConnection | None = None,
    ) -> Any:
        """The decoded answer; anything but a status in `ok` raises RuntimeError."""
        conn = session or self.session()
        kind = {"Content-Type": PATCH_TYPE if method == "PATCH" else "application/json"} if body is not None else {}
        conn.request(method, path, json.dumps(body) if body is not None else None, self.said(headers) | kind)
        answer = conn.getresponse()
        data = answer.read()
        if not session:
            conn.close()
        if answer.status not in ok:
            raise RuntimeError(f"{method} {path}: {answer.status} {data[:300]!r}")
        return json.loads(data) if data[:1] in (b"{", b"[") else data

    def create(self, **attributes: object) -> str:
        return self.call("POST", "/v2/images", {"name": "bench-data", "disk_format": "raw", "container_format": "bare"} | attributes)["id"]

    def images(self, query: str = "limit=500") -> Iterator[dict[str, Any]]:
        """Images page by page, in the server's default order."""
        path = f"/v2/images?{query}"
        while path:
            page = self.call("GET", path)
            yield from page["images"]
            path = page.get("next")

    # ---- bytes

    def _connect(self, method: str, path: str, extra: dict[str, object]) -> socket.socket:
        sock = socket.create_connection((self.host, self.port), timeout=900)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Accept: */*"]
        sock.sendall("\r\n".join(lines + [f"{k}: {v}" for k, v in (self.said(MEMBER) | extra).items()] + ["", ""]).encode())
        return sock

    def upload(self, image_id: str, block: "Block", times: int, *, length: bool) -> int:
        """Send the block so many times, with a Content-Length or chunked; the status."""
        framing: dict[str, object] = {"Content-Length": len(block.plain) * times} if length else {"Transfer-Encoding": "chunked"}
        with self._connect("PUT", f"/v2/images/{image_id}/file", {"Content-Type": "application/octet-stream"} | framing) as sock:
            for _ in range(times):
                sock.sendall(block.plain if length else block.framed)
            if not length:
                sock.sendall(b"0\r\n\r\n")
            return _head(sock)[0]

    def download(self, image_id: str, *, first: int | None = None, size: int, digest: Any = None) -> None:
        """Read an image's data, or `size` bytes of it from `first` on; raises RuntimeError unless exactly `size` bytes come."""
        extra = {} if first is None else {"Range": f"bytes={first}-{first + size - 1}"}
        with self._connect("GET", f"/v2/images/{image_id}/file", extra) as sock:
            status, rest, headers = _head(sock)
            if status != (200 if first is None else 206) or headers.get("content-length") != str(size):
                raise RuntimeError(f"download: {status} {headers} {rest[:300]!r}")
            drain(sock, size, rest, digest)


class Block:
    """Random bytes that an image is made of by repeating them, laid out once as they are and once as HTTP chunks."""

    def __init__(self, size: int) -> None:
        self.plain = os.urandom(size)
        self.framed = b"".join(b"%x\r\n%b\r\n" % (CHUNK, self.plain[at : at + CHUNK]) for at in range(0, size, CHUNK))

    def digests(self, times: int) -> dict[str, str]:
        md5, sha512 = hashlib.md5(), hashlib.sha512()
        for _ in range(times):
            md5.update(self.plain)
            sha512.update(self.plain)
        return {"checksum": md5.hexdigest(), "os_hash_value": sha512.hexdigest()}


def _head(sock: socket.socket) -> tuple[int, bytes, dict[str, str]]:
    """Status, what already came of the body, and the headers in lower case."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise RuntimeError(f"the server closed the connection after {data!r}")
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), rest, {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}


def drain(sock: socket.socket, size: int, rest: bytes = b"", digest: Any = None) -> None:
    """Read on until `size` bytes have come, `rest` included."""
    buffer = memoryview(bytearray(RECV))
    got = len(rest)
    if digest:
        digest.update(rest)
    while got < size:
        n = sock.recv_into(buffer)
        if not n:
            raise RuntimeError(f"download ended after {got} of {size} bytes")
        got += n
        if digest:
            digest.update(buffer[:n])


# ---- rates

_DONE = r"""
done = function(s, latency)
  local e = s.errors
  io.write(string.format('@@ {"requests":%d,"us":%d,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"bad":%d}\n', s.requests, s.duration,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000, e.status + e.connect + e.read + e.write + e.timeout))
end
"""
_EACH = r"""
local paths, n = {}, 0
for line in io.lines('%(file)s') do paths[#paths + 1] = line end
request = function()
  n = n + 1
  return wrk.format('%(method)s', paths[(n - 1) %% #paths + 1], nil, %(body)s)
end
"""
_CREATE = r"""
local n = 0
request = function()
  n = n + 1
  return wrk.format('POST', nil, nil, string.format('{"name":"bench-create-%(seed)d-%%d","disk_format":"qcow2",' ..
    '"container_format":"bare","os_distro":"debian","bench_serial":"c-%%d","tags":["bench-create"]}', n, n))
end
"""


def wrk(client: Client, clients: int, seconds: int, path: str, script: str = "", headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Requests for so many seconds over so many connections; a single answer outside 2xx raises RuntimeError."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        lua.write(script + _DONE)
        lua.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s", "-s", lua.name]
        for name, value in client.said(MEMBER | (headers or {})).items():
            command += ["-H", f"{name}: {value}"]
        done = subprocess.run([*command, f"http://{client.host}:{client.port}{path}"], capture_output=True, text=True, check=False)
    found = re.search(r"^@@ (.*)$", done.stdout, re.M)
    if not found:
        raise RuntimeError(done.stdout + done.stderr)
    facts = json.loads(found[1])
    if facts["bad"] or not facts["requests"]:
        raise RuntimeError(f"{facts['bad']} of {facts['requests']} answers were errors: {done.stdout.strip()}")
    return facts | {"rate": round(facts["requests"] / facts["us"] * 1e6, 1)}


def wrk_each(
    client: Client,
    clients: int,
    seconds: int,
    paths: list[str],
    method: str = "GET",
    body: str = "nil",
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The same request for one path after the other, over and over; `body` is a Lua expression in which n counts the requests."""
    kind = {"GET": {}, "PATCH": {"Content-Type": PATCH_TYPE}}.get(method, {"Content-Type": "application/json"})
    with tempfile.NamedTemporaryFile("w") as names:
        Path(names.name).write_text("\n".join(paths) + "\n")
        script = _EACH % {"file": names.name, "method": method, "body": body}
        return wrk(client, clients, seconds, "/v2/images", script, (headers or {}) | kind)


def wrk_create(client: Client, clients: int, seconds: int) -> dict[str, Any]:
    return wrk(client, clients, seconds, "/v2/images", _CREATE % {"seed": time.time_ns() % 10**9}, {"Content-Type": "application/json"})
