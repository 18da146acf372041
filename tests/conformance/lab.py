"""A small cloud for the suites: Keystone, a database, a web server with sample images, and Ikon as the image service of several regions.

| Region      | What is there |
| ----------- | ------------- |
| `RegionOne` | three file stores and a store of web addresses; behind `image_remote` a second server of the same database and stores, which sees no staged data of the first. On SQLite that is the first itself |
| `Convert`   | beside SQLite only: a server that converts what it imports to raw |
| `AsTold`    | the same: a server that takes data for what its image says, whatever it is |
"""

import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.services.servers import Server
from tests.wire.server import COMMAND, Ikon, on_database

HERE = Path(__file__).parent
SERVICES = HERE.parent / "services"
#: Where tests/services puts what comes by pip.
VENVS = Path(os.environ.get("VENVS") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ikon-venvs")
PASSWORD = "secret"  # of every user of tests/services/keystone.sh
REMOTE = "image_remote"
WEB = "127.0.0.2"  # where Ikon fetches from: it never does where a server is that it uses itself
#: Alphabetically first is heaviest, as tempest wants it: it sees an image's stores by name in one test and by weight in another.
STORES: dict[str, dict[str, Any]] = {
    "cheap": {"weight": 30, "description": "A cheap store"},
    "fast": {"weight": 20, "description": "A fast store"},
    "slow": {"weight": 10, "description": "A slow store"},
}


class Keystone:
    """An identity service, as its administrator speaks to it."""

    def __init__(self, server: Server) -> None:
        self.url = f"http://127.0.0.1:{server.port}/v3"
        self._services: dict[str, str] = {}
        user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        self._token = ""
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
        self._token = self._call("POST", "/auth/tokens", {"auth": auth})[1]["X-Subject-Token"]

    def add_region(self, name: str) -> None:
        """Make a region, which is not there yet."""
        self._call("PUT", f"/regions/{name}", {"region": {}})

    def add_endpoint(self, region: str, kind: str, address: str) -> None:
        """Put a server into the catalogue of a region."""
        if kind not in self._services:
            self._services[kind] = self._call("POST", "/services", {"service": {"type": kind, "name": kind}})[0]["service"]["id"]
        where = {"service_id": self._services[kind], "region_id": region, "url": address}
        for interface in ("public", "internal", "admin"):
            self._call("POST", "/endpoints", {"endpoint": where | {"interface": interface}})

    def add_user(self, name: str, project: str, *roles: str) -> None:
        """Make a user with roles in a project that is there."""
        user = {"name": name, "domain_id": "default", "password": PASSWORD}
        made = self._call("POST", "/users", {"user": user})[0]["user"]["id"]
        where = self._call("GET", f"/projects?name={project}")[0]["projects"][0]["id"]
        for role in roles:
            as_what = self._call("GET", f"/roles?name={role}")[0]["roles"][0]["id"]
            self._call("PUT", f"/projects/{where}/users/{made}/roles/{as_what}")

    def drop_services(self, kind: str) -> None:
        """Take all servers of a kind out of the catalogue."""
        for service in self._call("GET", f"/services?type={kind}")[0]["services"]:
            self._call("DELETE", f"/services/{service['id']}")

    def _call(self, method: str, path: str, body: Any = None) -> tuple[Any, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "X-Auth-Token": self._token}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers, method=method), timeout=60) as answer:
            return json.loads(answer.read() or "null"), answer.headers


class Lab:
    """Everything of it, running; `directory` is for logs and data."""

    origin = "http://horizon.example.org"  # of web pages that use the API from browsers

    def __init__(self, directory: Path, keystone: Keystone, web: Server, images: Path) -> None:
        self.directory, self.keystone, self.web, self.images = directory, keystone, web, images
        self.servers: list[Ikon] = []

    @property
    def source(self) -> str:
        """The URL of the folder of sound sample images."""
        return f"http://{WEB}:{self.web.port}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Those that all servers have. They may fetch from this machine, and from each other's regions."""
        egress = {"allowed_networks": [WEB], "allowed_ports": [self.web.port]}
        who = {"url": self.keystone.url, "password": PASSWORD, "service_roles": ["service"]}
        shown = {"show_locations": True, "show_direct_url": True}
        common = {"identity": "keystone", "keystone": who, "egress": egress, "cors": {"allowed_origins": [self.origin]}}
        return common | shown | {"env": {"IKON_SECRET": "s" * 32}} | more

    def start(self, server: Ikon, region: str, *kinds: str) -> None:
        """Start a server, and put it into the catalogue as services of these kinds."""
        server.start()
        self.servers.append(server)
        for kind in kinds:
            self.keystone.add_endpoint(region, kind, f"http://127.0.0.1:{server.port}")

    def unforeseen(self) -> list[str]:
        """What the servers' logs tell of failures that nobody foresaw."""
        return [line for server in self.servers for line in server.unforeseen()]


@contextlib.contextmanager
def lab(directory: Path, database: Server | None) -> Iterator[Lab]:
    """The cloud, with two servers on this database server or, without one, a single server on SQLite beside those of the further regions."""
    images = Path(subprocess.run([SERVICES / "images.sh", "cached"], check=True, capture_output=True, text=True).stdout.strip())
    with contextlib.ExitStack() as stack:
        identity = stack.enter_context(Server("keystone"))
        web = stack.enter_context(Server("http", address=WEB, ROOT=str(images / "small")))
        made = Lab(directory, Keystone(identity), web, images)
        made.keystone.drop_services("image")
        stack.callback(lambda: [server.stop() for server in made.servers])
        _main(made, database)
        yield made


def _main(made: Lab, database: Server | None) -> None:
    """The servers, which find the regions that they import from in the catalogue."""
    stores = {name: store | {"shared": True, "path": str(made.directory / name)} for name, store in STORES.items()}
    common = made.settings(stores=stores | {"web": {"type": "http", "description": "Web addresses"}}, default_store="fast")
    if database is None:
        made.start(Ikon(made.directory / "main", **common), "RegionOne", "image", REMOTE)
        for region, more in {"Convert": {"conversion": {"output_format": "raw"}}, "AsTold": {"formats": {"require_match": False}}}.items():
            made.keystone.add_region(region)
            made.start(Ikon(made.directory / region, **made.settings(**more)), region, "image", REMOTE)
        return
    url = database.new_database()
    made.start(on_database(made.directory / "main", url, node="main", **common), "RegionOne", "image")
    subprocess.run([COMMAND, "metadefs", "load", "--config", made.servers[0].config], check=True, capture_output=True)
    made.start(Ikon(made.directory / "other", database=url, node="other", **common), "RegionOne", REMOTE)
