"""What may be said of definitions, who sees them, and what is told of them outside."""

from typing import Any

import msgspec
import pytest

from ikon.context import Context
from ikon.model import event
from ikon.model.metadef import (
    MOST_BYTES,
    MOST_ENTRIES,
    About,
    Association,
    Entry,
    Kind,
    Listing,
    Namespace,
    Property,
    Tag,
    check_distinct,
    check_room,
    parse_entry,
    parse_listing,
    parse_tag_listing,
    parse_tags,
    parse_tree,
    size,
    visible,
)
from ikon.problems import BadRequest, BadValue, Conflict, QuotaExceeded, ReadOnly

CTX = Context("root", "ops", None, frozenset(("admin",)))
PLAIN = {"title": "T", "type": "string"}
NOW_US = 1_700_000_002_000_000


def namespace(owner: str | None = "alpha", visibility: str = "private") -> Namespace:
    return Namespace(7, "NS", None, "D", visibility, False, owner, 1_700_000_000_000_000, 1_700_000_001_000_000, 3)


def test_a_namespace_is_private_free_and_the_callers_where_nothing_else_is_said() -> None:
    assert parse_tree({"namespace": "x"}).about == About("x", None, None, "private", False, None)


def test_a_tree_names_its_entries_in_the_order_of_their_kinds() -> None:
    tree = parse_tree(
        {
            "resource_type_associations": [{"name": "r", "prefix": "p_"}], "tags": [{"name": "t"}], "properties": {"p": PLAIN},
            "objects": [{"name": "o"}], "namespace": "x",
        }
    )  # fmt: skip

    assert [(entry.kind, entry.name) for entry in tree.entries] == [
        ("object", "o"),
        ("property", "p"),
        ("tag", "t"),
        ("resource_type", "r"),
    ]
    assert tree.entries[1].value == Property(title="T", type="string")
    assert tree.entries[3].value == Association(prefix="p_")


def test_a_definition_is_encoded_with_what_was_said_of_it_and_no_more() -> None:
    given = {
        "title": "T", "type": "array", "description": "D", "operators": ["<or>"], "required": ["a"], "minimum": 1, "maximum": 2.5, "minLength": 0,
        "maxLength": 9, "pattern": "^a", "enum": ["x"], "readonly": False, "default": "x", "items": {"type": "string", "enum": ["x"]},
        "minItems": 0, "maxItems": 3, "uniqueItems": True, "additionalItems": False,
    }  # fmt: skip

    assert msgspec.to_builtins(parse_entry("property", {"name": "p"} | given).value) == given
    assert msgspec.to_builtins(parse_entry("property", {"name": "p"} | PLAIN).value) == PLAIN
    assert msgspec.json.encode(parse_entry("object", {"name": "o"}).value) == b"{}"


@pytest.mark.parametrize(("given", "kept"), [(3, "3"), (True, "True"), (1.5, "1.5"), (2.0, "2"), ("x", "x"), ([1, "a"], '[1,"a"]'), ({"a": 1}, '{"a":1}'), ("", "")])  # fmt: skip
def test_a_default_is_kept_as_text(given: Any, kept: str) -> None:
    value = parse_entry("property", PLAIN | {"name": "p", "default": given}).value

    assert isinstance(value, Property) and value.default == kept


@pytest.mark.parametrize("kind", ["object", "property", "tag", "resource_type"])
@pytest.mark.parametrize("body", [None, [], "x", 1, True])
def test_a_body_that_is_no_object_is_refused(kind: Kind, body: Any) -> None:
    for parse in (lambda: parse_entry(kind, body), lambda: parse_tree(body), lambda: parse_tags(body)):
        with pytest.raises(BadRequest, match="Expected an object"):
            parse()


@pytest.mark.parametrize("field", ["created_at", "updated_at", "self", "schema"])
def test_what_the_server_says_may_not_be_said(field: str) -> None:
    for parse in (lambda: parse_tree({"namespace": "x", field: "x"}), lambda: parse_entry("tag", {"name": "x", field: "x"})):
        with pytest.raises(ReadOnly, match=f"'{field}' is read-only"):
            parse()
    with pytest.raises(BadValue, match="unknown field"):
        parse_tags({"tags": [{"name": "x", field: "x"}]})
    assert parse_tree({"namespace": "x", "objects": [{"name": "o", field: "x"}]}).entries == [parse_entry("object", {"name": "o"})]


def test_a_key_inside_is_a_name_that_may_be_said_twice_and_not_otherwise() -> None:
    inner = {"k/y": PLAIN | {"name": "k/y"}}
    assert parse_entry("object", {"name": "o", "properties": inner}) == parse_entry("object", {"name": "o", "properties": {"k/y": PLAIN}})
    with pytest.raises(BadValue, match="properties: k/y: name: 'other' is not its key"):
        parse_entry("object", {"name": "o", "properties": {"k/y": PLAIN | {"name": "other"}}})


def test_entries_of_one_kind_and_name_clash() -> None:
    entries = [Entry("tag", "x", Tag()), Entry("resource_type", "x", Association())]
    check_distinct(entries, "NS")
    for entry in entries:
        with pytest.raises(Conflict, match=r"x.* already exists"):
            check_distinct([*entries, entry], "NS")


def test_what_counts_against_the_limit_is_the_name_and_what_is_said() -> None:
    assert size(Entry("tag", "ä", Tag())) == 4
    check_room("tag", MOST_ENTRIES, MOST_BYTES)
    for count, bytes_ in ((MOST_ENTRIES + 1, 0), (1, MOST_BYTES + 1)):
        with pytest.raises(QuotaExceeded):
            check_room("tag", count, bytes_)


def test_a_list_is_asked_for_by_its_last_parameters() -> None:
    asked = [("limit", "1"), ("limit", "7"), ("visibility", "public"), ("resource_types", "a,b,a"), ("owner", "x"), ("marker", "m")]

    assert parse_listing(asked, 25, 1000) == Listing(7, "m", "created_at", False, "public", ("a", "b"))
    assert parse_listing([], 25, 1000) == Listing(25, None, "created_at", False)
    assert parse_tag_listing([("sort_key", "name"), ("sort_dir", "asc"), ("visibility", "x")], 1000) == Listing(1000, None, "name", True)


@pytest.mark.parametrize(
    ("ctx", "seen"),
    [
        (CTX, ["own public", "own private", "other public", "other private", "nobody private"]),
        (Context("a", "alpha", None, frozenset(("reader",))), ["own public", "own private", "other public"]),
        (Context("a", None, None, frozenset(("reader",))), ["own public", "other public"]),
        (Context("a", "ops", None, frozenset(("admin",)), system_scope=True), ["own public", "other public"]),
    ],
)
def test_one_sees_ones_own_and_what_is_public_and_administrators_see_all(ctx: Context, seen: list[str]) -> None:
    owners = {"own": "alpha", "other": "beta", "nobody": None}
    kinds = ["own public", "own private", "other public", "other private", "nobody private"]
    assert [kind for kind in kinds if visible(ctx, namespace(owners[kind.split()[0]], kind.split()[1]))] == seen


# What is told outside


def told(kind: str, entry: Entry | None = None, name_old: str | None = None) -> dict[str, Any]:
    [(name, priority, payload)] = event.notifications(
        kind, msgspec.json.decode(event.definition_body(CTX, kind, namespace(), entry, name_old, NOW_US)), ()
    )
    assert (name, priority) == (kind, "INFO")
    return dict(payload)


TIMES = {"created_at": "2023-11-14T22:13:20Z", "updated_at": "2023-11-14T22:13:21Z"}
STAYS = {"deleted": False, "deleted_at": None}
SAYS_NOTHING = dict.fromkeys(("description", "default", "minimum", "maximum", "enum", "pattern", "minLength", "maxLength", "confidential", "items", "uniqueItems", "minItems", "maxItems", "additionalItems"))  # fmt: skip


def kept(kind: Kind, **fields: Any) -> Entry:
    return msgspec.structs.replace(parse_entry(kind, fields), created=1_700_000_000_000_000, updated=1_700_000_001_000_000)


def test_a_namespace_is_told_of_with_the_name_that_it_had() -> None:
    said = {"namespace": "NS", "display_name": None, "protected": False, "visibility": "private", "owner": "alpha", "description": "D"}

    assert told("metadef_namespace.update", None, "Old") == said | TIMES | STAYS | {"namespace_old": "Old"}
    gone = {"namespace_old": "NS", "deleted": True, "deleted_at": "2023-11-14T22:13:22Z"}
    assert told("metadef_namespace.delete") == said | TIMES | gone
    assert told("metadef_namespace.delete_objects") == said | TIMES | STAYS | {"namespace_old": "NS"}


def test_what_is_in_it_is_told_of_with_all_its_fields_named() -> None:
    names = {"namespace": "NS", "name": "n", "name_old": "n"}

    assert told("metadef_tag.create", kept("tag", name="n")) == names | TIMES | STAYS
    assert told("metadef_property.create", kept("property", name="n", **PLAIN, minLength=2)) == names | STAYS | SAYS_NOTHING | PLAIN | {
        "minLength": 2
    }
    association = told("metadef_resource_type.delete", kept("resource_type", name="n", prefix="hw_"))
    assert association == names | TIMES | {
        "prefix": "hw_",
        "properties_target": None,
        "deleted": True,
        "deleted_at": "2023-11-14T22:13:22Z",
    }
    told_of = told("metadef_object.update", kept("object", name="n", required=["k"], properties={"k": PLAIN}), "old")
    assert told_of == names | TIMES | STAYS | {
        "name_old": "old",
        "required": ["k"],
        "description": None,
        "properties": [{"name": "k"} | SAYS_NOTHING | PLAIN],
    }


def test_a_webhook_is_told_of_a_definition_as_such() -> None:
    kept_body = msgspec.json.decode(event.definition_body(CTX, "metadef_tag.create", namespace(), kept("tag", name="n"), None, NOW_US))
    data = event.webhook("id", "metadef_tag.create", 3, kept_body)["data"]

    assert (data["definition"]["name"], data["actor"]["user"], data["version"], "image" in data) == ("n", "root", 3, False)
