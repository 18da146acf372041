"""What requests about the members of an image may say: the projects that it is shared with, and what they answer."""

from typing import Any, Literal, get_args

from ikon.model.image import check_text, schema_problem
from ikon.problems import BadRequest

#: A project may go from each of them to each.
MemberStatus = Literal["pending", "accepted", "rejected"]
#: Characters of a project's id, as everywhere.
LONGEST = 255


def parse_project(body: Any) -> str:
    """The project that a request to share an image names. Raises BadRequest, BadValue."""
    if not isinstance(body, dict):
        raise BadRequest('Expected a member in the form: {"member": "project id"}')
    if "member" not in body:
        raise BadRequest("Member to be added not specified")
    project = body["member"]
    if project is None or project == "":
        raise BadRequest("Member can't be empty")
    if not isinstance(project, str):
        raise schema_problem(f"'member' must be a string, not {project!r:.40}", "member")
    if len(project) > LONGEST:
        raise schema_problem(f"'member' is longer than {LONGEST} characters", "member")
    check_text("member", project, "member")
    return project


def parse_status(body: Any) -> MemberStatus:
    """What a project answers. Raises BadRequest."""
    if not isinstance(body, dict):
        raise BadRequest('Expected a status in the form: {"status": "status"}')
    if "status" not in body:
        raise BadRequest("Status not specified")
    for status in get_args(MemberStatus):
        if body["status"] == status:
            return status  # type: ignore[no-any-return]
    raise BadRequest('Incorrect request: Status must be "pending", "accepted" or "rejected".')
