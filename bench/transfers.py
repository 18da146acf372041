"""Imports and copies of whole images: asked of a server over the API, and done by plain tools. One measurement at a time."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client import Client, identity
from measure import CORES, _machine_s
from sides import Side
from sources import MIB, Disks, tool

ADMIN = identity("bench", "admin")
#: Seconds for one transfer.
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Transfer:
    """One kind of work. convert: what both servers are set to convert imports to. source: the format of the data that goes in."""

    name: str
    title: str
    convert: str
    source: str
    plain: str  # the tool that does the same


TRANSFERS = [
    Transfer("web", "web-download, raw", "", "raw", "curl"),
    Transfer("copy", "copy to a store, raw", "", "raw", "cp"),
    Transfer("to_raw", "convert qcow2 -> raw", "raw", "qcow2", "qemu-img"),
    Transfer("to_qcow2", "convert raw -> qcow2", "qcow2", "raw", "qemu-img"),
]


@dataclass
class Place:
    """The disks, where they are served, and a folder on the file system of the stores."""

    disks: Disks
    port: int
    scratch: Path

    def url(self, form: str) -> str:
        return f"http://127.0.0.1:{self.port}/{self.disks.paths[form].name}"


def by_tool(place: Place, transfer: Transfer) -> dict[str, Any]:
    """The same work by curl, cp or qemu-img convert, and a sync of what it made."""
    source, target = place.disks.paths[transfer.source], place.scratch / "made"
    commands = {
        "curl": ["curl", "-sf", "-o", target, place.url(transfer.source)],
        "cp": ["cp", "--reflink=never", "--sparse=never", source, target],
        "qemu-img": ["qemu-img", "convert", "-f", transfer.source, "-O", transfer.convert, source, target],
    }
    os.sync()
    before = _machine_s()
    took = tool([str(word) for word in commands[transfer.plain]], target)
    foreign = max(0.0, _machine_s() - before - took["cpu_s"]) / (took["wall_s"] * CORES)
    return _facts(place, took["wall_s"], took["cpu_s"], foreign)


def by_server(place: Place, side: Side, transfer: Transfer) -> dict[str, Any]:
    """From the request to the end of the work, as the image's record shows it. Nothing before and after is timed."""
    client, form = side.client, transfer.source
    image_id = client.create(disk_format=form)
    stores = ["second"] if transfer.name == "copy" else ["fast"]
    if transfer.name == "copy":
        _put(client, image_id, "file", place.disks.paths[form])
    elif transfer.convert:
        _put(client, image_id, "stage", place.disks.paths[form])
    method = {"web": {"name": "web-download", "uri": place.url(form)}, "copy": {"name": "copy-image"}}
    body = {"method": method.get(transfer.name, {"name": "glance-direct"}), "stores": stores}
    os.sync()
    with side.watch() as watch:
        client.call("POST", f"/v2/images/{image_id}/import", body, ok=(202,), headers=ADMIN)
        _wait(client, image_id, stores[0], 0.05 if place.disks.bytes < 512 * MIB else 0.2)
    _check(place, client, transfer, image_id)
    client.call("DELETE", f"/v2/images/{image_id}", headers=ADMIN)
    return _facts(place, watch.wall_s, sum(watch.cpu.values()), watch.foreign_s / (watch.wall_s * CORES)) | watch.facts()


def _facts(place: Place, wall_s: float, cpu_s: float, foreign: float) -> dict[str, Any]:
    size = place.disks.bytes
    return {"rate": round(size / wall_s / 1e6, 1), "cpu": round(cpu_s / (size / 1e9), 3), "foreign": round(foreign, 3)}


def _put(client: Client, image_id: str, what: str, path: Path) -> None:
    session = client.session()
    with path.open("rb") as file:
        headers = ADMIN | {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        session.request("PUT", f"/v2/images/{image_id}/{what}", file, headers)
        answer = session.getresponse()
        if answer.status != 204:
            raise RuntimeError(f"PUT {what}: {answer.status} {answer.read()[:300]!r}")
    session.close()


def _wait(client: Client, image_id: str, store: str, pause_s: float) -> None:
    until, looks, session = time.monotonic() + PATIENCE_S, 0, client.session()
    while time.monotonic() < until:
        image = client.call("GET", f"/v2/images/{image_id}", headers=ADMIN, session=session)
        if image["status"] == "active" and store in image.get("stores", "").split(","):
            return
        if looks % 20 == 19:
            for task in client.call("GET", f"/v2/images/{image_id}/tasks", headers=ADMIN)["tasks"]:
                if task["status"] == "failure":
                    raise RuntimeError(f"the import failed: {task['message']}")
        looks += 1
        time.sleep(pause_s)
    raise RuntimeError(f"not done after {PATIENCE_S} s")


def _check(place: Place, client: Client, transfer: Transfer, image_id: str) -> None:
    image = client.call("GET", f"/v2/images/{image_id}", headers=ADMIN)
    if transfer.convert:
        right = image["disk_format"] == transfer.convert and (transfer.convert != "raw" or image["size"] == place.disks.bytes)
    else:
        right = image["os_hash_value"] == place.disks.sha512(transfer.source)
    if not right:
        raise RuntimeError(f"what came of it is wrong: {image}")
