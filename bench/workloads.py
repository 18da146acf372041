"""What is asked of each server. A workload measures one side once and returns plain figures; `run` decides who comes when."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import client as http
from client import MIB, Block
from measure import per_request, spread
from sides import Side, seen_ids, together

Facts = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    image_mib: int
    window_s: int
    rounds: int
    images: int

    @property
    def again(self) -> int:
        """How often a short transfer is repeated, so that CPU time (counted in 10 ms) means something."""
        return max(1, 1024 // self.image_mib)


class Load:
    """The data that is uploaded, the same for both sides and all rounds."""

    def __init__(self, scale: Scale) -> None:
        size = min(64, scale.image_mib) * MIB
        self.block, self.size = Block(size), scale.image_mib * MIB
        self.times = self.size // size
        self.expected = {"status": "active", "size": self.size, **self.block.digests(self.times)}


@dataclass
class Bench:
    """One side and what the workloads leave for each other there."""

    side: Side
    scale: Scale
    load: Load
    data_id: str = ""  # the image that is downloaded
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> http.Client:
        return self.side.client

    def requests(self, measure: Callable[[], Facts]) -> Facts:
        return per_request(self.side.watch(), measure)

    def transfer(self, size: int, move: Callable[[], None]) -> Facts:
        os.sync()  # what the other side left to be written is not this one's burden
        with self.side.watch() as watch:
            move()
        gib = size / 2**30
        return {"rate": round(size / watch.wall_s / 1e6, 1), "cpu": round(sum(watch.cpu.values()) / gib, 3), "bytes": size} | watch.facts()

    def send(self, image_id: str, *, length: bool) -> None:
        status = self.client.upload(image_id, self.load.block, self.load.times, length=length)
        if status != 204:
            raise RuntimeError(f"upload: {status}")

    def check(self, image_id: str) -> None:
        """See that the server has the load right."""
        image = self.client.call("GET", f"/v2/images/{image_id}")
        if wrong := {k: image.get(k) for k, v in self.load.expected.items() if image.get(k) != v}:
            raise RuntimeError(f"after the upload the image has {wrong}")

    def data(self) -> str:
        """An image whose data was read back and compared."""
        if not self.data_id:
            data_id, digest = self.client.create(), hashlib.md5()
            self.send(data_id, length=True)
            self.check(data_id)
            self.client.download(data_id, size=self.load.size, digest=digest)
            if digest.hexdigest() != self.load.expected["checksum"]:
                raise RuntimeError("the downloaded bytes are not those that were uploaded")
            self.data_id = data_id
        return self.data_id

    def made(self, at_most: int) -> list[str]:
        """The newest images that the create workloads made; some are made now when there are hardly any."""
        for _ in range(2):
            found = []
            for image in self.client.images("status=queued&limit=500"):
                ours = image["name"].startswith("bench-create")
                if ours:
                    found.append(image["id"])
                if len(found) >= at_most or (found and not ours):  # newest first: the older ones are the set
                    break
            if len(found) >= 100:
                break
            http.wrk_create(self.client, 16, self.scale.window_s)
        return found


# ---- requests


def show(bench: Bench, clients: int) -> Facts:
    paths = [f"/v2/images/{image_id}" for image_id in seen_ids(bench.scale.images)]
    return bench.requests(lambda: http.wrk_each(bench.client, clients, bench.scale.window_s, paths))


def create(bench: Bench, clients: int) -> Facts:
    return bench.requests(lambda: http.wrk_create(bench.client, clients, bench.scale.window_s))


def patch(bench: Bench, clients: int) -> Facts:
    paths = [f"/v2/images/{image_id}" for image_id in bench.made(400)]
    body = """'[{"op":"add","path":"/bench_patch","value":"' .. n .. '"}]'"""
    return bench.requests(lambda: http.wrk_each(bench.client, clients, bench.scale.window_s, paths, "PATCH", body))


def delete(bench: Bench, clients: int) -> Facts:
    """Each image once, so not by wrk: until the window ends or none is left."""
    todo, took = bench.made(4000), []
    end = time.perf_counter() + bench.scale.window_s

    def work() -> None:
        session = bench.client.session()
        while todo and time.perf_counter() < end:
            image_id, began = todo.pop(), time.perf_counter()
            bench.client.call("DELETE", f"/v2/images/{image_id}", ok=(204,), session=session)
            took.append(time.perf_counter() - began)

    def measure() -> Facts:
        began = time.perf_counter()
        together([work] * clients)
        wall_s = time.perf_counter() - began
        return {"requests": len(took), "rate": round(len(took) / wall_s, 1)} | spread(took)

    return bench.requests(measure)


# ---- transfers


def upload(bench: Bench, clients: int, *, length: bool) -> Facts:
    ids = [bench.client.create() for _ in range(clients)]
    facts = bench.transfer(bench.load.size * clients, lambda: together([lambda i=i: bench.send(i, length=length) for i in ids]))
    for image_id in ids:
        bench.check(image_id)
        bench.client.call("DELETE", f"/v2/images/{image_id}")
    return facts


def download(bench: Bench, clients: int) -> Facts:
    image_id, again = bench.data(), bench.scale.again if clients == 1 else 1

    def one() -> None:
        for _ in range(again):
            bench.client.download(image_id, size=bench.load.size)

    return bench.transfer(bench.load.size * clients * again, lambda: together([one] * clients))


def ranges(bench: Bench, clients: int) -> Facts:
    """16 pieces of a sixteenth of the image (64 MiB of 1 GiB), the same amount as one download in all."""
    image_id, again, piece = bench.data(), bench.scale.again, bench.load.size // 16

    def move() -> None:
        for _ in range(again):
            for at in range(16):
                bench.client.download(image_id, first=at * piece, size=piece)

    return bench.transfer(bench.load.size * again, move)


@dataclass(frozen=True)
class Workload:
    name: str  # for --only
    title: str
    kind: str  # request: req/s and CPU ms per request; transfer: MB/s and CPU s per GiB
    clients: int
    measure: Callable[[Bench, int], Facts]


WORKLOADS = [
    Workload("show", "show, 1 client", "request", 1, show),
    Workload("show16", "show, 16 clients", "request", 16, show),
    Workload("create", "create, 1 client", "request", 1, create),
    Workload("create16", "create, 16 clients", "request", 16, create),
    Workload("patch", "patch, 1 client", "request", 1, patch),
    Workload("patch16", "patch, 16 clients", "request", 16, patch),
    Workload("delete", "delete, 1 client", "request", 1, delete),
    Workload("delete4", "delete, 4 clients", "request", 4, delete),
    Workload("upload", "upload, chunked", "transfer", 1, lambda bench, n: upload(bench, n, length=False)),
    Workload("upload_length", "upload, with length", "transfer", 1, lambda bench, n: upload(bench, n, length=True)),
    Workload("upload4", "4 uploads, chunked", "transfer", 4, lambda bench, n: upload(bench, n, length=False)),
    Workload("download", "download", "transfer", 1, download),
    Workload("range", "download by ranges", "transfer", 1, ranges),
    Workload("download4", "4 downloads", "transfer", 4, download),
]
