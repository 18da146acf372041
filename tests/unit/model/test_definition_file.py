"""Files of metadata definitions: what is taken, why the rest is not, and the one form in which they are written."""

import json
from itertools import product
from typing import Any

import msgspec
import pytest

from ikon.model import definition_file
from ikon.model.definition_file import Existing, decode, existing, file_name, form, met, parse, text
from ikon.model.metadef import Entry, Namespace, Property, Tag, Tree
from ikon.problems import BadValue, Problem

#: Every construct that a file may have.
WHOLE: dict[str, Any] = {
    "namespace": "My::Own",
    "display_name": "Mine",
    "description": "All that there is: Größe, 尺寸, \U0001f4be",
    "visibility": "private",
    "protected": True,
    "owner": "team",
    "resource_type_associations": [
        {"name": "OS::Glance::Image", "prefix": "my_", "properties_target": "image"},
        {"name": "OS::Nova::Flavor", "prefix": "my:"},
        {"name": "OS::Nova::Server"},
    ],
    "properties": {
        "text": {"title": "Text", "description": "d", "type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a", "default": "ab", "readonly": True},
        "choice": {"title": "Choice", "type": "string", "enum": ["a", "b", "c"], "operators": ["<or>"], "default": "a"},
        "whole": {"title": "Whole", "type": "integer", "minimum": -5, "maximum": 5, "default": 3},
        "real": {"title": "Real", "type": "number", "minimum": 0.5, "enum": [1, 2.5]},
        "flag": {"title": "Flag", "type": "boolean", "default": False},
        "list": {"title": "List", "type": "array", "items": {"type": "string", "enum": ["x", "y"]}, "minItems": 1, "maxItems": 2, "uniqueItems": True, "additionalItems": False, "operators": ["<all-in>"]},
        "thing": {"title": "Thing", "type": "object", "required": ["a"]},
    },
    "objects": [
        {"name": "Empty"},
        {"name": "Full", "description": "d", "required": ["one"], "properties": {"one": {"title": "One", "type": "string"}, "two": {"title": "Two", "type": "integer"}}},
    ],
    "tags": [{"name": "red"}, {"name": "blue"}],
}  # fmt: skip


def kept(tree: Tree) -> Namespace:
    return Namespace(n=1, created=0, updated=0, version=1, **msgspec.structs.asdict(tree.about))  # type: ignore[arg-type]


def written(content: Any) -> bytes:
    """What a file is once it was loaded and written again."""
    tree = parse(content)
    return text(form(kept(tree), tree.entries))


def test_a_file_with_every_construct_comes_back_as_it_went_in() -> None:
    once = written(WHOLE)

    again = json.loads(once)
    assert written(again) == once
    assert once.endswith(b"}\n")
    expected = json.loads(json.dumps(WHOLE))
    for name, default in {"whole": "3", "flag": "False"}.items():
        expected["properties"][name]["default"] = default  # defaults are text
    expected["properties"]["real"]["enum"] = ["1", "2.5"]
    for group in ("objects", "tags", "resource_type_associations"):
        expected[group].sort(key=lambda one: one["name"])
    assert again == expected


def test_what_the_order_of_a_file_is_makes_no_difference() -> None:
    turned = {key: list(reversed(value)) if isinstance(value, list) else value for key, value in reversed(WHOLE.items())}
    turned["properties"] = dict(reversed(WHOLE["properties"].items()))

    assert written(turned) == written(WHOLE)


def test_a_file_without_owner_and_visibility_is_for_everybody() -> None:
    about = parse({"namespace": "X"}).about

    assert (about.owner, about.visibility, about.protected) == ("admin", "public", False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON: line 1 column 1"),
        (b'{"namespace": "X",\n  }', "not JSON: line 2 column 3"),
        (b'{"namespace": "X"} {}', "not JSON: line 1 column 20: Extra data"),
        (b'{"namespace": "\xff"}', "not UTF-8: byte 15"),
        (b'{"namespace": "X", "tags": NaN}', "NaN is no number of JSON"),
        (b'{"namespace": "X", "namespace": "Y"}', "the key 'namespace' is in one object twice"),
        (b'{"namespace": "X", "properties": {"p": {}, "p": {}}}', "the key 'p' is in one object twice"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"namespace": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
    ids=range(9),
)
def test_what_is_no_file_of_json_is_refused_with_the_place(content: bytes, reason: str) -> None:
    with pytest.raises(Problem, match=reason):
        decode(content)


P = {"title": "P", "type": "string"}


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        ([], ["Expected an object"]),
        ({}, ["namespace"]),
        ({"namespace": ""}, ["namespace"]),
        ({"namespace": "a/b"}, ["namespace", "'/'"]),
        ({"namespace": "x" * 81}, ["namespace", "80"]),
        ({"namespace": 5}, ["namespace", "`str`"]),
        ({"namespace": "X", "display_name": None}, ["display_name", "null"]),
        ({"namespace": "X", "visibility": "shared"}, ["visibility", "public, private"]),
        ({"namespace": "X", "protected": "yes"}, ["protected", "`bool`"]),
        ({"namespace": "X", "colour": "red"}, ["colour"]),
        ({"namespace": "X", "created_at": "now"}, ["created_at", "read-only"]),
        ({"namespace": "X", "tags": {}}, ["tags", "array"]),
        ({"namespace": "X", "tags": ["red"]}, ["tags[0]"]),
        ({"namespace": "X", "tags": [{"name": "red", "hue": 1}]}, ["tags[0]", "hue"]),
        ({"namespace": "X", "tags": [{"name": "red"}, {"name": "red"}]}, ["tag", "red", "already exists"]),
        ({"namespace": "X", "tags": [{"name": str(n)} for n in range(1001)]}, ["tag", "1000"]),
        ({"namespace": "X", "properties": [P]}, ["properties", "object"]),
        ({"namespace": "X", "properties": {"p": {"title": "P"}}}, ["properties: p", "type"]),
        ({"namespace": "X", "properties": {"p": {"type": "string"}}}, ["properties: p", "title"]),
        ({"namespace": "X", "properties": {"p": P | {"type": "text"}}}, ["properties: p", "type", "array, boolean"]),
        ({"namespace": "X", "properties": {"p": P | {"enum": "a"}}}, ["properties: p", "enum"]),
        ({"namespace": "X", "properties": {"p": P | {"enum": [["a"]]}}}, ["properties: p", "enum"]),
        ({"namespace": "X", "properties": {"p": P | {"minimum": "1"}}}, ["properties: p", "minimum"]),
        ({"namespace": "X", "properties": {"p": P | {"maximum": 10**30}}}, ["64 bits"]),
        ({"namespace": "X", "properties": {"p": P | {"maxLength": -1}}}, ["properties: p", "maxLength"]),
        ({"namespace": "X", "properties": {"p": P | {"items": {"type": "string", "size": 1}}}}, ["properties: p", "size"]),
        ({"namespace": "X", "properties": {"p": P | {"colour": 1}}}, ["properties: p", "colour"]),
        ({"namespace": "X", "properties": {"p": P | {"name": "q"}}}, ["properties: p", "'q'"]),
        ({"namespace": "X", "properties": {"p\0": P}}, ["NUL"]),
        ({"namespace": "X", "objects": [{}]}, ["objects[0]", "name"]),
        ({"namespace": "X", "objects": [{"name": "o"}, {"name": "o"}]}, ["object", "already exists"]),
        ({"namespace": "X", "objects": [{"name": "o", "properties": {"p": {"title": "P"}}}]}, ["objects[0]", "p", "type"]),
        ({"namespace": "X", "objects": [{"name": "o", "required": "p"}]}, ["objects[0]", "required"]),
        ({"namespace": "X", "resource_type_associations": [{"prefix": "x"}]}, ["resource_type_associations[0]", "name"]),
        ({"namespace": "X", "resource_type_associations": [{"name": "T", "prefix": "x" * 81}]}, ["resource_type_associations[0]", "prefix"]),
        ({"namespace": "X", "resource_type_associations": [{"name": "T"}, {"name": "T"}]}, ["already exists"]),
        ({"namespace": "X", "objects": [{"name": "o", "description": "x" * (4 << 20)}]}, ["bytes"]),
    ],
    ids=range(37),
)  # fmt: skip
def test_a_broken_file_is_refused_with_path_and_reason(content: Any, reasons: list[str]) -> None:
    with pytest.raises(Problem) as refused:
        parse(content)

    for reason in reasons:
        assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("OS::Compute::CPUPinning", "OS::Compute::CPUPinning.json"),
        ("a b", "a%20b.json"),
        ("a/b", "a%2Fb.json"),
        ("..", "%2E..json"),
        (".hidden", "%2Ehidden.json"),
        ("100%", "100%25.json"),
        ("~x", "%7Ex.json"),
        ("Ä", "%C3%84.json"),
    ],
)
def test_a_namespace_has_a_file_name_that_any_directory_takes(name: str, file: str) -> None:
    assert file_name(name) == file


def test_long_names_have_short_and_different_file_names() -> None:
    names = {file_name("尺" * 79 + last) for last in "ab"}

    assert len(names) == 2
    assert max(map(len, names)) < 255


def entry(name: str, title: str) -> Entry:
    return Entry("property", name, Property(title=title, type="string"))


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("skip", {"both": "old", "old": "old"}),
        ("merge", {"both": "old", "old": "old", "new": "new"}),
        ("prefer-new", {"both": "new", "old": "old", "new": "new"}),
        ("overwrite", {"both": "new", "new": "new"}),
    ],
)
def test_what_is_there_meets_a_file_as_asked(how: Existing, left: dict[str, str]) -> None:
    after = met(how, [entry("both", "old"), entry("old", "old")], [entry("both", "new"), entry("new", "new")])

    assert {each.name: each.value.title for each in after if isinstance(each.value, Property)} == left


def test_things_of_one_name_and_different_kinds_do_not_meet() -> None:
    tag = Entry("tag", "x", Tag())

    for how, order in product(("merge", "prefer-new"), ([tag], [entry("x", "t")])):
        assert len(met(how, order, [tag, entry("x", "t")])) == 2  # type: ignore[arg-type]


def test_only_the_four_ways_are_known() -> None:
    assert existing("prefer-new") == "prefer-new"
    with pytest.raises(BadValue, match="skip, merge, prefer-new, overwrite"):
        definition_file.existing("replace")
