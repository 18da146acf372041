"""The matrix: every persona, image and operation, checked against the table in `personas.py`; and after each refusal, that nothing changed."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from ikon.api.door import ROUTES
from tests.wire.personas import (
    BODIES,
    HOME,
    IMAGES,
    MEMBERS,
    OPERATIONS,
    PARTNERS,
    PERSONAS,
    Operation,
    expected,
    kind,
    plain,
    sees,
    standing,
)
from tests.wire.server import ADMIN, PATCH, Answer, Headers, Ikon, Persona, q

#: A server of its own: whole lists are compared, so nobody else may add to them.
SETTINGS: dict[str, object] = {}
MISSING = "00000000-0000-4000-8000-000000000000"
CELLS: dict[str, int] = {}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"{sum(CELLS.values())} cells, {CELLS.get('list', 0)} of them of lists", end=" ")


def do(ikon: Ikon, operation: str, image_id: str, who: Persona | Headers) -> Answer:
    """Try an operation on an image."""
    row = OPERATIONS[operation][0]
    mine = who.project if isinstance(who, Persona) and who.project in MEMBERS else PARTNERS["pending"]
    body = BODIES.get(operation)
    sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    return ikon.call(row.method, row.path.format(id=image_id, self=mine), sent, row.headers, who=who)


def state(ikon: Ikon, image_id: str) -> list[Any]:
    """All that an administrator can know of an image."""
    answers = [ikon.get(f"/v2/images/{image_id}", who=ADMIN), ikon.get(f"/v2/images/{image_id}/members", who=ADMIN)]
    return [(answer.status, answer.headers["ETag"], answer.body if answer.status == 200 else b"") for answer in answers]


class Images:
    """Images to try things on, put back, or made anew, when something came of a try."""

    def __init__(self, ikon: Ikon) -> None:
        self.ikon = ikon

    def make(self, image: str, condition: str) -> str:
        """An image of that name in that condition."""
        owner, visibility = IMAGES[image]
        fields = {"owner": owner, "name": "untouched", "tags": ["old"], "old": "untouched", "protected": condition == "protected"}
        with_data = condition in ("active", "copied", "deactivated", "protected")
        image_id = self.ikon.active(b"data", who=ADMIN, **fields) if with_data else str(self.ikon.create(who=ADMIN, **fields)["id"])
        self.share(image_id, MEMBERS | {"left": "accepted"})
        self.share(image_id, MEMBERS)
        if visibility != "shared":
            assert self.ikon.patch(image_id, [{"op": "replace", "path": "/visibility", "value": visibility}], who=ADMIN).status == 200
        if condition == "copied":
            assert self.ikon.copy(image_id, "two").status == 202
        if condition == "deactivated":
            assert self.ikon.act(image_id, "deactivate", who=ADMIN).status == 204
        return image_id

    def share(self, image_id: str, members: dict[str, str]) -> None:
        """Make these, and no others, the image's members."""
        path = f"/v2/images/{image_id}/members"
        there = {entry["member_id"]: entry["status"] for entry in self.ikon.get(path, who=ADMIN).json["members"]}
        for project in there.keys() - members.keys():
            assert self.ikon.call("DELETE", f"{path}/{project}", who=ADMIN).status == 204
        for project, status in members.items():
            if project not in there:
                assert self.ikon.post(path, {"member": project}, who=ADMIN).status == 200
            if there.get(project, "pending") != status:
                assert self.ikon.call("PUT", f"{path}/{project}", json.dumps({"status": status}).encode(), who=ADMIN).status == 200

    def put_back(self, image_id: str, image: str) -> None:
        """Give the image's record its first values."""
        owner, visibility = IMAGES[image]
        fields = {"name": "untouched", "tags": ["old"], "protected": False, "os_hidden": False, "visibility": visibility, "owner": owner}
        changes = [{"op": "add", "path": f"/{name}", "value": value} for name, value in (fields | {"old": "untouched", "new": ""}).items()]
        assert self.ikon.patch(image_id, [*changes, {"op": "remove", "path": "/new"}], who=ADMIN).status == 200

    def renew(self, image_id: str, image: str, row: Operation) -> str:
        """After an operation that was carried out: the image as it was before, or another."""
        if row.method == "PATCH" or "/tags/" in row.path:
            self.put_back(image_id, image)
        elif "/members" in row.path:
            self.share(image_id, MEMBERS)
        elif "/actions/" in row.path:
            assert self.ikon.act(image_id, "deactivate" if row.name == "reactivate" else "reactivate", who=ADMIN).status == 204
        else:
            return self.make(image, row.state)
        return image_id


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_persona_may_do_to_each_image_what_the_table_says(ikon: Ikon, operation: str) -> None:
    images, wrong, absent = Images(ikon), [], {}
    row = OPERATIONS[operation][0]
    changes = row.writes and operation != "patch nothing"
    for image in IMAGES:
        image_id = images.make(image, row.state)
        before = state(ikon, image_id)
        refused: list[str] = []
        for name, who in PERSONAS.items():
            wanted = expected(operation, who, image)
            if wanted < 400 and changes:
                wrong += unchanged(ikon, image_id, before, image, refused)
            answer = do(ikon, operation, image_id, who)
            if answer.status != wanted:
                wrong.append(f"{name} x {image}: {answer.status} {answer.body[:90]!r}, and should be {wanted}")
            if answer.status < 400 and changes:
                image_id = images.renew(image_id, image, row)
                before, refused = state(ikon, image_id), []
            else:
                refused.append(name)
            if answer.status == 404 and isinstance(who, Persona) and not sees(who, *IMAGES[image]):
                if name not in absent:
                    absent[name] = do(ikon, operation, MISSING, who)
                wrong += [f"{name} x {image}: {told}" for told in told_apart(answer, image_id, absent[name])]
            CELLS[operation] = CELLS.get(operation, 0) + 1
        wrong += unchanged(ikon, image_id, before, image, refused)
    assert wrong == [], "\n".join(wrong[:12])


def unchanged(ikon: Ikon, image_id: str, before: list[Any], image: str, refused: list[str]) -> Iterator[str]:
    """By which of those who were refused an image was changed all the same; its version tells, even if another put it back."""
    if (after := state(ikon, image_id)) != before:
        yield f"{image} was changed by one of {refused}: {before[0][1]} -> {after[0][1]}"


def told_apart(hidden: Answer, image_id: str, absent: Answer) -> Iterator[str]:
    """By what an image that does not exist for someone could be told from one that does not exist at all."""
    there, gone = (answer.message if answer.body else "" for answer in (hidden, absent))
    if (hidden.status, there.replace(image_id, "")) != (absent.status, gone.replace(MISSING, "")):
        yield f"{hidden.status} {there!r} when hidden, {absent.status} {gone!r} when absent"
    if set(hidden.headers) != set(absent.headers):
        yield f"headers {set(hidden.headers) ^ set(absent.headers)}"


@pytest.mark.parametrize(("name", "method", "path", "answers"), plain(), ids=[row[0] for row in plain()])
def test_each_persona_may_do_without_an_image_what_the_table_says(
    ikon: Ikon, name: str, method: str, path: str, answers: dict[str, int]
) -> None:
    for persona, who in PERSONAS.items():
        body = BODIES.get(name)
        if name == "create for oneself":
            body = {"owner": who.project if isinstance(who, Persona) else None}
        mark = f"by {persona} in {name}"
        sent = None if body is None else json.dumps(body | ({"name": mark} if method == "POST" else {})).encode()
        answer = ikon.call(method, path, sent, who=who)
        assert answer.status == answers.get(kind(who), 401), persona
        if method == "POST":
            users = [user["name"] for user in ikon.get("/ikon/v1/users", who=ADMIN).json["users"]]
            made = len(ikon.ids(f"?visibility=all&name={q(mark)}", who=ADMIN)) + users.count(mark)
            assert made == (answer.status < 300), persona
        CELLS[name] = CELLS.get(name, 0) + 1


def test_the_tables_know_every_route_that_asks_who_is_there() -> None:
    known = {(row.method, row.path) for rows in OPERATIONS.values() for row in rows} | {(method, path) for _, method, path, _ in plain()}

    def is_known(method: str, pattern: str) -> bool:
        parts = pattern.split("/")
        return any(
            method == had
            and len(given := path.partition("?")[0].split("/")) == len(parts)
            and all(part == other or (part.startswith("{") and other) for part, other in zip(parts, given, strict=True))
            for had, path in known
        )

    elsewhere = ("/v2/metadefs/", "/v2/schemas/metadefs/")  # test_metadef_personas has those
    patterns = [each for each in ROUTES if each.startswith(("/v2/", "/ikon/")) and not each.startswith(elsewhere)]
    asked = [(method, pattern) for pattern in patterns for method in ROUTES[pattern]]
    assert [route for route in asked if not is_known(*route)] == []


def test_an_entry_shows_a_member_no_other_member(ikon: Ikon) -> None:
    image_id = Images(ikon).make("shared", "queued")
    for persona, who in PERSONAS.items():
        column = standing(who, HOME, "shared")
        if column in (None, "unidentified") or not isinstance(who, Persona):
            continue
        listed = ikon.get(f"/v2/images/{image_id}/members", who=who).json["members"]
        whole = column in ("administrator", "owner", "owner's reader")
        assert {entry["member_id"]: entry["status"] for entry in listed} == (
            MEMBERS if whole else {who.project: MEMBERS[str(who.project)]}
        ), persona


# Lists

STATUSES = (None, "accepted", "pending", "rejected", "all")
SEEN = (None, "public", "community", "shared", "private", "all")
#: Filters that could tell of what their sender must not see, with the records that they mean.
FILTERS: dict[str, Any] = {
    "": lambda record: True,
    "name=secret": lambda record: record["name"] == "secret",
    "secret=word": lambda record: "secret" in record,
    "tag=secret": lambda record: "secret" in record["tags"],
    f"owner={HOME}": lambda record: record["owner"] == HOME,
    "owner=elsewhere": lambda record: record["owner"] == "elsewhere",
    "visibility=private&owner=elsewhere": lambda record: record["owner"] == "elsewhere" and record["visibility"] == "private",
    "sort=name:asc": lambda record: True,
    "sort=size:desc&status=queued": lambda record: True,
}


@pytest.fixture(scope="module")
def catalogue(ikon: Ikon) -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Images of every owner, visibility and answer of members: record and members by id. `home` has answered shares of elsewhere too."""
    made = {}
    for owner, visibility, hidden in itertools.product(
        (HOME, "elsewhere", None, *PARTNERS.values()), ("public", "community", "shared", "private"), (False, True)
    ):
        members = {**MEMBERS, HOME: {"elsewhere": "accepted", None: "rejected"}.get(owner, "pending")}
        record = ikon.create(
            who=ADMIN,
            owner=owner,
            os_hidden=hidden,
            name="secret" if visibility == "private" else "open",
            tags=["secret"] if hidden else [],
            secret="word",
        )
        Images(ikon).share(record["id"], members)
        ikon.patch(record["id"], [{"op": "replace", "path": "/visibility", "value": visibility}], PATCH, who=ADMIN)
        made[record["id"]] = (ikon.show(record["id"]), members)
    return made


def lists(who: Persona, record: dict[str, Any], members: dict[str, str], visibility: str | None, status: str | None, hidden: bool) -> bool:
    """Whether a list holds an image."""
    if record["os_hidden"] != hidden or visibility not in (None, "all", record["visibility"]):
        return False
    own = who.project is not None and record["owner"] == who.project
    if own or record["visibility"] == "public":
        return True
    if record["visibility"] == "community":
        return visibility is not None
    if kind(who) == "administrator":
        return True
    return record["visibility"] == "shared" and members.get(str(who.project)) in (
        (status or "accepted",) if status != "all" else ("accepted", "pending", "rejected")
    )


@pytest.mark.parametrize("persona", [name for name, who in PERSONAS.items() if kind(who) in ("administrator", "member", "reader")])
def test_each_list_holds_for_each_persona_what_the_rules_say(ikon: Ikon, catalogue: dict[str, Any], persona: str) -> None:
    who, wrong = PERSONAS[persona], []
    assert isinstance(who, Persona)
    for visibility, status, hidden, (text, test) in itertools.product(SEEN, STATUSES, (False, True), FILTERS.items()):
        if text and (status is not None or "visibility" in text) and visibility not in (None, "all"):
            continue
        asked = {"visibility": visibility, "member_status": status, "os_hidden": "true" if hidden else None}
        query = "&".join(["limit=1000", *(f"{name}={value}" for name, value in asked.items() if value), *([text] if text else [])])
        effective = "private" if "visibility=private" in text else visibility
        wanted = {
            i for i, (record, members) in catalogue.items() if lists(who, record, members, effective, status, hidden) and test(record)
        }
        found = set(ikon.ids(f"?{query}", who=who)) & catalogue.keys()
        if found != wanted:
            wrong.append(
                f"{query}: too many {[describe(catalogue[i]) for i in found - wanted]}, too few {[describe(catalogue[i]) for i in wanted - found]}"
            )
        CELLS["list"] = CELLS.get("list", 0) + len(catalogue)
    assert wrong == [], "\n".join(wrong[:10])


def describe(entry: tuple[dict[str, Any], dict[str, str]]) -> str:
    record, _ = entry
    return f"{record['visibility']} of {record['owner']}{' hidden' if record['os_hidden'] else ''}"


@pytest.mark.parametrize("persona", [name for name, who in PERSONAS.items() if kind(who) in ("administrator", "member", "reader")])
def test_a_list_holds_nothing_that_could_not_be_shown(ikon: Ikon, catalogue: dict[str, Any], persona: str) -> None:
    who, listed = PERSONAS[persona], {}
    for query in ("", "&visibility=all", "&member_status=all", "&os_hidden=true&visibility=all&member_status=all"):
        listed |= {image["id"]: image for image in ikon.browse(f"?limit=1000{query}", who=who).json["images"] if image["id"] in catalogue}
    for image_id, image in listed.items():
        assert ikon.get(f"/v2/images/{image_id}", who=who).json == image
