"""What requests about members may say: anything else is a problem that says what was expected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikon.model.member import parse_project, parse_status
from ikon.problems import Problem

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
BODIES = VALUES | st.fixed_dictionaries({"member": VALUES}) | st.fixed_dictionaries({"status": VALUES})


@given(BODIES)
def test_any_body_is_a_project_or_a_problem(body: Any) -> None:
    try:
        project = parse_project(body)
    except Problem as problem:
        assert problem.status == 400
        assert str(problem)
    else:
        assert project == body["member"]
        assert 1 <= len(project.encode().decode()) <= 255
        assert "\0" not in project


@given(BODIES)
def test_any_body_is_a_status_or_a_problem(body: Any) -> None:
    try:
        status = parse_status(body)
    except Problem as problem:
        assert problem.status == 400
        assert str(problem)
    else:
        assert (status, status in ("pending", "accepted", "rejected")) == (body["status"], True)


@pytest.mark.parametrize("status", ["pending", "accepted", "rejected"])
def test_the_three_answers_are_taken(status: str) -> None:
    assert parse_status({"status": status, "member_id": 5}) == status


@pytest.mark.parametrize("project", ["p", " ", "\U0001f427" * 255])
def test_any_text_is_a_project(project: str) -> None:
    assert parse_project({"member": project}) == project
