"""Jobs as the Image API shows them: tasks, their states, what a list of them may be asked for, and those that it takes itself."""

from typing import Any

from msgspec import Struct

from ikon.model.image import UUID, New, parse_new, schema_problem
from ikon.model.imports import LOCATION
from ikon.model.listing import page_limit
from ikon.problems import BadRequest, BadValue

#: The state of a task, for each of a job's.
STATES = {
    "queued": "pending",
    "running": "processing",
    "waiting": "processing",
    "done": "success",
    "failed": "failure",
    "cancelled": "failure",
}
TYPES = ("import", "api_image_import", "location_import")
#: Kinds of jobs by the type of task that they are; of `import` are those that are posted as tasks.
POSTED = "task"
KINDS = {"import": (POSTED,), "api_image_import": ("import", "copy"), "location_import": (LOCATION,)}
SORT_KEYS = ("id", "type", "status", "owner", "created_at", "updated_at", "expires_at", "image_id", "user_id")


class Tasks(Struct, frozen=True):
    """A checked list request. states, kinds: of jobs, None: all. ascending: oldest first."""

    states: tuple[str, ...] | None
    kinds: tuple[str, ...] | None
    equal: dict[str, str]
    ascending: bool
    marker: str | None
    limit: int


def parse(params: list[tuple[str, str]], page: int, page_max: int) -> Tasks:
    """Read a task list's query parameters; unknown ones are ignored. Raises BadValue naming the parameter."""
    last = dict(params)
    status, kind, marker = last.get("status"), last.get("type"), last.get("marker")
    if status is not None and status not in STATES.values():
        raise BadValue(f"Invalid status value: {status}. It must be one of {', '.join(dict.fromkeys(STATES.values()))}.")
    if kind is not None and kind not in TYPES:
        raise BadValue(f"Invalid type value: {kind}. It must be one of {', '.join(TYPES)}.")
    for name in ("owner", "image_id", "user_id"):
        if "\0" in last.get(name, ""):
            raise BadValue(f"{name} must not contain the character NUL")
    if marker is not None and not UUID.fullmatch(marker):
        raise BadValue("Invalid marker format")
    if last.get("sort_key", "created_at") not in SORT_KEYS:
        raise BadValue(f"Sort key supplied was not valid. It must be one of {', '.join(SORT_KEYS)}.")
    if last.get("sort_dir", "desc") not in ("asc", "desc"):
        raise BadValue("Invalid sort direction: it must be asc or desc.")
    return Tasks(
        states=None if status is None else tuple(state for state, shown in STATES.items() if shown == status),
        kinds=None if kind is None else KINDS[kind],
        equal={
            column: last[name] for name, column in (("owner", "project"), ("image_id", "image_id"), ("user_id", "user")) if name in last
        },
        ascending=last.get("sort_dir") == "asc",
        marker=marker,
        limit=page_limit(last.get("limit"), page, page_max),
    )


class NewTask(Struct, frozen=True):
    """A checked task: an image to be made, the URL of its data, and what else was asked for, to be shown."""

    image: New
    uri: str
    shown: dict[str, Any]


def parse_new_task(body: Any) -> NewTask:
    """Read a task to begin. Raises BadRequest, BadValue or ReadOnly, naming the field."""
    for name in ("type", "input"):
        if not isinstance(body, dict) or name not in body:
            raise BadRequest(f"Task '{name}' is required")
    kind, given = body["type"], body["input"]
    if kind not in TYPES:
        raise schema_problem(f"type: {kind!r:.60} is not one of {', '.join(TYPES)}", "task")
    if kind != "import":
        raise BadRequest(f"Tasks of type {kind} cannot be posted: POST /v2/images/{{image_id}}/import begins them")
    if given is not None and not isinstance(given, dict):
        raise schema_problem(f"input: {given!r:.60} is not an object", "task")
    given = given or {}
    uri, form, fields = given.get("import_from"), given.get("import_from_format"), given.get("image_properties", {})
    if isinstance(uri, str) and uri.lower().startswith("file:"):
        raise BadRequest("File based imports are not allowed. Please use a non-local source of image data.")
    if not isinstance(uri, str) or not uri:
        raise BadRequest("'import_from' needs to be set in the task's input: an http or https URL")
    if not isinstance(fields, dict):
        raise BadRequest("'image_properties' in the task's input must be an object with the image's attributes")
    image = parse_new({"disk_format": form, "container_format": "bare"} | fields)
    if image.base.disk_format is None or image.base.container_format is None or form not in (None, image.base.disk_format):
        raise BadRequest(
            "'import_from_format' in the task's input, or disk_format in its image_properties, must say what the data is; both only alike"
        )
    return NewTask(image, uri, {name: value for name, value in given.items() if name in ("import_from_format", "image_properties")})
