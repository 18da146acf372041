"""A server with protected properties: who may not read one cannot tell that it is there, by no way of asking, and never changes or loses it."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.world import eventually
from tests.wire.server import ADMIN, OLD_PATCH, Ikon, Persona, someone

pytestmark = pytest.mark.slow

SECTIONS = """
[^ro_]
create = admin
read = admin,member
update = admin
delete = admin
[^secret_|^hw_secret]
create = admin
read = admin
update = admin
delete = admin
[^never_]
create = !
read = !
update = !
delete = !
[^drop_]
create = @
read = admin
update = @
delete = @
[^keep_]
create = @
read = @
update = @
delete = admin
[.*]
create = @
read = @
update = @
delete = @
"""
HIDDEN = {"secret_a": "2", "secret_b": "x", "ro_a": "1"}


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    """Another region, which gives everybody everything."""
    with Ikon(tmp_path_factory.mktemp("region"), identity="none") as server:
        yield server


@pytest.fixture(scope="module")
def ikon(region: Ikon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    directory: Path = tmp_path_factory.mktemp("ikon")
    (directory / "protections.conf").write_text(SECTIONS)
    settings: dict[str, Any] = {"policy": {"property_protection_file": str(directory / "protections.conf")}}
    settings |= {"regions": {"away": {"url": f"http://127.0.0.1:{region.port}"}}, "limits": {"properties": 4}}
    settings["egress"] = {"allowed_networks": ["127.0.0.1/32"], "allowed_ports": [region.port]}
    with Ikon(directory / "server", **settings) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def patch(op: str, path: str, *value: str) -> list[dict[str, str]]:
    return [{"op": op, "path": f"/{path}"} | ({"value": value[0]} if value else {})]


def marked(ikon: Ikon, who: Persona, **fields: Any) -> str:
    """A project's image that an administrator has given properties."""
    return str(ikon.create(who=ADMIN, owner=who.project, **HIDDEN, free="yes", **fields)["id"])


@pytest.mark.parametrize(
    ("name", "member", "admin"), [("ro_a", 403, 201), ("secret_a", 403, 201), ("never_a", 403, 403), ("free_a", 201, 201)]
)
def test_properties_are_created_by_whom_the_file_names(ikon: Ikon, name: str, member: int, admin: int) -> None:
    answers = [ikon.try_create({name: "v"}, who=who) for who in (someone(), ADMIN)]

    assert [answer.status for answer in answers] == [member, admin]
    assert all(f"Attribute '{name}' is reserved." in answer.message for answer in answers if answer.status == 403)


def test_who_may_not_read_a_property_sees_nothing_of_it(ikon: Ikon) -> None:
    owner, partner = someone(), someone()
    image = marked(ikon, owner)
    ikon.share(image, str(partner.project), who=owner)
    ikon.reply(image, str(partner.project), "accepted", who=partner)
    seen = {
        ADMIN: {"secret_a", "secret_b", "ro_a", "free"},
        owner: {"ro_a", "free"},
        Persona(owner.project, "reader"): {"free"},
        partner: {"ro_a", "free"},
        Persona(partner.project, "reader"): {"free"},
    }
    for who, names in seen.items():
        shown = [ikon.show(image, who=who), *(each for each in ikon.browse(f"?owner={owner.project}", who=who).json["images"])]
        assert [record.keys() & {*HIDDEN, "free"} for record in shown] == [names, names]
    assert ikon.patch(image, patch("replace", "name", "new"), who=owner).json.keys() & HIDDEN.keys() == {"ro_a"}


@pytest.mark.parametrize(
    "query", ["secret_a=2", "secret_a=in:1,2", "secret_a=2&free=yes", "free=yes&secret_a=2&sort=name:asc", "secret_a=2&tag=t"]
)
@pytest.mark.parametrize("limit", [1, 25])
def test_a_filter_by_what_the_caller_may_not_read_is_one_by_what_no_image_has(ikon: Ikon, query: str, limit: int) -> None:
    who = someone()
    images = {marked(ikon, who, name=str(n), tags=["t"]) for n in range(3)}

    for asked in (query, query.replace("secret_a", "secret_nowhere"), query.replace("2", "9")):
        answer = ikon.browse(f"?{asked}&limit={limit}", who=who)
        assert (answer.status, answer.json["images"], "next" in answer.json) == (200, [], False)
    found = [image["id"] for page in ikon.walk(f"?{query}&limit={limit}&owner={who.project}", who=ADMIN) for image in page]
    assert sorted(found) == sorted(images)


CHANGES = [
    ("replace", "ro_a", 403), ("remove", "ro_a", 403), ("add", "ro_a", 403), ("add", "ro_new", 403),
    ("replace", "secret_a", 409), ("remove", "secret_a", 409), ("add", "secret_a", 403), ("add", "secret_new", 403),
    ("replace", "drop_new", 409), ("remove", "drop_new", 409), ("add", "drop_new", 403),
]  # fmt: skip


@pytest.mark.parametrize(("op", "name", "status"), CHANGES)
def test_a_change_that_the_caller_may_not_make_is_refused_as_if_what_is_hidden_were_not_there(
    ikon: Ikon, op: str, name: str, status: int
) -> None:
    who = someone()
    image = marked(ikon, who)
    absent = name.replace("_a", "_absent")

    for each in (name, absent) if status == 409 or "secret" in name else (name,):
        answer = ikon.patch(image, [*patch("replace", "name", "new"), *patch(op, each, *([] if op == "remove" else ["9"]))], who=who)
        assert answer.status == status, answer
        assert {403: f"Attribute '{each}' is reserved.", 409: f"Property {each} does not exist."}[status] in answer.message
    record = ikon.show(image)
    assert {**HIDDEN, "name": None}.items() <= record.items()


@pytest.mark.parametrize("name", ["drop_box", "drop_other"])
def test_what_is_hidden_can_be_neither_found_nor_overwritten_by_adding_it(ikon: Ikon, name: str) -> None:
    who = someone()
    image = str(ikon.create(who=who, drop_box="mine")["id"])

    assert ikon.patch(image, patch("add", name, "new"), who=who).status == 403
    assert ikon.patch(image, [{"add": f"/{name}", "value": "new"}], OLD_PATCH, who=who).status == 403
    assert ikon.show(image)["drop_box"] == "mine"


def test_what_may_be_written_but_not_taken_away_stays(ikon: Ikon) -> None:
    who = someone()
    image = str(ikon.create(who=who, keep_a="1")["id"])

    assert ikon.patch(image, patch("replace", "keep_a", "2"), who=who).json["keep_a"] == "2"
    assert ikon.patch(image, patch("add", "keep_b", "3"), who=who).json["keep_b"] == "3"
    assert ikon.patch(image, patch("remove", "keep_a"), who=who).status == 403
    assert ikon.patch(image, patch("remove", "keep_a"), who=ADMIN).status == 200


def test_no_write_of_somebody_who_cannot_see_a_property_loses_it(ikon: Ikon) -> None:
    who, partner = someone(), someone()
    image = marked(ikon, who)
    writes = [
        lambda: ikon.patch(image, [*patch("replace", "name", "new"), *patch("replace", "free", "no")], who=who),
        lambda: ikon.call("PUT", f"/v2/images/{image}/tags/t", who=who),
        lambda: ikon.call("DELETE", f"/v2/images/{image}/tags/t", who=who),
        lambda: ikon.share(image, str(partner.project), who=who),
        lambda: ikon.reply(image, str(partner.project), "accepted", who=partner),
        lambda: ikon.upload(image, b"data", who=who),
        lambda: ikon.act(image, "deactivate", who=who),
        lambda: ikon.act(image, "reactivate", who=who),
    ]
    for write in writes:
        answer = write()
        assert answer.status < 300, answer
        assert HIDDEN.items() <= ikon.show(image).items()


def test_a_limit_counts_only_what_the_caller_sees(ikon: Ikon) -> None:
    who = someone()
    image = marked(ikon, who)  # two of its four are hidden

    answers = [ikon.patch(image, patch("add", name, "1"), who=who) for name in ("one", "two", "three")]

    assert [answer.status for answer in answers] == [200, 200, 413]
    assert "Attempted: 5, Maximum: 4" in answers[2].message


def test_a_task_shows_its_image_s_project_no_property_that_is_hidden_there(ikon: Ikon, region: Ikon) -> None:
    who = someone()
    fields = {"owner": who.project, "secret_a": "2", "ro_a": "1", "name": "by task"}
    task = {"import_from": f"http://127.0.0.1:{region.port}/x", "import_from_format": "raw", "image_properties": fields}
    image = ikon.post("/v2/tasks", {"type": "import", "input": task}, who=ADMIN).json["image_id"]

    [seen], [whole] = (ikon.get(f"/v2/images/{image}/tasks", who=each).json["tasks"] for each in (who, ADMIN))

    assert seen["input"]["image_properties"].keys() == {"owner", "ro_a", "name"}
    assert whole["input"]["image_properties"] == fields


def test_an_import_from_another_region_brings_no_property_that_its_caller_may_not_write(ikon: Ikon, region: Ikon) -> None:
    remote = region.active(b"data", who={}, visibility="public", hw_secret="theirs", hw_bus="virtio")  # type: ignore[arg-type]

    def imported(who: Persona, **mine: str) -> dict[str, Any]:
        image = str(ikon.create(who=ADMIN, owner=who.project, **mine)["id"])
        method = {"name": "glance-download", "glance_region": "away", "glance_image_id": remote}
        answer = ikon.post(f"/v2/images/{image}/import", {"method": method}, who=who)
        assert answer.status == 202, answer
        eventually(lambda: ikon.show(image)["status"] == "active", 60)
        return {name: value for name, value in ikon.show(image).items() if name.startswith("hw_")}

    assert imported(someone()) == {"hw_bus": "virtio"}
    assert imported(someone(), hw_secret="ours") == {"hw_bus": "virtio", "hw_secret": "ours"}
    assert imported(ADMIN, hw_secret="ours") == {"hw_bus": "virtio", "hw_secret": "theirs"}


def test_what_became_of_an_image_names_no_hidden_property(ikon: Ikon) -> None:
    who = someone()
    image = marked(ikon, who)
    ikon.patch(image, patch("replace", "secret_a", "changed"), who=ADMIN)

    said = ikon.get(f"/ikon/v1/images/{image}/timeline", who=who)

    assert said.status == 200
    assert "secret" not in said.body.decode()


def test_without_identities_the_rules_count_for_an_administrator_and_the_operator_at_the_socket_is_held_back_by_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "protections.conf").write_text(SECTIONS)
    with Ikon(tmp_path / "server", identity="none", policy={"property_protection_file": str(tmp_path / "protections.conf")}) as server:
        assert server.try_create({"never_a": "1"}, who={}).status == 403
        assert server.try_create({"secret_a": "1"}, who={}).status == 201

        answer = at_the_socket(server, "POST", "/v2/images", {"never_a": "1"})
        assert answer["never_a"] == "1"
        assert "never_a" not in server.get(f"/v2/images/{answer['id']}", who={}).json


def at_the_socket(server: Ikon, method: str, path: str, body: Any) -> dict[str, Any]:
    """What the server answers to its own user."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(server.directory / "data/run/ikon.sock"))
    connection.request(method, path, json.dumps(body).encode())
    with connection.getresponse() as answer:
        return dict(json.loads(answer.read()))


def test_by_policies_rules_of_the_policy_file_say_who(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text(json.dumps({"owners": "role:manager or rule:context_is_admin"}))
    (tmp_path / "protections.conf").write_text(
        "[^x_owner_]\n" + "".join(f"{key} = owners\n" for key in ("create", "read", "update", "delete"))
    )
    rules = {"file": str(tmp_path / "policy.json"), "property_protection_file": str(tmp_path / "protections.conf")}
    with Ikon(tmp_path / "server", policy=rules | {"property_protection_rule_format": "policies"}) as server:
        alice = someone()
        manager = Persona(alice.project, "manager,member,reader")

        answers = [server.try_create({"x_owner_a": "1"}, who=who) for who in (alice, manager, ADMIN)]

        assert [answer.status for answer in answers] == [403, 201, 201]
        image = answers[1].json["id"]
        assert ["x_owner_a" in server.show(image, who=who) for who in (alice, manager, ADMIN)] == [False, True, True]
        assert server.patch(image, patch("replace", "x_owner_a", "2"), who=alice).status == 409
