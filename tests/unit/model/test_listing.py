"""What a query string asks for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ikon.model.image import Image
from ikon.model.listing import Listing, parse, quoted_list
from ikon.model.terms import SORTED, spelled, value
from ikon.problems import BadValue

IMAGE = Image(
    k=1_700_000_000_123_456,
    id="11111111-1111-4111-8111-111111111111",
    owner="p",
    visibility="shared",
    os_hidden=False,
    status="active",
    name="a",
    disk_format=None,
    container_format="bare",
    size=5,
    virtual_size=None,
    min_disk=0,
    min_ram=512,
    protected=True,
    checksum=None,
    os_hash_algo=None,
    os_hash_value=None,
    updated=1_700_000_000_123_456,
    version=1,
    reason=None,
    digests=None,
    properties={"colour": "red"},
    tags=["x"],
    stores=[],
    members={},
)
#: The parameters of a list, and values that mean something to some of them.
NAMES = [
    "name",
    "status",
    "size",
    "size_min",
    "min_ram",
    "created_at",
    "tag",
    "limit",
    "marker",
    "sort",
    "sort_key",
    "sort_dir",
    "visibility",
    "os_hidden",
    "protected",
    "member_status",
    "x",
]
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["in:a,b", 'in:"', "gt:5", "eq:", "2020-01-01", "lt:2020-01-01T00:00:00Z", "name:asc", "desc", "all", "true", "-1", "5"]
    ),
)


def ask(*params: tuple[str, str]) -> Listing:
    return parse(list(params), 25, 1000)


def matches(*params: tuple[str, str]) -> bool:
    listing = ask(*params)
    known = {*spelled(IMAGE), *((field, value(IMAGE, field)) for field in SORTED)}
    chosen = all(not each.needs or known & set(each.needs) for each in listing.filters)
    chosen = chosen and all(not each.span or each.span.least <= value(IMAGE, each.span.field) <= each.span.most for each in listing.filters)
    chosen = chosen and listing.created[0] <= IMAGE.k <= listing.created[1]
    chosen = chosen and (listing.column is None or getattr(IMAGE, listing.column[0]) == listing.column[1])
    chosen = chosen and (listing.owners is None or IMAGE.owner in listing.owners)
    tested = all(each.test(IMAGE) for each in listing.filters)
    assert chosen or not tested, "the index would leave out what the tests let through"
    return tested


@given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=4))
def test_any_query_is_a_listing_or_names_what_is_wrong(params: list[tuple[str, str]]) -> None:
    try:
        listing = ask(*params)
    except BadValue as problem:
        assert str(problem)
        return
    assert 0 <= listing.limit <= 1000
    assert listing.sorts[-1][0] == "k"
    assert len({name for name, _ in listing.sorts}) == len(listing.sorts)
    matches(*params)


@pytest.mark.parametrize(
    ("name", "value", "yes"),
    [
        ("name", "a", True),
        ("name", "in:b,a", True),
        ("name", "A", False),
        ("disk_format", "raw", False),
        ("size", "5", True),
        ("size", "gt:4", True),
        ("size", "neq:5", False),
        ("size_max", "4", False),
        ("virtual_size", "0", False),
        ("virtual_size_min", "0", False),
        ("min_ram", "99999999999", False),
        ("protected", "TRUE", True),
        ("created_at", "2023-11-14T22:13:20Z", True),
        ("created_at", "2023-11-14T22:13:20.123456Z", True),
        ("created_at", "2023-11-14T22:13:20.123457Z", False),
        ("created_at", "gt:2023-11-14T22:13:20Z", False),
        ("created_at", "gt:2023-11-14T22:13:20.1Z", True),
        ("created_at", "lte:2023-11-15T00:13:20+02:00", True),
        ("updated_at", "lt:2023-11-14", False),
        ("tag", "x", True),
        ("tag", "y", False),
        ("colour", "red", True),
        ("colour", "eq:red", False),
        ("visibility", "", False),
        ("name", "a\0", False),
    ],
)
def test_a_filter_tells_whether_an_image_is_wanted(name: str, value: str, yes: bool) -> None:
    assert matches((name, value)) is yes


@pytest.mark.parametrize(
    ("params", "sorts"),
    [
        ([], (("k", False),)),
        ([("sort_dir", "asc")], (("k", True),)),
        ([("sort", "name")], (("name", False), ("k", False))),
        ([("sort", "name:asc")], (("name", True), ("k", True))),
        ([("sort", "name:asc,size")], (("name", True), ("size", False), ("k", False))),
        ([("sort", "created_at:asc,name")], (("k", True),)),
        ([("sort", "name,created_at:asc,size")], (("name", False), ("k", True))),
        ([("sort", "name:asc,name:desc")], (("name", True), ("k", False))),
        ([("sort_key", "updated_at"), ("sort_key", "id")], (("updated", False), ("id", False), ("k", False))),
    ],
)
def test_every_order_ends_in_the_key_that_makes_it_total(params: list[tuple[str, str]], sorts: Any) -> None:
    assert ask(*params).sorts == sorts


@given(
    st.lists(
        st.text(st.characters(exclude_characters='"\r\n\0', exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=5
    )
)
def test_quoted_items_come_back_as_they_were(items: list[str]) -> None:
    assert quoted_list(",".join(f'"{item}"' for item in items)) == items
