"""Sharing: who may do what to the list of members of an image, what each side sees of the image, and what is refused."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.wire.server import ADMIN, MEMBER, PATCH, READER, STRANGER, Answer, Ikon, Persona, on_database, q, someone

SETTINGS = {"limits": {"members": 4}}
HOME, GUEST, OTHER = MEMBER, Persona("guests"), Persona("others")
PROJECT = "guests"
PERSONAS = {
    "administrator": ADMIN,
    "member": HOME,
    "manager": Persona("home", "manager,member,reader"),
    "reader": READER,
    "member that is no reader": Persona("home", "member"),
    "service": Persona("home", "service"),
    "guest": GUEST,
    "reading guest": Persona(PROJECT, "reader"),
    "guest that is no reader": Persona(PROJECT, "member"),
    "guest without roles": Persona(PROJECT, ""),
    "other guest": OTHER,
    "stranger": STRANGER,
    "without a project": Persona(None),
    "of the system": Persona(PROJECT, "admin,member,reader", system=True),
}
BLIND = {"member that is no reader", "service", "guest that is no reader", "guest without roles", "without a project", "of the system"}
OWNERS = {"member", "manager"}
GUESTS = {"guest", "reading guest", "other guest"}
VISIBILITIES = ("shared", "private", "community", "public")
STATUSES = ("pending", "accepted", "rejected")


def path(image_id: str, project: str | None = None) -> str:
    return f"/v2/images/{image_id}/members" + (f"/{q(project)}" if project is not None else "")


OPERATIONS: dict[str, Callable[[Ikon, str, Persona], Answer]] = {
    "list": lambda ikon, image_id, who: ikon.get(path(image_id), who=who),
    "show": lambda ikon, image_id, who: ikon.get(path(image_id, PROJECT), who=who),
    "share": lambda ikon, image_id, who: ikon.share(image_id, "third", who=who),
    "reply": lambda ikon, image_id, who: ikon.reply(image_id, PROJECT, "accepted", who=who),
    "remove": lambda ikon, image_id, who: ikon.unshare(image_id, PROJECT, who=who),
}


def shared(ikon: Ikon, *projects: str, visibility: str = "shared", **fields: Any) -> str:
    """An image of HOME that was shared with these projects before it got its visibility."""
    image_id = str(ikon.create(**fields)["id"])
    for project in projects:
        assert ikon.share(image_id, project).status == 200
    if visibility != "shared":
        assert replaced(ikon, image_id, "visibility", visibility).status == 200
    return image_id


def replaced(ikon: Ikon, image_id: str, field: str, value: Any, who: Persona = ADMIN) -> Answer:
    return ikon.patch(image_id, [{"op": "replace", "path": f"/{field}", "value": value}], who=who)


def version(ikon: Ikon, image_id: str) -> str:
    return str(ikon.get(f"/v2/images/{image_id}", who=ADMIN).headers["ETag"])


# Who may


def expected(operation: str, persona: str, visibility: str) -> int:
    """The status that the rules give, for an image that is shared with GUEST and OTHER."""
    owning = persona in OWNERS | {"administrator"}
    sees = visibility in ("public", "community") or (visibility == "shared" and persona in GUESTS) or persona == "reader" or owning
    if persona in BLIND or not sees:
        return 404
    if visibility != "shared":
        return 404 if operation == "show" else 403
    if operation == "list":
        return 200
    if operation == "show":
        return 404 if persona == "other guest" else 200
    if operation == "share":
        return 200 if owning else 403
    if operation == "reply":
        return 404 if persona == "other guest" else 200 if persona in ("administrator", "guest") else 403
    return 204 if owning or persona == "guest" else 403


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_persona_may_do_to_each_list_of_members_what_the_rules_say(
    ikon: Ikon, operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, cells = [], 0
    for visibility in VISIBILITIES:
        image_id = ""
        for persona, who in PERSONAS.items():
            image_id = image_id or shared(ikon, PROJECT, "others", visibility=visibility)
            before = version(ikon, image_id)
            answer = OPERATIONS[operation](ikon, image_id, who)
            wanted = expected(operation, persona, visibility)
            if answer.status != wanted:
                wrong.append(f"{persona} x {visibility}: {answer.status} {answer.message[:100]!r}, and should be {wanted}")
            changed = answer.status < 400 and operation in ("share", "reply", "remove")
            assert (version(ikon, image_id) != before) == changed
            image_id = "" if changed else image_id
            cells += 1

    assert wrong == []
    with capsys.disabled():
        print(f"{cells} cells", end=" ")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_list_that_does_not_exist_for_someone_is_answered_like_one_that_does_not_exist(ikon: Ikon, operation: str) -> None:
    hidden, missing = shared(ikon, PROJECT), "00000000-0000-4000-8000-000000000000"

    there, absent = (OPERATIONS[operation](ikon, image_id, STRANGER) for image_id in (hidden, missing))

    assert (there.status, there.message.replace(hidden, "")) == (404, absent.message.replace(missing, ""))
    assert set(there.headers) == set(absent.headers)


@pytest.mark.parametrize("visibility", ["private", "community", "public"])
def test_an_image_that_is_not_shared_has_no_members(ikon: Ikon, visibility: str) -> None:
    image_id = shared(ikon, PROJECT, visibility=visibility)

    said = {operation: deed(ikon, image_id, ADMIN) for operation, deed in OPERATIONS.items()}

    assert (said["show"].status, said["show"].message) == (404, "Only shared images have members.")
    for operation, deed in {"list": "list", "share": "create", "reply": "update", "remove": "delete"}.items():
        assert said[operation].status == 403
        assert said[operation].message == f"Not allowed to {deed} members for image {image_id}: Only shared images have members."


def test_what_is_refused_says_which_right_is_missing(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT)

    assert ikon.share(image_id, "x", who=GUEST).message == "You are not authorized to complete add_member action."
    assert ikon.reply(image_id, PROJECT, "accepted", who=HOME).message == "You are not authorized to complete modify_member action."
    assert ikon.unshare(image_id, PROJECT, who=READER).message == "You are not authorized to complete delete_member action."


def test_a_member_sees_its_own_entry_alone(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT, "others", "third")

    assert ikon.members(image_id, who=GUEST) == {PROJECT: "pending"}
    assert ikon.members(image_id, who=READER) == ikon.members(image_id) == {PROJECT: "pending", "others": "pending", "third": "pending"}
    for project in ("others", "nobody"):
        for answer in (ikon.get(path(image_id, project), who=GUEST), ikon.reply(image_id, project, "accepted", who=GUEST)):
            assert (answer.status, answer.message) == (404, f"{project} not found in the member list of the image {image_id}.")
        answer = ikon.unshare(image_id, project, who=GUEST)
        assert (answer.status, answer.message) == (403, "You are not authorized to complete delete_member action.")


# What there is to say


def test_an_image_is_shared_answered_and_taken_back(ikon: Ikon) -> None:
    record = ikon.create()
    assert ikon.get(path(record["id"])).json == {"members": [], "schema": "/v2/schemas/members"}

    made = ikon.share(record["id"], PROJECT)

    assert (made.status, made.json) == (
        200,
        {
            "member_id": PROJECT,
            "image_id": record["id"],
            "status": "pending",
            "created_at": made.json["created_at"],
            "updated_at": made.json["created_at"],
            "schema": "/v2/schemas/member",
        },
    )
    assert record["created_at"] <= made.json["created_at"]
    assert ikon.get(path(record["id"])).json["members"] == [made.json]
    assert ikon.get(path(record["id"], PROJECT)).json == made.json
    time.sleep(1.1)
    accepted = ikon.reply(record["id"], PROJECT, "accepted", who=GUEST)
    assert accepted.json == made.json | {"status": "accepted", "updated_at": accepted.json["updated_at"]}
    assert accepted.json["updated_at"] > made.json["updated_at"]
    assert ikon.get(path(record["id"], PROJECT), who=GUEST).json == accepted.json
    removed = ikon.unshare(record["id"], PROJECT)
    assert (removed.status, removed.body) == (204, b"")
    for answer in (ikon.unshare(record["id"], PROJECT), ikon.get(path(record["id"], PROJECT))):
        assert (answer.status, answer.message) == (404, f"{PROJECT} not found in the member list of the image {record['id']}.")
    assert ikon.show(record["id"]) == record
    assert version(ikon, record["id"]) == '"4"'


@pytest.mark.parametrize("old", STATUSES)
@pytest.mark.parametrize("new", STATUSES)
@pytest.mark.parametrize("who", [GUEST, ADMIN], ids=["guest", "administrator"])
def test_any_answer_may_follow_any(ikon: Ikon, old: str, new: str, who: Persona) -> None:
    image_id = shared(ikon, PROJECT)
    ikon.reply(image_id, PROJECT, old, who=who)

    assert ikon.reply(image_id, PROJECT, new, who=who).json["status"] == new
    assert ikon.members(image_id) == {PROJECT: new}


def test_members_are_listed_in_the_order_in_which_they_came(ikon: Ikon) -> None:
    image_id = shared(ikon, "c", "a", "b")
    ikon.reply(image_id, "a", "accepted", who=ADMIN)
    ikon.unshare(image_id, "c")
    ikon.share(image_id, "c")

    assert list(ikon.members(image_id)) == ["a", "b", "c"]


def test_an_image_may_be_shared_with_its_own_project_which_answers_for_itself_alone(ikon: Ikon) -> None:
    image_id = shared(ikon, "home", PROJECT)

    assert ikon.reply(image_id, "home", "accepted", who=HOME).status == 200
    assert ikon.reply(image_id, PROJECT, "accepted", who=HOME).status == 403
    assert ikon.members(image_id) == {"home": "accepted", PROJECT: "pending"}
    assert ikon.ids(f"?id={image_id}") == [image_id]


@pytest.mark.parametrize(
    "project",
    ["not-a-project", " ", "a b", "ключ", "\U0001f427", "a/b", "/", "%41", "..", "?x=1#y", "x" * 255, "\U0001f427" * 255, "A", "a\nb"],
)
def test_a_project_of_any_name_is_shared_with_and_left_again(ikon: Ikon, project: str) -> None:
    image_id = shared(ikon, project)

    assert ikon.members(image_id) == {project: "pending"}
    assert ikon.get(path(image_id, project)).json["member_id"] == project
    assert ikon.reply(image_id, project, "rejected", who=ADMIN).json["member_id"] == project
    assert ikon.unshare(image_id, project).status == 204
    assert ikon.members(image_id) == {}


def test_projects_differ_by_every_character(ikon: Ikon) -> None:
    image_id = shared(ikon, "guest", "Guest", "guest ", "gue\u0301st")

    assert ikon.get(f"/v2/images/{image_id}", who=Persona("GUEST")).status == 404
    assert ikon.members(image_id, who=Persona("Guest")) == {"Guest": "pending"}


# What is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Body expected in request."),
        (b"{", "Malformed JSON in request body"),
        (b'{"member": "\xff"}', "Malformed JSON in request body"),
        (b'{"member": "\\ud800"}', "Malformed JSON in request body"),
        (b"[]", "Expected a member in the form"),
        (b'["x"]', "Expected a member in the form"),
        (b"null", "Expected a member in the form"),
        (b'"x"', "Expected a member in the form"),
        (b"{}", "Member to be added not specified"),
        (b'{"Member": "x"}', "Member to be added not specified"),
        (b'{"member_id": "x"}', "Member to be added not specified"),
        (b'{"member": ""}', "Member can't be empty"),
        (b'{"member": null}', "Member can't be empty"),
        (b'{"member": 5}', "'member' must be a string"),
        (b'{"member": 0}', "'member' must be a string"),
        (b'{"member": false}', "'member' must be a string"),
        (b'{"member": 1e400}', ""),
        (b'{"member": ["x"]}', "'member' must be a string"),
        (b'{"member": [["x"], {}]}', "'member' must be a string"),
        (b'{"member": {"x": "y"}}', "'member' must be a string"),
        (b'{"member": "' + b"x" * 256 + b'"}', "255 characters"),
        (b'{"member": "' + "\U0001f427".encode() * 256 + b'"}', "255 characters"),
        (b'{"member": "a\\u0000b"}', "NUL"),
    ],
)
def test_what_names_no_project_is_refused(ikon: Ikon, body: bytes, words: str) -> None:
    image_id = shared(ikon, PROJECT)

    answer = ikon.post(path(image_id), body)

    assert (answer.status, words in answer.message) == (400, True), answer
    assert ikon.members(image_id) == {PROJECT: "pending"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Body expected in request."),
        (b"{", "Malformed JSON in request body"),
        (b"[]", "Expected a status in the form"),
        (b"null", "Expected a status in the form"),
        (b'"accepted"', "Expected a status in the form"),
        (b"{}", "Status not specified"),
        (b'{"Status": "accepted"}', "Status not specified"),
        *[
            (b'{"status": %b}' % value, 'Status must be "pending", "accepted" or "rejected".')
            for value in (
                b'"bogus"',
                b'""',
                b'"Accepted"',
                b'"accepted "',
                b'"accepted\\u0000"',
                b"null",
                b"1",
                b"true",
                b'["accepted"]',
                b"{}",
            )
        ],
    ],
)
def test_what_is_no_answer_is_refused(ikon: Ikon, body: bytes, words: str) -> None:
    image_id = shared(ikon, PROJECT)

    answer = ikon.call("PUT", path(image_id, PROJECT), body, who=GUEST)

    assert (answer.status, words in answer.message) == (400, True), answer
    assert ikon.members(image_id) == {PROJECT: "pending"}


def test_what_else_a_body_holds_is_ignored(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])

    made = ikon.post(path(image_id), {"member": PROJECT, "status": "accepted", "image_id": "x", "created_at": 5})
    replied = ikon.call("PUT", path(image_id, PROJECT), b'{"member_id": "zz", "status": "rejected"}', who=GUEST)

    assert (made.json["status"], made.json["image_id"]) == ("pending", image_id)
    assert ikon.members(image_id) == {PROJECT: "rejected"}
    assert replied.json["member_id"] == PROJECT


def test_a_wrong_body_is_told_before_whether_the_image_exists(ikon: Ikon) -> None:
    assert ikon.post(path("zz"), {}).status == 400
    assert ikon.call("PUT", path("zz", "p"), b"{}").status == 400


def test_a_body_in_chunks_is_read_like_any_other(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])

    assert ikon.call("POST", path(image_id), iter([b'{"mem', b'ber": "guests"}'])).status == 200
    assert ikon.call("PUT", path(image_id, PROJECT), iter([b'{"status":', b' "accepted"}']), who=GUEST).status == 200


@pytest.mark.parametrize("project", ["%00", "a%00b", "x" * 4000, q("\U0001f427"), "nobody"])
def test_what_is_no_member_is_not_found(ikon: Ikon, project: str) -> None:
    image_id = shared(ikon, PROJECT)

    for method, body in (("GET", None), ("PUT", b'{"status": "accepted"}'), ("DELETE", None)):
        assert ikon.call(method, f"{path(image_id)}/{project}", body, who=ADMIN).status == 404
        assert ikon.call(method, f"{path('zz')}/{project}", body, who=ADMIN).status == 404
    assert ikon.members(image_id) == {PROJECT: "pending"}


def test_a_project_is_a_member_once_and_that_is_told_even_when_no_more_fit(ikon: Ikon) -> None:
    image_id = shared(ikon, "a", "b", "c", "d")

    full, again = ikon.share(image_id, "e"), ikon.share(image_id, "a")

    assert (full.status, full.message) == (
        413,
        f"Image member limit exceeded for image {image_id}: The limit has been exceeded on the number of allowed image members "
        "for this image. Attempted: 5, Maximum: 4",
    )
    assert (again.status, again.message) == (409, f"Member a is duplicated for image {image_id}")
    ikon.unshare(image_id, "d")
    assert ikon.share(image_id, "e").status == 200
    assert list(ikon.members(image_id)) == ["a", "b", "c", "e"]


# What members see of an image


@pytest.mark.parametrize("status", STATUSES)
def test_a_member_may_look_and_download_whatever_it_has_answered_and_change_nothing(ikon: Ikon, status: str) -> None:
    image_id = ikon.active(b"shared data", name="lent", colour="red", tags=["t"])
    ikon.share(image_id, PROJECT)
    ikon.reply(image_id, PROJECT, status, who=GUEST)
    reading, before = PERSONAS["reading guest"], ikon.show(image_id)

    seen = ikon.get(f"/v2/images/{image_id}", who=GUEST)
    refused = [
        replaced(ikon, image_id, "name", "mine", GUEST),
        replaced(ikon, image_id, "visibility", "public", GUEST),
        replaced(ikon, image_id, "visibility", "community", GUEST),
        replaced(ikon, image_id, "owner", PROJECT, GUEST),
        ikon.call("PUT", f"/v2/images/{image_id}/tags/mine", who=GUEST),
        ikon.call("DELETE", f"/v2/images/{image_id}/tags/t", who=GUEST),
        ikon.upload(image_id, b"x", who=GUEST),
        ikon.act(image_id, "deactivate", who=GUEST),
        ikon.act(image_id, "reactivate", who=GUEST),
        ikon.delete(image_id, who=GUEST),
        ikon.call("DELETE", f"/v2/stores/one/{image_id}", who=GUEST),
        ikon.post(f"/ikon/v1/images/{image_id}/copies", {"store": "two"}, who=GUEST),
        ikon.download(image_id, who=reading),
    ]

    assert seen.json == {name: value for name, value in before.items() if name != "stores"}
    assert ikon.get(f"/v2/images/{image_id}", who=reading).json == seen.json
    assert ikon.download(image_id, who=GUEST).body == b"shared data"
    assert ikon.download(image_id, {"Range": "bytes=7-"}, who=GUEST).body == b"data"
    assert [answer.status for answer in refused] == [403] * len(refused)
    assert ikon.show(image_id) == before


def test_deactivated_data_is_kept_from_members(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")
    ikon.share(image_id, PROJECT)
    ikon.act(image_id, "deactivate")

    assert ikon.download(image_id, who=GUEST).status == 403
    assert ikon.get(f"/v2/images/{image_id}", who=GUEST).json["status"] == "deactivated"


@pytest.mark.parametrize("visibility", ["private", "community", "public"])
def test_members_lose_sight_of_an_image_that_is_no_longer_shared_and_get_it_back(ikon: Ikon, visibility: str) -> None:
    image_id = shared(ikon, PROJECT, "others")
    ikon.reply(image_id, PROJECT, "accepted", who=GUEST)

    replaced(ikon, image_id, "visibility", visibility)
    meanwhile = ikon.get(f"/v2/images/{image_id}", who=GUEST).status
    while_open = ikon.reply(image_id, PROJECT, "rejected", who=GUEST).status
    replaced(ikon, image_id, "visibility", "shared", HOME)

    assert (meanwhile, while_open) == ((404, 404) if visibility == "private" else (200, 403))
    assert ikon.members(image_id) == {PROJECT: "accepted", "others": "pending"}
    assert ikon.get(f"/v2/images/{image_id}", who=GUEST).status == 200


def test_a_member_may_leave_by_itself_and_then_sees_nothing(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT, "others")

    assert ikon.unshare(image_id, PROJECT, who=PERSONAS["reading guest"]).status == 403
    assert ikon.unshare(image_id, PROJECT, who=GUEST).status == 204
    assert ikon.get(f"/v2/images/{image_id}", who=GUEST).status == 404
    assert ikon.unshare(image_id, PROJECT, who=GUEST).status == 404
    assert ikon.members(image_id) == {"others": "pending"}
    assert ikon.share(image_id, PROJECT).json["status"] == "pending"


def test_a_hidden_image_is_shared_like_any_other(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT, os_hidden=True)

    assert ikon.get(f"/v2/images/{image_id}", who=GUEST).json["os_hidden"] is True
    assert ikon.reply(image_id, PROJECT, "accepted", who=GUEST).status == 200
    assert image_id not in ikon.ids("?os_hidden=false", who=GUEST)


def test_a_protected_image_may_be_shared_and_is_deleted_by_nobody(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT, protected=True)

    for who, status in ((HOME, 403), (ADMIN, 403), (GUEST, 403), (STRANGER, 404)):
        answer = ikon.delete(image_id, who=who)
        assert answer.status == status
        assert who in (GUEST, STRANGER) or answer.message == f"Image {image_id} is protected and cannot be deleted."
    assert ikon.unshare(image_id, PROJECT, who=GUEST).status == 204
    replaced(ikon, image_id, "protected", False, HOME)
    assert ikon.delete(image_id).status == 204


def test_a_deleted_image_is_shared_with_nobody(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT)
    ikon.delete(image_id)

    for operation in OPERATIONS.values():
        for who in (HOME, GUEST, ADMIN):
            assert operation(ikon, image_id, who).status == 404


def test_a_new_owner_finds_the_members_that_there_are(ikon: Ikon) -> None:
    image_id = shared(ikon, PROJECT, "others")
    replaced(ikon, image_id, "owner", "others")

    assert ikon.get(f"/v2/images/{image_id}", who=HOME).status == 404
    assert ikon.members(image_id, who=OTHER) == {PROJECT: "pending", "others": "pending"}
    assert ikon.unshare(image_id, PROJECT, who=OTHER).status == 204


def test_the_schemas_say_what_a_member_is(ikon: Ikon) -> None:
    member, members = (ikon.get(f"/v2/schemas/{name}", who=Persona(None, "")).json for name in ("member", "members"))

    assert member["name"] == "member"
    assert list(member["properties"]) == ["member_id", "image_id", "created_at", "updated_at", "status", "schema"]
    assert member["properties"]["status"]["enum"] == list(STATUSES)
    assert {each["type"] for each in member["properties"].values()} == {"string"}
    assert members["properties"] == {"members": {"type": "array", "items": member}, "schema": {"type": "string"}}
    assert members["links"] == [{"rel": "describedby", "href": "{schema}"}]


# Several at once


class Client:
    """One of many at work on one image: it keeps book of its own member, tag and property, and checks every answer against it."""

    def __init__(self, ikon: Ikon, image_id: str, number: int) -> None:
        self.ikon, self.image_id, self.number = ikon, image_id, number
        self.name, self.random = f"client-{number}", random.Random(number)
        self.status: str | None = None
        self.tagged, self.value, self.changes, self.calls = False, "", 0, 0

    def work(self, turns: int) -> None:
        """That many calls."""
        for _ in range(turns):
            deed = self.random.choice([self.share, self.reply, self.reply, self.leave, self.tag, self.untag, self.patch])
            wanted, answer = deed()
            assert answer.status == wanted, (self.name, deed.__name__, answer)
            self.changes += wanted < 300
            self.calls += 1

    def share(self) -> tuple[int, Answer]:
        absent, self.status = self.status is None, self.status or "pending"
        return 200 if absent else 409, self.ikon.share(self.image_id, self.name)

    def reply(self) -> tuple[int, Answer]:
        status = self.random.choice(STATUSES)
        there = self.status is not None
        self.status = status if there else None
        return 200 if there else 404, self.ikon.reply(self.image_id, self.name, status, who=Persona(self.name))

    def leave(self) -> tuple[int, Answer]:
        there, self.status = self.status is not None, None
        return 204 if there else 404, self.ikon.unshare(self.image_id, self.name, who=Persona(self.name))

    def tag(self) -> tuple[int, Answer]:
        self.changes -= self.tagged  # nothing to do is done without a change
        self.tagged = True
        return 204, self.ikon.call("PUT", f"/v2/images/{self.image_id}/tags/{self.name}")

    def untag(self) -> tuple[int, Answer]:
        there, self.tagged = self.tagged, False
        return 204 if there else 404, self.ikon.call("DELETE", f"/v2/images/{self.image_id}/tags/{self.name}")

    def patch(self) -> tuple[int, Answer]:
        self.value = f"{self.name} {self.calls}"
        return 200, self.ikon.patch(self.image_id, [{"op": "add", "path": f"/{self.name}", "value": self.value}], PATCH)


def check_that_nothing_is_lost(ikon: Ikon, turns: int) -> int:
    """Twelve clients at one image; whatever each was told is true in the end. Returns the number of calls."""
    image_id = str(ikon.create()["id"])
    clients = [Client(ikon, image_id, number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda client: client.work(turns), clients))

    record = ikon.show(image_id)
    assert ikon.members(image_id) == {client.name: client.status for client in clients if client.status}
    assert sorted(record["tags"]) == sorted(client.name for client in clients if client.tagged)
    assert {name: record.get(name, "") for name in (c.name for c in clients)} == {c.name: c.value for c in clients}
    assert version(ikon, image_id) == f'"{1 + sum(client.changes for client in clients)}"'
    return sum(client.calls for client in clients)


def test_of_twelve_clients_that_share_answer_tag_and_patch_none_loses_a_change(tmp_path: Path) -> None:
    with Ikon(tmp_path) as server:
        assert check_that_nothing_is_lost(server, 40) == 480
        assert server.unforeseen() == []


@pytest.fixture(params=["mariadb_url", "postgres_url"])
def two_processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ikon]:
    with on_database(tmp_path, request.getfixturevalue(request.param), workers=2) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.mark.slow
def test_two_processes_lose_no_change_either(two_processes: Ikon) -> None:
    assert check_that_nothing_is_lost(two_processes, 40) == 480


def test_of_many_that_share_with_one_project_one_does(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ikon.share(image_id, PROJECT).status, range(12)))

    assert sorted(answers) == [200] + [409] * 11


def test_of_many_that_share_with_many_as_many_do_as_fit(ikon: Ikon) -> None:
    image_id = str(ikon.create(who=(who := someone()))["id"])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: ikon.share(image_id, f"p{n}", who=who).status, range(12)))

    assert sorted(answers) == [200] * 4 + [413] * 8
    assert set(ikon.members(image_id)) == {f"p{n}" for n, status in enumerate(answers) if status == 200}
