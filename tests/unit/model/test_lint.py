"""The rules that hold an image's properties against the definitions that apply to it."""

import json
import random
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ikon.model.lint import Definitions, Finding
from tests.unit.model.lint_samples import PLANTED, SOUND, Planted

CATALOGUE = Path(__file__).parents[3] / "ikon/catalogue"


@pytest.fixture(scope="module")
def catalogue() -> Definitions:
    return Definitions(json.loads(path.read_text(encoding="utf-8")) for path in CATALOGUE.glob("*.json"))


def mended(properties: dict[str, str], findings: Iterable[Finding]) -> dict[str, str]:
    """The properties once all that is proposed is carried out."""
    after = dict(properties)
    for change in (change for finding in findings for change in finding.fix):
        if change["op"] == "remove":
            del after[change["path"][1:]]
        else:
            after[change["path"][1:]] = change["value"]
    return after


def about(*properties: tuple[str, dict[str, Any]], **namespace: Any) -> Definitions:
    """Definitions of a namespace that is about images."""
    made = {"namespace": "Mine", "resource_type_associations": [{"name": "OS::Glance::Image"}], "properties": dict(properties)}
    return Definitions([made | namespace])


def one(definitions: Definitions, value: str, name: str = "x") -> str | None:
    """What is wrong with a single property, None: nothing."""
    found = definitions.check({name: value})
    assert len(found) <= 1
    return f"{found[0].problem} | {found[0].remedy}" if found else None


def test_there_are_twenty_images_of_each_sort() -> None:
    assert len(SOUND) == len(PLANTED) == 20


@pytest.mark.parametrize("properties", SOUND)
def test_nothing_is_found_on_a_sound_image(catalogue: Definitions, properties: dict[str, str]) -> None:
    assert catalogue.check(properties) == []


@pytest.mark.parametrize("planted", PLANTED, ids=[f"{one.kind}-{one.named}" for one in PLANTED])
def test_a_planted_mistake_is_found_and_named_and_its_remedy_mends_it(catalogue: Definitions, planted: Planted) -> None:
    found = catalogue.check(planted.properties)

    assert [(each.property, each.kind) for each in found] == [(planted.named, planted.kind)]
    assert planted.said in found[0].remedy
    assert planted.named in found[0].problem
    if planted.remedied is None:
        assert found[0].fix == ()
    else:
        assert mended(planted.properties, found) == planted.remedied
        assert catalogue.check(planted.remedied) == []


def test_a_property_of_several_namespaces_is_sound_when_one_takes_it(catalogue: Definitions) -> None:
    assert catalogue.check({"hw_vif_model": "VirtualE1000"}) == catalogue.check({"hw_vif_model": "spapr-vlan"}) == []
    assert [each.kind for each in catalogue.check({"hw_vif_model": "VirtualE"})] == ["value"]


def test_only_namespaces_about_images_count_and_under_each_of_their_prefixes() -> None:
    types = [{"name": "OS::Glance::Image", "prefix": "a_"}, {"name": "OS::Glance::Image", "prefix": "b_"}, {"name": "OS::Nova::Flavor"}]
    found = about(("x", {"title": "x", "type": "integer"}), resource_type_associations=types)
    flavors = about(("x", {"title": "x", "type": "integer"}), resource_type_associations=[{"name": "OS::Nova::Flavor"}])

    assert [each.property for each in found.check({"a_x": "?", "b_x": "?", "x": "?"})] == ["a_x", "b_x"]
    assert flavors.check({"x": "?"}) == []


def test_a_required_property_is_missed_where_its_object_is_used() -> None:
    port = {"title": "Port", "type": "integer", "default": "80"}
    objects = [
        {
            "name": "Web",
            "required": ["web_port", "web_name"],
            "properties": {"web_port": port, "web_root": {"title": "r", "type": "string"}},
        }
    ]
    found = about(
        ("web_name", {"title": "n", "type": "string"}),
        objects=objects,
        resource_type_associations=[{"name": "OS::Glance::Image", "prefix": "p_"}],
    )

    assert found.check({}) == found.check({"p_web_name": "x"}) == [], "it is not used: the name is not the object's alone"
    assert found.check({"p_web_root": "/", "p_web_port": "80", "p_web_name": "x"}) == []
    port_missing, name_missing = found.check({"p_web_root": "/"})
    assert (port_missing.property, port_missing.kind) == ("p_web_port", "missing")
    assert port_missing.fix == ({"op": "add", "path": "/p_web_port", "value": "80"},)
    assert "Web of Mine requires it beside p_web_root" in port_missing.problem
    assert (name_missing.property, name_missing.fix) == ("p_web_name", ())
    assert "or remove p_web_root" in name_missing.remedy


def test_only_what_was_written_is_looked_at_when_names_are_given(catalogue: Definitions) -> None:
    wrong = {"hw_disk_buss": "virtio", "hw_cpu_cores": "four"}

    assert [each.property for each in catalogue.check(wrong, ["hw_cpu_cores", "name"])] == ["hw_cpu_cores"]
    assert catalogue.check(wrong, []) == []


@pytest.mark.parametrize(
    ("says", "right", "wrong"),
    [
        ({"type": "integer", "minimum": -1, "maximum": 3}, ["-1", "+3", "0003"], ["-2", "4", "", "1e0", "٣", "9" * 5000]),
        ({"type": "number", "minimum": 0.5}, ["0.5", "1e3", ".75", "7."], ["0.4", "nan", "inf", "1,", "0x1", "-1e999"]),
        ({"type": "number", "enum": [1, 2.5]}, ["1.0", "2.5"], ["2", "x"]),
        ({"type": "boolean"}, ["true", "No", "1", "OFF"], ["2", "maybe", ""]),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^[a-z]+$"}, ["abc", "a" * 2000], ["", "ABC", "abc!"]),
        ({"type": "string", "pattern": "b"}, ["abc"], ["ac"]),
        ({"type": "string", "enum": ["yes", "no"]}, ["yes", "False", "1"], ["maybe"]),
        ({"type": "string", "enum": ["yes", "no", "auto"]}, ["yes", "auto"], ["True", "1"]),
        ({"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2, "minItems": 1, "uniqueItems": True}, ["a", "b, a", '["a"]'], ["", "c", "a,a", "a,b,a", '["a", 3]', "[a"]),
        ({"type": "array", "items": {"type": "integer"}}, ["", "1,2", "[1, 2]"], ["1,x", "[" * 60_000]),
        ({"type": "array", "operators": ["<all-in>"], "items": {"type": "string", "enum": ["a", "b"]}}, ["<all-in> a b"], ["<all-in> a c", "<or> a"]),
        ({"type": "string", "operators": ["<or>"], "enum": ["a", "b"]}, ["a", "<or> a <or> b"], ["<or> a <or> c", "<in> a"]),
        ({"type": "object"}, ["{}", '{"a": [1]}'], ["[]", "x", "[" * 3000]),
    ],
)  # fmt: skip
def test_a_value_is_held_against_its_type_and_bounds(says: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    definitions = about(("x", {"title": "x"} | says))

    assert {value: one(definitions, value) for value in right} == dict.fromkeys(right)
    for value in wrong:
        problem = one(definitions, value)
        assert problem is not None, value
        assert len(problem) < 400


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "(.*a){20}", "^(([a-z])+.)+[A-Z]([a-z])+$", "(a?){200}a{200}"])
def test_a_hostile_pattern_takes_no_time(pattern: str) -> None:
    definitions = about(("x", {"title": "x", "type": "string", "pattern": pattern}))

    began = time.process_time()
    for length in range(900, 1000):
        definitions.check({"x": "a" * length + "!"})

    assert time.process_time() - began < 10, "a hundred values; one of them would keep a backtracking engine for years"


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)b", "[", "(a{1000}){1000}", "a{9999999}"])
def test_a_pattern_that_cannot_be_tested_quickly_blames_nobody(pattern: str) -> None:
    assert one(about(("x", {"title": "x", "type": "string", "pattern": pattern})), "b") is None


def test_few_of_many_names_are_compared_with_one_that_is_looked_up() -> None:
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghij", k=6)) for _ in range(400)]
    names = list(dict.fromkeys("_".join(draw.choices(words, k=3)) for _ in range(20_000)))
    many = about(*((name, {"title": "x", "type": "string"}) for name in names))

    began = time.process_time()
    found = many.check({name[:-1]: "x" for name in names[:100]})

    assert time.process_time() - began < 10, "100 look-ups among 20,000 names: to compare each with each would take minutes"
    assert len(found) > 90


def test_own_names_that_are_near_each_other_are_left_alone(catalogue: Definitions) -> None:
    own = [
        "hw_gpu_cores",
        "hw_disk2_bus",
        "vm_node",
        "max_disk",
        "disk",
        "os",
        "a_b",
        "hw_video_codec",
        "sw_database_mssql9_admin",
        "x" * 300,
        "__",
        "image_type",
    ]

    assert catalogue.check(dict.fromkeys(own, "x")) == []


def test_a_name_with_a_slash_is_mended_by_a_sound_patch() -> None:
    found = about(("a/b_longer", {"title": "x", "type": "string"})).check({"a/b-longer": "v"})

    assert [change["path"] for change in found[0].fix] == ["/a~1b-longer", "/a~1b_longer"]


def test_findings_are_short_whatever_the_properties_are(catalogue: Definitions) -> None:
    for name in ("hw_disk_bus", "hw_cpu_cores", "img_linked_clone", "kernel_id"):
        (found,) = catalogue.check({name: "ä" * 1000})
        assert len(found.problem) < 200
        assert not re.search("ä{100}", found.problem + found.remedy)
