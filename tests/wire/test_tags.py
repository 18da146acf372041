"""Tags through the URL: any text that a tag may be, added and removed one at a time."""

import time
from pathlib import Path

import pytest

from tests.wire.server import ADMIN, MEMBER, READER, STRANGER, Answer, Ikon, Persona, q

SETTINGS = {"limits": {"tags": 3}}
PERSONAS = {
    ADMIN: 204,
    MEMBER: 204,
    Persona("home", "manager,member,reader"): 204,
    READER: 403,
    Persona("home", ""): 404,
    Persona("home", "service"): 404,
    STRANGER: 404,
}


def put(ikon: Ikon, image_id: str, tag: str, who: Persona = MEMBER) -> Answer:
    return ikon.call("PUT", f"/v2/images/{image_id}/tags/{q(tag)}", who=who)


def remove(ikon: Ikon, image_id: str, tag: str, who: Persona = MEMBER) -> Answer:
    return ikon.call("DELETE", f"/v2/images/{image_id}/tags/{q(tag)}", who=who)


def tags(ikon: Ikon, image_id: str) -> list[str]:
    return list(ikon.show(image_id)["tags"])


@pytest.fixture
def image_id(ikon: Ikon) -> str:
    return str(ikon.create()["id"])


def test_a_tag_comes_stays_and_goes(ikon: Ikon, image_id: str) -> None:
    first, again = put(ikon, image_id, "a"), put(ikon, image_id, "a")
    assert [(answer.status, answer.body, answer.headers["Content-Type"]) for answer in (first, again)] == [(204, b"", None)] * 2
    assert tags(ikon, image_id) == ["a"]
    gone, absent = remove(ikon, image_id, "a"), remove(ikon, image_id, "a")
    assert ((gone.status, gone.body), absent.status) == ((204, b""), 404)
    assert absent.message == f"Image {image_id} has no tag a."
    assert tags(ikon, image_id) == []


@pytest.mark.parametrize(
    "tag",
    ["a b", " ", "a.b", ".", "..", "тег", "é", "e\u0301", "\U0001f427", "+", "%41", "%", "%2F", "a?b#c", "a;b=c", "a\nb", "\ufffd", "x" * 255, "\U0001f427" * 255, "*"],
)  # fmt: skip
def test_a_tag_of_any_text_is_kept_found_and_removed(ikon: Ikon, image_id: str, tag: str) -> None:
    assert put(ikon, image_id, tag).status == 204
    assert tags(ikon, image_id) == [tag]
    assert ikon.ids(f"?tag={q(tag)}&id={image_id}") == [image_id]
    assert remove(ikon, image_id, tag).status == 204
    assert tags(ikon, image_id) == []


def test_a_tag_set_by_patch_goes_through_the_url_and_the_other_way_round(ikon: Ikon, image_id: str) -> None:
    ikon.patch(image_id, [{"op": "replace", "path": "/tags", "value": ["т", "б"]}])
    assert remove(ikon, image_id, "т").status == 204
    assert put(ikon, image_id, "в").status == 204
    assert tags(ikon, image_id) == ["б", "в"]
    ikon.patch(image_id, [{"op": "replace", "path": "/tags", "value": ["в"]}])
    assert tags(ikon, image_id) == ["в"]


def test_a_tag_whose_utf_8_was_once_read_as_latin_1_can_be_removed_by_its_name(ikon: Ikon, image_id: str) -> None:
    ikon.patch(image_id, [{"op": "replace", "path": "/tags", "value": ["Ñ\x82", "т"]}])

    assert (remove(ikon, image_id, "т").status, tags(ikon, image_id)) == (204, ["Ñ\x82"])
    assert (remove(ikon, image_id, "т").status, tags(ikon, image_id)) == (204, [])


def test_only_so_many_tags_fit_and_one_that_is_there_still_does(ikon: Ikon) -> None:
    image_id = str(ikon.create(tags=["a", "b", "c"])["id"])

    full = put(ikon, image_id, "d")

    assert (full.status, full.message) == (
        413,
        f"Image tag limit exceeded for image {image_id}: The limit has been exceeded on the number of allowed image tags. "
        "Attempted: 4, Maximum: 3",
    )
    assert put(ikon, image_id, "b").status == 204
    remove(ikon, image_id, "b")
    assert put(ikon, image_id, "d").status == 204
    assert tags(ikon, image_id) == ["a", "c", "d"]


def test_an_image_with_more_tags_than_are_now_allowed_may_still_change_and_lose_some(tmp_path: Path) -> None:
    with Ikon(tmp_path) as before:
        image_id = str(before.create(tags=["a", "b", "c"])["id"])
    with Ikon(tmp_path, limits={"tags": 1}) as ikon:
        renamed = ikon.patch(image_id, [{"op": "replace", "path": "/name", "value": "n"}])
        kept = ikon.patch(image_id, [{"op": "replace", "path": "/tags", "value": ["a", "b"]}])
        assert (renamed.status, kept.status, put(ikon, image_id, "d").status) == (200, 413, 413)
        assert remove(ikon, image_id, "a").status == 204
        assert tags(ikon, image_id) == ["b", "c"]


@pytest.mark.parametrize("tag", ["x" * 256, "\U0001f427" * 256, "\0", "a\0b"])
def test_what_can_be_no_tag_is_refused(ikon: Ikon, image_id: str, tag: str) -> None:
    for answer in (put(ikon, image_id, tag), remove(ikon, image_id, tag), put(ikon, "zz", tag)):
        assert answer.status == 400
        assert answer.message.startswith("Provided object does not match schema 'image'")
        assert "tags" in answer.message
    assert tags(ikon, image_id) == []


@pytest.mark.parametrize("path", ["", "a/b", "a%2Fb", "%2Fa", "a%2F", "%2F", "%ff", "%c3%28"])
def test_what_is_not_one_segment_of_utf_8_is_not_found(ikon: Ikon, path: str) -> None:
    image_id = str(ikon.create(tags=["a", "a/b", ""])["id"])

    for method in ("PUT", "DELETE"):
        assert ikon.call(method, f"/v2/images/{image_id}/tags/{path}").status == 404
    assert tags(ikon, image_id) == ["a", "a/b", ""]


@pytest.mark.parametrize("who", PERSONAS, ids=lambda who: f"{who.project} {who.roles}")
def test_tags_are_for_those_who_may_change_the_image(ikon: Ikon, who: Persona) -> None:
    image_id = str(ikon.create(tags=["there"])["id"])

    answers = [put(ikon, image_id, "new", who), put(ikon, image_id, "there", who), remove(ikon, image_id, "there", who)]

    assert {answer.status for answer in answers} == {PERSONAS[who]}
    assert PERSONAS[who] != 403 or answers[0].message == "You are not authorized to complete modify_image action."
    assert tags(ikon, image_id) == (["new"] if PERSONAS[who] == 204 else ["there"])


def test_an_image_that_is_open_to_all_is_tagged_by_its_owner_alone(ikon: Ikon) -> None:
    image_id = str(ikon.create(visibility="community", tags=["there"])["id"])

    assert put(ikon, image_id, "new", STRANGER).status == remove(ikon, image_id, "there", STRANGER).status == 403
    assert put(ikon, "00000000-0000-4000-8000-000000000000", "new").status == 404


def test_a_tag_takes_no_body(ikon: Ikon, image_id: str) -> None:
    url = f"/v2/images/{image_id}/tags/x"

    assert [ikon.call("PUT", url, body).status for body in (b"{}", iter([b"x"]))] == [400, 400]
    assert ikon.call("PUT", url, b"", {"Content-Length": "0"}).status == 204


def test_a_new_tag_moves_updated_at_and_one_that_is_there_changes_nothing(ikon: Ikon) -> None:
    record = ikon.create(tags=["a"])
    time.sleep(1.1)

    put(ikon, record["id"], "a")
    assert ikon.show(record["id"]) == record
    put(ikon, record["id"], "b")
    assert ikon.show(record["id"])["updated_at"] > record["updated_at"]
    assert ikon.get(f"/v2/images/{record['id']}").headers["ETag"] == '"2"'


def test_tags_of_data_may_change_too(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")
    assert put(ikon, image_id, "a").status == 204
    ikon.act(image_id, "deactivate")
    assert put(ikon, image_id, "b").status == 204
    assert ikon.show(image_id)["status"] == "deactivated"
    assert tags(ikon, image_id) == ["a", "b"]
