"""Imports by each method and client."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from chapters.story import CLIENTS, Journey, expect, free_port, own_ikon, same


class Place(NamedTuple):
    """An Ikon that imports, how its clients are called, and what there is to import: a URL, and an image in the region `east`."""

    endpoint: str
    openstack: list[str]
    glance: list[str]
    url: str
    remote: str


def imports(journey: Journey) -> None:
    """Data that is staged or fetched and brought into stores by a job: on an Ikon of its own, from a web server and from another Ikon."""
    folder, away, port = journey.work / "imports", journey.work / "east", free_port()
    for each in (folder, away):
        each.mkdir()
    with own_ikon(away) as east, published(journey.source.parent, port):
        made = journey.run(*clients(east)[0], "create", "-f", "json", *journey.file, "--property", "os_distro=debian", journey.name("east"))
        config = folder / "ikon.toml"
        stores = "".join(f'[stores.{name}]\ntype = "file"\npath = "{folder / name}"\n' for name in ("one", "two"))
        egress = f'[egress]\nallowed_networks = ["127.0.0.0/8"]\nallowed_ports = [{port}]\n'
        config.write_text(f'{stores}{egress}[regions.east]\nurl = "{east}"\n')
        with own_ikon(folder, "--config", str(config)) as endpoint:
            url = f"http://127.0.0.1:{port}/{journey.source.name}"
            place = Place(endpoint, *clients(endpoint), url, json.loads(made)["id"])
            import_by_openstack(journey, place)
            import_by_glance(journey, place)


def clients(endpoint: str) -> tuple[list[str], list[str]]:
    """How `openstack image` and `glance` are called where nobody has to say who they are."""
    openstack = [str(CLIENTS / "openstack"), "--os-auth-type", "none", "--os-endpoint", endpoint, "image"]
    return openstack, [str(CLIENTS / "glance"), "--os-auth-token", "none", "--os-image-url", endpoint]


def asked(endpoint: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """An answer of an Ikon that this journey started, without a client: these take seconds, and have shown elsewhere what they can."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(endpoint + path, data, {"Content-Type": "application/json"}), timeout=30) as answer:
        return dict(json.load(answer))


def imported(journey: Journey, place: Place, image: str, stores: str = "one") -> dict[str, Any]:
    """The record of an image once it is in these stores: it must be active, with the digest of the file."""
    for _ in range(600):
        record = asked(place.endpoint, f"/v2/images/{image}")
        if "os_glance_import_task" not in record:
            break
        time.sleep(0.1)
    same("status", record["status"], "active")
    same("stores", record["stores"], stores)
    same("os_hash_value", record["os_hash_value"], journey.sha512)
    return record


def import_by_openstack(journey: Journey, place: Place) -> None:
    """Each method, by `openstack image import`; the client sends a region only where it is told an interface too."""
    step, client = journey.step, place.openstack

    formats = {"disk_format": "qcow2", "container_format": "bare"}

    def new() -> str:
        """A record without data."""
        return str(asked(place.endpoint, "/v2/images", formats)["id"])

    with step("openstack image create --import --file boot.qcow2"):
        made = journey.run(*client, "create", "-f", "json", "--import", *journey.file, journey.name("import"))
        imported(journey, place, json.loads(made)["id"])
    with step("openstack image create without data, at a terminal; stage; import --method glance-direct --all-stores"):
        options = ["--disk-format", "qcow2", "--container-format", "bare", journey.name("import")]
        image = json.loads(journey.run(*client, "create", "-f", "json", *options, terminal=True))["id"]
        journey.run(*client, "stage", "--file", str(journey.source), image)
        journey.run(*client, "import", "--method", "glance-direct", "--all-stores", image)
        imported(journey, place, image, "one,two")
    with step("glance stores-delete --store two: one copy less, and the last one stays"):
        journey.run(*place.glance, "stores-delete", "--store", "two", image)
        imported(journey, place, image, "one")
        expect("403" in journey.refused(*place.glance, "stores-delete", "--store", "one", image), "the last copy may go")
    with step("openstack image import --method copy-image --store two: one copy more"):
        journey.run(*client, "import", image, "--method", "copy-image", "--store", "two")
        imported(journey, place, image, "one,two")
    with step("openstack image import --method web-download --uri http://..."):
        image = new()
        journey.run(*client, "import", "--method", "web-download", "--uri", place.url, image)
        imported(journey, place, image)
    with step("openstack image import --method glance-download --remote-region east --remote-image ID: with what the operator chose"):
        image = new()
        region = ["--remote-region", "east", "--remote-image", place.remote, "--remote-service-interface", "public"]
        journey.run(*client, "import", "--method", "glance-download", *region, image)
        same("os_distro", imported(journey, place, image)["os_distro"], "debian")
    with step("openstack image task list and show: what was done"):
        tasks = json.loads(journey.run(*client, "task", "list", "-f", "json"))
        same("tasks", [(task["Type"], task["Status"]) for task in tasks], [("api_image_import", "success")] * 5)
        shown = json.loads(journey.run(*client, "task", "show", "-f", "json", tasks[0]["ID"]))
        same("status", shown["status"], "success")
        same("image", shown["result"], {"image_id": image})
    with step("openstack image import --method glance-download of an image that is not there: the task says why"):
        image = new()
        region = ["--remote-region", "east", "--remote-image", image, "--remote-service-interface", "public"]
        journey.run(*client, "import", "--method", "glance-download", *region, image)
        for _ in range(600):
            task = asked(place.endpoint, f"/v2/images/{image}/tasks")["tasks"][0]
            if task["status"] == "failure":
                break
            time.sleep(0.1)
        said = json.loads(journey.run(*client, "task", "show", "-f", "json", task["id"]))["message"]
        expect(f"Region east does not give image {image}" in said, said)


def import_by_glance(journey: Journey, place: Place) -> None:
    """Each method, by `glance image-create-via-import`; it has to be at a terminal, for it takes anything else for the data."""
    step, client = journey.step, place.glance
    new = ["image-create-via-import", "--disk-format", "qcow2", "--container-format", "bare", "--name"]

    def rows(text: str) -> dict[str, str]:
        return dict(re.findall(r"^\| (\S+) +\| (.*?) +\|$", text, re.MULTILINE))

    def create(*options: str) -> str:
        return rows(journey.run(*client, *new, journey.name("import"), *options, terminal=True))["id"]

    def values(*command: str) -> str:
        """The second column of what a command prints, whose lines the client breaks anywhere."""
        return "".join(re.findall(r"^\| .*? \| (.*?) *\|$", journey.run(*client, *command), re.MULTILINE))

    with step("glance import-info and stores-info: what this Ikon offers"):
        offered = values("import-info")
        for method in ("glance-direct", "web-download", "copy-image", "glance-download"):
            expect(f'"{method}"' in offered, f"{method} is not offered: {offered}")
        stores = values("stores-info")
        expect('"one"' in stores and '"two"' in stores, f"stores are missing: {stores}")
        detail = values("stores-info", "--detail")
        expect('"type": "file"' in detail, f"their types are missing: {detail}")
    with step("glance image-create-via-import --import-method glance-direct --file boot.qcow2 --stores one,two"):
        image = create("--import-method", "glance-direct", "--file", str(journey.source), "--stores", "one,two")
        imported(journey, place, image, "one,two")
    with step("glance image-create-via-import --import-method web-download --uri http://..."):
        image = create("--import-method", "web-download", "--uri", place.url)
        imported(journey, place, image)
    with step("glance image-create-via-import --import-method copy-image: the client says that this makes no image; image-import does it"):
        said = journey.refused(*client, *new, "x", "--import-method", "copy-image", terminal=True)
        expect("cannot be used while creating" in said, said)
        journey.run(*client, "image-import", image, "--import-method", "copy-image", "--stores", "two", terminal=True)
        imported(journey, place, image, "one,two")
    with step("glance image-create-via-import --import-method glance-download --remote-region east --remote-image-id ID"):
        image = create("--import-method", "glance-download", "--remote-region", "east", "--remote-image-id", place.remote)
        same("os_distro", imported(journey, place, image)["os_distro"], "debian")
    with step("glance task-create --type import: an image of what a URL gives; task-list, task-show and image-tasks tell of it"):
        given = {"import_from": place.url, "import_from_format": "qcow2", "image_properties": {"name": journey.name("task")}}
        task = rows(journey.run(*client, "task-create", "--type", "import", "--input", json.dumps(given)))
        imported(journey, place, task["image_id"])
        expect(task["id"] in journey.run(*client, "task-list", "--type", "import", "--status", "success"), "it is not listed")
        same("status", rows(journey.run(*client, "task-show", task["id"]))["status"], "success")
        expect("success" in journey.run(*client, "image-tasks", task["image_id"]), "it is not among the image's")


@contextlib.contextmanager
def published(folder: Path, port: int) -> Iterator[None]:
    """A web server for the files of a folder."""
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        server.terminate()
        server.wait()
