"""Metadata definitions on the wire: what recorded exchanges do not say. Names and paths, limits, pages, entity tags, and refusals that help."""

import json
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.wire.server import ADMIN, MEMBER, Answer, Ikon, Persona, q

pytestmark = pytest.mark.slow

N = "/v2/metadefs/namespaces"
PROPERTY = {"title": "T", "type": "string"}


def put(ikon: Ikon, path: str, value: Any) -> Answer:
    return ikon.call("PUT", path, json.dumps(value).encode(), who=ADMIN)


def delete(ikon: Ikon, path: str) -> Answer:
    return ikon.call("DELETE", path, who=ADMIN)


def make(ikon: Ikon, name: str = "", **fields: Any) -> str:
    """The path of a new public namespace."""
    name = name or f"ns-{uuid.uuid4()}"
    answer = ikon.post(N, {"namespace": name, "visibility": "public"} | fields, who=ADMIN)
    assert answer.status == 201, answer
    return f"{N}/{q(name)}"


# Names and paths


@pytest.mark.parametrize(
    "name", ["OS::Own::Quota", "a b", "a%2Fb", "%", "?x=1", "#", "ä", "\U0001f427", "a\u0308", " ", "-", "..a", "x" * 80, "a+b", "\\"]
)
def test_every_link_leads_to_what_it_names(ikon: Ikon, name: str) -> None:
    made = ikon.post(N, {"namespace": name, "objects": [{"name": name}]}, who=ADMIN)
    shown = ikon.get(made.json["self"], who=ADMIN)
    (listed,) = ikon.get(f"{made.json['self']}/objects", who=ADMIN).json["objects"]

    assert made.headers["Location"] == f"http://127.0.0.1:{ikon.port}{made.json['self']}"
    assert (made.status, shown.status, shown.json["namespace"]) == (201, 200, name)
    assert ikon.get(listed["self"], who=ADMIN).json["name"] == name
    assert delete(ikon, made.json["self"]).status == 204


@pytest.mark.parametrize("name", ["", "/", "a/b", ".", "..", "a\0b", "x" * 81, "\ud800", None, 1, ["a"], {}])
@pytest.mark.parametrize("what", ["namespace", "objects", "properties", "tags", "resource_types"])
def test_a_name_that_no_path_can_say_is_refused(ikon: Ikon, what: str, name: Any) -> None:
    path = make(ikon)
    if what == "namespace":
        answer = ikon.post(N, {"namespace": name}, who=ADMIN)
    elif what == "tags":
        answer = ikon.post(f"{path}/tags", {"tags": [{"name": name}]}, who=ADMIN)
    else:
        answer = ikon.post(f"{path}/{what}", {"name": name} | (PROPERTY if what == "properties" else {}), who=ADMIN)

    assert answer.status == 400
    assert "name" in answer.message or "Unicode" in answer.message or "JSON" in answer.message


def test_names_that_differ_in_case_are_different(ikon: Ikon) -> None:
    name = f"Case-{uuid.uuid4()}"
    upper, lower = make(ikon, name), make(ikon, name.lower())

    assert ikon.post(f"{upper}/tags/a", who=ADMIN).status == ikon.post(f"{upper}/tags/A", who=ADMIN).status == 201
    assert [tag["name"] for tag in ikon.get(f"{upper}/tags").json["tags"]] == ["A", "a"]
    assert ikon.get(f"{lower}/tags").json == {"tags": []}
    assert ikon.get(f"{N}/{name.upper()}").status == 404


def test_a_namespace_that_is_renamed_takes_along_what_is_in_it(ikon: Ikon) -> None:
    path = make(ikon, objects=[{"name": "o"}], tags=[{"name": "t"}])
    new = f"new-{uuid.uuid4()}"

    assert put(ikon, path, {"namespace": new, "visibility": "public"}).json["self"] == f"{N}/{new}"

    assert ikon.get(path).status == 404
    assert (ikon.get(f"{N}/{new}/objects/o").status, ikon.get(f"{N}/{new}/tags/t").status) == (200, 200)
    assert make(ikon, path.rpartition("/")[2]) == path


# Lists


def test_links_lead_through_every_page_and_keep_all_that_was_asked(ikon: Ikon) -> None:
    kind = f"T-{uuid.uuid4()}"
    names = [f"{kind}-{n:02}" for n in range(7)]
    for name in names:
        make(ikon, name, resource_type_associations=[{"name": kind}])

    for sort, wanted in (("", names[::-1]), ("&sort_key=namespace&sort_dir=asc", names), ("&sort_key=protected", names[::-1])):
        found, link = [], f"{N}?limit=2&resource_types={kind},none&foo=bar&foo=baz{sort}"
        while link:
            page = ikon.get(link).json
            found += [each["namespace"] for each in page["namespaces"]]
            assert "marker" not in page["first"] and parse_qs(urlsplit(page["first"]).query)["foo"] == ["bar", "baz"]
            link = page.get("next", "")
        assert found == wanted


@pytest.mark.parametrize(("query", "says"), [("limit=x", "limit"), ("limit=-1", "limit"), ("limit=", "limit"), ("sort_key=size", "sort key: size"), ("sort_key=", "sort key"), ("sort_dir=up", "direction: up"), ("visibility=shared", "visibility")])  # fmt: skip
def test_a_list_says_which_parameter_it_does_not_know_what_to_make_of(ikon: Ikon, query: str, says: str) -> None:
    answers = [ikon.get(f"{N}?{query}"), *([] if "visibility" in query else [ikon.get(f"{make(ikon)}/tags?{query}")])]

    assert {answer.status for answer in answers} == {400}
    assert all(says in answer.message for answer in answers)


@pytest.mark.parametrize("marker", ["absent", "", "a\0b", "x" * 500])
def test_a_marker_that_is_not_there_is_not_found(ikon: Ikon, marker: str) -> None:
    assert ikon.get(f"{N}?marker={q(marker)}").status == 404
    assert ikon.get(f"{make(ikon)}/tags?marker={q(marker)}").status == 404


def test_a_page_holds_no_more_than_the_largest_page(ikon: Ikon) -> None:
    path = make(ikon, tags=[{"name": f"{n:04}"} for n in range(1000)])

    assert len(ikon.get(f"{path}/tags").json["tags"]) == 1000
    assert len(ikon.get(f"{path}/tags?limit=99999999999999999999").json["tags"]) == 1000
    assert len(ikon.get(f"{N}?limit=100000", who=ADMIN).json["namespaces"]) <= 1000


# Prefixes


def test_keys_are_shown_as_resources_of_a_type_have_them(ikon: Ikon) -> None:
    inner = {"name": "o", "required": ["b"], "properties": {"b": PROPERTY}}
    path = make(
        ikon,
        properties={"a": PROPERTY},
        objects=[inner],
        resource_type_associations=[{"name": "Flavor", "prefix": "hw:"}, {"name": "Bare"}],
    )

    as_flavor, bare = (ikon.get(f"{path}?resource_type={name}").json for name in ("Flavor", "Bare"))

    assert (list(as_flavor["properties"]), list(bare["properties"])) == (["hw:a"], ["a"])
    assert (as_flavor["objects"][0]["required"], list(as_flavor["objects"][0]["properties"])) == (["hw:b"], ["hw:b"])
    assert ikon.get(f"{path}/properties/hw:a?resource_type=Flavor").json == {"name": "a"} | PROPERTY
    assert ikon.get(f"{path}/properties/a?resource_type=Bare").json == {"name": "a"} | PROPERTY
    for wrong in ("a?resource_type=Flavor", "hw:a", "hw:a?resource_type=None", "hw:a?resource_type=", "a?resource_type=a%00"):
        assert ikon.get(f"{path}/properties/{wrong}").status == 404


# Entity tags


def test_who_has_the_latest_is_not_sent_it_again(ikon: Ikon) -> None:
    path = make(ikon, objects=[{"name": "o"}], properties={"p": PROPERTY}, tags=[{"name": "t"}])
    for part in ("", "/objects", "/objects/o", "/properties", "/properties/p", "/tags", "/tags/t", "/resource_types"):
        whole = ikon.get(path + part)
        tag = whole.headers["ETag"]

        again = [ikon.get(path + part, {"If-None-Match": given}) for given in (tag, f'"x", W/{tag}', "*")]
        other = ikon.get(path + part, {"If-None-Match": '"x"'})

        assert [(answer.status, answer.body, answer.headers["ETag"]) for answer in again] == [(304, b"", tag)] * 3
        assert (other.status, other.body) == (200, whole.body)
    before = ikon.get(path).headers["ETag"]
    assert ikon.post(f"{path}/tags/more", who=ADMIN).status == 201
    assert ikon.get(path, {"If-None-Match": before}).status == 200


def test_an_entity_tag_tells_nobody_what_is_hidden(ikon: Ikon) -> None:
    path = make(ikon, visibility="private")

    assert ikon.get(path, {"If-None-Match": "*"}, who=Persona("elsewhere")).status == 404


# Bodies


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"visibility": "shared"}, "visibility: Invalid enum value 'shared'; allowed: public, private"),
        ({"description": "x" * 501}, "description"),
        ({"owner": "x" * 256}, "owner"),
        ({"protected": "yes"}, "protected"),
        ({"display_name": None}, "display_name: null is no value"),
        ({"colour": "red"}, "colour"),
        ({"objects": {}}, "objects: Expected an array"),
        ({"tags": ["x"]}, "tags[0]: Expected an object"),
        ({"objects": [{"name": "a"}, {"name": "b", "required": ["x", "x"]}]}, "objects[1]: required: has non-unique elements"),
        ({"objects": [{"name": "a", "properties": {"k": {"title": "T", "type": "text"}}}]}, "objects[0]: properties: k: type: Invalid enum value 'text'; allowed: array"),
        ({"properties": {"k": {"type": "string"}}}, "properties: k: Object missing required field `title`"),
        ({"properties": {"k": PROPERTY | {"minLength": -1}}}, "properties: k: minLength"),
        ({"properties": {"k": PROPERTY | {"maximum": 10**30}}}, "a number beyond 64 bits"),
        ({"properties": {"k": PROPERTY | {"enum": [{}]}}}, "enum: {} is no text, number or boolean"),
        ({"properties": {"k": PROPERTY | {"items": {"type": "x"}}}}, "items.type"),
        ({"properties": {"k": PROPERTY | {"name": "other"}}}, "name: 'other' is not its key"),
        ({"properties": {"x" * 81: PROPERTY}}, "length <= 80"),
        ({"resource_type_associations": [{"name": "n", "prefix": "x" * 81}]}, "resource_type_associations[0]: prefix"),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what_is_allowed(ikon: Ikon, fields: dict[str, Any], says: str) -> None:
    name = f"ns-{uuid.uuid4()}"

    answer = ikon.post(N, {"namespace": name} | fields, who=ADMIN)

    assert answer.status == 400
    assert says in answer.message
    assert ikon.get(f"{N}/{name}", who=ADMIN).status == 404


def test_a_refusal_is_short_however_long_the_field_was(ikon: Ikon) -> None:
    for body in ({"x" * 100_000: 1}, {"x" * 100_000: None}, {"namespace": "x" * 100_000}, {"properties": {"x" * 100_000: {}}}):
        answer = ikon.post(N, {"namespace": "x"} | body, who=ADMIN)
        assert (answer.status, len(answer.body) < 1000) == (400, True)
    assert len(ikon.post(f"{make(ikon)}/tags", {"tags": [], "x" * 100_000: 1}, who=ADMIN).body) < 1000


def test_numbers_and_defaults_are_kept_as_clients_know_them(ikon: Ikon) -> None:
    given = PROPERTY | {"name": "p", "minimum": 1.0, "maximum": 2.5, "minLength": 3.0, "default": 7, "enum": [1, 2.5, True, "x"]}

    answer = ikon.post(f"{make(ikon)}/properties", given, who=ADMIN)

    kept = {"minimum": 1, "maximum": 2.5, "minLength": 3, "default": "7", "enum": ["1", "2.5", "True", "x"]}
    assert (answer.status, answer.json) == (201, PROPERTY | {"name": "p"} | kept)


def test_a_tree_that_was_read_can_be_sent_again_without_what_the_server_says_of_it(ikon: Ikon) -> None:
    inner = {"name": "o", "description": "d", "required": ["k"], "properties": {"k": PROPERTY}}
    path = make(
        ikon, objects=[inner], properties={"p": PROPERTY}, tags=[{"name": "t"}], resource_type_associations=[{"name": "T", "prefix": "x"}]
    )
    tree = ikon.get(path).json

    refused = ikon.post(N, tree, who=ADMIN)
    said = {name: value for name, value in tree.items() if name not in ("created_at", "updated_at", "self", "schema")}
    copy = ikon.post(N, said | {"namespace": f"copy-{uuid.uuid4()}"}, who=ADMIN)

    assert (refused.status, "is read-only" in refused.message) == (403, True)
    whole = ikon.get(copy.json["self"]).json
    times = ("created_at", "updated_at", "self", "namespace")
    assert [
        {name: each for name, each in one.items() if name not in times}
        for one in (whole["objects"][0], whole["resource_type_associations"][0])
    ] == [
        {name: each for name, each in one.items() if name not in times}
        for one in (tree["objects"][0], tree["resource_type_associations"][0])
    ]
    assert (whole["properties"], whole["tags"]) == (tree["properties"], tree["tags"])


@pytest.mark.parametrize("append", ["True", "true", "1", "YES", " on "])
def test_tags_are_added_where_the_header_says_so(ikon: Ikon, append: str) -> None:
    path = make(ikon, tags=[{"name": "old"}])

    added = ikon.post(f"{path}/tags", {"tags": [{"name": "new"}]}, {"X-Openstack-Append": append}, who=ADMIN)
    clash = ikon.post(f"{path}/tags", {"tags": [{"name": "more"}, {"name": "new"}]}, {"X-Openstack-Append": append}, who=ADMIN)

    assert (added.status, added.json, clash.status) == (201, {"tags": [{"name": "new"}]}, 409)
    assert [tag["name"] for tag in ikon.get(f"{path}/tags").json["tags"]] == ["new", "old"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "x",
        {"tags": None},
        {"tags": {}},
        {"tags": [{}]},
        {"tags": [None]},
        {"tags": [{"name": "x", "y": 1}]},
        {"tags": [], "y": 1},
    ],
)
def test_a_refused_list_of_tags_leaves_them_as_they_were(ikon: Ikon, body: Any) -> None:
    path = make(ikon, tags=[{"name": "old"}])

    answer = ikon.call("POST", f"{path}/tags", json.dumps(body).encode(), who=ADMIN)

    assert answer.status == 400
    assert ikon.get(f"{path}/tags").json == {"tags": [{"name": "old"}]}


def test_more_than_a_namespace_holds_is_refused_with_the_limit(ikon: Ikon) -> None:
    many = ikon.post(N, {"namespace": f"ns-{uuid.uuid4()}", "tags": [{"name": f"{n}"} for n in range(1001)]}, who=ADMIN)
    path = make(ikon)
    large = [ikon.post(f"{path}/objects", {"name": f"{n}", "description": "x" * 1_000_000}, who=ADMIN) for n in range(5)]
    body = ikon.post(f"{path}/objects", {"name": "body", "description": "x" * (1 << 20)}, who=ADMIN)

    assert (many.status, "holds 1000 entries of the kind tag at most. Attempted: 1001" in many.message) == (413, True)
    assert [answer.status for answer in large] == [201, 201, 201, 201, 413]
    assert "4194304 bytes at most" in large[-1].message
    assert (body.status, len(ikon.get(f"{path}/objects").json["objects"])) == (413, 4)


def test_what_is_nested_too_deep_is_refused(ikon: Ikon) -> None:
    deep: Any = "x"
    for _ in range(30):
        deep = [deep]

    assert ikon.post(f"{make(ikon)}/properties", PROPERTY | {"name": "p", "default": deep}, who=ADMIN).status == 400


@pytest.mark.parametrize("path", ["", "/objects", "/objects/o", "/properties", "/properties/p", "/tags", "/tags/t", "/resource_types"])
def test_a_body_is_refused_where_none_is_expected(ikon: Ikon, path: str) -> None:
    namespace = make(ikon, objects=[{"name": "o"}])
    for method in ("GET", "DELETE") if path != "/resource_types" else ("GET",):
        assert ikon.call(method, namespace + path, b"{}", who=ADMIN).status == 400
    assert ikon.get(f"{namespace}/objects/o").status == 200


def test_protection_keeps_all_there_is_and_lets_more_come(ikon: Ikon) -> None:
    path = make(ikon, protected=True, properties={"p": PROPERTY}, resource_type_associations=[{"name": "T"}])

    refused = [delete(ikon, path + part) for part in ("", "/properties/p", "/properties", "/resource_types/T")]
    assert [answer.status for answer in refused] == [403] * 4
    assert all("is protected and cannot be deleted" in answer.message for answer in refused)
    assert put(ikon, f"{path}/properties/p", {"name": "q"} | PROPERTY).status == 200
    assert ikon.post(f"{path}/tags/t", who=ADMIN).status == 201
    assert put(ikon, path, {"namespace": path.rpartition("/")[2]}).status == 200
    assert delete(ikon, path).status == 204


def test_who_sees_none_of_it_cannot_tell_it_from_nothing(ikon: Ikon) -> None:
    path = make(ikon, visibility="private", owner="elsewhere", tags=[{"name": "t"}])
    for method, part in (
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "/tags"),
        ("POST", "/tags/x"),
        ("GET", "/properties/p?resource_type=T"),
    ):
        body = json.dumps({"namespace": "x"}).encode() if method == "PUT" else None
        hidden = ikon.call(method, path + part, body, who=MEMBER)
        absent = ikon.call(method, path[:-3] + "xyz" + part, body, who=MEMBER)

        assert (hidden.status, absent.status) == (404, 404)
        assert hidden.message.replace(path.rpartition("/")[2], "") == absent.message.replace(path[:-3].rpartition("/")[2] + "xyz", "")
        assert set(hidden.headers) == set(absent.headers)
