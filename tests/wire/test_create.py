"""POST /v2/images: everything that a new image may and may not be."""

import re
import uuid
from typing import Any

import pytest

from tests.wire.server import ADMIN, MEMBER, READER, STRANGER, UNUSED_ID, Ikon, Persona, someone

SCHEMA = "Provided object does not match schema 'image': "


def refused(ikon: Ikon, fields: Any, status: int, *words: str, who: Persona = MEMBER) -> str:
    """Asserts that a body is refused with words that say why, and that nothing came of it."""
    newest = ikon.ids("?limit=1", who=ADMIN)
    answer = ikon.try_create(fields, who=who)
    assert answer.status == status, answer
    assert all(word in answer.message for word in words), answer.message
    assert ikon.ids("?limit=1", who=ADMIN) == newest
    return answer.message


# What a new image is


def test_an_empty_object_makes_an_image_with_every_default(ikon: Ikon) -> None:
    answer = ikon.try_create({})

    record = answer.json
    assert answer.status == 201
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["created_at"])
    assert record == {
        "id": str(uuid.UUID(record["id"])),
        "name": None,
        "status": "queued",
        "visibility": "shared",
        "protected": False,
        "os_hidden": False,
        "owner": MEMBER.project,
        "disk_format": None,
        "container_format": None,
        "min_disk": 0,
        "min_ram": 0,
        "size": None,
        "virtual_size": None,
        "checksum": None,
        "os_hash_algo": None,
        "os_hash_value": None,
        "created_at": record["created_at"],
        "updated_at": record["created_at"],
        "tags": [],
        "self": f"/v2/images/{record['id']}",
        "file": f"/v2/images/{record['id']}/file",
        "schema": "/v2/schemas/image",
    }
    assert ikon.show(record["id"], who=MEMBER) == record


def test_the_answer_says_where_the_image_is_and_where_its_data_may_go(ikon: Ikon) -> None:
    answer = ikon.post("/v2/images", {}, {"Host": "image.example:8080"})

    assert answer.headers["Location"] == f"http://image.example:8080/v2/images/{answer.json['id']}"
    assert answer.headers["OpenStack-image-store-ids"] == "one,two"
    assert answer.headers["OpenStack-image-import-methods"] == "glance-direct,web-download,copy-image"
    assert answer.headers["ETag"] == '"1"'


def test_every_field_that_a_caller_may_set_comes_back(ikon: Ikon) -> None:
    fields = {
        "id": str(uuid.uuid4()),
        "name": "Ubuntu 24.04",
        "visibility": "community",
        "protected": True,
        "os_hidden": True,
        "owner": MEMBER.project,
        "disk_format": "qcow2",
        "container_format": "bare",
        "min_disk": 20,
        "min_ram": 2**31 - 1,
        "tags": ["b", "a"],
        "os_distro": "ubuntu",
        "hw_disk_bus": "virtio",
    }

    record = ikon.try_create(fields).json

    assert {name: record[name] for name in fields} == fields


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/json; charset=utf-8", "application/octet-stream"])
def test_the_content_type_is_not_looked_at(ikon: Ikon, content_type: str | None) -> None:
    assert ikon.post("/v2/images", {}, {"Content-Type": content_type}).status == 201


def test_a_chunked_body_is_read_like_any_other(ikon: Ikon) -> None:
    answer = ikon.call("POST", "/v2/images", iter([b'{"na', b"me", b'": "in pieces"', b"}"]))

    assert (answer.status, answer.json["name"]) == (201, "in pieces")


def test_of_a_repeated_key_the_last_counts(ikon: Ikon) -> None:
    assert ikon.try_create(b'{"name": "a", "name": "b", "x": "1", "x": "2"}').json["name"] == "b"


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 255, "\U0001f427 penguin", "Образ", "a\nb", "\u2028", "a'b\"c\\d", "%00", "null", "﷽" * 255]
)
def test_a_name_of_any_characters_is_kept(ikon: Ikon, name: str) -> None:
    record = ikon.create(name=name)

    assert (record["name"], ikon.show(record["id"])["name"]) == (name, name)


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "a/b", "a~b", "%41", "ключ", "\U0001f511", "x" * 255, "Name", "a\nb", ".", "__class__", "self_", "$ref"]
)
def test_a_property_of_any_key_is_kept(ikon: Ikon, key: str) -> None:
    record = ikon.create(**{key: "value of it"})

    assert ikon.show(record["id"])[key] == "value of it"


@pytest.mark.parametrize("value", ["", "0", "x" * 65_535, "\U0001f427" * 16_383, "a\r\n\tb", '{"json": null}'])
def test_a_property_of_any_text_is_kept(ikon: Ikon, value: str) -> None:
    record = ikon.create(some=value)

    assert ikon.show(record["id"])["some"] == value


@pytest.mark.parametrize(
    "key", ["OS_GLANCE_x", "image_id", "copy_from", "member", "is_public", "k", "version", "reason", "digests", "updated", "doc"]
)
def test_names_that_mean_something_inside_are_plain_properties(ikon: Ikon, key: str) -> None:
    record = ikon.create(**{key: "x"})

    shown = ikon.show(record["id"])
    assert (shown[key], shown["status"]) == ("x", "queued")
    assert "version" not in record or key == "version"


def test_keys_that_differ_in_case_are_two_properties(ikon: Ikon) -> None:
    record = ikon.create(Abc="1", abc="2")

    assert (record["Abc"], record["abc"]) == ("1", "2")


def test_tags_are_kept_once_each(ikon: Ikon) -> None:
    record = ikon.create(tags=["b", "a", "b", "", "x" * 255, "тег", "A"])

    assert record["tags"] == ["b", "a", "", "x" * 255, "тег", "A"]


@pytest.mark.parametrize("given", [1.0, 1, 2147483647.0])
def test_a_whole_number_is_an_integer_however_it_is_written(ikon: Ikon, given: float) -> None:
    answer = ikon.try_create({"min_disk": given})

    assert answer.status == 201
    assert f'"min_disk":{int(given)},'.encode() in answer.body


@pytest.mark.parametrize("field", ["disk_format", "container_format", "name"])
def test_null_means_not_set(ikon: Ikon, field: str) -> None:
    assert ikon.try_create({field: None}).json[field] is None


def test_formats_are_not_checked_against_each_other(ikon: Ikon) -> None:
    assert ikon.try_create({"disk_format": "ami", "container_format": "bare"}).status == 201


@pytest.mark.parametrize("disk_format", ["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop", "gpt"])
def test_every_disk_format_is_taken(ikon: Ikon, disk_format: str) -> None:
    assert ikon.create(disk_format=disk_format)["disk_format"] == disk_format


@pytest.mark.parametrize("container_format", ["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"])
def test_every_container_format_is_taken(ikon: Ikon, container_format: str) -> None:
    assert ikon.create(container_format=container_format)["container_format"] == container_format


def test_a_store_named_at_creation_is_ignored(ikon: Ikon) -> None:
    assert ikon.post("/v2/images", {}, {"X-Image-Meta-Store": "nowhere"}).status == 201


# Ids


def test_an_id_of_the_callers_own_is_used_in_the_case_given(ikon: Ikon) -> None:
    image_id = str(uuid.uuid4()).upper()

    assert ikon.try_create({"id": image_id}).json["id"] == image_id
    assert ikon.get(f"/v2/images/{image_id}").status == 200
    assert ikon.get(f"/v2/images/{image_id.lower()}").status == 404


def test_an_id_is_never_given_twice(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]

    mine, of_others = refused(ikon, {"id": image_id}, 409), refused(ikon, {"id": image_id}, 409, who=STRANGER)
    ikon.delete(image_id)
    deleted = refused(ikon, {"id": image_id}, 409)

    assert mine == of_others == deleted == f"Image ID {image_id} already exists!"


@pytest.mark.parametrize(
    "image_id",
    [None, "", "zz", 1, [], {}, UNUSED_ID[:-1], f"{UNUSED_ID}0", UNUSED_ID.replace("-", ""), f"{{{UNUSED_ID}}}", f"{UNUSED_ID}\n"],
)
def test_what_is_no_uuid_is_no_id(ikon: Ikon, image_id: Any) -> None:
    refused(ikon, {"id": image_id}, 400, SCHEMA, "id")


# What is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "Body expected in request."),
        (b"", "Body expected in request."),
        (b"{", "Malformed JSON in request body"),
        (b"{'a': 'b'}", "Malformed JSON in request body"),
        (b'{"a": "b"} x', "Malformed JSON in request body"),
        (b'{"name": "\xff\xfe"}', "Malformed JSON in request body"),
        (b'{"\xff": "x"}', "Malformed JSON in request body"),
        (b"\xef\xbb\xbf{}", "Malformed JSON in request body"),
        (b'{"name": "\\ud800"}', "Malformed JSON in request body"),
        (b'{"min_disk": NaN}', "Malformed JSON in request body"),
        (b'{"min_disk": Infinity}', "Malformed JSON in request body"),
        (b'{"name": "a\nb"}', "Malformed JSON in request body"),
        (b"[]", "Unexpected body type"),
        (b"[{}]", "Unexpected body type"),
        (b"null", "Unexpected body type"),
        (b"1", "Unexpected body type"),
        (b'"x"', "Unexpected body type"),
        (b"true", "Unexpected body type"),
    ],
)
def test_a_body_that_is_no_object_is_refused(ikon: Ikon, body: bytes | None, words: str) -> None:
    refused(ikon, body, 400, words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("name", ["x"]),
        ("name", {"a": 1}),
        ("name", True),
        ("name", "x" * 256),
        ("name", "a\0b"),
        ("visibility", None),
        ("visibility", ""),
        ("visibility", "Public"),
        ("visibility", "everyone"),
        ("visibility", 1),
        ("visibility", ["public"]),
        ("protected", "true"),
        ("protected", None),
        ("protected", 1),
        ("os_hidden", "false"),
        ("os_hidden", 0),
        ("owner", 1),
        ("owner", "x" * 256),
        ("disk_format", ""),
        ("disk_format", "RAW"),
        ("disk_format", "floppy"),
        ("disk_format", 1),
        ("disk_format", ["raw"]),
        ("container_format", ""),
        ("container_format", "Bare"),
        ("container_format", "box"),
        ("min_disk", "5"),
        ("min_disk", True),
        ("min_disk", 1.5),
        ("min_disk", None),
        ("min_disk", [1]),
        ("min_ram", "x"),
        ("min_ram", {}),
        ("min_ram", False),
        ("tags", None),
        ("tags", "x"),
        ("tags", {"x": "y"}),
        ("tags", [1]),
        ("tags", [None]),
        ("tags", [["x"]]),
        ("tags", ["x" * 256]),
        ("tags", ["a\0b"]),
    ],
)
def test_a_base_field_of_the_wrong_type_or_value_is_refused_by_name(ikon: Ikon, field: str, value: Any) -> None:
    refused(ikon, {field: value}, 400, SCHEMA, field, who=ADMIN)


@pytest.mark.parametrize("field", ["visibility", "disk_format", "container_format"])
def test_a_wrong_word_is_answered_with_the_right_ones(ikon: Ikon, field: str) -> None:
    said = refused(ikon, {field: "wrong"}, 400, SCHEMA)

    assert {"visibility": "community", "disk_format": "qcow2", "container_format": "bare"}[field] in said


@pytest.mark.parametrize("field", ["min_disk", "min_ram"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "Cannot be a negative value"),
        (-1.0, "negative"),
        (2**31, "must not exceed 2147483647"),
        (10**30, "must not exceed"),
        (1e300, "must not exceed"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(ikon: Ikon, field: str, value: float, words: str) -> None:
    refused(ikon, {field: value}, 400, field, words)


@pytest.mark.parametrize("value", ["x", None, 1, ""])
@pytest.mark.parametrize(
    "field",
    [
        "size",
        "virtual_size",
        "checksum",
        "status",
        "created_at",
        "updated_at",
        "direct_url",
        "self",
        "file",
        "schema",
        "stores",
        "os_hash_algo",
        "os_hash_value",
    ],
)
def test_what_the_server_sets_is_read_only(ikon: Ikon, field: str, value: Any) -> None:
    assert refused(ikon, {field: value}, 403, who=ADMIN) == f"Attribute '{field}' is read-only."


@pytest.mark.parametrize("value", ["x", [], None])
@pytest.mark.parametrize(
    "field", ["locations", "location", "deleted", "deleted_at", "os_glance_import_task", "os_glance_x", "os_glance", "os_glance_stage_host"]
)
def test_what_the_server_keeps_to_itself_is_reserved(ikon: Ikon, field: str, value: Any) -> None:
    answer = ikon.try_create({field: value}, who=ADMIN)

    assert answer.status in (400, 403)
    assert field in answer.message
    assert value != "x" or answer.message == f"Attribute '{field}' is reserved."
    assert (field, value) != ("locations", []) or answer.status == 403


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], ["x"], {}, {"a": "b"}])
def test_a_property_that_is_no_text_is_refused_by_name(ikon: Ikon, value: Any) -> None:
    refused(ikon, {"colour": value}, 400, SCHEMA, "colour")


def test_a_property_over_the_limits_is_refused(ikon: Ikon) -> None:
    refused(ikon, {"x" * 256: "1"}, 400, "Custom property should not be greater than 255 characters")
    refused(ikon, {"\U0001f427" * 256: "1"}, 400, "Custom property should not be greater than 255 characters")
    refused(ikon, {"big": "x" * 65_536}, 400, "big", "65535 bytes")
    refused(ikon, {"big": "ё" * 32_768}, 400, "big", "65535 bytes")
    refused(ikon, {"nul": "a\0b"}, 400, "nul", "NUL")
    refused(ikon, {"n\0l": "x"}, 400, "NUL")


@pytest.mark.parametrize("field", ["kernel_id", "ramdisk_id"])
def test_images_that_an_image_needs_are_named_by_id(ikon: Ikon, field: str) -> None:
    refused(ikon, {field: "vmlinuz"}, 400, field)
    image_id = str(uuid.uuid4())
    assert ikon.create(**{field: image_id})[field] == image_id
    assert field not in ikon.create(**{field: None})


def test_only_so_many_properties_and_tags_are_taken(ikon: Ikon) -> None:
    many = {f"p{n}": "x" for n in range(129)}

    properties = refused(ikon, many, 413)
    tags = refused(ikon, {"tags": [str(n) for n in range(129)]}, 413)
    many.popitem()

    assert properties == "The limit has been exceeded on the number of allowed image properties. Attempted: 129, Maximum: 128"
    assert tags == "The limit has been exceeded on the number of allowed image tags. Attempted: 129, Maximum: 128"
    assert ikon.try_create({**many, "tags": [str(n) for n in range(128)] + ["1", "2"]}).status == 201


# Who may


def test_only_an_administrator_makes_an_image_public(ikon: Ikon) -> None:
    said = refused(ikon, {"visibility": "public"}, 403)

    assert said == "You are not authorized to complete publicize_image action."
    assert ikon.try_create({"visibility": "public"}, who=ADMIN).status == 201
    assert ikon.try_create({"visibility": "community"}).status == 201


@pytest.mark.parametrize("owner", ["elsewhere", None, "", "HOME"])
def test_a_member_creates_for_its_own_project_alone(ikon: Ikon, owner: str | None) -> None:
    said = refused(ikon, {"owner": owner}, 403)

    assert said == f"You are not permitted to create images owned by '{owner}'"


@pytest.mark.parametrize("owner", ["elsewhere", None])
def test_an_administrator_creates_for_anyone(ikon: Ikon, owner: str | None) -> None:
    assert ikon.try_create({"owner": owner}, who=ADMIN).json["owner"] == owner


@pytest.mark.parametrize(
    "who",
    [
        READER,
        Persona("home", ""),
        Persona("home", "service"),
        Persona("home", "manager"),
        Persona("home", "members"),
        Persona(None),
        Persona(None, system=True),
    ],
)
def test_without_the_role_in_a_project_nothing_is_created(ikon: Ikon, who: Persona) -> None:
    assert "add_image" in refused(ikon, {}, 403, who=who) or who.project is None


def test_a_token_of_the_whole_system_creates_nothing(ikon: Ikon) -> None:
    refused(ikon, {}, 403, who=Persona("home", "admin,member,reader", system=True))


def test_roles_are_compared_without_case_and_blanks(ikon: Ikon) -> None:
    assert ikon.try_create({}, who=Persona("home", " Member , READER")).status == 201


def test_a_member_that_is_no_reader_creates_and_does_not_see(ikon: Ikon) -> None:
    who = someone("member")

    answer = ikon.try_create({}, who=who)

    assert answer.status == 201
    assert ikon.get(f"/v2/images/{answer.json['id']}", who=who).status == 404
    assert ikon.browse(who=who).status == 403


def test_a_property_with_a_few_values_takes_no_other(ikon: Ikon) -> None:
    name = "cinder_encryption_key_deletion_policy"

    assert ikon.create(**{name: "on_image_deletion"})[name] == "on_image_deletion"
    answer = ikon.try_create({name: "sometimes"})
    assert (answer.status, name in answer.message, "do_not_delete" in answer.message) == (400, True, True)
    assert ikon.patch(str(ikon.create()["id"]), [{"op": "add", "path": f"/{name}", "value": ""}]).status == 400
