"""What is wrong with an image's properties by the metadata definitions that apply to images. Rules on plain values: no I/O.

Properties of images are text. A property that nothing defines is its owner's own business, unless its name is a misspelt known one. Where
several namespaces define a property, a value is sound when one of them takes it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal

from msgspec import Struct

from ikon.model.image import BASE
from ikon.model.near import Names, nearest
from ikon.model.values import Fault, fault_of, listed, short

IMAGES = "OS::Glance::Image"
#: Is about images by its name, and in Glance's own catalogue associated with no resource type.
COMMON = "OS::Glance::CommonImageProperties"
#: Prefix, namespace and object (None: of none) that a definition comes from.
Source = tuple[str, str, str | None]


class Definition(Struct, frozen=True):
    """What one namespace says of a property."""

    source: Source
    says: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """The namespace that says it."""
        return self.source[1]


class Group(Struct, frozen=True):
    """An object that requires properties of its users. required: names as an image carries them."""

    namespace: str
    name: str
    required: tuple[str, ...]


class Finding(Struct, frozen=True):
    """One mistake. fix: changes of a JSON patch that mend it, none where only a person can know what was meant."""

    property: str
    kind: Literal["unknown", "type", "value", "missing"]
    problem: str
    remedy: str
    namespace: str | None = None
    fix: tuple[dict[str, str], ...] = ()


class Definitions:
    """All definitions that apply to images, made ready to judge by. Namespaces are given as in their files."""

    def __init__(self, namespaces: Iterable[Mapping[str, Any]]) -> None:
        """Take in the properties and objects of namespaces that are associated with images, under the names that images carry."""
        self.known: dict[str, list[Definition]] = {}
        self._groups: dict[Source, Group] = {}
        self._bare: dict[str, str] = {}
        for namespace in sorted(namespaces, key=lambda one: str(one["namespace"])):
            for prefix in _prefixes(namespace):
                self._take(prefix, namespace["namespace"], None, namespace.get("properties") or {})
                for each in namespace.get("objects") or ():
                    self._take(prefix, namespace["namespace"], each["name"], each.get("properties") or {})
                    if each.get("required"):
                        group = Group(namespace["namespace"], each["name"], tuple(prefix + name for name in each["required"]))
                        self._groups[prefix, group.namespace, group.name] = group
        self._names = Names((*self.known, *(name for name in BASE if len(name) > 5)))

    def _take(self, prefix: str, namespace: str, group: str | None, properties: Mapping[str, Mapping[str, Any]]) -> None:
        for name, says in properties.items():
            self.known.setdefault(prefix + name, []).append(Definition((prefix, namespace, group), says))
            if prefix and re.search(r"[_:.-]", name):
                self._bare[name] = prefix + name

    def check(self, properties: Mapping[str, str], only: Iterable[str] | None = None) -> list[Finding]:
        """The mistakes among an image's properties, by name. only: names that are looked at, None: all."""
        wanted = properties.keys() if only is None else set(only)
        found = [finding for name in sorted(wanted & properties.keys()) if (finding := self._look(name, properties))]
        return found + self._missing(properties, None if only is None else wanted)

    def _look(self, name: str, properties: Mapping[str, str]) -> Finding | None:
        if name in self.known:
            return judge(name, properties[name], self.known[name])
        meant = self._bare.get(name) or self._names.meant(name)
        return _misspelt(name, meant, properties) if meant else None

    def _missing(self, properties: Mapping[str, str], wanted: AbstractSet[str] | None) -> list[Finding]:
        """What objects require that the image makes use of: it has a property that is of this object alone."""
        used: dict[Source, str] = {}
        for name in sorted(properties):
            sources = {definition.source for definition in self.known.get(name, ())}
            if len(sources) == 1:
                used.setdefault(sources.pop(), name)
        found = []
        for source, name in used.items():
            group = self._groups.get(source)
            if group and (wanted is None or wanted & {name, *group.required}):
                found += [self._lacks(group, name, other) for other in group.required if other not in properties]
        return found

    def _lacks(self, group: Group, used: str, name: str) -> Finding:
        default = next((d.says["default"] for d in self.known.get(name, ()) if isinstance(d.says.get("default"), str)), None)
        return Finding(
            name,
            "missing",
            f"{name} is missing: {group.name} of {group.namespace} requires it beside {used}",
            f"set {name}" + (f", {short(default)} unless you know better" if default is not None else f", or remove {used}"),
            group.namespace,
            ({"op": "add", "path": _path(name), "value": default},) if default is not None else (),
        )


def judge(name: str, value: str, definitions: Sequence[Definition]) -> Finding | None:
    """What is wrong with a property's value, None where one of its definitions takes it."""
    faults: list[tuple[Definition, Fault]] = []
    for definition in definitions:
        fault = fault_of(value, definition.says)
        if fault is None:
            return None
        faults.append((definition, fault))
    definition, fault = faults[0]
    allowed = list(dict.fromkeys(text for _, each in faults for text in each.allowed))
    better = fault.better or (nearest(value, allowed) if allowed and not fault.part else None)
    remedy = f"set {name} to {fault.remedy}"
    if allowed:
        remedy = (f"did you mean {better!r}? " if better is not None else "") + f"allowed: {listed(allowed)}"
    fix = ({"op": "replace", "path": _path(name), "value": better},) if better is not None else ()
    return Finding(name, fault.kind, f"{name}: {short(value)} {fault.problem}", remedy, definition.namespace, fix)


def _misspelt(name: str, meant: str, properties: Mapping[str, str]) -> Finding:
    problem = f"{short(name)} is not defined, and looks like {meant}"
    if meant in BASE:
        return Finding(name, "unknown", problem, f"remove {short(name)}, and set the image's own attribute {meant}")
    if meant in properties:
        return Finding(
            name, "unknown", problem, f"remove {short(name)}: {meant} is set as well", fix=({"op": "remove", "path": _path(name)},)
        )
    moved = {"op": "add", "path": _path(meant), "value": properties[name]}
    return Finding(name, "unknown", problem, f"rename it to {meant}", fix=({"op": "remove", "path": _path(name)}, moved))


def _prefixes(namespace: Mapping[str, Any]) -> list[str]:
    """The prefixes under which a namespace's properties are images'; none where it is not about images."""
    found = {str(each.get("prefix") or "") for each in namespace.get("resource_type_associations") or () if each["name"] == IMAGES}
    return sorted(found or ({""} if namespace["namespace"] == COMMON else ()))


def _path(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")
