"""`docs/how-to/put-ikon-where-glance-is.md`, followed word by word with a real Keystone, MariaDB and RabbitMQ; `ikon serve` stands for the old service."""

import contextlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_events_databases import Bus
from tests.faults.world import noise
from tests.services.servers import Server
from tests.wire.server import COMMAND, Ikon
from tests.wire.test_docs_examples import blocks, end
from tests.wire.test_keystone import ROOT, Cloud, by

PAGE = ROOT / "docs/how-to/put-ikon-where-glance-is.md"
CLIENTS = ROOT / ".venv-clients/bin"
DATA = noise(1_500_000)
JSON = {"Content-Type": "application/json"}
#: What differs in a record that is made anew.
MADE_ANEW = ("created_at", "updated_at", "stores", "os_glance_importing_to_stores", "os_glance_failed_import")
#: `rabbitmqctl` as it is on the broker's machine.
RABBITMQCTL = """#!/bin/bash
export HOME={directory} RABBITMQ_NODENAME=ikon{port}@localhost ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT={epmd} LANG=C.UTF-8
exec /usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmqctl "$@"
"""


@pytest.fixture(scope="module")
def cloud(keystone: Server) -> Cloud:
    return Cloud(keystone)


@pytest.fixture
def old(cloud: Cloud, tmp_path: Path) -> Iterator[Ikon]:
    """The service that is there before, in the catalogue."""
    with Ikon(tmp_path / "old", **cloud.settings()) as server:
        admin = by(cloud.token("admin"))
        for endpoint in endpoints(cloud):
            cloud.call("PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": f"http://127.0.0.1:{server.port}"}}, admin)
        yield server


@pytest.fixture
def broker() -> Iterator[Server]:
    """A RabbitMQ of its own, which gets a virtual host and a user."""
    with Server("rabbitmq") as server:
        yield server


@pytest.fixture
def database() -> Iterator[Server]:
    """A MariaDB of its own that has no database `ikon` yet."""
    with Server("mariadb", durable=True) as server:  # as `ikon doctor` wants it
        statements = "DROP DATABASE ikon; DROP USER ikon@'127.0.0.1'"
        subprocess.run([*as_root(server), "--execute", statements], check=True)
        yield server


def as_root(server: Server) -> list[str]:
    return ["mariadb", "--no-defaults", "--user=root", f"--socket={server.directory}/sock"]


def endpoints(cloud: Cloud) -> list[dict[str, Any]]:
    """Those of the image service in the catalogue."""
    admin = by(cloud.token("admin"))
    service = next(one["id"] for one in cloud.call("GET", "/services", headers=admin)[0]["services"] if one["type"] == "image")
    return list(cloud.call("GET", f"/endpoints?service_id={service}", headers=admin)[0]["endpoints"])


def active(server: Ikon, who: dict[str, str], **fields: Any) -> str:
    """An image with data."""
    made = server.try_create({"disk_format": "raw", "container_format": "bare"} | fields, who=who)
    assert made.status == 201, made.message
    path = f"/v2/images/{made.json['id']}/file"
    assert server.call("PUT", path, DATA, {"Content-Type": "application/octet-stream"}, who=who).status == 204
    return str(made.json["id"])


def values(cloud: Cloud, old: Ikon, broker: Server, database: Server, directory: Path, port: int) -> dict[str, str]:
    """What the page's first block is to be replaced by."""
    (directory / "glance").mkdir()
    (directory / "glance/policy.yaml").write_text('"publicize_image": "role:admin"\n')
    return {
        "IKON": str(ROOT),
        "ETC": str(directory / "etc"),
        "LIB": str(directory / "lib"),
        "IMAGES": str(directory / "images"),
        "GLANCE_ETC": str(directory / "glance"),
        "OLD": f"http://127.0.0.1:{old.port}",
        "ENDPOINT": f"http://127.0.0.1:{port}",
        "KEYSTONE": cloud.url,
        "REGION": "RegionOne",
        "ADMIN": "admin",
        "TENANT": "alice",
        "GLANCE_PASSWORD": "secret",
        "DB_ADMIN": " ".join(as_root(database)),
        "DB": f"127.0.0.1:{database.port}",
        "DB_PASSWORD": "database-password",
        "RABBIT": f"127.0.0.1:{broker.port}",
        "RABBIT_PASSWORD": "broker-password",
        "NOTIFICATIONS": broker.url().replace("amqp", "rabbit"),
    }


@contextlib.contextmanager
def followed(given: dict[str, str], port: int, broker: Server, cloud: Cloud, directory: Path, *, install: bool) -> Iterator[str]:
    """What the page's commands printed, all of them having succeeded; what they started runs on inside."""
    text = PAGE.read_text(encoding="utf-8").replace("9292", str(port))
    [(_, wanted)] = blocks(text, "sh values")
    assert re.findall(r"(?:^| )([A-Z_]+)=", wanted, re.MULTILINE) == list(given)
    for name, block in blocks(text, "python file="):
        (directory / name).write_text(block)
    control = directory / "bin/rabbitmqctl"
    control.parent.mkdir()
    control.write_text(RABBITMQCTL.format(directory=broker.directory, port=broker.port, epmd=broker.port + 2))
    control.chmod(0o755)
    paths = [control.parent, CLIENTS, *([] if install else [COMMAND.parent])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("IKON", "OS_"))}
    environment |= {"PATH": ":".join([*map(str, paths), os.environ["PATH"]]), "no_proxy": "*"}
    environment |= {"OS_CLIENT_CONFIG_FILE": str(cloud.server.directory / "clouds.yaml"), "HOME": str(directory)}
    script = ["set -euxo pipefail", *(f"{name}={shlex.quote(value)}" for name, value in given.items())]
    script += [block for kind, block in blocks(text, "sh ") if kind == "run" or (kind == "install" and install)]
    output = directory / "output"
    with output.open("wb") as out:
        command = ["bash", "-c", "\n".join(script)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        shell = subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **pipes)
    try:
        code = shell.wait(timeout=600)
        said = output.read_text(errors="replace")
        assert code == 0, said
        yield said
    finally:
        end(shell.pid)


WAYS = [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.full)]


@pytest.mark.parametrize("install", WAYS, ids=["as installed", "installed anew"])
def test_the_page_leads_from_the_old_service_to_a_tenants_first_image(
    cloud: Cloud, old: Ikon, broker: Server, database: Server, tmp_path: Path, *, install: bool
) -> None:
    alice, bob, admin = (by(cloud.token(name)) for name in ("alice", "bob", "admin"))
    projects = {who: cloud.described(token["X-Auth-Token"])["project"]["id"] for who, token in (("alice", alice), ("bob", bob))}
    shared = active(old, alice, name="shared", visibility="shared", os_distro="debian", colour="red", tags=["a"], min_disk=3)
    assert old.post(f"/v2/images/{shared}/members", {"member": projects["bob"]}, who=alice).status == 200
    assert old.call("PUT", f"/v2/images/{shared}/members/{projects['bob']}", b'{"status": "accepted"}', JSON, who=bob).status == 200
    waits = old.try_create({"name": "waits"}, who=alice).json["id"]
    public = active(old, admin, name="public", visibility="public", os_hidden=True, protected=True)
    new, catalogue = Ikon(tmp_path / "new"), {one["id"] for one in endpoints(cloud)}
    given = values(cloud, old, broker, database, tmp_path, new.port)
    bus = Bus(broker.url())

    with followed(given, new.port, broker, cloud, tmp_path, install=install) as output:
        for image, who in ((shared, bob), (public, alice)):
            theirs, ours = (server.get(f"/v2/images/{image}", who=who).json for server in (old, new))
            assert ours | dict.fromkeys(MADE_ANEW) == theirs | dict.fromkeys(MADE_ANEW)
            assert new.get(f"/v2/images/{image}/file", who=who).body == DATA
        assert re.findall(r"^\d+ active images there.*", output, re.MULTILINE) == [
            "2 active images there, 2 moved now, 0 failed",
            "2 active images there, 0 moved now, 0 failed",
        ]
        assert output.count(f"stays there, queued: {waits}") == 2
        assert {(one["id"], one["url"]) for one in endpoints(cloud)} == {(one, given["ENDPOINT"]) for one in catalogue}
        [mine] = new.get("/v2/images?name=first-image", who=alice).json["images"]
        assert (mine["status"], mine["owner"]) == ("active", projects["alice"])
        heard: set[tuple[str, str]] = set()
        while not heard >= {("image.create", shared), ("image.activate", mine["id"])}:
            found = bus.heard(1)
            assert found, heard
            heard |= {(one["event_type"], one["payload"].get("id")) for one in found}
    bus.close()
