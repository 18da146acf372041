"""Values that a published JSON schema allows, values that it forbids, and whether an answer is what its schema says."""

import random
import re
import uuid
from typing import Any

from tests.wire.fuzz import ODD

#: Limits that numbers have and schemas do not say: a signed 32-bit column.
LARGEST = 2**31 - 1
TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def kinds(schema: dict[str, Any]) -> list[str]:
    """The types that a schema allows."""
    given = schema.get("type", list(TYPES))
    return [given] if isinstance(given, str) else list(given)


class Grammar:
    """Makes values from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, most: int = 255) -> str:
        """Text of at most so many characters, as odd as text may be."""
        allowed = [odd for odd in ODD if "\0" not in odd and len(odd) <= most]
        return self.random.choice([*allowed, "x" * most, "\U0001f427" * most, "name"])

    def good(self, schema: dict[str, Any]) -> Any:
        """A value that the schema allows."""
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = self.random.choice(kinds(schema))
        if kind == "string" and "pattern" in schema:
            return str(uuid.UUID(int=self.random.getrandbits(128)))
        if kind == "array":
            return [self.good(schema["items"]) for _ in range(self.random.randrange(4))]
        return {
            "null": None,
            "string": self.text(schema.get("maxLength", 255)),
            "integer": self.random.choice([0, 1, 7, LARGEST]),
            "number": self.random.choice([0, -1, 0.5, LARGEST]),
            "boolean": self.random.random() < 0.5,
            "object": {},
        }[kind]

    def bad(self, schema: dict[str, Any]) -> Any:
        """A value that the schema forbids, or that its words do: a number outside its limits."""
        values: list[Any] = [
            None,
            True,
            1,
            -1,
            1.5,
            10**30,
            LARGEST + 1,
            "",
            "1",
            [],
            ["x"],
            [[]],
            [None],
            {},
            {"x": "y"},
            "public ",
            "x" * 300,
            ["y" * 300],
            "zz",
        ]
        return self.random.choice(
            [value for value in values if invalid(value, schema) or (type(value) is int and not 0 <= value <= LARGEST)]
        )


def invalid(value: Any, schema: dict[str, Any], path: str = "$") -> str | None:
    """Where a value is not what the schema says; None where it is."""
    if not any(
        isinstance(value, TYPES[kind]) and not (kind in ("integer", "number") and isinstance(value, bool)) for kind in kinds(schema)
    ):
        return f"{path} is {value!r:.60}, and should be of {kinds(schema)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is {value!r:.60}, and should be one of {schema['enum']}"
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)):
            return f"{path} is {len(value)} characters long"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            return f"{path} is {value!r:.60}, which {schema['pattern']} does not match"
    if isinstance(value, list) and "items" in schema:
        return next((found for at, item in enumerate(value) if (found := invalid(item, schema["items"], f"{path}[{at}]"))), None)
    if isinstance(value, dict):
        return _invalid_object(value, schema, path)
    return None


def _invalid_object(value: dict[str, Any], schema: dict[str, Any], path: str) -> str | None:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", []):
        if name not in value:
            return f"{path}.{name} is missing"
    for name, item in value.items():
        if name not in known and others is False:
            return f"{path}.{name} is unknown"
        if found := invalid(item, known.get(name, others or {}), f"{path}.{name}"):
            return found
    return None
