"""GET /v2/images: pages, filters and orders. Each test lists a project of its own."""

import math
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.wire.server import ADMIN, MEMBER, STRANGER, UNUSED_ID, Ikon, Persona, q, someone

#: A server of its own: whole lists are compared, so nobody else may add to them.
SETTINGS: dict[str, object] = {}


class World(NamedTuple):
    """A project with images in it, by name."""

    ikon: Ikon
    who: Persona
    images: dict[str, dict[str, Any]]

    def names(self, query: str = "") -> list[str]:
        answer = self.ikon.browse(query, who=self.who)
        assert answer.status == 200, answer
        return [image["name"] for image in answer.json["images"]]

    def refuses(self, query: str, *words: str) -> None:
        answer = self.ikon.browse(query, who=self.who)
        assert (answer.status, [word for word in words if word not in answer.message]) == (400, []), answer


@pytest.fixture(scope="module")
def world(ikon: Ikon) -> World:
    """Eight images, some with data, in the order in which they were made."""
    who = someone()
    fields: list[dict[str, Any]] = [
        {"name": "a", "tags": ["x", "y"], "colour": "red", "min_ram": 512},
        {"name": "b", "tags": ["x"], "disk_format": "qcow2", "min_disk": 3},
        {"name": "ubuntu:22.04", "tags": ["y"], "visibility": "private", "colour": "blue"},
        {"name": "A", "protected": True, "container_format": "ovf"},
        {"name": "c,d", "visibility": "community", "tags": ["x", "y", "образ"]},
        {"name": 'say "so"', "min_ram": 1024},
        {"name": "data", "colour": "red:dark"},
        {"name": "more data", "tags": [""]},
    ]
    images = {each["name"]: ikon.create(who=who, **each) for each in fields}
    for name, data in {"data": b"12345", "more data": b"1234567890"}.items():
        ikon.upload(images[name]["id"], data, who=who)
    return World(ikon, who, {name: ikon.show(image["id"], who=who) for name, image in images.items()})


NEWEST_FIRST = ["more data", "data", 'say "so"', "c,d", "A", "ubuntu:22.04", "b", "a"]


# Pages


def test_a_page_holds_whole_records_the_newest_first(world: World) -> None:
    page = world.ikon.browse(who=world.who).json

    assert page["images"] == [world.images[name] for name in NEWEST_FIRST]
    assert (page["first"], page["schema"], "next" in page) == ("/v2/images", "/v2/schemas/images", False)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 1000])
def test_a_walk_through_next_meets_each_image_once_in_order(world: World, limit: int) -> None:
    pages = world.ikon.walk(f"?limit={limit}", who=world.who)

    assert [image["name"] for page in pages for image in page] == NEWEST_FIRST
    assert len(pages) == math.floor(8 / limit) + 1


def test_next_and_first_keep_what_was_asked(world: World) -> None:
    page = world.ikon.browse("?tag=x&limit=1&name=a%26b&name=a&sort=name:asc&visibility=shared&custom=%D1%8F&custom=", who=world.who).json

    asked = [
        ("tag", "x"),
        ("limit", "1"),
        ("name", "a&b"),
        ("name", "a"),
        ("sort", "name:asc"),
        ("visibility", "shared"),
        ("custom", "я"),
        ("custom", ""),
    ]
    assert parse_qsl(urlsplit(page["first"]).query, keep_blank_values=True) == asked
    full = world.ikon.browse("?tag=x&limit=1&sort=name:asc", who=world.who).json
    assert full["next"] == f"/v2/images?tag=x&limit=1&sort=name%3Aasc&marker={world.images['a']['id']}"
    assert "limit" not in world.ikon.browse("?tag=x", who=world.who).json["first"]


def test_first_forgets_the_marker_and_next_replaces_it(world: World) -> None:
    page = world.ikon.browse(f"?limit=1&marker={world.images['data']['id']}", who=world.who).json

    assert page["first"] == "/v2/images?limit=1"
    assert page["next"] == f"/v2/images?limit=1&marker={world.images[NEWEST_FIRST[2]]['id']}"


def test_repeated_tags_and_sort_keys_hold_on_every_page(world: World) -> None:
    query = "?limit=1&tag=x&tag=y&sort_key=name&sort_key=created_at&sort_dir=desc&sort_dir=asc"
    names = [image["name"] for page in world.ikon.walk(query, who=world.who) for image in page]

    assert names == ["c,d", "a"]


def test_the_default_and_the_largest_page(ikon: Ikon) -> None:
    who = someone()
    for _ in range(26):
        ikon.create(who=who)

    assert len(ikon.ids(who=who)) == 25
    assert [len(page) for page in ikon.walk(who=who)] == [25, 1]
    assert len(ikon.ids("?limit=100000000000", who=who)) == 26


def test_a_limit_of_zero_is_an_empty_page(world: World) -> None:
    page = world.ikon.browse("?limit=0", who=world.who).json

    assert (page["images"], "next" in page) == ([], False)


@pytest.mark.parametrize("limit", ["1", "+1", "%201", "0_1", "01"])
def test_a_limit_is_read_as_an_integer(world: World, limit: str) -> None:
    assert len(world.names(f"?limit={limit}")) == 1


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("-1", "positive"),
        ("x", "integer"),
        ("", "integer"),
        ("1.5", "integer"),
        ("1e2", "integer"),
        ("0x10", "integer"),
        ("9" * 5000, "limit"),
    ],
)
def test_a_bad_limit_is_refused(world: World, limit: str, words: str) -> None:
    world.refuses(f"?limit={limit}", "limit", words)


def test_a_marker_that_is_unknown_deleted_or_hidden_gets_one_answer(world: World) -> None:
    hidden = world.ikon.create(who=STRANGER, visibility="private")["id"]
    deleted = world.ikon.create(who=world.who)["id"]
    world.ikon.delete(deleted, who=world.who)
    answers = {}
    for marker in (hidden, deleted, str(uuid.uuid4()), "zz", "", "a" * 100, "\U0001f427", "'", "\0"):
        answer = world.ikon.browse(f"?marker={q(marker)}", who=world.who)
        answers[marker] = (answer.status, answer.message.replace(marker, "*") if marker else "No image found with ID *")

    assert set(answers.values()) == {(400, "No image found with ID *")}


def test_a_marker_need_not_match_the_filters(world: World) -> None:
    assert world.names(f"?tag=x&marker={world.images['A']['id']}") == ["b", "a"]


def test_an_administrator_may_page_from_any_image(world: World) -> None:
    assert world.ikon.browse(f"?marker={world.images['a']['id']}&limit=1", who=ADMIN).status == 200


def test_new_images_do_not_disturb_a_walk(ikon: Ikon) -> None:
    who = someone()
    first = [ikon.create(who=who)["id"] for _ in range(4)]
    page = ikon.browse("?limit=2", who=who).json
    ikon.create(who=who)
    ikon.delete(first[1], who=who)

    rest = ikon.get(page["next"], who=who).json["images"]

    assert [image["id"] for image in page["images"] + rest] == [first[3], first[2], first[0]]


# Filters


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name=a", ["a"]),
        ("name=A", ["A"]),
        ("name=", []),
        ("name=eq:a", ["a"]),
        ("name=ubuntu:22.04", ["ubuntu:22.04"]),
        ("name=eq:ubuntu:22.04", ["ubuntu:22.04"]),
        ("name=in:a,b", ["b", "a"]),
        ('name=in:"c,d",a', ["c,d", "a"]),
        ('name=in:"ubuntu:22.04"', ["ubuntu:22.04"]),
        ('name=say "so"', ['say "so"']),
        ("name=in:", []),
        ("name=a%", []),
        ("name=neq:a", []),
        ("name=a&name=b", ["b"]),
        ("status=active", ["more data", "data"]),
        ("status=in:active,queued&name=in:data,a", ["data", "a"]),
        ("disk_format=qcow2", ["b"]),
        ("disk_format=in:qcow2,iso", ["b"]),
        ("container_format=ovf", ["A"]),
        ("protected=true", ["A"]),
        ("protected=True", ["A"]),
        ("protected=TRUE&name=a", []),
        ("protected=false&name=a", ["a"]),
        ("os_hidden=false&name=a", ["a"]),
        ("os_hidden=False&name=a", ["a"]),
        ("os_hidden=true", []),
        ("tag=x", ["c,d", "b", "a"]),
        ("tag=x&tag=y", ["c,d", "a"]),
        ("tag=x&tag=z", []),
        ("tag=образ", ["c,d"]),
        ("tag=", ["more data"]),
        ("tag=X", []),
        ("size=5", ["data"]),
        ("size=eq:5", ["data"]),
        ("size=gt:5", ["more data"]),
        ("size=gte:5", ["more data", "data"]),
        ("size=lt:10", ["data"]),
        ("size=lte:10", ["more data", "data"]),
        ("size=neq:5", ["more data"]),
        ("size=in:5,10", ["more data", "data"]),
        ("size_min=5", ["more data", "data"]),
        ("size_min=6", ["more data"]),
        ("size_max=9", ["data"]),
        ("size_min=6&size_max=9", []),
        ("size=nothing", []),
        ("min_ram=512", ["a"]),
        ("min_ram=gt:512", ['say "so"']),
        ("min_ram_min=512", ['say "so"', "a"]),
        ("min_disk=3", ["b"]),
        ("min_disk_max=0&tag=x", ["c,d", "a"]),
        ("visibility=private", ["ubuntu:22.04"]),
        ("visibility=community", ["c,d"]),
        ("visibility=public&name=a", []),
        ("visibility=shared&tag=x", ["b", "a"]),
        ("visibility=all&tag=x", ["c,d", "b", "a"]),
        ("visibility=", []),
        ("member_status=accepted&name=a", ["a"]),
        ("member_status=pending&name=a", ["a"]),
        ("member_status=all&name=a", ["a"]),
        ("colour=red", ["a"]),
        ("colour=red:dark", ["data"]),
        ("colour=", []),
        ("unknown=x", []),
        ("deleted=true&name=a", ["a"]),
        ("owner=nobody", []),
        ("id=zz", []),
        ("checksum=" + "0" * 32, []),
        ("name=a&tag=x&colour=red&status=queued&min_ram=512", ["a"]),
        ("name=a&tag=x&colour=blue", []),
    ],
)
def test_a_filter_lists_what_matches(world: World, query: str, names: list[str]) -> None:
    quoted = "&".join(f"{key}={q(value)}" for key, _, value in (part.partition("=") for part in query.split("&")))

    assert world.names(f"?{quoted}") == names


@pytest.mark.parametrize("query", ["foo_min=1", "size=1" + "0" * 23, "properties=x", "locations=x", "name=%00", "id=%00", "a=%00"])
def test_a_filter_that_nothing_matches_lists_nothing(world: World, query: str) -> None:
    assert world.names(f"?{query}") == []


@pytest.mark.parametrize("field", ["id", "checksum", "os_hash_value", "os_hash_algo", "owner"])
def test_every_field_filters_by_its_value_and_by_several(world: World, field: str) -> None:
    value = world.images["data"][field]
    same = [name for name in NEWEST_FIRST if world.images[name][field] == value]

    assert world.names(f"?{field}={value}") == same
    assert world.names(f"?{field}=eq:{value}") == same
    assert world.names(f"?{field}=in:{value},other") == same


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("protected=yes", ["protected"]),
        ("protected=", ["protected"]),
        ("os_hidden=1", ["os_hidden"]),
        ("os_hidden=", ["os_hidden"]),
        ("visibility=everyone", ["Invalid visibility value: everyone"]),
        ("visibility=Public", ["Invalid visibility value"]),
        ("member_status=maybe", ["Invalid status: maybe"]),
        ("size_min=x", ["non-numeric"]),
        ("size_max=", ["non-numeric"]),
        ("size_min=1.5", ["non-numeric"]),
        ("min_ram_min=x", ["non-numeric"]),
        ("size=gt:x", ["size"]),
        ("size=in:1,x", ["size"]),
        ("min_disk=lt:", ["min_disk"]),
        ("name=in:%22a,b", ["The quote is not closed"]),
        ("status=in:%22active", ["The quote is not closed"]),
        ("created_at=yesterday", ["created_at"]),
        ("created_at=", ["created_at"]),
        ("created_at=gt:", ["created_at"]),
        ("created_at=xx:2020-01-01", ["unknown operator"]),
        ("updated_at=2020-13-01", ['Bad "updated_at" query filter format']),
        ("updated_at=2020-01-01T25:00:00Z", ["updated_at"]),
        ("changes-since=2020-01-01", ["changes-since"]),
        ("name=%ff", ["could not be decoded"]),
        ("%ff=x", ["could not be decoded"]),
        ("tag=%c3%28", ["could not be decoded"]),
    ],
)
def test_a_filter_that_cannot_be_understood_is_refused(world: World, query: str, words: list[str]) -> None:
    world.refuses(f"?{query}", *words)


@pytest.mark.parametrize(
    "query",
    [
        "properties=x",
        "locations=x",
        "members=x",
        "foo_min=1",
        "foo_max=x",
        "size_min=" + "9" * 23,
        "size=" + "9" * 30,
        "min_ram=9999999999999",
        "size_max=-" + "9" * 30,
        "k=1",
        "version=1",
        "doc=x",
        "tags=xy",
        "updated=1",
        "stores=one",
        "digests=x",
        "id=" + "x" * 300,
        "status=" + "x" * 300,
    ],
)
def test_a_filter_on_anything_else_is_an_answer_and_no_failure(world: World, query: str) -> None:
    assert world.ikon.browse(f"?{query}", who=world.who).status in (200, 400)


def test_a_time_is_compared_as_exactly_as_it_is_given(ikon: Ikon) -> None:
    who = someone()
    old = ikon.create(who=who, name="old")
    time.sleep(1.1)
    new = ikon.create(who=who, name="new")
    old_at, new_at = old["created_at"], new["created_at"]

    def found(query: str) -> list[str]:
        return [image["name"] for image in ikon.browse(f"?{query}", who=who).json["images"]]

    assert found(f"created_at=eq:{old_at}") == found(f"created_at={old_at}") == ["old"]
    assert found(f"created_at=gt:{old_at}") == ["new"]
    assert found(f"created_at=gte:{old_at}") == ["new", "old"]
    assert found(f"created_at=lt:{new_at}") == ["old"]
    assert found(f"created_at=lte:{new_at}") == ["new", "old"]
    assert found(f"created_at=neq:{new_at}") == ["old"]
    assert found(f"updated_at=gt:{old_at}") == ["new"]
    assert found(f"created_at=gt:{old_at}&created_at=lt:{new_at}") == ["old"]
    for way in (old_at[:-1], old_at.replace("Z", "%2B00:00"), old_at.replace("Z", "+00:00"), old_at.replace("T", "%20")):
        assert found(f"created_at=eq:{way}") == ["old"], way
    assert found(f"created_at=gt:{old_at[:10]}") != []
    assert found("created_at=lt:2020-01-01") == found("created_at=gt:2999-01-01T00:00:00.123456%2B05:30") == []


def test_hidden_images_are_listed_only_when_asked_for(ikon: Ikon) -> None:
    who = someone()
    ikon.create(who=who, name="shown")
    hidden = ikon.create(who=who, name="hidden", os_hidden=True)

    assert [image["name"] for image in ikon.browse(who=who).json["images"]] == ["shown"]
    assert [image["name"] for image in ikon.browse("?os_hidden=True", who=who).json["images"]] == ["hidden"]
    assert ikon.get(f"/v2/images/{hidden['id']}", who=who).status == 200


# Orders


def key_of(field: str) -> Callable[[dict[str, Any]], Any]:
    return lambda image: (image[field] is not None, image[field] if image[field] is not None else 0)


FIELDS = ["name", "status", "container_format", "disk_format", "size", "id", "created_at", "updated_at"]


@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_sort_key_orders_all_images_on_pages_of_any_length(sortable: World, field: str, direction: str) -> None:
    records = sorted(sortable.images.values(), key=lambda image: image["k"], reverse=direction == "desc")
    wanted = [image["id"] for image in sorted(records, key=key_of(field), reverse=direction == "desc")]

    for limit in (1, 3, 5, 100):
        pages = sortable.ikon.walk(f"?sort={field}:{direction}&limit={limit}", who=sortable.who)
        assert [image["id"] for page in pages for image in page] == wanted
        assert pages == sortable.ikon.walk(f"?sort_key={field}&sort_dir={direction}&limit={limit}", who=sortable.who)


@pytest.fixture(scope="module")
def sortable(ikon: Ikon) -> World:
    """Twelve images with equal and missing values in every field that may have them; `k` is the order they were made in."""
    who, images = someone(), {}
    for at in range(12):
        name, disk, container = ["b", None, "a", "A"][at % 4], ["raw", None, "qcow2"][at % 3], ["bare", None][at % 2]
        record = ikon.create(who=who, name=name, disk_format=disk, container_format=container)
        if disk and container:
            ikon.upload(record["id"], b"x" * (at % 4), who=who)
        images[record["id"]] = record | {"k": at}
    shown = {image_id: ikon.show(image_id) | {"k": image["k"]} for image_id, image in images.items()}
    assert len({image["size"] for image in shown.values()}) > 2
    return World(ikon, who, shown)


@pytest.mark.parametrize(
    "query",
    [
        "sort=disk_format:asc,name:desc,size:asc",
        "sort_key=disk_format&sort_key=name&sort_key=size&sort_dir=asc&sort_dir=desc&sort_dir=asc",
        "sort= disk_format : asc , name, size:asc",
    ],
)
def test_several_keys_order_one_within_the_other(sortable: World, query: str) -> None:
    records = sorted(sortable.images.values(), key=lambda image: -image["k"])
    records.sort(key=key_of("size"))
    records.sort(key=key_of("name"), reverse=True)
    records.sort(key=key_of("disk_format"))

    for limit in (1, 2, 5):
        pages = sortable.ikon.walk(f"?{query.replace(' ', '%20')}&limit={limit}", who=sortable.who)
        assert [image["id"] for page in pages for image in page] == [image["id"] for image in records]


def test_one_direction_holds_for_all_keys_and_alone_for_the_default(world: World) -> None:
    assert world.names("?sort_key=status&sort_key=name&sort_dir=asc") == [
        "data",
        "more data",
        "A",
        "a",
        "b",
        "c,d",
        'say "so"',
        "ubuntu:22.04",
    ]
    assert world.names("?sort_dir=asc") == NEWEST_FIRST[::-1]
    assert world.names("?sort_key=created_at") == NEWEST_FIRST
    assert world.names("?sort=name") == sorted(world.images, reverse=True)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sort=nothing", ["Invalid sort key: nothing", "created_at"]),
        ("sort=", ["Invalid sort key"]),
        ("sort=name,", ["Invalid sort key"]),
        ("sort=name:up", ["Invalid sort direction: up"]),
        ("sort=name:asc:desc", ["Invalid sort direction"]),
        ("sort_key=owner", ["Invalid sort key: owner"]),
        ("sort_key=k", ["Invalid sort key: k"]),
        ("sort_key=", ["Invalid sort key"]),
        ("sort_dir=up", ["Invalid sort direction: up"]),
        ("sort_key=name&sort_dir=up", ["Invalid sort direction: up"]),
        ("sort=name&sort_key=name", ["Old and new sorting syntax cannot be combined"]),
        ("sort=name&sort_dir=asc", ["Old and new sorting syntax cannot be combined"]),
        ("sort_key=name&sort_dir=asc&sort_dir=desc", ["Number of sort dirs does not match the number of sort keys"]),
        ("sort_key=name&sort_key=id&sort_key=size&sort_dir=asc&sort_dir=desc", ["Number of sort dirs"]),
    ],
)
def test_an_order_that_cannot_be_understood_is_refused(world: World, query: str, words: list[str]) -> None:
    world.refuses(f"?{query}", *words)


# Who sees what


def test_a_list_shows_own_and_public_images_and_community_ones_when_asked(ikon: Ikon) -> None:
    who, other = someone(), someone()
    mine = {visibility: ikon.create(who=who, visibility=visibility)["id"] for visibility in ("private", "shared", "community")}
    theirs = {visibility: ikon.create(who=other, visibility=visibility)["id"] for visibility in ("private", "shared", "community")}
    public = ikon.create(who=ADMIN, visibility="public", owner=other.project)["id"]
    known = {*mine.values(), *theirs.values(), public}

    def seen(query: str, by: Persona) -> set[str]:
        return {image["id"] for page in ikon.walk(f"?limit=1000{query}", who=by) for image in page} & known

    assert seen("", who) == {*mine.values(), public}
    assert seen("&visibility=all", who) == {*mine.values(), public, theirs["community"]}
    assert seen("&visibility=community", who) == {mine["community"], theirs["community"]}
    assert seen("&visibility=public", who) == {public}
    assert seen("&visibility=private", who) == {mine["private"]}
    assert seen("&visibility=shared", who) == {mine["shared"]}
    assert seen(f"&owner={other.project}", who) == {public}
    assert seen("", ADMIN) == known - {mine["community"], theirs["community"]}
    assert seen("&visibility=all", ADMIN) == known
    assert seen("&visibility=private", ADMIN) == {mine["private"], theirs["private"]}
    assert seen(f"&owner={who.project}&visibility=all", ADMIN) == set(mine.values())


def test_pages_of_several_scopes_are_merged_without_loss(ikon: Ikon) -> None:
    who, other = someone(), someone()
    made = []
    for at in range(9):
        if at % 3 == 0:
            made.append(ikon.create(who=ADMIN, visibility="public", owner=other.project, name="m")["id"])
        elif at % 3 == 1:
            made.append(ikon.create(who=who, visibility="private", name="m")["id"])
        else:
            made.append(ikon.create(who=other, visibility="community", name="m")["id"])

    for limit in (1, 2, 4):
        pages = ikon.walk(f"?visibility=all&name=m&limit={limit}", who=who)
        assert [image["id"] for page in pages for image in page if image["id"] in made] == made[::-1]


@pytest.mark.parametrize(
    "who",
    [
        Persona("home", "member"),
        Persona("home", ""),
        Persona("home", "service"),
        Persona(None),
        Persona(None, "reader", system=True),
        Persona("home", "admin,reader", system=True),
    ],
)
def test_without_the_reader_role_in_a_project_nothing_is_listed(ikon: Ikon, who: Persona) -> None:
    answer = ikon.browse(who=who)

    assert (answer.status, answer.message) == (403, "You are not authorized to complete get_images action.")


# Show


@pytest.mark.parametrize(
    "image_id", ["zz", UNUSED_ID, "%20", "a%2Fb", "..", "%2e%2e", "0", "%F0%9F%90%A7", "x" * 2000, "null", "*", "{id}", "%7Bid%7D"]
)
def test_what_is_no_image_is_not_found(ikon: Ikon, image_id: str) -> None:
    assert ikon.get(f"/v2/images/{image_id}").status == 404


def test_a_record_does_not_depend_on_the_query(ikon: Ikon) -> None:
    record = ikon.create()

    assert ikon.get(f"/v2/images/{record['id']}?x=1&limit=x&marker=zz").json == record


def test_a_record_carries_its_version(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]
    first = ikon.get(f"/v2/images/{image_id}").headers["ETag"]
    ikon.patch(image_id, [{"op": "add", "path": "/a", "value": "b"}])

    assert (first, ikon.get(f"/v2/images/{image_id}").headers["ETag"]) == ('"1"', '"2"')


def test_stores_are_named_to_the_owner_and_the_administrator_alone(ikon: Ikon) -> None:
    image_id = ikon.active(b"x", visibility="community")

    assert ikon.show(image_id, who=MEMBER)["stores"] == ikon.show(image_id, who=ADMIN)["stores"] == "one"
    assert "stores" not in ikon.show(image_id, who=STRANGER)
    shown = ikon.browse("?visibility=community&limit=1", who=STRANGER).json["images"][0]
    assert (shown["id"], "stores" in shown) == (image_id, False)


def test_a_list_takes_twenty_filters_and_no_more(ikon: Ikon) -> None:
    tags = "&".join(f"tag=t{n}" for n in range(20))
    assert ikon.browse(f"?{tags}").status == 200
    refused = ikon.browse(f"?{tags}&name=x")
    assert (refused.status, "20 filters at most" in refused.message) == (400, True)
