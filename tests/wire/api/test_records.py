"""Image records over the wire: create, show, list, patch, delete, and who may do what."""

import threading
import uuid
from typing import Any

import pytest

from tests.faults.world import Ikon
from tests.wire.api.world import PATCH_OLD, ask, fresh_project, patch, persona

LONG = "x" * 256


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "Body expected"),
        (b"{", 400, "Malformed JSON"),
        (b'{"name": "\xff"}', 400, "Malformed JSON"),
        (b'{"name": "\\ud800"}', 400, "Malformed JSON"),
        (b"[" * 100_000, 400, "deeper than 20"),
        (b'{"a":' * 21 + b"1" + b"}" * 21, 400, "deeper than 20"),
        (b'"x"', 400, "body type"),
        (b"null", 400, "body type"),
        (b"[]", 400, "body type"),
        ({"id": "zz"}, 400, "id"),
        ({"id": None}, 400, "id"),
        ({"name": 5}, 400, "name"),
        ({"name": LONG}, 400, "name"),
        ({"name": "a\0b"}, 400, "NUL"),
        ({"a\0b": "x"}, 400, "NUL"),
        ({"visibility": "secret"}, 400, "visibility"),
        ({"disk_format": "gpt"}, 400, "disk_format"),
        ({"disk_format": ""}, 400, "disk_format"),
        ({"container_format": "BARE"}, 400, "container_format"),
        ({"min_ram": -1}, 400, "min_ram"),
        ({"min_disk": 2**31}, 400, "min_disk"),
        ({"min_disk": True}, 400, "min_disk"),
        ({"min_disk": "5"}, 400, "min_disk"),
        ({"min_disk": 1.5}, 400, "min_disk"),
        ({"min_disk": None}, 400, "min_disk"),
        ({"protected": "yes"}, 400, "protected"),
        ({"tags": None}, 400, "tags"),
        ({"tags": [1]}, 400, "tags"),
        ({"tags": [LONG]}, 400, "tags"),
        ({"tags": list("abcdef")}, 413, "tags. Attempted: 6, Maximum: 5"),
        ({f"p{n}": "v" for n in range(9)}, 413, "properties. Attempted: 9, Maximum: 8"),
        ({LONG: "v"}, 400, "255 characters"),
        ({"p": "v" * 65_536}, 400, "65535 bytes"),
        ({"p": 1}, 400, "'p'"),
        ({"p": None}, 400, "'p'"),
        ({"kernel_id": "no-uuid"}, 400, "kernel_id"),
        *[
            ({name: None}, 403, "read-only")
            for name in ["size", "virtual_size", "checksum", "status", "created_at", "direct_url", "file", "stores"]
        ],
        ({"os_hash_value": "x"}, 403, "read-only"),
        ({"locations": []}, 403, "reserved"),
        ({"os_glance_x": "1"}, 403, "reserved"),
        (b'{"p": "' + b"x" * (1 << 20) + b'"}', 413, "1048576"),
    ],
)
def test_a_create_that_is_not_allowed_is_refused_by_name(server: Ikon, body: Any, status: int, words: str) -> None:
    before = ask(server, "GET", "/v2/images?limit=1").json
    answer = ask(server, "POST", "/v2/images", body)
    assert answer.status == status, answer
    assert words in answer.json["error"]["message"]
    assert ask(server, "GET", "/v2/images?limit=1").json == before


def test_what_may_be_written_comes_back_as_written(server: Ikon) -> None:
    name = "имя 🐧 " + "x" * 200
    sent = {"name": name, "tags": ["b", "a", "b"], "min_disk": 1.0, "a/b~c %": "ключ", "": "empty", "kernel_id": None, "copy_from": "x"}
    answer = ask(server, "POST", "/v2/images", sent)
    assert answer.status == 201
    image = answer.json
    assert answer.headers["Location"] == f"http://127.0.0.1:{server.port}/v2/images/{image['id']}"
    assert answer.headers["OpenStack-image-store-ids"] == "one,two"
    assert (image["name"], image["tags"], image["min_disk"], image["a/b~c %"], image[""]) == (name, ["b", "a"], 1, "ключ", "empty")
    assert image["status"] == "queued"
    assert image["visibility"] == "shared"
    assert "kernel_id" not in image
    assert ask(server, "GET", f"/v2/images/{image['id']}").json == image


def test_an_id_is_never_given_twice(server: Ikon) -> None:
    own = str(uuid.uuid4())
    assert ask(server, "POST", "/v2/images", {"id": own}).status == 201
    assert ask(server, "POST", "/v2/images", {"id": own}).status == 409
    assert server.delete(own).status == 204
    answer = ask(server, "POST", "/v2/images", {"id": own}, persona("other", "member,reader"))
    assert answer.status == 409
    assert "already exists" in answer.json["error"]["message"]


def test_a_chunked_json_body_is_as_good_as_any(server: Ikon) -> None:
    assert server.call("POST", "/v2/images", iter([b'{"na', b'me": "x"}'])).json["name"] == "x"


# Patches


@pytest.mark.parametrize(
    ("operations", "status", "words"),
    [
        (b"{", 400, "Malformed"),
        ({}, 400, "array"),
        (["x"], 400, "objects"),
        ([{"path": "/a", "value": "b"}], 400, "`op`"),
        ([{"op": "test", "path": "/a", "value": "b"}], 400, "Invalid operation"),
        ([{"op": "add", "value": "b"}], 400, "'path'"),
        ([{"op": "add", "path": "/a"}], 400, '"value"'),
        ([{"op": "add", "path": 5, "value": "b"}], 400, "Pointer"),
        ([{"op": "add", "path": "a", "value": "b"}], 400, "start"),
        ([{"op": "add", "path": "/a/", "value": "b"}], 400, "ends"),
        ([{"op": "add", "path": "/a//b", "value": "b"}], 400, "adjacent"),
        ([{"op": "add", "path": "/a~2", "value": "b"}], 400, "escape"),
        ([{"op": "add", "path": "/tags/0", "value": "b"}], 400, "Invalid JSON pointer"),
        ([{"op": "add", "path": "/locations/-", "value": {}}], 403, "locations"),
        ([{"op": "replace", "path": "/absent", "value": "b"}], 409, "does not exist"),
        ([{"op": "remove", "path": "/absent"}], 409, "does not exist"),
        ([{"op": "remove", "path": "/name"}], 403, "may not be removed"),
        ([{"op": "add", "path": "/" + LONG, "value": "b"}], 400, "255"),
        ([{"op": "add", "path": "/a", "value": 5}], 400, "'a'"),
        ([{"op": "replace", "path": "/name", "value": 5}], 400, "name"),
        ([{"op": "replace", "path": "/visibility", "value": "x"}], 400, "visibility"),
        *[([{"op": "replace", "path": f"/{name}", "value": "x"}], 403, "read-only") for name in ("id", "status", "size", "os_hash_algo")],
        ([{"op": "add", "path": "/os_glance_x", "value": "x"}], 403, "reserved"),
        ([{"op": "replace", "path": "/tags", "value": list("abcdef")}], 413, "tags"),
        ([{"op": "add", "path": f"/q{n}", "value": "x"} for n in range(9)], 413, "properties"),
    ],
)
def test_a_patch_that_is_not_allowed_changes_nothing(server: Ikon, operations: Any, status: int, words: str) -> None:
    image = server.create(kept="yes")
    before = server.show(image)
    good = [{"op": "add", "path": "/kept", "value": "no"}]
    answer = patch(server, image, good + operations if isinstance(operations, list) else operations)
    assert answer.status == status, answer
    assert words in answer.json["error"]["message"]
    assert server.show(image) == before


def test_internal_names_are_plain_properties(server: Ikon) -> None:
    image, other = server.create(), server.create()
    names = ("image_id", "extra_properties", "member", "context", "base")
    assert patch(server, image, [{"op": "add", "path": f"/{name}", "value": other} for name in names]).status == 200
    assert {server.show(image)[name] for name in names} == {other}
    assert "member" not in server.show(other)


def test_the_older_patch_form_works_and_is_strict(server: Ikon) -> None:
    image = server.create()
    assert patch(server, image, [{"add": "/a", "value": "1"}], media_type=PATCH_OLD).json["a"] == "1"
    assert patch(server, image, [{"add": "/a", "value": "2"}], media_type=PATCH_OLD).status == 409
    assert (
        patch(server, image, [{"replace": "/name", "value": "n"}, {"remove": "/a"}], media_type=PATCH_OLD + "; charset=utf-8").status == 200
    )
    answer = patch(server, image, [], media_type="application/json")
    assert answer.status == 415
    assert "v2.1" in answer.headers["Accept-Patch"]


def test_a_patch_under_a_version_that_has_passed_is_refused(server: Ikon) -> None:
    image = server.create()
    tag = ask(server, "GET", f"/v2/images/{image}").headers["ETag"]
    assert patch(server, image, [{"op": "add", "path": "/a", "value": "1"}], If_Match=tag).status == 200
    assert patch(server, image, [{"op": "add", "path": "/a", "value": "2"}], If_Match=tag).status == 412
    assert server.show(image)["a"] == "1"


def test_clients_that_patch_different_keys_at_once_all_succeed(server: Ikon) -> None:
    image = server.create()
    statuses: list[int] = []

    def change(n: int) -> None:
        statuses.append(patch(server, image, [{"op": "add", "path": f"/key{n}", "value": str(n)}]).status)

    threads = [threading.Thread(target=change, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert {key: value for key, value in server.show(image).items() if key.startswith("key")} == {f"key{n}": str(n) for n in range(8)}


def test_formats_stay_once_there_is_data(server: Ikon) -> None:
    image = server.create()
    assert server.upload(image, b"x").status == 204
    assert patch(server, image, [{"op": "replace", "path": "/disk_format", "value": "qcow2"}]).status == 403


# Lists


def walk(server: Ikon, path: str, who: dict[str, str]) -> list[str]:
    """Names on all pages, in order."""
    names: list[str] = []
    while path:
        page = ask(server, "GET", path, who=who).json
        names += [image["name"] for image in page["images"]]
        path = page.get("next", "")
    return names


def test_a_list_shows_every_image_once_in_every_order(server: Ikon) -> None:
    who = persona(fresh_project(), "member,reader")
    sizes = [None, 5, None, 3, 5, None, 0]
    for n, size in enumerate(sizes):
        image = ask(server, "POST", "/v2/images", {"name": f"n{n}", "disk_format": "raw", "container_format": "bare"}, who).json["id"]
        if size is not None:
            assert (
                server.call("PUT", f"/v2/images/{image}/file", b"x" * size, {**who, "Content-Type": "application/octet-stream"}).status
                == 204
            )
    made = [f"n{n}" for n in range(7)]
    assert walk(server, "/v2/images?visibility=shared", who) == made[::-1]
    assert walk(server, "/v2/images?visibility=shared&sort=name:asc&limit=2", who) == made
    assert walk(server, "/v2/images?visibility=shared&sort_key=created_at&sort_dir=asc", who) == made
    assert walk(server, "/v2/images?visibility=shared&limit=2&sort=size:asc", who) == ["n0", "n2", "n5", "n6", "n3", "n1", "n4"]
    assert walk(server, "/v2/images?visibility=shared&limit=2&sort=size:desc,name:asc", who) == ["n1", "n4", "n3", "n6", "n0", "n2", "n5"]
    assert sorted(walk(server, "/v2/images?visibility=shared&limit=2&sort_key=status&sort_key=id&sort_dir=desc", who)) == made


def test_filters_select_and_survive_paging(server: Ikon) -> None:
    who = persona(fresh_project(), "member,reader")
    for n in range(6):
        ask(
            server,
            "POST",
            "/v2/images",
            {"name": "ubuntu:22.04" if n % 2 else "a,b", "tags": ["x", "y"] if n % 3 else ["x"], "os": f"o{n % 2}"},
            who,
        )
    assert walk(server, "/v2/images?name=ubuntu:22.04&visibility=shared", who) == ["ubuntu:22.04"] * 3
    assert walk(server, '/v2/images?name=in:"a,b",c', who) == ["a,b"] * 3
    assert len(walk(server, "/v2/images?tag=x&tag=y&limit=1", who)) == 4
    assert len(walk(server, "/v2/images?os=o1&limit=1", who)) == 3
    assert walk(server, "/v2/images?os=nothing", who) == []
    assert walk(server, "/v2/images?protected=True", who) == []
    assert len(walk(server, "/v2/images?protected=FALSE&owner=" + who["X-Project-Id"], who)) == 6
    created = ask(server, "GET", "/v2/images?limit=1&visibility=shared", who=who).json["images"][0]["created_at"]
    assert len(walk(server, f"/v2/images?visibility=shared&created_at=gte:{created}", who)) >= 1
    assert walk(server, f"/v2/images?visibility=shared&created_at=gt:{created}", who) == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=x",
        "marker=00000000-0000-0000-0000-000000000000",
        "marker=%00",
        "sort=foo",
        "sort=name:up",
        "sort=name&sort_key=id",
        "sort_key=id&sort_dir=asc&sort_dir=desc",
        "sort_dir=up",
        "visibility=x",
        "member_status=x",
        "os_hidden=x",
        "protected=x",
        "changes-since=x",
        "created_at=x",
        "created_at=foo:2026-01-01",
        "size_min=x",
        "name=in:%22a",
        "name=%ff",
    ],
)
def test_a_list_request_that_means_nothing_is_a_400(server: Ikon, query: str) -> None:
    assert ask(server, "GET", f"/v2/images?{query}").status == 400


@pytest.mark.parametrize(
    "query", ["foo_min=1", "size=1" + "0" * 23, "properties=x", "locations=x", "name=%00", "id=%00", "visibility=", "a=%00"]
)
def test_a_filter_that_nothing_matches_is_an_empty_list(server: Ikon, query: str) -> None:
    assert ask(server, "GET", f"/v2/images?{query}").json["images"] == []


def test_a_marker_that_may_not_be_seen_is_one_that_is_not_there(server: Ikon) -> None:
    hidden = ask(server, "POST", "/v2/images", {}, persona("alpha", "member,reader")).json["id"]
    absent = str(uuid.uuid4())
    answers = [ask(server, "GET", f"/v2/images?marker={marker}", who=persona("beta", "reader")) for marker in (hidden, absent)]
    assert [answer.status for answer in answers] == [400, 400]
    assert answers[0].json["error"]["message"].replace(hidden, "") == answers[1].json["error"]["message"].replace(absent, "")


# Who may do what

ROLES = {"admin": "admin,member,reader", "member": "member,reader", "reader": "reader", "none": "", "service": "service"}


def expected(action: str, role: str, own: bool, visibility: str) -> int:
    """The status that the personas of the Image API lead to."""
    if role == "admin":
        return {"show": 200, "patch": 200, "publish": 200, "download": 204, "upload": 204, "deactivate": 403, "delete": 204}[action]
    if not own and visibility in ("shared", "private"):
        return 404
    if role in ("none", "service"):
        return 404
    if action == "show":
        return 200
    if action == "download":
        return 403 if role == "reader" else 204
    if not own or role == "reader" or action == "publish":
        return 403
    return {"patch": 200, "upload": 204, "deactivate": 403, "delete": 204}[action]


def act(server: Ikon, action: str, image: str, who: dict[str, str]) -> int:
    """Try one operation."""
    path = f"/v2/images/{image}"
    if action == "show":
        return ask(server, "GET", path, who=who).status
    if action == "patch":
        return patch(server, image, [{"op": "add", "path": "/a", "value": "b"}], who).status
    if action == "publish":
        return patch(server, image, [{"op": "replace", "path": "/visibility", "value": "public"}], who).status
    if action == "download":
        return ask(server, "GET", f"{path}/file", who=who).status
    if action == "upload":
        return ask(server, "PUT", f"{path}/file", b"x", who, Content_Type="application/octet-stream").status
    if action == "deactivate":
        return ask(server, "POST", f"{path}/actions/deactivate", who=who).status
    return ask(server, "DELETE", path, who=who).status


def test_every_persona_may_do_what_its_role_says_and_no_more(server: Ikon) -> None:
    cells, wrong = 0, []
    for visibility in ("public", "community", "shared", "private"):
        for role, roles in ROLES.items():
            for own in (True, False):
                who = persona("alpha" if own else "beta", roles)
                for action in ("show", "download", "patch", "publish", "deactivate", "upload", "delete"):
                    if action == "publish" and visibility == "public":
                        continue
                    image = server.create(owner="alpha", visibility=visibility)
                    got, want = act(server, action, image, who), expected(action, role, own, visibility)
                    cells += 1
                    if got != want:
                        wrong.append(f"{action} by {role}, {'own' if own else 'foreign'} {visibility} image: {got}, not {want}")
    print(f"{cells} cells of the persona matrix")
    assert not wrong, "\n".join(wrong)


def test_an_owner_is_not_given_away(server: Ikon) -> None:
    alice = persona("alpha", "member,reader")
    image = ask(server, "POST", "/v2/images", {}, alice).json["id"]
    for op in ("add", "replace"):
        assert patch(server, image, [{"op": op, "path": "/owner", "value": "beta"}], alice).status == 403
    assert ask(server, "POST", "/v2/images", {"owner": "beta"}, alice).status == 403
    assert ask(server, "POST", "/v2/images", {"owner": None}, alice).status == 403
    assert ask(server, "POST", "/v2/images", {"visibility": "public"}, alice).status == 403
    assert ask(server, "GET", f"/v2/images/{image}", who=alice).json["owner"] == "alpha"
    assert patch(server, image, [{"op": "replace", "path": "/owner", "value": "beta"}]).json["owner"] == "beta"


@pytest.mark.parametrize(
    "who",
    [
        persona(None, "member,reader"),
        persona("alpha", "reader"),
        persona("alpha", ""),
        persona(None, "admin,member,reader", **{"OpenStack-System-Scope": "all"}),
    ],
)
def test_who_has_no_role_in_a_project_creates_nothing(server: Ikon, who: dict[str, str]) -> None:
    assert ask(server, "POST", "/v2/images", {}, who).status == 403


def test_lists_show_own_and_public_images_and_community_ones_when_asked(server: Ikon) -> None:
    owner, other = fresh_project(), fresh_project()
    made = {v: server.create(owner=owner, visibility=v, name=v + owner) for v in ("public", "community", "shared", "private")}
    server.create(owner=owner, os_hidden=True, name="hidden" + owner)

    def seen(project: str, query: str) -> set[str]:
        return {
            name.removesuffix(owner)
            for name in walk(server, f"/v2/images?limit=10{query}", persona(project, "reader"))
            if name and name.endswith(owner)
        }

    assert seen(owner, "") == set(made)
    assert seen(owner, "&os_hidden=true") == {"hidden"}
    assert seen(other, "") == {"public"}
    assert seen(other, "&visibility=community") == {"community"}
    assert seen(other, "&visibility=all") == {"public", "community"}
    assert seen(other, "&visibility=private") == set()
    assert ask(server, "GET", "/v2/images", who=persona(owner, "")).status == 403


def test_a_protected_image_stays(server: Ikon) -> None:
    image = server.create(protected=True)
    answer = server.delete(image)
    assert answer.status == 403
    assert "is protected and cannot be deleted" in answer.json["error"]["message"]
    patch(server, image, [{"op": "replace", "path": "/protected", "value": False}])
    assert server.delete(image).status == 204
    assert server.delete(image).status == 404


def test_actions_follow_the_status(server: Ikon) -> None:
    image = server.create()
    deactivate, reactivate = f"/v2/images/{image}/actions/deactivate", f"/v2/images/{image}/actions/reactivate"
    assert ask(server, "POST", deactivate).status == 403
    server.upload(image, b"data")
    assert [ask(server, "POST", deactivate).status for _ in range(2)] == [204, 204]
    assert server.show(image)["status"] == "deactivated"
    assert ask(server, "POST", f"/v2/images/{image}/actions/explode").status == 404
    assert ask(server, "POST", reactivate, b"body").status == 400
    assert ask(server, "POST", reactivate).status == 204
    assert server.show(image)["status"] == "active"
