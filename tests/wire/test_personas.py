"""Every persona, every visibility, every operation: what each may do, and what does not exist for it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.wire.server import ADMIN, PATCH, Answer, Ikon, Persona

HOME = "home"
PERSONAS = {
    "administrator": ADMIN,
    "member": Persona(HOME, "member,reader"),
    "manager": Persona(HOME, "manager,member,reader"),
    "reader": Persona(HOME, "reader"),
    "member that is no reader": Persona(HOME, "member"),
    "service": Persona(HOME, "service"),
    "nobody": Persona(HOME, ""),
    "stranger": Persona("elsewhere", "member,reader"),
    "reading stranger": Persona("elsewhere", "reader"),
    "strange service": Persona("elsewhere", "service"),
    "without a project": Persona(None, "member,reader"),
    "without a project or roles": Persona(None, ""),
    "of the system": Persona(None, "admin,member,reader", system=True),
    "of the system with a project": Persona(HOME, "admin,member,reader", system=True),
}
#: Those who are of no use to this API: what they see and do not own does not exist, and they may do nothing.
BLIND = {
    "member that is no reader",
    "service",
    "nobody",
    "strange service",
    "without a project",
    "without a project or roles",
    "of the system",
    "of the system with a project",
}
OWNERS = {"member", "manager"}
VISIBILITIES = ("public", "community", "shared", "private")


def patch(path: str, value: Any) -> Callable[[Ikon, str, Persona], Answer]:
    return lambda ikon, image_id, who: ikon.patch(image_id, [{"op": "replace", "path": path, "value": value}], PATCH, who=who)


OPERATIONS: dict[str, Callable[[Ikon, str, Persona], Answer]] = {
    "show": lambda ikon, image_id, who: ikon.get(f"/v2/images/{image_id}", who=who),
    "update": patch("/name", "changed"),
    "set public": patch("/visibility", "public"),
    "set community": patch("/visibility", "community"),
    "change owner": patch("/owner", "elsewhere"),
    "upload": lambda ikon, image_id, who: ikon.upload(image_id, b"x", who=who),
    "download": lambda ikon, image_id, who: ikon.download(image_id, who=who),
    "deactivate": lambda ikon, image_id, who: ikon.act(image_id, "deactivate", who=who),
    "download when deactivated": lambda ikon, image_id, who: ikon.download(image_id, who=who),
    "reactivate": lambda ikon, image_id, who: ikon.act(image_id, "reactivate", who=who),
    "remove from a store": lambda ikon, image_id, who: ikon.call("DELETE", f"/v2/stores/two/{image_id}", who=who),
    "copy to a store": lambda ikon, image_id, who: ikon.post(f"/ikon/v1/images/{image_id}/copies", {"store": "two"}, who=who),
    "delete": lambda ikon, image_id, who: ikon.delete(image_id, who=who),
}
NEEDS_DATA = {"download", "deactivate", "download when deactivated", "reactivate", "remove from a store", "copy to a store"}
ADMIN_ONLY = {"change owner", "download when deactivated", "remove from a store", "copy to a store"}
FREE = {"show", "download"}
DONE = {
    "show": 200,
    "update": 200,
    "set public": 200,
    "set community": 200,
    "change owner": 200,
    "download": 200,
    "download when deactivated": 200,
}


def expected(persona: str, visibility: str, operation: str) -> int:
    """The status that the rules give."""
    done = DONE.get(operation, 204)
    if persona == "administrator":
        return done
    sees = visibility in ("public", "community") or PERSONAS[persona].project == HOME
    if not sees or persona in BLIND:
        return 404
    if operation == "show" or (operation == "download" and "member" in PERSONAS[persona].roles):
        return done
    if persona not in OWNERS or operation in ADMIN_ONLY:
        return 403
    if operation == "set public" and visibility != "public":
        return 403
    return done


class Images:
    """Images to try things on: one with data and one without of each visibility, made anew when something came of a try."""

    def __init__(self, ikon: Ikon) -> None:
        self.ikon = ikon
        self.ready: dict[tuple[str, str], str] = {}

    def take(self, operation: str, visibility: str) -> str:
        """An image in the state that an operation needs."""
        if (operation, visibility) not in self.ready:
            self.ready[operation, visibility] = self._make(operation, visibility)
        return self.ready[operation, visibility]

    def spent(self, operation: str, visibility: str) -> None:
        """Something came of it."""
        if operation not in FREE:
            del self.ready[operation, visibility]

    def _make(self, operation: str, visibility: str) -> str:
        fields = {"visibility": visibility, "owner": HOME, "name": "untouched"}
        if operation not in NEEDS_DATA:
            return str(self.ikon.create(who=ADMIN, **fields)["id"])
        image_id = self.ikon.active(b"data", who=ADMIN, **fields)
        if operation == "remove from a store":
            assert self.ikon.post(f"/ikon/v1/images/{image_id}/copies", {"store": "two"}, who=ADMIN).status == 204
        if operation in ("download when deactivated", "reactivate"):
            self.ikon.act(image_id, "deactivate", who=ADMIN)
        return image_id


@pytest.fixture(scope="module")
def images(ikon: Ikon) -> Images:
    return Images(ikon)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_persona_may_do_to_each_image_what_the_rules_say(
    ikon: Ikon, images: Images, operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, cells = [], 0
    for visibility in VISIBILITIES:
        for persona, who in PERSONAS.items():
            image_id = images.take(operation, visibility)
            before = ikon.show(image_id)
            answer = OPERATIONS[operation](ikon, image_id, who)
            wanted = expected(persona, visibility, operation)
            if answer.status != wanted:
                wrong.append(f"{persona} x {visibility}: {answer.status} {answer.body[:100]!r}, and should be {wanted}")
            if answer.status >= 400:
                assert ikon.show(image_id) == before
                assert image_id in answer.message or "untouched" not in answer.message
            else:
                images.spent(operation, visibility)
            cells += 1

    assert wrong == []
    with capsys.disabled():
        print(f"{cells} cells", end=" ")


def test_an_image_that_does_not_exist_for_someone_is_answered_like_one_that_does_not_exist(ikon: Ikon) -> None:
    hidden, missing = ikon.create(visibility="private")["id"], "00000000-0000-0000-0000-000000000000"
    who = PERSONAS["stranger"]
    for operation in OPERATIONS.values():
        there, absent = operation(ikon, hidden, who), operation(ikon, missing, who)
        assert (there.status, there.message.replace(hidden, "")) == (absent.status, absent.message.replace(missing, ""))
        assert set(there.headers) == set(absent.headers)


@pytest.mark.parametrize("persona", PERSONAS)
def test_each_persona_may_do_without_an_image_what_the_rules_say(ikon: Ikon, persona: str) -> None:
    who = PERSONAS[persona]
    creates = persona in OWNERS | {"administrator", "stranger", "member that is no reader"}
    lists = persona in OWNERS | {"administrator", "reader", "stranger", "reading stranger"}
    detail = persona in {"administrator", "service", "strange service"}

    assert ikon.try_create({}, who=who).status == (201 if creates else 403)
    assert ikon.try_create({"owner": "third"}, who=who).status == (201 if persona == "administrator" else 403)
    assert ikon.try_create({"visibility": "public"}, who=who).status == (201 if persona == "administrator" else 403)
    assert ikon.browse(who=who).status == (200 if lists else 403)
    assert ikon.get("/v2/info/stores/detail", who=who).status == (200 if detail else 403)
    for path in ("/v2/info/stores", "/v2/info/import", "/v2/schemas/image", "/v2/schemas/images"):
        assert ikon.get(path, who=who).status == 200


@pytest.mark.parametrize("persona", [name for name in PERSONAS if name not in BLIND])
def test_a_list_holds_what_the_persona_could_show_and_nothing_else(ikon: Ikon, persona: str) -> None:
    who = PERSONAS[persona]
    made = [
        ikon.create(who=ADMIN, visibility=visibility, owner=owner)["id"]
        for visibility in VISIBILITIES
        for owner in (HOME, "elsewhere", "third")
    ]

    for query in ("", "&visibility=all", *(f"&visibility={visibility}" for visibility in VISIBILITIES)):
        listed = set(ikon.ids(f"?limit=12{query}", who=who))
        assert all(ikon.get(f"/v2/images/{image_id}", who=who).status == 200 for image_id in listed)
    everything = {image["id"] for page in ikon.walk("?limit=1000&visibility=all", who=who) for image in page}
    assert {image_id for image_id in made if ikon.get(f"/v2/images/{image_id}", who=who).status == 200} == everything & set(made)
