"""Amounts as settings, Keystone and clients count them."""

import pytest

from ikon.model.quota import MIB, UNLIMITED, Limits, OwnLimits, Usage, from_wire, parse_own, to_wire


def test_clients_see_mib_what_is_held_rounded_up_and_what_is_allowed_down() -> None:
    shown = to_wire(Usage(MIB + 1, 0, 3, 1), Limits(2 * MIB - 1, MIB, None, 0))

    assert shown == {
        "image_size_total": {"usage": 2, "limit": 1},
        "image_stage_total": {"usage": 0, "limit": 1},
        "image_count_total": {"usage": 3, "limit": UNLIMITED},
        "image_count_uploading": {"usage": 1, "limit": 0},
    }


def test_keystones_limits_are_bytes_here_and_one_that_it_does_not_have_is_nothing() -> None:
    assert from_wire({"image_size_total": 2, "image_count_total": -1, "else": 7}) == Limits(2 * MIB, 0, None, 0)


def test_a_projects_own_limit_stands_above_that_of_all_and_zero_is_none() -> None:
    assert OwnLimits(None, 0, 5, None).over(Limits(10, 10, 10, None)) == Limits(10, None, 5, None)


@pytest.mark.parametrize("body", [{"images": 0}, {"bytes": None, "uploading": 2}])
def test_only_limits_that_a_request_names_are_changed(body: dict[str, int | None]) -> None:
    assert parse_own(body) == body
