"""Lists of a project that images are shared with: what it has accepted, and the rest when it asks."""

from typing import Any

import pytest

from tests.wire.server import ADMIN, Ikon, Persona, someone

SETTINGS: dict[str, object] = {}
STATUSES = ("pending", "accepted", "rejected")


def lent(ikon: Ikon, guest: Persona, status: str = "accepted", owner: Persona | None = None, **fields: Any) -> str:
    """An image of somebody else that the guest has answered in this way."""
    owner = owner or someone()
    image_id = str(ikon.create(who=owner, **fields)["id"])
    assert ikon.share(image_id, str(guest.project), who=owner).status == 200
    if status != "pending":
        assert ikon.reply(image_id, str(guest.project), status, who=guest).status == 200
    return image_id


def replaced(ikon: Ikon, image_id: str, field: str, value: Any) -> None:
    assert ikon.patch(image_id, [{"op": "replace", "path": f"/{field}", "value": value}], who=ADMIN).status == 200


@pytest.fixture
def guest() -> Persona:
    return someone()


def test_a_list_holds_what_was_accepted_and_the_rest_when_asked_for(ikon: Ikon, guest: Persona) -> None:
    shares = {status: lent(ikon, guest, status) for status in STATUSES}
    own = ikon.create(who=guest)["id"]
    private = ikon.create(who=guest, visibility="private")["id"]
    wanted = {
        "": {own, private, shares["accepted"]},
        **{f"member_status={status}": {own, private, shares[status]} for status in STATUSES},
        "member_status=all": {own, private, *shares.values()},
        "visibility=shared": {own, shares["accepted"]},
        "visibility=shared&member_status=all": {own, *shares.values()},
        "visibility=shared&member_status=rejected": {own, shares["rejected"]},
        "visibility=private&member_status=all": {private},
        "visibility=public&member_status=all": set(),
        "visibility=community&member_status=all": set(),
        "visibility=all": {own, private, shares["accepted"]},
        "visibility=all&member_status=pending": {own, private, shares["pending"]},
        "visibility=all&member_status=all": {own, private, *shares.values()},
    }

    assert {query: set(ikon.ids(f"?limit=1000&{query}", who=guest)) for query in wanted} == wanted
    reader = Persona(guest.project, "reader")
    assert set(ikon.ids("?member_status=all", who=reader)) == wanted["member_status=all"]
    for who in (Persona(guest.project, ""), Persona(guest.project, "member")):
        assert ikon.browse("?member_status=all", who=who).status == 403


@pytest.mark.parametrize("old", STATUSES)
@pytest.mark.parametrize("new", STATUSES)
def test_an_answer_moves_an_image_from_list_to_list(ikon: Ikon, guest: Persona, old: str, new: str) -> None:
    image_id = lent(ikon, guest, old)
    ikon.reply(image_id, str(guest.project), new, who=guest)

    found = {status: ikon.ids(f"?member_status={status}", who=guest) for status in STATUSES}
    assert found == {status: [image_id] if status == new else [] for status in STATUSES}
    assert ikon.ids("?member_status=all", who=guest) == [image_id]


def test_what_ends_a_share_ends_its_place_in_lists(ikon: Ikon, guest: Persona) -> None:
    owner, project = someone(), str(guest.project)
    left, taken, hidden, deleted, private = (lent(ikon, guest, owner=owner) for _ in range(5))
    assert len(ikon.ids(who=guest)) == 5

    ikon.unshare(left, project, who=guest)
    ikon.unshare(taken, project, who=owner)
    ikon.delete(deleted, who=owner)
    replaced(ikon, hidden, "os_hidden", True)
    replaced(ikon, private, "visibility", "private")

    assert ikon.ids("?member_status=all", who=guest) == []
    assert ikon.ids("?os_hidden=true", who=guest) == [hidden]
    replaced(ikon, private, "visibility", "shared")
    replaced(ikon, hidden, "os_hidden", False)
    assert ikon.ids(who=guest) == [private, hidden]


@pytest.mark.parametrize("status", STATUSES)
def test_who_shares_and_third_parties_list_as_before(ikon: Ikon, guest: Persona, status: str) -> None:
    owner, third = someone(), someone()
    image_id = lent(ikon, guest, status, owner)
    ikon.share(image_id, "many", who=owner)

    for query in ("?member_status=all", "?member_status=pending", "?member_status=rejected", ""):
        assert ikon.ids(query, who=owner) == [image_id]
        assert ikon.ids(query, who=third) == []
        assert ikon.ids(f"{query or '?'}&id={image_id}", who=ADMIN) == [image_id]
    assert ikon.ids(f"?visibility=all&member_status=all&owner={owner.project}", who=third) == []


def test_an_image_shared_with_its_own_project_is_listed_once(ikon: Ikon, guest: Persona) -> None:
    image_id = lent(ikon, guest, owner=guest)

    for query in ("", "?member_status=all", "?visibility=shared", "?visibility=all&member_status=all"):
        assert ikon.ids(query, who=guest) == [image_id]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("name=b", "b"),
        ("name=in:b,c", "bc"),
        ("tag=odd", "ac"),
        ("tag=odd&tag=all", "ac"),
        ("colour=red", "b"),
        ("tag=odd&colour=blue", "ac"),
        ("min_ram=2", "c"),
        ("size_min=1", ""),
        ("status=queued", "abc"),
        ("status=active", ""),
        ("name=d", ""),
        ("protected=false", "abc"),
    ],
)
def test_filters_work_on_what_is_shared(ikon: Ikon, guest: Persona, query: str, wanted: str) -> None:
    owner = someone()
    for at, name in enumerate("abc"):
        lent(
            ikon, guest, owner=owner, name=name, min_ram=at, colour="red" if name == "b" else "blue", tags=["all", ["odd", "even"][at % 2]]
        )
    lent(ikon, guest, "pending", owner, name="d", colour="red", tags=["odd"])

    found = ikon.browse(f"?{query}&owner={owner.project}", who=guest).json["images"]
    assert "".join(sorted(image["name"] for image in found)) == wanted


@pytest.mark.parametrize(
    "sort", ["created_at:desc", "created_at:asc", "name:asc", "name:desc", "updated_at:asc", "size:desc", "id:asc", "status:asc,name:desc"]
)
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_own_and_shared_images_come_in_one_order_on_all_pages(ikon: Ikon, sort: str, limit: int) -> None:
    guest, owner = someone(), someone()
    for at, name in enumerate("dcab"):
        ikon.create(who=guest, name=name)
        lent(ikon, guest, STATUSES[at % 3], owner, name=name)

    def ordered(record: dict[str, Any]) -> Any:
        return [str(record[key.partition(":")[0]] or "") for key in sort.split(",")]

    for query, count in (("", 5), ("&member_status=all", 8)):
        found = [image for page in ikon.walk(f"?sort={sort}&limit={limit}{query}", who=guest) for image in page]
        assert len({image["id"] for image in found}) == len(found) == count
        if "," not in sort:
            assert [ordered(image) for image in found] == sorted(map(ordered, found), reverse=sort.endswith("desc"))


@pytest.mark.parametrize("sort", ["created_at:desc", "name:asc", "size:desc,name:asc", "id:asc"])
def test_filters_that_leave_nothing_to_look_through_find_nothing_in_any_order(ikon: Ikon, guest: Persona, sort: str) -> None:
    own = str(ikon.create(who=guest)["id"])

    assert ikon.ids(f"?visibility=private&owner=another&member_status=rejected&sort={sort}", who=guest) == []
    assert ikon.ids(f"?visibility=private&owner=another&member_status=rejected&sort={sort}&marker={own}", who=guest) == []


@pytest.mark.parametrize("value", ["", "Accepted", "none", "accepted,pending", "%00", "x" * 300])
def test_a_status_that_is_none_is_refused(ikon: Ikon, value: str) -> None:
    answer = ikon.browse(f"?member_status={value}")

    assert (answer.status, "Invalid status" in answer.message) == (400, True)
