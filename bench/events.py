#!/usr/bin/env python3
"""How many events a second each sink is told, and what a long backlog costs while its sink is away.

    bench/events.py [--events 2000] [--images 200] [--backlog 100000] [--delay-ms 0]      run by .venv/bin/python

One process with SQLite. The webhook's receiver is a server of its own that answers 204, --delay-ms later; notifications go to a RabbitMQ
that is started for it. Each event is read, told and removed by a commit of its own, as in a server.
"""

import argparse
import asyncio
import base64
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from services import CHECKOUT, Service, free_port  # noqa: E402
from sqlalchemy import Connection  # noqa: E402

from ikon import log  # noqa: E402
from ikon.app import open_kit, prepare  # noqa: E402
from ikon.config import Settings, load  # noqa: E402
from ikon.context import Context  # noqa: E402
from ikon.db import deliveries  # noqa: E402
from ikon.kit import Kit  # noqa: E402
from ikon.model import event  # noqa: E402
from ikon.model.image import Image  # noqa: E402
from ikon.periodic import teller  # noqa: E402

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def image(n: int, version: int) -> Image:
    """An image as it is when its event is written."""
    at, properties = 1_700_000_000_000_000 + n, {f"property_{i}": "some value" for i in range(8)}
    base = (at, f"{n:036d}", "alpha", "private", False, "active", "a name", "raw", "bare", 1, 1, 0, 0, False)
    return Image(*base, "0" * 32, "sha512", "0" * 128, at, version, None, None, properties, ["tag"], ["local"], {})


async def fill(kit: Kit, sink: str, events: int, images: int) -> None:
    """Leave a sink so many events of so many images to hear."""
    for at in range(0, events, 1000):
        await kit.db.write(add, sink, range(at, min(at + 1000, events)), images)


def add(conn: Connection, sink: str, numbers: range, images: int) -> None:
    for n in numbers:
        one = image(n % images, n // images + 1)
        deliveries.add(
            conn, sink, one.id, one.version, "image.update", event.body(Context("u", "alpha"), "image.update", one, None, one.updated)
        )


def receive(port: int, delay_s: float) -> int:
    """Start a receiver; its process id."""
    if pid := os.fork():
        return pid

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        await asyncio.sleep(delay_s)
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def serve() -> None:
        await (await asyncio.start_server(answer, "127.0.0.1", port)).serve_forever()

    with contextlib.suppress(BaseException):
        asyncio.run(serve())
    os._exit(0)


async def measure(settings: Settings, sink: str, args: argparse.Namespace) -> None:
    async with open_kit(settings) as kit:
        await fill(kit, sink, args.events, args.images)
        cpu, began, heard = time.process_time(), time.perf_counter(), 0
        while found := (await teller.run_once(kit, sink))["events"].mended:
            heard += found
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert heard == args.events, heard
        print(f"{sink:14} {heard / wall:7.0f} events/s, {1000 * cpu / heard:.2f} ms of CPU each")


async def backlog(settings: Settings, args: argparse.Namespace) -> None:
    async with open_kit(settings) as kit:
        await fill(kit, "log", args.backlog, args.images)
        for title, put_off in (("due", False), ("all put off", True)):
            if put_off:
                await kit.db.write(lambda conn: conn.execute(deliveries.t.update().values(not_before=1 << 60)))
            took = []
            for _ in range(5):
                began = time.perf_counter()
                await kit.db.read(deliveries.due, "log", 100)
                took.append(1000 * (time.perf_counter() - began))
            print(f"{args.backlog:,} events of {args.images} images, {title}: looking for work takes {sorted(took)[2]:.1f} ms")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("events", 2000), ("images", 200), ("backlog", 100_000), ("delay-ms", 0)):
        p.add_argument(f"--{name}", type=int, default=default)
    args = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="ikon-bench-", dir=os.environ.get("TMPDIR")) as directory, contextlib.ExitStack() as stack:
        port, rabbit = free_port(), Service("rabbitmq", CHECKOUT / ".state/bench")
        stack.callback(os.kill, receive(port, args.delay_ms / 1000), 9)
        stack.callback(rabbit.wipe)
        rabbit.start()
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context((Path(directory) / "server.log").open("w"))))
        log.configure("info", "json")
        kinds: dict[str, Any] = {
            "log": True,
            "webhook": f"http://127.0.0.1:{port}/",
            "notifications": rabbit.url.replace("amqp", "rabbit"),
        }
        for sink, value in kinds.items():
            given = {sink: value} | ({"webhook_secret": SECRET} if sink == "webhook" else {})
            settings = load(None, {"data": f"{directory}/{sink}", "events": given}, {})
            prepare(settings)
            asyncio.run(measure(settings, sink, args))
        settings = load(None, {"data": f"{directory}/backlog", "events": {"log": True}}, {})
        prepare(settings)
        asyncio.run(backlog(settings, args))


if __name__ == "__main__":
    main()
