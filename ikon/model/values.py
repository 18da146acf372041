"""What a definition has against a value. Values of images' properties are text: what they mean is for the definition's type to say."""

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Struct

#: Values that a remedy names at most.
MOST_NAMED = 12
#: Characters of a value that is held against a pattern: no property that has a pattern has longer ones, and each character costs time.
PATTERN_VALUE = 1024
#: Bytes that a pattern may take when compiled, which bounds its time for each character.
PATTERN_BYTES = 64 * 1024
#: Words that Nova and Cinder read as true and false, in any case.
TRUE, FALSE = ("true", "1", "t", "on", "y", "yes"), ("false", "0", "f", "off", "n", "no")
INTEGER = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
NUMBER = re.compile(r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?", re.ASCII)


class Fault(Struct, frozen=True):
    """Why a value is not taken. allowed: all values that are, where they are listed. better: what was surely meant.

    part: only a part of the value is at fault.
    """

    kind: Literal["type", "value"]
    problem: str
    remedy: str = ""
    allowed: tuple[str, ...] = ()
    better: str | None = None
    part: bool = False


def fault_of(value: str, says: Mapping[str, Any]) -> Fault | None:
    """What a definition has against a value. A value may begin with one of the operators that the definition lists: `<or> a <or> b`."""
    operator = next((op for op in says.get("operators") or () if value.startswith(f"{op} ")), None)
    kind = str(says.get("type", "string"))
    if kind == "array":
        return _array(value, says, operator)
    if operator is None:
        return KINDS.get(kind, _text)(value, says)
    for part in value.split(f"{operator} ")[1:]:
        fault = KINDS.get(kind, _text)(part.strip(), says)
        if fault:
            return _of_part(part.strip(), fault)
    return None


def _array(value: str, says: Mapping[str, Any], operator: str | None) -> Fault | None:
    """Lists are written as JSON, parted by commas, or behind an operator, parted by blanks."""
    parts = _parts(value, operator)
    items = says.get("items") or {}
    for part in parts:
        fault = KINDS.get(str(items.get("type", "string")), _text)(part, items)
        if fault:
            return _of_part(part, fault) if len(parts) > 1 or operator is not None else fault
    least, most = says.get("minItems") or 0, says.get("maxItems")
    if len(parts) < least or (most is not None and len(parts) > most):
        return Fault("value", f"has {len(parts)} items", f"a list of {_span(least, most)} items")
    if says.get("uniqueItems") and len(set(parts)) < len(parts):
        return Fault("value", "has the same item twice", "a list without repetitions")
    return None


def _of_part(part: str, fault: Fault) -> Fault:
    return msgspec.structs.replace(fault, problem=f"has {short(part)}, which {fault.problem}", better=None, part=True)


def _parts(value: str, operator: str | None) -> list[str]:
    if operator is not None:
        return value.replace(operator, " ").split()
    if value.startswith("["):
        with contextlib.suppress(msgspec.MsgspecError, RecursionError):
            return [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in msgspec.json.decode(value, type=list)]
    return [part.strip() for part in value.split(",")] if value.strip() else []


def _integer(value: str, says: Mapping[str, Any]) -> Fault | None:
    if not INTEGER.fullmatch(value):
        better = value.strip().removesuffix(".0")
        return Fault("type", "is not a whole number", _range(says, "a whole number"), better=better if INTEGER.fullmatch(better) else None)
    return _within(int(value), value, says, "a whole number")


def _number(value: str, says: Mapping[str, Any]) -> Fault | None:
    if not NUMBER.fullmatch(value):
        better = value.strip().replace(",", ".")
        return Fault("type", "is not a number", _range(says, "a number"), better=better if NUMBER.fullmatch(better) else None)
    return _within(float(value), value, says, "a number")


def _within(number: float, value: str, says: Mapping[str, Any], what: str) -> Fault | None:
    least, most = says.get("minimum"), says.get("maximum")
    if (least is not None and number < least) or (most is not None and number > most):
        return Fault("value", "is out of range", _range(says, what))
    return _listed_only(value, says, lambda one: NUMBER.fullmatch(one) is not None and float(one) == number)


def _boolean(value: str, says: Mapping[str, Any]) -> Fault | None:
    if _truth(value) is not None:
        return None
    return Fault("type", "is neither true nor false", allowed=("true", "false"))


def _object(value: str, says: Mapping[str, Any]) -> Fault | None:
    try:
        msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return Fault("type", "is not a JSON object", 'a JSON object, as {"key": "value"}')
    return None


def _text(value: str, says: Mapping[str, Any]) -> Fault | None:
    least, most = says.get("minLength") or 0, says.get("maxLength")
    if len(value) < least or (most is not None and len(value) > most):
        return Fault("value", f"has {len(value)} characters", f"a text of {_span(least, most)} characters")
    truth = _truth(value) if all(_truth(one) is not None for one in says.get("enum") or ()) else None  # there Nova takes `True` for `yes`
    fault = _listed_only(value, says, lambda one: truth is not None and _truth(one) == truth)
    pattern = says.get("pattern")
    if fault or pattern is None or matches(pattern, value):
        return fault
    return Fault("value", "has not the form that is asked for", f"a text of the form {short(pattern)}")


def _listed_only(value: str, says: Mapping[str, Any], same: Callable[[str], bool]) -> Fault | None:
    allowed = says.get("enum")
    if allowed is None:
        return None
    texts = tuple(map(str, allowed))
    if value in texts or any(same(one) for one in texts):
        return None
    return Fault("value", "is none of the values that are allowed", allowed=texts)


def _truth(word: object) -> bool | None:
    """What a word for true or false says, None: it is none."""
    low = str(word).lower()
    return True if low in TRUE else False if low in FALSE else None


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> Any:
    """None for what cannot be tested in a time linear in the value: back-references, looking ahead and behind, sheer size."""
    import re2  # 7 ms that a server pays when it first meets a pattern

    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES, False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def matches(pattern: str, value: str) -> bool:
    """Whether a value has the form of a pattern, as JSON Schema means it: somewhere in it. True for what cannot be told quickly."""
    if len(value) > PATTERN_VALUE:
        return True
    compiled = _compiled(pattern)
    return compiled is None or compiled.search(value) is not None


KINDS: dict[str, Callable[[str, Mapping[str, Any]], Fault | None]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": _object,
    "string": _text,
}


def _range(says: Mapping[str, Any], what: str) -> str:
    least, most = says.get("minimum"), says.get("maximum")
    return what if least is None and most is None else f"{what}, {_span(least, most)}"


def _span(least: Any, most: Any) -> str:
    if most is None:
        return f"{least} or more"
    return f"{most} or less" if least is None else f"{least} to {most}"


def listed(values: Sequence[str]) -> str:
    """Values that are allowed, the first dozen by name."""
    named = ", ".join(value if len(value) <= 60 else f"{value[:60]}..." for value in values[:MOST_NAMED])
    return named if len(values) <= MOST_NAMED else f"{named} and {len(values) - MOST_NAMED} more"


def short(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return repr(text) if len(text) <= 60 else repr(text[:60]) + "..."
