"""Jobs as the Image API shows them: tasks, their states, and what a list of them may be asked for."""

from msgspec import Struct

from ikon.model.image import UUID
from ikon.model.listing import page_limit
from ikon.problems import BadValue

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
SORT_KEYS = ("id", "type", "status", "owner", "created_at", "updated_at", "expires_at", "image_id", "user_id")


class Tasks(Struct, frozen=True):
    """A checked list request. states: of jobs, None: all. nothing: no task can be meant. ascending: oldest first."""

    states: tuple[str, ...] | None
    equal: dict[str, str]
    nothing: bool
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
    if marker is not None and not UUID.fullmatch(marker):
        raise BadValue("Invalid marker format")
    if last.get("sort_key", "created_at") not in SORT_KEYS:
        raise BadValue(f"Sort key supplied was not valid. It must be one of {', '.join(SORT_KEYS)}.")
    if last.get("sort_dir", "desc") not in ("asc", "desc"):
        raise BadValue("Invalid sort direction: it must be asc or desc.")
    return Tasks(
        states=None if status is None else tuple(state for state, shown in STATES.items() if shown == status),
        equal={
            column: last[name] for name, column in (("owner", "project"), ("image_id", "image_id"), ("user_id", "user")) if name in last
        },
        nothing=kind not in (None, "api_image_import"),
        ascending=last.get("sort_dir") == "asc",
        marker=marker,
        limit=page_limit(last.get("limit"), page, page_max),
    )
