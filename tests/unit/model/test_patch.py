"""From operations to changes, and from changes to another image."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikon.model.image import BASE, READ_ONLY, RESERVED
from ikon.model.patch import Change, apply, parse, parts
from ikon.problems import Problem
from tests.unit.model.test_listing import IMAGE

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["op", "path", "value", "add", "x"]), inner, max_size=3),
    max_leaves=8,
)
OPERATION = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["add", "remove", "replace", "move"]) | JSON,
        "path": st.sampled_from([f"/{name}" for name in sorted(BASE | READ_ONLY | RESERVED)]) | st.text("/~01 ab", max_size=5) | JSON,
        "value": JSON,
        "add": st.text(max_size=3),
    },
)


@given(JSON | st.lists(OPERATION, max_size=3), st.sampled_from(["2.0", "2.1"]), st.booleans())
def test_any_body_is_a_patch_or_a_problem_and_the_image_stays_as_it_was(body: Any, form: str, admin: bool) -> None:
    before = (IMAGE.name, dict(IMAGE.properties))
    try:
        changed = apply(IMAGE, parse(body, form)[0], admin=admin)
    except Problem as problem:
        assert 400 <= problem.status < 500
    else:
        same = [name for name in IMAGE.__struct_fields__ if name not in BASE | {"properties"}]
        assert [getattr(changed, name) for name in same] == [getattr(IMAGE, name) for name in same]
        assert admin or changed.owner == IMAGE.owner
    assert (IMAGE.name, IMAGE.properties) == before


@given(st.text(min_size=1, max_size=10).filter(lambda name: name == name.strip()))
def test_an_escaped_name_is_its_own_pointer(name: str) -> None:
    assert parts("/" + name.replace("~", "~0").replace("/", "~1")) == [name]


@pytest.mark.parametrize("status", ["saving", "active", "deactivated"])
def test_formats_stay_while_there_is_data(status: str) -> None:
    import msgspec

    with pytest.raises(Problem, match="can be only replaced for a queued image"):
        apply(msgspec.structs.replace(IMAGE, status=status), [Change("replace", "disk_format", "raw")], admin=True)
