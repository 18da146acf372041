"""The catalogue that comes with Ikon: the names that clouds agree on, each file in the one form that exports have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

CATALOGUE = Path(__file__).parents[2] / "ikon/catalogue"
FILES = sorted(CATALOGUE.iterdir())
LISTED = Path(__file__).parent / "listed_definitions.txt"


def read(path: Path) -> dict[str, Any]:
    namespace: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return namespace


def listed() -> dict[str, dict[str, Any]]:
    """The list: file, namespace, associations, and names with types, by namespace and object."""
    found: dict[str, dict[str, Any]] = {}
    for line in LISTED.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if not line.startswith(" "):
            here = found[words[1]] = {"file": words[0], "protected": "protected" in words, "types": {}, "names": {}}
            group = None
        elif words[0] == "for":
            here["types"][words[1]] = (
                ("" if words[2] == "-" else words[2], words[3] if len(words) > 3 else None) if len(words) > 2 else ("", None)
            )
        elif words[0] == "object":
            group = line.strip().removeprefix("object ")
        else:
            here["names"][group] = dict(word.rsplit("=", 1) for word in words)
    return found


def test_there_is_a_file_for_each_listed_namespace() -> None:
    assert [path.suffix for path in FILES] == [".json"] * 32
    assert {read(path)["namespace"]: path.stem for path in FILES} == {name: one["file"] for name, one in listed().items()}


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_names_types_and_prefixes_are_those_that_are_listed(path: Path) -> None:
    namespace = read(path)
    expected = listed()[namespace["namespace"]]

    types = {one["name"]: (one.get("prefix", ""), one.get("properties_target")) for one in namespace.get("resource_type_associations", [])}
    names = {None: namespace["properties"]} if "properties" in namespace else {}
    names |= {one["name"]: one["properties"] for one in namespace.get("objects", [])}
    assert types == expected["types"]
    assert {group: {name: says["type"] for name, says in properties.items()} for group, properties in names.items()} == expected["names"]
    assert namespace["protected"] == expected["protected"]
    assert namespace["visibility"] == "public"


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_everything_has_a_title_and_a_description_and_defaults_are_sound(path: Path) -> None:
    namespace = read(path)
    groups = [namespace, *namespace.get("objects", [])]
    for thing in (*groups, *(says for group in groups for says in group.get("properties", {}).values())):
        assert re.fullmatch(r"[^ ].{10,180}\.", thing["description"]), thing["description"]
    for says in (says for group in groups for says in group.get("properties", {}).values()):
        assert re.fullmatch(r"[A-Z].{1,39}", says["title"]), says["title"]
        allowed = says.get("enum", says.get("items", {}).get("enum", []))
        assert len(set(allowed)) == len(allowed)
        assert "default" not in says or not allowed or says["default"] in allowed
        if "minimum" in says and "default" in says:
            assert says["minimum"] <= int(says["default"]) <= says.get("maximum", 65535)
