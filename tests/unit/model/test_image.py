"""What an image may be, and who sees it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikon.context import Context
from ikon.model.image import BASE, Writable, check_base, parse_new, timestamp, visible
from ikon.problems import Problem
from tests.unit.model.test_listing import IMAGE
from tests.unit.model.test_patch import JSON


@given(JSON | st.dictionaries(st.sampled_from([*sorted(BASE), "id", "status", "x", "locations"]), JSON, max_size=4))
def test_any_body_is_a_new_image_or_a_problem(body: Any) -> None:
    try:
        new = parse_new(body)
    except Problem as problem:
        assert 400 <= problem.status < 500
        return
    assert msgspec.convert(msgspec.to_builtins(new.base), Writable) == new.base
    assert all(isinstance(value, str) for value in new.properties.values())
    assert not BASE & new.properties.keys()
    assert len(set(new.base.tags)) == len(new.base.tags)


@given(st.dictionaries(st.sampled_from(sorted(BASE)), JSON, min_size=1, max_size=1))
def test_a_refusal_names_the_field(fields: dict[str, Any]) -> None:
    try:
        check_base(fields)
    except Problem as problem:
        assert next(iter(fields)) in str(problem)


@pytest.mark.parametrize(
    ("context", "seen"),
    [
        (Context(project="p"), {"public", "community", "shared", "private"}),
        (Context(project="other"), {"public", "community"}),
        (Context(), {"public", "community"}),
        (Context(project="other", roles=frozenset({"admin"})), {"public", "community", "shared", "private"}),
        (Context(project="other", roles=frozenset({"admin"}), system_scope=True), {"public", "community"}),
    ],
)
def test_who_sees_an_image(context: Context, seen: set[str]) -> None:
    assert {
        v for v in ("public", "community", "shared", "private") if visible(context, msgspec.structs.replace(IMAGE, visibility=v))
    } == seen


def test_an_image_of_nobody_is_not_that_of_callers_without_a_project() -> None:
    assert not visible(Context(), msgspec.structs.replace(IMAGE, owner=None))


@pytest.mark.parametrize(
    ("us", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_700_000_000_999_999, "2023-11-14T22:13:20Z"), (253_402_300_799_000_000, "9999-12-31T23:59:59Z")],
)
def test_times_are_shown_in_whole_seconds(us: int, text: str) -> None:
    assert timestamp(us) == text
