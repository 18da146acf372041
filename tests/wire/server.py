"""A real `ikon serve` on a free port, and the smallest client that can say everything, right and wrong, in the name of anyone."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from tests.services.servers import free_port

COMMAND = Path(sys.executable).with_name("ikon")
PATIENCE_S = 30.0
BYTES = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
OLD_PATCH = {"Content-Type": "application/openstack-images-v2.0-json-patch"}
#: What the log holds when a request failed in a way that nobody foresaw.
UNFORESEEN = ("Traceback", "request failed", "never retrieved")

Headers = Mapping[str, str | None]


class Persona(NamedTuple):
    """Someone who asks: project None is a token without a project."""

    project: str | None
    roles: str = "member,reader"
    user: str = "user"
    system: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What a middleware in front says of them."""
        said = {"X-Identity-Status": "Confirmed", "X-User-Id": self.user, "X-Roles": self.roles}
        if self.project is not None:
            said["X-Project-Id"] = self.project
        if self.system:
            said["OpenStack-System-Scope"] = "all"
        return said


MEMBER = Persona("home")
READER = Persona("home", "reader")
STRANGER = Persona("elsewhere")
ADMIN = Persona("operators", "admin,member,reader")
NOBODY: Headers = {}
#: What no image is called; fixed, so that tests have the same names in each run.
UNUSED_ID = "6f1c2d8e-3b57-4a90-8c1e-5d2f7a9b4c30"


def someone(roles: str = "member,reader") -> Persona:
    """A caller in a project that has nothing yet."""
    return Persona(f"project-{uuid.uuid4()}", roles)


class Answer(NamedTuple):
    """An answer that came in whole."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """What an error says, in whichever form it came."""
        if self.headers.get_content_type() != "application/json":
            return self.body.decode()
        said = self.json
        return str(said["error"]["message"] if "error" in said else said["message"])


class Ikon:
    """One `ikon serve` with two file stores, `one` and `two`, as a context manager. Settings are those of its file; a dict is a table."""

    def __init__(self, directory: Path, *, env: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.directory, self.port, self.env = directory, free_port(), dict(env or {})
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        given = {
            "data": str(directory / "data"),
            "listen": f"127.0.0.1:{self.port}",
            "identity": "headers",
            "log_format": "json",
        } | settings
        stores = given.get("stores", {"one": {"weight": 20, "description": "The first"}, "two": {"weight": 10}})
        given["stores"] = {
            name: store if "type" in store else {"type": "file", "path": str(directory / name)} | store for name, store in stores.items()
        }
        self.config = directory / "ikon.toml"
        self.config.write_text("\n".join(_toml(given)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def start(self) -> None:
        """Start it; returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", "--config", self.config],
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/healthcheck").status == 200:
                    return
            assert self.process.poll() is None, f"the server ended at its start:\n{self.said()[-3000:]}"
            assert time.monotonic() < end, f"the server does not answer:\n{self.said()[-3000:]}"
            time.sleep(0.01)

    def stop(self) -> int:
        """SIGTERM, and wait for the end. Returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End all its processes at once, as a crash does."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def unforeseen(self) -> list[str]:
        """Lines of its log that tell of a failure that nobody foresaw."""
        return [line[:3000] for line in self.said().splitlines() if any(word in line for word in UNFORESEEN)]

    def memory_kib(self) -> int:
        """Resident memory of the server process."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def files(self) -> list[Path]:
        """Everything that lies in its stores."""
        return [path for store in self.directory.iterdir() if store.name not in ("data", "log", "ikon.toml") for path in store.rglob("*")]

    # Requests

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Headers | None = None,
        *,
        who: Persona | Headers = MEMBER,
        timeout_s: float = PATIENCE_S,
    ) -> Answer:
        """One request on a connection of its own. A body that is no bytes goes out chunked. A header that is None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        said = (who.headers if isinstance(who, Persona) else dict(who)) | dict(headers or {})
        try:
            connection.request(method, path, body, {name: value for name, value in said.items() if value is not None})
            return _read(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, headers: Headers | None = None, *, who: Persona | Headers = MEMBER) -> Answer:
        """GET"""
        return self.call("GET", path, None, headers, who=who)

    def post(self, path: str, value: Any = None, headers: Headers | None = None, *, who: Persona | Headers = MEMBER) -> Answer:
        """POST, with a value as JSON; bytes as they are; None: without a body."""
        body = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        return self.call("POST", path, body, headers, who=who)

    def try_create(self, value: Any, *, who: Persona | Headers = MEMBER) -> Answer:
        """POST /v2/images with what may not be allowed."""
        return self.post("/v2/images", value, who=who)

    def create(self, *, who: Persona = MEMBER, **fields: Any) -> dict[str, Any]:
        """A queued image's record."""
        answer = self.try_create({"disk_format": "raw", "container_format": "bare"} | fields, who=who)
        assert answer.status == 201, answer
        return dict(answer.json)

    def show(self, image_id: str, *, who: Persona = ADMIN) -> dict[str, Any]:
        """An image's record."""
        answer = self.get(f"/v2/images/{image_id}", who=who)
        assert answer.status == 200, answer
        return dict(answer.json)

    def patch(self, image_id: str, operations: Any, headers: Headers = PATCH, *, who: Persona | Headers = MEMBER) -> Answer:
        """PATCH, with a value as JSON; bytes as they are."""
        body = operations if isinstance(operations, bytes) else json.dumps(operations).encode()
        return self.call("PATCH", f"/v2/images/{image_id}", body, headers, who=who)

    def delete(self, image_id: str, *, who: Persona = MEMBER) -> Answer:
        """DELETE of an image."""
        return self.call("DELETE", f"/v2/images/{image_id}", who=who)

    def upload(
        self, image_id: str, body: bytes | Iterator[bytes] | None, headers: Headers | None = None, *, who: Persona = MEMBER
    ) -> Answer:
        """PUT of an image's data: bytes with their length, an iterator chunked."""
        return self.call("PUT", f"/v2/images/{image_id}/file", body, BYTES | dict(headers or {}), who=who)

    def active(self, data: bytes, *, store: str | None = None, who: Persona = MEMBER, **fields: Any) -> str:
        """The id of an image with data."""
        image_id = str(self.create(who=who, **fields)["id"])
        answer = self.upload(image_id, data, {"X-Image-Meta-Store": store}, who=who)
        assert answer.status == 204, answer
        return image_id

    def download(self, image_id: str, headers: Headers | None = None, query: str = "", *, who: Persona = MEMBER) -> Answer:
        """GET of an image's data."""
        return self.get(f"/v2/images/{image_id}/file{query}", headers, who=who)

    def copy(self, image_id: str, store: Any, *, who: Persona = ADMIN) -> Answer:
        """POST of a copy. Where it is let begin, the copy is in the store when this returns."""
        answer = self.post(f"/ikon/v1/images/{image_id}/copies", {"store": store}, who=who)
        if answer.status == 202:
            ended = self.ended(answer.json["job"])
            assert ended["state"] == "done", ended
        return answer

    def ended(self, job_id: str) -> dict[str, Any]:
        """A job, once it has ended."""
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = self.get(f"/ikon/v1/jobs/{job_id}", who=ADMIN)
            assert answer.status == 200, answer
            if answer.json["state"] in ("done", "failed", "cancelled"):
                return dict(answer.json)
            assert time.monotonic() < end, f"it does not end: {answer.json}"
            time.sleep(0.02)

    def act(self, image_id: str, action: str, *, who: Persona = MEMBER) -> Answer:
        """POST of an action."""
        return self.post(f"/v2/images/{image_id}/actions/{action}", who=who)

    def share(self, image_id: str, project: Any, *, who: Persona = MEMBER) -> Answer:
        """POST of a member."""
        return self.post(f"/v2/images/{image_id}/members", {"member": project}, who=who)

    def reply(self, image_id: str, project: str, status: Any, *, who: Persona) -> Answer:
        """PUT of a member's status."""
        return self.call("PUT", f"/v2/images/{image_id}/members/{q(project)}", json.dumps({"status": status}).encode(), who=who)

    def unshare(self, image_id: str, project: str, *, who: Persona = MEMBER) -> Answer:
        """DELETE of a member."""
        return self.call("DELETE", f"/v2/images/{image_id}/members/{q(project)}", who=who)

    def members(self, image_id: str, *, who: Persona = ADMIN) -> dict[str, str]:
        """Whom an image is shared with, and what they have answered."""
        answer = self.get(f"/v2/images/{image_id}/members", who=who)
        assert answer.status == 200, answer
        return {entry["member_id"]: entry["status"] for entry in answer.json["members"]}

    def browse(self, query: str = "", *, who: Persona = MEMBER) -> Answer:
        """GET /v2/images"""
        return self.get(f"/v2/images{query}", who=who)

    def ids(self, query: str = "", *, who: Persona = MEMBER) -> list[str]:
        """The ids of one list page."""
        answer = self.browse(query, who=who)
        assert answer.status == 200, answer
        return [image["id"] for image in answer.json["images"]]

    def walk(self, query: str = "", *, who: Persona = MEMBER) -> list[list[dict[str, Any]]]:
        """All pages of a list, through `next`."""
        pages, path = [], f"/v2/images{query}"
        while path:
            answer = self.get(path, who=who)
            assert answer.status == 200, answer
            pages.append(answer.json["images"])
            path = answer.json.get("next")
            assert len(pages) < 1000, "the list does not end"
        return pages

    # Below HTTP

    def connect(self, timeout_s: float = PATIENCE_S) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def raw(self, sent: bytes, *, end: bool = False) -> Answer:
        """The answer to these very bytes; end: nothing more will be sent."""
        with self.connect() as sock:
            sock.sendall(sent)
            if end:
                sock.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(sock, method=sent.partition(b" ")[0].decode("latin-1"))
            response.begin()
            return _read(response)


def on_database(directory: Path, url: str, **settings: Any) -> Ikon:
    """A server, not yet started, on a fresh database whose schema has been made."""
    server = Ikon(directory, database=url, **settings)
    subprocess.run([COMMAND, "db", "upgrade", "--config", server.config], check=True, capture_output=True)
    return server


def head(method: str, path: str, *lines: str, who: Persona | Headers = MEMBER) -> bytes:
    """The head of a request, with the persona's headers and these further lines."""
    said = who.headers if isinstance(who, Persona) else dict(who)
    named = [f"{name}: {value}" for name, value in said.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *named, *lines, "", ""]).encode("latin-1")


def q(text: str) -> str:
    """A value for a query string or one segment of a path."""
    return quote(text, safe="")


def _read(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, response.reason, response.headers, response.read())


def _toml(settings: Mapping[str, Any], table: str = "") -> Iterator[str]:
    """Lines of a settings file; JSON's scalars and lists are TOML's."""
    for name, value in settings.items():
        if not isinstance(value, dict):
            yield f"{name} = {json.dumps(value)}"
    for name, value in settings.items():
        if isinstance(value, dict):
            yield f"[{table}{name}]"
            yield from _toml(value, f"{table}{name}.")
