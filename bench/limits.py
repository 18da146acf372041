"""What this machine can do at best: the figures that no image service can beat, one JSON line each.

  limits.py FOLDER [MIB [SECONDS]]     run by Ikon's Python, which has blake3 and uvloop; FOLDER is on the file system of the stores

Servers here are forked children that do one thing and nothing else; their CPU time is what the kernel says when they end.
"""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import client as http
from client import MIB, RECV, drain

try:
    from blake3 import blake3
except ImportError:
    blake3 = None
FOLDER, TOTAL, WINDOW_S = Path(sys.argv[1]), int((sys.argv[2:] or ["1024"])[0]) * MIB, int((sys.argv[3:] or ["2"])[0])
GIB = 2**30
WRITE = 256 * 1024  #: write() of 1 MiB into the page cache was seen to cost 0.5-1.7 CPU s/GiB, of 64-256 KiB 0.25
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 600\r\n\r\n" + b'"' + b"x" * 598 + b'"'


def tell(limit: str, **figures: float) -> None:
    print(json.dumps({"kind": "limit", "limit": limit} | {k: round(v, 3) for k, v in figures.items()}), flush=True)


def percentiles(took: list[float]) -> dict[str, float]:
    took.sort()
    return {"p50_ms": took[len(took) // 2] * 1e3, "p99_ms": took[int(len(took) * 0.99)] * 1e3, "per_s": len(took) / sum(took)}


def server(serve: Callable[[socket.socket], object]) -> tuple[int, socket.socket]:
    """Fork a child that serves one connection; its process id and the connected socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    if not (pid := os.fork()):
        with contextlib.suppress(BaseException):
            serve(listener.accept()[0])
        os._exit(0)
    return pid, socket.create_connection(listener.getsockname())


def cpu_s(pid: int) -> float:
    """Wait for the child's end; its CPU seconds."""
    used = os.wait4(pid, 0)[2]
    return used.ru_utime + used.ru_stime


# ---- one core


def digest(name: str, new: Callable[[], object]) -> None:
    block, state = os.urandom(MIB), new()
    used, began = time.process_time(), time.perf_counter()
    for _ in range(TOTAL // 4 // MIB):
        state.update(block)
    used, wall = time.process_time() - used, time.perf_counter() - began
    tell(name, MBps=TOTAL / 4 / wall / 1e6, cpu_s_per_GiB=used / (TOTAL / 4 / GIB))


# ---- bytes in


def receive(name: str, into: Callable[[socket.socket], object]) -> None:
    """Send TOTAL bytes to a child; the time until it says that it is done."""
    block = os.urandom(16 * MIB)
    os.sync()
    pid, sock = server(lambda conn: (into(conn), conn.sendall(b".")))
    began = time.perf_counter()
    for _ in range(TOTAL // len(block)):
        sock.sendall(block)
    if sock.recv(1) != b".":
        raise RuntimeError(f"{name}: the child failed")
    wall = time.perf_counter() - began
    tell(name, MBps=TOTAL / wall / 1e6, cpu_s_per_GiB=cpu_s(pid) / (TOTAL / GIB))


def just_receive(conn: socket.socket) -> None:
    drain(conn, TOTAL)


def receive_and_write(conn: socket.socket) -> None:
    buffer, left = memoryview(bytearray(RECV)), TOTAL
    with (FOLDER / "limit").open("wb", buffering=0) as file:
        while left:
            n = conn.recv_into(buffer)
            file.write(buffer[:n])
            left -= n


def write(file: io.FileIO, block: memoryview) -> None:
    for at in range(0, len(block), WRITE):
        file.write(block[at : at + WRITE])


def keep(conn: socket.socket) -> None:
    """All that an upload asks for: receive, md5, sha512 and blake3, write, fdatasync; digests and writing in threads, four blocks ahead."""
    states = [hashlib.md5(), hashlib.sha512()] + ([blake3()] if blake3 else [])
    buffers, left, number = [memoryview(bytearray(MIB)) for _ in range(4)], TOTAL, 0
    pending: list[list] = [[] for _ in buffers]
    threads = [ThreadPoolExecutor(1) for _ in range(len(states) + 1)]  # one each: what one does must stay in order
    with (FOLDER / "limit").open("wb", buffering=0) as file:
        while left:
            slot, number = number % len(buffers), number + 1
            for done in pending[slot]:
                done.result()
            got, view = 0, buffers[slot]
            while got < min(MIB, left):
                got += conn.recv_into(view[got:])
            left -= got
            works = [state.update for state in states] + [lambda block: write(file, block)]
            pending[slot] = [thread.submit(work, view[:got]) for thread, work in zip(threads, works, strict=True)]
        for thread in threads:
            thread.shutdown()
        os.fdatasync(file.fileno())


# ---- bytes out


def send(name: str, out: Callable[[socket.socket], object], clients: int = 1) -> None:
    """Read TOTAL bytes from each of several children with the client that the workloads use."""
    children = [server(out) for _ in range(clients)]
    began = time.perf_counter()
    readers = [threading.Thread(target=drain, args=(sock, TOTAL)) for _, sock in children]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    wall = time.perf_counter() - began
    tell(name, MBps=TOTAL * clients / wall / 1e6, cpu_s_per_GiB=sum(cpu_s(pid) for pid, _ in children) / (TOTAL * clients / GIB))


def by_sendfile(conn: socket.socket) -> None:
    with (FOLDER / "limit").open("rb") as file:
        at = 0
        while at < TOTAL:
            at += os.sendfile(conn.fileno(), file.fileno(), at, TOTAL - at)


def checked(conn: socket.socket) -> None:
    buffer = memoryview(bytearray(MIB))
    with (FOLDER / "limit").open("rb", buffering=0) as file:
        while n := file.readinto(buffer):
            blake3(buffer[:n]).digest()
            conn.sendall(buffer[:n])


# ---- disk


def disk() -> None:
    """Leaves a file of TOTAL bytes in the page cache."""
    block = os.urandom(WRITE)
    os.sync()
    with (FOLDER / "limit").open("wb", buffering=0) as file:
        used, began = time.process_time(), time.perf_counter()
        for _ in range(TOTAL // len(block)):
            file.write(block)
        os.fdatasync(file.fileno())
        used, wall = time.process_time() - used, time.perf_counter() - began
        tell("write and fdatasync", MBps=TOTAL / wall / 1e6, cpu_s_per_GiB=used / (TOTAL / GIB))
    buffer = bytearray(RECV)
    with (FOLDER / "limit").open("rb", buffering=0) as file:
        began = time.perf_counter()
        while file.readinto(buffer):
            pass
        tell("read from the page cache", MBps=TOTAL / (time.perf_counter() - began) / 1e6)
    took = []
    with (FOLDER / "small").open("wb", buffering=0) as file:
        for _ in range(300):
            began = time.perf_counter()
            file.write(block[:4096])
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    tell("fsync of 4 KiB", **percentiles(took))


def commits() -> None:
    """One row per transaction in a SQLite that syncs each (WAL, synchronous=FULL)."""
    db, took = sqlite3.connect(FOLDER / "limit.db", isolation_level=None), []
    db.executescript("pragma journal_mode=wal; pragma synchronous=full; create table t (id integer primary key, v text)")
    for i in range(300):
        began = time.perf_counter()
        db.execute("insert into t values (?, ?)", (i, "x" * 500))
        took.append(time.perf_counter() - began)
    tell("durable SQLite commit", **percentiles(took))


# ---- answers


class Constant(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(ANSWER)


def answers() -> None:
    """A server that parses nothing and answers 600 bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    for clients in (1, 16):
        if not (pid := os.fork()):
            _serve_constant(listener)
        try:
            facts = http.wrk(http.Client(listener.getsockname()[1]), clients, WINDOW_S, "/")
        finally:
            os.kill(pid, signal.SIGTERM)
            used = cpu_s(pid)
        tell(
            f"constant answer, {clients} client{'s' * (clients > 1)}",
            per_s=facts["rate"],
            p50_ms=facts["p50_ms"],
            p99_ms=facts["p99_ms"],
            cpu_ms=used / facts["requests"] * 1e3,
        )


def _serve_constant(listener: socket.socket) -> None:
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    async def serve() -> None:
        await (await asyncio.get_running_loop().create_server(Constant, sock=listener)).serve_forever()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(serve())


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        digest("md5", hashlib.md5)
        digest("sha512", hashlib.sha512)
        if blake3:
            digest("blake3", blake3)
        receive("receive", just_receive)
        receive("receive, write", receive_and_write)
        receive("receive, 3 digests, write, sync" if blake3 else "receive, 2 digests, write, sync", keep)
        disk()
        send("sendfile download", by_sendfile)
        send("4 sendfile downloads", by_sendfile, 4)
        if blake3:
            send("read, blake3, send", checked)
        commits()
        answers()
    finally:
        for name in ("limit", "small", "limit.db", "limit.db-wal", "limit.db-shm"):
            (FOLDER / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
