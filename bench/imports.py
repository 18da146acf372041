#!/usr/bin/env python3
"""How long requests take while imports run in the same process, beside how long they take while nothing else does.

    bench/imports.py [--mib 512] [--imports 4] [--rounds 3] [--rate 50]

One `ikon serve` with its defaults, SQLite, file stores. A client on one connection asks at a steady rate, in turn for an image, a page of
25, a new image and a patch; each round first while nothing runs, then while that many glance-direct imports do, each into two stores.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IKON = Path(__file__).resolve().parents[1] / ".venv/bin/ikon"
MIB = 1 << 20
JSON, PATCH = {"Content-Type": "application/json"}, {"Content-Type": "application/openstack-images-v2.1-json-patch"}


class Server:
    def __init__(self, directory: str, slots: int) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        config = Path(directory) / "ikon.toml"
        stores = "".join(f'[stores.{name}]\ntype = "file"\npath = "{directory}/{name}"\n' for name in ("one", "two"))
        config.write_text(f'data = "{directory}/data"\nlisten = "127.0.0.1:{self.port}"\n[jobs]\nslots = {slots}\n{stores}')
        self.process = subprocess.Popen([IKON, "serve", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                time.sleep(0.02)
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def call(self, method: str, path: str, body=None, headers=()) -> dict:
        self.connection.request(method, path, body, dict(headers))
        response = self.connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:300]}")
        return json.loads(answer) if answer else {}

    def create(self) -> str:
        return self.call("POST", "/v2/images", json.dumps({"disk_format": "raw", "container_format": "bare"}), JSON)["id"]

    def staged(self, mib: int) -> str:
        image, block = self.create(), os.urandom(MIB)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(mib * MIB)}
        self.call("PUT", f"/v2/images/{image}/stage", (block for _ in range(mib)), headers)
        return image


KINDS = ("show", "list", "create", "patch")


def ask(server: Server, images: list[str], rate: int, going_on) -> list[tuple[str, float]]:
    """Ask at a steady rate, as far as answers come, while something goes on. Milliseconds of each answer."""
    took, due, n = [], time.monotonic(), 0
    while going_on():
        image = images[n % len(images)]
        kind = KINDS[n % 4]
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        if kind == "show":
            server.call("GET", f"/v2/images/{image}")
        elif kind == "list":
            server.call("GET", "/v2/images?limit=25")
        elif kind == "create":
            server.create()
        else:
            server.call("PATCH", f"/v2/images/{image}", json.dumps([{"op": "add", "path": "/n", "value": str(n)}]), PATCH)
        took.append((kind, 1000 * (time.monotonic() - began)))
        due, n = max(due + 1 / rate, time.monotonic()), n + 1
    return took


def compare(idle: list[tuple[str, float]], busy: list[tuple[str, float]], name: str, percent: int) -> str:
    before, during = (statistics.quantiles([ms for kind, ms in took if name in (kind, "all")], n=100)[percent - 1] for took in (idle, busy))
    return f"   p{percent} {before:6.1f} {during:6.1f} {during / before:5.1f}x"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mib", type=int, default=512)
    p.add_argument("--imports", type=int, default=4)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--rate", type=int, default=50)
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="ikon-bench-", dir=os.environ.get("TMPDIR")) as directory:
        server = Server(directory, args.imports)
        try:
            images = [server.create() for _ in range(200)]
            idle, busy, seconds = [], [], 0.0
            for _ in range(args.rounds):
                staged = [server.staged(args.mib) for _ in range(args.imports)]
                os.sync()
                until = time.monotonic() + 15
                idle += ask(server, images, args.rate, lambda until=until: time.monotonic() < until)
                for image in staged:
                    body = {"method": {"name": "glance-direct"}, "all_stores": True}
                    server.call("POST", f"/v2/images/{image}/import", json.dumps(body), JSON)
                began, looked, ended = time.monotonic(), 0.0, False

                def going_on() -> bool:
                    nonlocal looked, ended
                    if time.monotonic() - looked > 0.5:
                        looked = time.monotonic()
                        ended = all(server.call("GET", f"/v2/images/{image}")["status"] == "active" for image in staged)
                    return not ended

                busy += ask(server, images, args.rate, going_on)
                seconds += time.monotonic() - began
                for image in staged:
                    server.call("DELETE", f"/v2/images/{image}")
            moved = args.rounds * args.imports * args.mib
            print(f"{args.imports} imports at {moved / seconds:.0f} MiB/s; ms without and with them, and how many times as long")
            for name in (*KINDS, "all"):
                print(f"{name:7}", *(compare(idle, busy, name, percent) for percent in (50, 90, 99)))
        finally:
            server.process.terminate()
            server.process.wait(60)


if __name__ == "__main__":
    sys.exit(main())
