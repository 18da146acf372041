"""PATCH /v2/images/{id}: all of it or nothing, by those who may, and never over somebody else's change."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.wire.server import ADMIN, MEMBER, OLD_PATCH, PATCH, READER, STRANGER, Answer, Ikon, Persona, q

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


@pytest.fixture
def image_id(ikon: Ikon) -> str:
    return str(ikon.create(name="before", colour="red", shape="round")["id"])


def changed(ikon: Ikon, image_id: str, operations: Any, who: Persona = MEMBER) -> dict[str, Any]:
    """The record after a patch that is taken."""
    answer = ikon.patch(image_id, operations, who=who)
    assert answer.status == 200, answer
    assert answer.json == ikon.show(image_id, who=who)
    return dict(answer.json)


def refused(
    ikon: Ikon, image_id: str, operations: Any, status: int, *words: str, who: Persona = MEMBER, form: dict[str, str] = PATCH
) -> Answer:
    """Asserts that a patch is refused, saying why, and has changed nothing: not even with a good operation before it."""
    before = ikon.show(image_id)
    answer = ikon.patch(image_id, operations, form, who=who)
    assert (answer.status, [word for word in words if word not in answer.message]) == (status, []), answer
    assert ikon.show(image_id) == before
    return answer


# What can be changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/name", "after"),
        ("/name", ""),
        ("/name", None),
        ("/visibility", "private"),
        ("/visibility", "community"),
        ("/protected", True),
        ("/os_hidden", True),
        ("/disk_format", "qcow2"),
        ("/disk_format", None),
        ("/container_format", "ovf"),
        ("/min_disk", 2147483647),
        ("/min_ram", 7),
        ("/tags", ["b", "a", "\U0001f427"]),
        ("/tags", []),
        ("/colour", "blue"),
        ("/colour", ""),
    ],
)
@pytest.mark.parametrize("op", ["add", "replace"])
def test_what_is_there_gets_a_new_value(ikon: Ikon, image_id: str, op: str, path: str, value: Any) -> None:
    record = changed(ikon, image_id, [{"op": op, "path": path, "value": value}])

    assert record[path[1:]] == value


@pytest.mark.parametrize("key", ["new", "", "a b", "ключ", "%41", "x" * 255, "\U0001f511"])
def test_a_property_comes_changes_and_goes(ikon: Ikon, image_id: str, key: str) -> None:
    assert changed(ikon, image_id, [add(f"/{key}", "1")])[key] == "1"
    assert changed(ikon, image_id, [replace(f"/{key}", "2")])[key] == "2"
    assert key not in changed(ikon, image_id, [remove(f"/{key}")])


@pytest.mark.parametrize(
    ("path", "key"), [("/a~1b", "a/b"), ("/a~0b", "a~b"), ("/a~01b", "a~1b"), ("/~1", "/"), ("/ a ", "a"), ("/%7e", "%7e"), ("/", "")]
)
def test_a_pointer_names_its_attribute(ikon: Ikon, image_id: str, path: str, key: str) -> None:
    assert changed(ikon, image_id, [add(path, "x")])[key] == "x"


def test_blanks_around_a_pointer_do_not_count(ikon: Ikon, image_id: str) -> None:
    assert changed(ikon, image_id, [replace("/ name ", "after")])["name"] == "after"


@pytest.mark.parametrize(
    "key",
    [
        "image_id",
        "extra_properties",
        "member",
        "context",
        "delete",
        "get_data",
        "base",
        "k",
        "version",
        "reason",
        "digests",
        "updated",
        "__class__",
        "properties",
    ],
)
def test_names_that_mean_something_inside_are_plain_properties(ikon: Ikon, image_id: str, key: str) -> None:
    other = ikon.create(name="other")

    record = changed(ikon, image_id, [add(f"/{key}", other["id"])])

    assert (record[key], record["id"], record["status"], record["name"]) == (other["id"], image_id, "queued", "before")
    assert ikon.show(other["id"]) == other
    assert key not in changed(ikon, image_id, [remove(f"/{key}")])


def test_operations_are_done_in_order(ikon: Ikon, image_id: str) -> None:
    record = changed(
        ikon, image_id, [add("/x", "1"), replace("/x", "2"), remove("/x"), add("/x", "3"), remove("/colour"), replace("/name", "n")]
    )

    assert (record["x"], record["name"], "colour" in record, record["shape"]) == ("3", "n", False, "round")


def test_a_later_failure_undoes_what_came_before(ikon: Ikon, image_id: str) -> None:
    refused(ikon, image_id, [replace("/name", "after"), add("/x", "1"), remove("/missing")], 409, "Property missing does not exist.")


def test_no_operations_change_nothing_and_need_no_right_to_change(ikon: Ikon) -> None:
    record = ikon.create(visibility="community")

    answer = ikon.patch(record["id"], [], who=STRANGER)

    assert (answer.status, answer.json) == (200, record)
    assert answer.headers["ETag"] == '"1"'


def test_a_patch_moves_updated_at_and_the_version(ikon: Ikon) -> None:
    record = ikon.create(name="same")
    time.sleep(1.1)

    answer = ikon.patch(record["id"], [replace("/name", "same")])

    assert answer.json["updated_at"] > record["updated_at"]
    assert answer.json["created_at"] == record["created_at"]
    assert answer.headers["ETag"] == '"2"'


def test_a_value_given_to_remove_is_ignored(ikon: Ikon, image_id: str) -> None:
    assert "colour" not in changed(ikon, image_id, [{"op": "remove", "path": "/colour", "value": 5}])


def test_what_comes_in_chunks_is_read_like_any_other(ikon: Ikon, image_id: str) -> None:
    body = json.dumps([replace("/name", "chunked")]).encode()

    answer = ikon.call("PATCH", f"/v2/images/{image_id}", iter([body[:5], body[5:]]), PATCH)

    assert answer.json["name"] == "chunked"


def test_an_active_and_a_deactivated_image_may_be_described_anew(ikon: Ikon) -> None:
    active = ikon.active(b"x")
    assert changed(ikon, active, [replace("/name", "n")])["status"] == "active"
    ikon.act(active, "deactivate")
    assert changed(ikon, active, [replace("/min_ram", 1)])["status"] == "deactivated"


# The older form


def test_the_older_form_adds_replaces_and_removes(ikon: Ikon, image_id: str) -> None:
    answer = ikon.patch(image_id, [{"add": "/x", "value": "1"}, {"replace": "/name", "value": "n"}, {"remove": "/colour"}], OLD_PATCH)

    assert answer.status == 200
    assert (answer.json["x"], answer.json["name"], "colour" in answer.json) == ("1", "n", False)


@pytest.mark.parametrize("path", ["/colour", "/name", "/tags"])
def test_the_older_form_adds_only_what_is_not_there(ikon: Ikon, image_id: str, path: str) -> None:
    value = ["x"] if path == "/tags" else "x"
    refused(ikon, image_id, [{"add": path, "value": value}], 409, f"Property {path[1:]} already present.", form=OLD_PATCH)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({}, "exactly one member"),
        ({"value": "x"}, "exactly one member"),
        ({"op": "add", "path": "/x", "value": "1"}, "exactly one member"),
        ({"add": "/x", "remove": "/y", "value": "1"}, "only one member"),
        ({"add": "/x"}, 'requires a member named "value"'),
        ({"add": 1, "value": "1"}, "Pointer"),
        ({"add": None, "value": "1"}, "Pointer"),
    ],
)
def test_the_older_form_is_held_to_its_rules(ikon: Ikon, image_id: str, operation: Any, words: str) -> None:
    refused(ikon, image_id, [operation], 400, words, form=OLD_PATCH)


# The media type


@pytest.mark.parametrize("content_type", [V21, f"{V21}; charset=utf-8", V21.upper(), f" {V21} ;x=y"])
def test_the_media_type_may_carry_parameters(ikon: Ikon, image_id: str, content_type: str) -> None:
    assert ikon.patch(image_id, [replace("/name", "n")], {"Content-Type": content_type}).status == 200


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/json-patch+json", "text/plain", "application/openstack-images-v2.2-json-patch", "x"],
)
def test_any_other_media_type_is_answered_with_those_there_are(ikon: Ikon, image_id: str, content_type: str | None) -> None:
    answer = refused(
        ikon,
        image_id,
        [replace("/name", "n")],
        415,
        "Image PATCH expects Content-Type one of: ",
        V20,
        V21,
        form={"Content-Type": content_type},
    )  # type: ignore[dict-item]

    assert answer.headers["Accept-Patch"] == f"{V20}, {V21}"


def test_the_media_type_is_looked_at_first(ikon: Ikon) -> None:
    assert ikon.patch("zz", b"{", {"Content-Type": "application/json"}).status == 415
    assert ikon.patch("zz", b"{").status == 400
    assert ikon.patch("zz", []).status == 404


# What is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Body expected"),
        (b"[", "Malformed JSON"),
        (b"[\xff]", "Malformed JSON"),
        (b"{}", "Request body must be a JSON array of operation objects."),
        (b"null", "Request body must be a JSON array"),
        (b'"x"', "Request body must be a JSON array"),
        (b"1", "Request body must be a JSON array"),
        (b"[1]", "Operations must be JSON objects."),
        (b"[null]", "Operations must be JSON objects."),
        (b"[[]]", "Operations must be JSON objects."),
        (b'["add"]', "Operations must be JSON objects."),
    ],
)
def test_a_body_that_is_no_list_of_operations_is_refused(ikon: Ikon, image_id: str, body: bytes, words: str) -> None:
    refused(ikon, image_id, body, 400, words)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ({}, "Unable to find `op`"),
        ({"path": "/x", "value": "1"}, "Unable to find `op`"),
        ({"op": "test", "path": "/x", "value": "1"}, "Invalid operation: `test`"),
        ({"op": "move", "path": "/x", "from": "/y"}, "Invalid operation: `move`"),
        ({"op": "copy", "path": "/x", "from": "/y"}, "Invalid operation: `copy`"),
        ({"op": "ADD", "path": "/x", "value": "1"}, "Invalid operation"),
        ({"op": None, "path": "/x", "value": "1"}, "Invalid operation"),
        ({"op": 1, "path": "/x", "value": "1"}, "Invalid operation"),
        ({"op": ["add"], "path": "/x", "value": "1"}, "Invalid operation"),
        ({"op": {}, "path": "/x", "value": "1"}, "Invalid operation"),
        ({"op": "add", "value": "1"}, "Unable to find 'path'"),
        ({"op": "add", "path": "/x"}, 'requires a member named "value"'),
        ({"op": "replace", "path": "/name"}, 'requires a member named "value"'),
        ({"op": "add", "path": "x", "value": "1"}, "Pointer `x` does not start with"),
        ({"op": "add", "path": "", "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/x/", "value": "1"}, "Pointer `/x/` ends with"),
        ({"op": "add", "path": "//", "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/a//b", "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/a~b", "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/a~2", "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/a~", "value": "1"}, "Pointer"),
        ({"op": "add", "path": 1, "value": "1"}, "Pointer"),
        ({"op": "add", "path": None, "value": "1"}, "Pointer"),
        ({"op": "add", "path": ["/x"], "value": "1"}, "Pointer"),
        ({"op": "add", "path": {}, "value": "1"}, "Pointer"),
        ({"op": "add", "path": "/name/x", "value": "1"}, "Invalid JSON pointer for this resource: '/name/x'"),
        ({"op": "add", "path": "/tags/-", "value": "1"}, "Invalid JSON pointer for this resource: '/tags/-'"),
        ({"op": "remove", "path": "/tags/0"}, "Invalid JSON pointer for this resource: '/tags/0'"),
        ({"op": "add", "path": "/a/b/c", "value": "1"}, "Invalid JSON pointer"),
    ],
)
def test_an_operation_that_cannot_be_understood_is_refused(ikon: Ikon, image_id: str, operation: Any, words: str) -> None:
    refused(ikon, image_id, [replace("/name", "after"), operation], 400, words)


@pytest.mark.parametrize("op", ["add", "replace", "remove"])
@pytest.mark.parametrize(
    "name",
    [
        "id",
        "created_at",
        "updated_at",
        "status",
        "checksum",
        "size",
        "virtual_size",
        "direct_url",
        "self",
        "file",
        "schema",
        "stores",
        "os_hash_algo",
        "os_hash_value",
    ],
)
def test_what_the_server_sets_is_read_only(ikon: Ikon, image_id: str, op: str, name: str) -> None:
    answer = refused(ikon, image_id, [{"op": op, "path": f"/{name}", "value": "x"}], 403, who=ADMIN)

    assert answer.message == f"Attribute '{name}' is read-only."


@pytest.mark.parametrize("op", ["add", "replace", "remove"])
@pytest.mark.parametrize("name", ["location", "deleted", "deleted_at", "os_glance_import_task", "os_glance_", "os_glance"])
def test_what_the_server_keeps_to_itself_is_reserved(ikon: Ikon, image_id: str, op: str, name: str) -> None:
    answer = refused(ikon, image_id, [{"op": op, "path": f"/{name}", "value": "x"}], 403, who=ADMIN)

    assert answer.message == f"Attribute '{name}' is reserved."


@pytest.mark.parametrize(
    "operation",
    [
        add("/locations/-", {"url": "file:///etc/passwd", "metadata": {}}),
        add("/locations/0", {"url": "http://x", "metadata": {}}),
        remove("/locations/0"),
        replace("/locations", []),
        replace("/locations", [{"url": "http://x", "metadata": {}}]),
    ],
)
def test_locations_that_are_not_shown_cannot_be_set(ikon: Ikon, image_id: str, operation: Any) -> None:
    refused(ikon, image_id, [operation], 403, who=ADMIN)


@pytest.mark.parametrize(
    "name", ["name", "tags", "visibility", "min_ram", "min_disk", "protected", "os_hidden", "disk_format", "container_format", "owner"]
)
def test_a_base_field_cannot_be_removed(ikon: Ikon, image_id: str, name: str) -> None:
    refused(ikon, image_id, [remove(f"/{name}")], 403, f"Property {name} may not be removed.", who=ADMIN)


@pytest.mark.parametrize("operation", [replace("/missing", "x"), remove("/missing"), replace("/Colour", "x"), remove("/")])
def test_a_property_that_is_not_there_cannot_be_replaced_or_removed(ikon: Ikon, image_id: str, operation: Any) -> None:
    refused(ikon, image_id, [operation], 409, "does not exist.")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("/name", 1, "name"),
        ("/name", "x" * 256, "name"),
        ("/name", "a\0b", "name"),
        ("/visibility", "everyone", "visibility"),
        ("/visibility", None, "visibility"),
        ("/protected", "true", "protected"),
        ("/os_hidden", None, "os_hidden"),
        ("/disk_format", "floppy", "disk_format"),
        ("/disk_format", "", "disk_format"),
        ("/container_format", 1, "container_format"),
        ("/min_disk", -1, "min_disk"),
        ("/min_disk", 2**31, "min_disk"),
        ("/min_ram", "1", "min_ram"),
        ("/min_ram", 1.5, "min_ram"),
        ("/min_ram", True, "min_ram"),
        ("/tags", "x", "tags"),
        ("/tags", None, "tags"),
        ("/tags", [1], "tags"),
        ("/tags", ["x" * 256], "tags"),
        ("/colour", None, "colour"),
        ("/colour", 1, "colour"),
        ("/colour", ["x"], "colour"),
        ("/colour", {"a": "b"}, "colour"),
        ("/colour", "x" * 65_536, "colour"),
        ("/colour", "a\0b", "colour"),
        ("/" + "x" * 256, "1", "255 characters"),
        ("/a\0b", "1", "NUL"),
        ("/kernel_id", "vmlinuz", "kernel_id"),
    ],
)
@pytest.mark.parametrize("op", ["add", "replace"])
def test_a_value_of_the_wrong_type_or_length_is_refused_by_name(
    ikon: Ikon, image_id: str, op: str, path: str, value: Any, words: str
) -> None:
    refused(ikon, image_id, [replace("/name", "after"), {"op": op, "path": path, "value": value}], 400, words)


def test_a_whole_number_is_an_integer_however_it_is_written(ikon: Ikon, image_id: str) -> None:
    assert b'"min_disk":2,' in ikon.patch(image_id, b'[{"op": "replace", "path": "/min_disk", "value": 2.0}]').body


@pytest.mark.parametrize("value", [b'"\\ud800"', b"NaN"])
def test_a_value_that_is_no_text_in_any_encoding_is_refused(ikon: Ikon, image_id: str, value: bytes) -> None:
    refused(ikon, image_id, b'[{"op": "add", "path": "/x", "value": ' + value + b"}]", 400, "Malformed JSON")


# Limits


def test_only_so_many_properties_fit_and_what_is_there_may_still_change(ikon: Ikon) -> None:
    image_id = ikon.create(**{f"p{n}": "x" for n in range(128)})["id"]

    refused(ikon, image_id, [add("/one_more", "x")], 413, "Attempted: 129, Maximum: 128")
    assert changed(ikon, image_id, [replace("/p0", "y")])["p0"] == "y"
    assert "swapped" in changed(ikon, image_id, [add("/swapped", "x"), remove("/p1")])
    refused(ikon, image_id, [replace("/tags", [str(n) for n in range(129)])], 413, "tags. Attempted: 129, Maximum: 128")


# Who may


@pytest.mark.parametrize("op", ["add", "replace"])
@pytest.mark.parametrize("owner", ["elsewhere", "home", None])
def test_only_an_administrator_gives_an_image_away(ikon: Ikon, image_id: str, op: str, owner: str | None) -> None:
    operation = {"op": op, "path": "/owner", "value": owner}

    refused(ikon, image_id, [operation], 403, "Owner can't be updated by non admin.")
    assert changed(ikon, image_id, [operation], who=ADMIN)["owner"] == owner
    assert ikon.get(f"/v2/images/{image_id}", who=STRANGER).status == (200 if owner == "elsewhere" else 404)


def test_a_community_image_cannot_be_taken(ikon: Ikon) -> None:
    image_id = ikon.create(visibility="community")["id"]

    for op in ("add", "replace"):
        refused(ikon, image_id, [{"op": op, "path": "/owner", "value": "elsewhere"}], 403, who=STRANGER)


def test_only_an_administrator_makes_an_image_public_and_the_owner_takes_it_back(ikon: Ikon, image_id: str) -> None:
    refused(ikon, image_id, [replace("/visibility", "public")], 403, "publicize_image")
    assert changed(ikon, image_id, [replace("/visibility", "public")], who=ADMIN)["visibility"] == "public"
    assert changed(ikon, image_id, [replace("/name", "mine")])["visibility"] == "public"
    assert changed(ikon, image_id, [replace("/visibility", "public")])["visibility"] == "public"
    assert changed(ikon, image_id, [replace("/visibility", "shared")])["visibility"] == "shared"
    refused(ikon, image_id, [replace("/visibility", "public")], 403, "publicize_image")


def test_an_image_that_is_not_seen_cannot_be_patched_and_one_that_is_seen_is_forbidden(ikon: Ikon, image_id: str) -> None:
    community = ikon.create(visibility="community")["id"]

    assert refused(ikon, image_id, [replace("/name", "x")], 404, who=STRANGER).message == f"No image found with ID {image_id}"
    for who in (STRANGER, READER):
        said = refused(ikon, community, [replace("/name", "x")], 403, who=who).message
        assert said == "You are not authorized to complete modify_image action."


@pytest.mark.parametrize("name", ["disk_format", "container_format"])
def test_formats_change_only_while_there_is_no_data(ikon: Ikon, name: str) -> None:
    image_id = ikon.active(b"x")

    for value in ("raw", "bare", None, "ami"):
        if value in (None, "ami", {"disk_format": "raw", "container_format": "bare"}[name]):
            refused(ikon, image_id, [replace(f"/{name}", value)], 403, f"Attribute {name} can be only replaced for a queued image.")


@pytest.mark.parametrize("image_id", ["zz", "%20", "a%2Fb", q("\U0001f427"), "x" * 300])
def test_what_is_no_image_is_not_found(ikon: Ikon, image_id: str) -> None:
    assert ikon.patch(image_id, [replace("/name", "x")]).status == 404


# Several at once


def test_a_patch_that_names_a_version_is_done_only_to_that(ikon: Ikon, image_id: str) -> None:
    first = ikon.get(f"/v2/images/{image_id}").headers["ETag"]
    ikon.patch(image_id, [add("/by", "somebody else")])

    late = refused(ikon, image_id, [replace("/name", "late")], 412, "Read it again", form=PATCH | {"If-Match": first})
    refused(ikon, image_id, [], 412, form=PATCH | {"If-Match": first})
    refused(ikon, image_id, [replace("/name", "x")], 412, form=PATCH | {"If-Match": '"nonsense"'})
    now = ikon.get(f"/v2/images/{image_id}").headers["ETag"]

    assert late.reason == "Precondition Failed"
    assert ikon.patch(image_id, [replace("/name", "in time")], PATCH | {"If-Match": now}).status == 200
    assert ikon.patch(image_id, [replace("/name", "any")], PATCH | {"If-Match": "*"}).status == 200


def test_one_of_several_versions_is_enough(ikon: Ikon, image_id: str) -> None:
    assert ikon.patch(image_id, [replace("/name", "x")], PATCH | {"If-Match": '"7", "1"'}).status == 200
    assert ikon.patch(image_id, [replace("/name", "y")], PATCH | {"If-Match": '"7", "1"'}).status == 412


def test_of_many_that_saw_one_version_one_wins(ikon: Ikon, image_id: str) -> None:
    version = ikon.get(f"/v2/images/{image_id}").headers["ETag"]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: ikon.patch(image_id, [add("/winner", str(n))], PATCH | {"If-Match": version}), range(12)))

    winner = [n for n, answer in enumerate(answers) if answer.status == 200]
    assert sorted(answer.status for answer in answers) == [200] + [412] * 11
    assert ikon.show(image_id)["winner"] == str(winner[0])


def test_twelve_clients_that_patch_twelve_keys_all_succeed(ikon: Ikon, image_id: str) -> None:
    with ThreadPoolExecutor(12) as pool:
        for turn in range(5):
            answers = list(pool.map(lambda n, turn=turn: ikon.patch(image_id, [add(f"/key{n}", f"{turn}")]), range(12)))
            assert {answer.status for answer in answers} == {200}

    record = ikon.show(image_id)
    assert [record[f"key{n}"] for n in range(12)] == ["4"] * 12
    assert ikon.get(f"/v2/images/{image_id}").headers["ETag"] == '"61"'
