"""Tasks that are posted: an administrator has an image made of what a URL gives, and reads how that went."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from tests.wire.server import ADMIN, MEMBER, READER, Ikon

DATA = b"data to be fetched " * 5000
SOURCE = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
SETTINGS = {"egress": {"allowed_networks": ["127.0.0.0/8"], "allowed_ports": [SOURCE.server_address[1]]}}
URL = f"http://127.0.0.1:{SOURCE.server_address[1]}"


class Data(BaseHTTPRequestHandler):
    """Gives the data at /disk.raw, whatever the query."""

    def do_GET(self) -> None:
        if not self.path.startswith("/disk.raw"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def source() -> Iterator[None]:
    SOURCE.RequestHandlerClass = Data
    Thread(target=SOURCE.serve_forever, args=(0.02,), daemon=True).start()
    yield
    SOURCE.shutdown()
    SOURCE.server_close()


def task(**given: Any) -> dict[str, Any]:
    return {"type": "import", "input": {"import_from": f"{URL}/disk.raw", "import_from_format": "raw"} | given}


def ended(ikon: Ikon, task_id: str) -> dict[str, Any]:
    end = time.monotonic() + 60
    while (found := ikon.get(f"/v2/tasks/{task_id}", who=ADMIN).json)["status"] not in ("success", "failure"):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return dict(found)


def test_a_posted_task_makes_an_image_of_what_a_url_gives(ikon: Ikon) -> None:
    properties = {"name": "by task", "disk_format": "raw", "container_format": "bare", "visibility": "public", "os_distro": "debian"}
    asked = task(import_from=f"{URL}/disk.raw?signature=secret", image_properties=properties)

    answer = ikon.post("/v2/tasks", asked, who=ADMIN)

    made = answer.json
    assert answer.status == 201
    assert str(answer.headers["Location"]).endswith(f":{ikon.port}/v2/tasks/{made['id']}")
    assert (made["type"], made["owner"], made["self"], made["schema"]) == (
        "import",
        ADMIN.project,
        f"/v2/tasks/{made['id']}",
        "/v2/schemas/task",
    )
    assert made["input"] == {"import_from": f"{URL}/disk.raw", "import_from_format": "raw", "image_properties": properties}
    done = ended(ikon, made["id"])
    assert (done["status"], done["result"], done["message"]) == ("success", {"image_id": made["image_id"]}, "")
    image = ikon.show(made["image_id"])
    assert {name: image[name] for name in properties} == properties
    assert (image["status"], ikon.download(image["id"]).body) == ("active", DATA)


def test_a_task_that_fails_says_why_and_its_image_waits_for_another_try(ikon: Ikon) -> None:
    made = ikon.post("/v2/tasks", task(import_from=f"{URL}/nothing"), who=ADMIN).json

    failed = ended(ikon, made["id"])

    assert (failed["status"], failed["result"]) == ("failure", None)
    assert "HTTP status 404" in failed["message"]
    assert ikon.show(made["image_id"])["status"] == "queued"


def test_tasks_are_listed_by_their_type(ikon: Ikon) -> None:
    posted = ikon.post("/v2/tasks", task(), who=ADMIN).json["id"]
    image = ikon.create()["id"]
    asked = {"method": {"name": "web-download", "uri": f"{URL}/disk.raw"}}
    assert ikon.post(f"/v2/images/{image}/import", asked).status == 202

    listed = {
        kind: ikon.get(f"/v2/tasks?limit=1000&type={kind}", who=ADMIN).json["tasks"]
        for kind in ("import", "api_image_import", "location_import")
    }

    assert posted in [each["id"] for each in listed["import"]]
    assert [each["id"] for each in ikon.get(f"/v2/tasks?image_id={image}&type=api_image_import", who=ADMIN).json["tasks"]]
    assert posted not in [each["id"] for each in listed["api_image_import"]]
    assert {kind: {each["type"] for each in found} for kind, found in listed.items()} == {
        "import": {"import"},
        "api_image_import": {"api_image_import"},
        "location_import": set(),
    }


REFUSED: list[tuple[Any, str]] = [
    ([], "Task 'type' is required"),
    ({}, "Task 'type' is required"),
    ({"input": {}}, "Task 'type' is required"),
    ({"type": "import"}, "Task 'input' is required"),
    ({"type": "export", "input": {}}, "one of import, api_image_import, location_import"),
    ({"type": ["import"], "input": {}}, "one of import"),
    ({"type": "api_image_import", "input": {"image_id": "x"}}, "cannot be posted"),
    ({"type": "location_import", "input": {}}, "cannot be posted"),
    ({"type": "import", "input": "x"}, "input"),
    ({"type": "import", "input": None}, "import_from"),
    (task(import_from=None), "import_from"),
    (task(import_from=5), "import_from"),
    (task(import_from="File:///etc/passwd"), "File based imports are not allowed"),
    (task(import_from="ftp://example.org/x"), "Allowed: http or https"),
    (task(import_from="http://10.0.0.1/x"), "Allowed: http or https"),
    (task(import_from_format=None), "import_from_format"),
    (task(import_from_format="zzz"), "disk_format"),
    (task(image_properties=[]), "image_properties"),
    (task(image_properties=None), "image_properties"),
    (task(image_properties={"disk_format": "qcow2"}), "only alike"),
    (task(image_properties={"min_disk": "x"}), "min_disk"),
]


@pytest.mark.parametrize(("body", "says"), REFUSED, ids=lambda value: json.dumps(value)[:60])
def test_a_task_that_cannot_be_is_refused_by_the_field_and_makes_nothing(ikon: Ikon, body: Any, says: str) -> None:
    before = ikon.ids("?limit=1000", who=ADMIN)

    answer = ikon.post("/v2/tasks", body, who=ADMIN)

    assert (answer.status, says in answer.message) == (400, True), answer.message
    assert ikon.ids("?limit=1000", who=ADMIN) == before


def test_tasks_are_for_administrators_and_reserved_attributes_for_nobody(ikon: Ikon) -> None:
    for who in (MEMBER, READER):
        assert ikon.post("/v2/tasks", task(), who=who).status == 403
    assert ikon.post("/v2/tasks", task(image_properties={"os_glance_x": "1"}), who=ADMIN).status == 403
    assert ikon.post("/v2/tasks", None, who=ADMIN).status == 400


def test_the_schemas_of_tasks_are_there(ikon: Ikon) -> None:
    one, many = (ikon.get(f"/v2/schemas/{name}").json for name in ("task", "tasks"))

    assert set(one["properties"]) == {"id", "type", "status", "input", "result", "owner", "message", "image_id", "request_id", "user_id", "expires_at", "created_at", "updated_at", "self", "schema"}  # fmt: skip
    assert set(many["properties"]["tasks"]["items"]["properties"]) == set(one["properties"]) - {"input", "result", "message"}
    assert one["properties"]["status"]["enum"] == ["pending", "processing", "success", "failure"]
