"""The matrix of metadata definitions: every persona, namespace and operation against one table; and after each refusal, that nothing changed."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ikon.api.door import ROUTES
from tests.wire.personas import HOME, PERSONAS
from tests.wire.server import ADMIN, Answer, Headers, Ikon, Persona, q

#: A server of its own: whole lists are compared.
SETTINGS: dict[str, object] = {}
CELLS: dict[str, int] = {}

pytestmark = pytest.mark.slow

N = "/v2/metadefs/namespaces"
PROPERTY = {"title": "T", "type": "string"}
ABOUT = {"namespace": "{ns}", "visibility": "{visibility}", "owner": HOME}
#: Namespaces by name: owner, visibility, whether it is protected.
NAMESPACES: dict[str, tuple[str | None, str, bool]] = {
    "public": (HOME, "public", False),
    "private": (HOME, "private", False),
    "protected": (HOME, "public", True),
    "nobody's public": (None, "public", False),
    "nobody's private": (None, "private", False),
}


class Operation(NamedTuple):
    """What an administrator, and a reader who sees the namespace, are answered; and an administrator, if it is protected."""

    method: str
    path: str
    admin: int
    reader: int
    body: Any = None
    protected: int | None = None


OPERATIONS: dict[str, Operation] = {
    "show": Operation("GET", "", 200, 200),
    "look": Operation("HEAD", "", 200, 200),
    "page from there": Operation("GET", "?marker", 200, 200),
    "change": Operation("PUT", "", 200, 403, ABOUT | {"description": "changed"}),
    "hide": Operation("PUT", "", 200, 403, ABOUT | {"visibility": "private"}),
    "take": Operation("PUT", "", 200, 403, {"namespace": "{ns}", "visibility": "{visibility}"}),
    "delete": Operation("DELETE", "", 204, 403, None, 403),
    "list objects": Operation("GET", "/objects", 200, 200),
    "add an object": Operation("POST", "/objects", 201, 403, {"name": "new"}),
    "show an object": Operation("GET", "/objects/o", 200, 200),
    "change an object": Operation("PUT", "/objects/o", 200, 403, {"name": "renamed"}),
    "remove an object": Operation("DELETE", "/objects/o", 204, 403, None, 403),
    "remove all objects": Operation("DELETE", "/objects", 204, 403, None, 403),
    "list properties": Operation("GET", "/properties", 200, 200),
    "add a property": Operation("POST", "/properties", 201, 403, {"name": "new"} | PROPERTY),
    "show a property": Operation("GET", "/properties/p", 200, 200),
    "show a property with a prefix": Operation("GET", "/properties/x_p?resource_type=T", 200, 200),
    "change a property": Operation("PUT", "/properties/p", 200, 403, {"name": "renamed"} | PROPERTY),
    "remove a property": Operation("DELETE", "/properties/p", 204, 403, None, 403),
    "remove all properties": Operation("DELETE", "/properties", 204, 403, None, 403),
    "list tags": Operation("GET", "/tags", 200, 200),
    "set tags": Operation("POST", "/tags", 201, 403, {"tags": [{"name": "new"}]}),
    "add a tag": Operation("POST", "/tags/new", 201, 403),
    "show a tag": Operation("GET", "/tags/t", 200, 200),
    "rename a tag": Operation("PUT", "/tags/t", 200, 403, {"name": "renamed"}),
    "remove a tag": Operation("DELETE", "/tags/t", 204, 403, None, 403),
    "remove all tags": Operation("DELETE", "/tags", 204, 403, None, 403),
    "list resource types": Operation("GET", "/resource_types", 200, 200),
    "add a resource type": Operation("POST", "/resource_types", 201, 403, {"name": "New"}),
    "remove a resource type": Operation("DELETE", "/resource_types/T", 204, 403, None, 403),
    "show what is not there": Operation("GET", "/objects/absent", 404, 404),
    "remove what is not there": Operation("DELETE", "/tags/absent", 404, 403),
}
#: Without a namespace: an administrator, a reader with a project; everybody else finds nothing.
PLAIN: dict[str, Operation] = {
    "list": Operation("GET", N, 200, 200),
    "list private ones": Operation("GET", f"{N}?visibility=private", 200, 200),
    "create": Operation("POST", N, 201, 403, {"namespace": "made"}),
    "create with all": Operation("POST", N, 201, 403, {"namespace": "made", "tags": [{"name": "t"}], "properties": {"p": PROPERTY}}),
    "list all resource types": Operation("GET", "/v2/metadefs/resource_types", 200, 200),
}


@pytest.fixture(scope="module", autouse=True)
def _count(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"{sum(CELLS.values())} cells", end=" ")


def make(ikon: Ikon, name: str, kind: str) -> None:
    """A namespace of that name and kind with one of everything in it."""
    owner, visibility, protected = NAMESPACES[kind]
    tree = {
        "namespace": name, "visibility": visibility, "protected": protected, "description": "untouched",
        "objects": [{"name": "o"}], "properties": {"p": PROPERTY}, "tags": [{"name": "t"}], "resource_type_associations": [{"name": "T", "prefix": "x_"}],
    }  # fmt: skip
    who = ADMIN if owner else PERSONAS["administrator without a project"]
    assert ikon.post(N, tree | ({"owner": owner} if owner else {}), who=who).status == 201


def do(ikon: Ikon, operation: Operation, name: str, kind: str, who: Persona | Headers) -> Answer:
    visibility = NAMESPACES[kind][1]
    filled = {"{ns}": name, "{visibility}": visibility}
    body = operation.body and {
        field: filled.get(value, value) if isinstance(value, str) else value for field, value in operation.body.items()
    }
    path = f"{N}?marker={q(name)}" if operation.path == "?marker" else f"{N}/{q(name)}{operation.path}"
    return ikon.call(operation.method, path, None if body is None else json.dumps(body).encode(), who=who)


def reads(who: Persona | Headers, kind: str | None) -> bool:
    """Whether a persona that is no administrator may read a namespace of that kind; None: whether it may read any."""
    if not isinstance(who, Persona) or who.system or "reader" not in {role.strip().lower() for role in who.roles.split(",")}:
        return False
    if kind is None:
        return who.project is not None
    owner, visibility, _ = NAMESPACES[kind]
    return visibility == "public" or (who.project is not None and who.project == owner)


def hidden(who: Persona | Headers, kind: str) -> bool:
    """Whether a persona is told that such a namespace is not there."""
    return isinstance(who, Persona) and not reads(who, kind) and ("admin" not in who.roles or who.system)


def expected(operation: Operation, who: Persona | Headers, kind: str | None) -> int:
    """What the table says."""
    if not isinstance(who, Persona):
        return 401
    if "admin" in who.roles and not who.system:
        protected = kind is not None and NAMESPACES[kind][2]
        return operation.protected if protected and operation.protected else operation.admin
    return operation.reader if reads(who, kind) else 404


@pytest.mark.parametrize("kind", NAMESPACES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_persona_may_do_to_each_namespace_what_the_table_says(ikon: Ikon, name: str, kind: str) -> None:
    operation, namespace, wrong = OPERATIONS[name], f"{kind} {name}", []
    make(ikon, namespace, kind)
    before = ikon.get(f"{N}/{q(namespace)}", who=ADMIN)
    writes = operation.method not in ("GET", "HEAD")
    for persona, who in PERSONAS.items():
        wanted = expected(operation, who, kind)
        if operation.path == "?marker" and isinstance(who, Persona) and not reads(who, None) and "admin" not in who.roles:
            wanted = 404  # lists have a rule of their own
        answer = do(ikon, operation, namespace, kind, who)
        if answer.status != wanted:
            wrong.append(f"{persona}: {answer.status} {answer.body[:90]!r}, and should be {wanted}")
        if hidden(who, kind) and operation.method != "HEAD":
            absent = do(ikon, operation, "not there", kind, who)
            if answer.message.replace(namespace, "") != absent.message.replace("not there", ""):
                wrong.append(f"{persona}: {answer.message} tells of what is hidden")
        if answer.status < 300 and writes:
            ikon.call("PUT", f"{N}/{q(namespace)}", json.dumps({"namespace": namespace}).encode(), who=ADMIN)
            ikon.call("DELETE", f"{N}/{q(namespace)}", who=ADMIN)
            make(ikon, namespace, kind)
            before = ikon.get(f"{N}/{q(namespace)}", who=ADMIN)
        elif writes and ikon.get(f"{N}/{q(namespace)}", who=ADMIN).body != before.body:
            wrong.append(f"{persona} changed it all the same")
        CELLS[name] = CELLS.get(name, 0) + 1
    assert wrong == [], "\n".join(wrong)


@pytest.mark.parametrize("name", PLAIN)
def test_each_persona_may_do_without_a_namespace_what_the_table_says(ikon: Ikon, name: str) -> None:
    operation = PLAIN[name]
    for persona, who in PERSONAS.items():
        body = None if operation.body is None else json.dumps(operation.body).encode()
        answer = ikon.call(operation.method, operation.path, body, who=who)
        assert answer.status == expected(operation, who, None), (persona, answer)
        if operation.method == "POST":
            assert ikon.call("DELETE", f"{N}/made", who=ADMIN).status == (204 if answer.status == 201 else 404)
        CELLS[name] = CELLS.get(name, 0) + 1


def test_each_persona_lists_the_namespaces_that_it_may_show_and_no_others(ikon: Ikon) -> None:
    for kind in NAMESPACES:
        make(ikon, f"listed {kind}", kind)
    for who in PERSONAS.values():
        if not isinstance(who, Persona) or not (reads(who, None) or ("admin" in who.roles and not who.system)):
            continue
        for query in ("", "&visibility=public", "&visibility=private", "&resource_types=T", "&sort_key=owner"):
            listed = ikon.get(f"{N}?limit=1000{query}", who=who).json["namespaces"]
            found = {each["namespace"] for each in listed if each["namespace"].startswith("listed ")}
            seen = {kind for kind in NAMESPACES if "admin" in who.roles or reads(who, kind)}
            assert found == {f"listed {kind}" for kind in seen if query[12:] in ("", NAMESPACES[kind][1]) or "visibility" not in query}, (
                query
            )
            CELLS["list"] = CELLS.get("list", 0) + len(NAMESPACES)


@pytest.mark.parametrize("schema", ["namespace", "namespaces", "object", "objects", "property", "properties", "tag", "tags", "resource_type", "resource_types"])  # fmt: skip
def test_schemas_are_for_whoever_is_identified(ikon: Ikon, schema: str) -> None:
    for who in PERSONAS.values():
        answer = ikon.get(f"/v2/schemas/metadefs/{schema}", who=who)
        assert answer.status == (200 if isinstance(who, Persona) else 401)
        CELLS["schema"] = CELLS.get("schema", 0) + 1


def test_the_tables_know_every_route_of_definitions() -> None:
    known = {(row.method, *row.path.partition("?")[0].split("/")[1:2], row.path.count("/") > 1) for row in OPERATIONS.values()}
    known |= {(row.method, row.path.partition("?")[0]) for row in PLAIN.values()}
    for pattern, handlers in ROUTES.items():
        for method in handlers if pattern.startswith("/v2/metadefs") else ():
            rest = pattern.removeprefix(N + "/{namespace}")
            wanted = (method, pattern) if rest == pattern else (method, *rest.split("/")[1:2], rest.count("/") > 1)
            assert wanted in known, (method, pattern)
