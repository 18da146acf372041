"""A server with a policy file: its rules decide, lists leave out what they refuse, and the operator at the socket stays free."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.server import COMMAND, Ikon, Persona, someone

RULES = {
    "context_is_admin": "role:cloud_admin",
    "get_image": "rule:context_is_admin or (role:reader and not 'yes':%(secret)s)",
    "publicize_image": "rule:context_is_admin or role:publisher",
    "tasks_api_access": "!",
    "metadef_admin": "role:librarian or (role:author and project_id:%(project_id)s)",
    "get_metadef_namespace": "rule:context_is_admin or (role:reader and 'public':%(visibility)s and not 'secret':%(description)s)",
    "get_metadef_objects": "rule:metadef_admin",
}


@pytest.fixture(scope="module")
def ikon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ikon]:
    directory: Path = tmp_path_factory.mktemp("ikon")
    (directory / "policy.json").write_text(json.dumps(RULES))
    with Ikon(directory / "server", policy={"file": str(directory / "policy.json")}) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


@pytest.mark.parametrize("sort", ["created_at:asc", "name:asc", "size:asc,name:asc", "id:asc"])
def test_what_a_rule_hides_is_not_found_and_not_listed_and_pages_are_full_without_it(ikon: Ikon, sort: str) -> None:
    who = someone()
    names = [f"{n:02}" for n in range(20)]
    for at, name in enumerate(names):
        ikon.create(who=who, name=name, secret="yes" if at % 3 else "no")

    found = [image["name"] for page in ikon.walk(f"?sort={sort}&limit=2", who=who) for image in page]
    hidden = ikon.ids(f"?name=01&owner={who.project}", who=Persona(who.project, "cloud_admin,reader"))

    assert sorted(found) == names[::3]
    assert len(hidden) == 1
    assert ikon.get(f"/v2/images/{hidden[0]}", who=who).status == 404
    assert ikon.patch(hidden[0], [{"op": "replace", "path": "/name", "value": "x"}], who=who).status == 404
    assert ikon.browse(f"?marker={hidden[0]}", who=who).status == 400


def test_the_file_says_who_is_an_administrator(ikon: Ikon) -> None:
    image = ikon.create(who=someone())["id"]

    assert ikon.get(f"/v2/images/{image}", who=Persona("operators", "cloud_admin")).status == 200
    assert ikon.get(f"/v2/images/{image}", who=Persona("operators", "admin,member,reader")).status == 404


def test_a_role_of_the_operators_own_may_publish(ikon: Ikon) -> None:
    who = someone()
    image = str(ikon.create(who=who)["id"])
    change = [{"op": "replace", "path": "/visibility", "value": "public"}]

    assert ikon.patch(image, change, who=who).status == 403
    assert ikon.patch(image, change, who=Persona(who.project, "member,reader,publisher")).status == 200


def test_what_is_for_nobody_is_refused_to_administrators_too(ikon: Ikon) -> None:
    assert ikon.get("/v2/tasks", who=Persona("operators", "cloud_admin")).status == 403


def test_the_operator_at_the_socket_is_held_back_by_no_rule(ikon: Ikon) -> None:
    done = subprocess.run([COMMAND, "jobs", "list", "--config", ikon.config], env=os.environ, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


LIBRARIAN = Persona("library", "librarian,reader")
N = "/v2/metadefs/namespaces"


def test_a_role_of_the_operators_own_writes_definitions_and_administrators_do_not(ikon: Ikon) -> None:
    made = ikon.post(N, {"namespace": "NS", "visibility": "public", "tags": [{"name": "t"}]}, who=LIBRARIAN)

    assert made.status == 201
    assert ikon.post(N, {"namespace": "other"}, who=Persona("operators", "cloud_admin,reader")).status == 403
    assert ikon.get(f"{N}/NS/tags", who=someone()).status == 200
    refused = ikon.get(f"{N}/NS", who=someone())
    assert (refused.status, "get_metadef_objects" in refused.message) == (403, True)
    assert ikon.get(f"{N}/NS", who=LIBRARIAN).status == 200


def test_namespaces_that_a_rule_hides_are_in_no_list_and_pages_are_full_without_them(ikon: Ikon) -> None:
    for n in range(9):
        hidden = {"description": "secret"} if n % 3 else {}
        assert ikon.post(N, {"namespace": f"hide-{n}", "visibility": "public"} | hidden, who=LIBRARIAN).status == 201

    first = ikon.get(f"{N}?limit=2", who=someone()).json
    second = ikon.get(first["next"], who=someone()).json

    assert [each["namespace"] for each in first["namespaces"] + second["namespaces"]][:3] == ["hide-6", "hide-3", "hide-0"]
    assert ikon.get(f"{N}/hide-1", who=someone()).status == 404
    assert ikon.get(f"{N}?marker=hide-1", who=someone()).status == 404


def test_who_may_write_definitions_of_a_project_puts_none_into_another(ikon: Ikon) -> None:
    author = someone("author,member,reader")
    mine = f"{N}/of-{author.project}"
    body = {"namespace": f"of-{author.project}", "visibility": "public"}

    refused = ikon.post(N, body | {"owner": "victim"}, who=author)
    assert (refused.status, "add_metadef_namespace" in refused.message) == (403, True)
    assert ikon.post(N, body, who=author).status == 201
    giving = json.dumps(body | {"owner": "victim"}).encode()
    refused = ikon.call("PUT", mine, giving, who=author)
    assert (refused.status, "modify_metadef_namespace" in refused.message) == (403, True)
    assert ikon.get(mine, who=LIBRARIAN).json["owner"] == author.project
    assert ikon.call("PUT", mine, giving, who=LIBRARIAN).json["owner"] == "victim"
