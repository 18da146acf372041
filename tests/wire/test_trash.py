"""Delayed delete: over the API a deleted image is gone for everybody, and the operator has it back whole, or purges it."""

import subprocess
import time
from typing import Any

import pytest

from tests.wire.server import ADMIN, BYTES, COMMAND, MEMBER, READER, STRANGER, UNUSED_ID, Answer, Ikon, Persona, someone

pytestmark = pytest.mark.slow

SETTINGS = {"trash": {"keep_s": 3600}, "quota": {"bytes": 1_000_000}}
DATA = b"kept for a while" * 1000


def command(ikon: Ikon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words, "--config", ikon.config], capture_output=True, text=True, check=False)


def kept(ikon: Ikon) -> dict[str, dict[str, Any]]:
    """What the trash holds, through all pages."""
    found, path = {}, "/ikon/v1/trash"
    while path:
        page = ikon.get(path, who=ADMIN).json
        found |= {entry["id"]: entry for entry in page["images"]}
        path = page.get("next")
    return found


def files(ikon: Ikon, image_id: str) -> list[str]:
    return sorted(path.name for path in ikon.files() if path.name.startswith(image_id))


def rich(ikon: Ikon, who: Persona) -> dict[str, Any]:
    """An image with one of everything."""
    image_id = ikon.active(DATA, who=who, name="rich", key="value", tags=["one", "two"], visibility="shared")
    assert ikon.share(image_id, "borrowers", who=who).status == 200
    assert ikon.reply(image_id, "borrowers", "accepted", who=Persona("borrowers")).status == 200
    return ikon.show(image_id, who=who)


def test_a_deleted_image_is_gone_for_everybody_and_its_data_stays(ikon: Ikon) -> None:
    who = someone()
    image_id = rich(ikon, who)["id"]
    assert ikon.delete(image_id, who=who).status == 204

    for persona in (who, ADMIN, Persona("borrowers"), STRANGER):
        answers = [
            ikon.get(f"/v2/images/{image_id}", who=persona),
            ikon.download(image_id, who=persona),
            ikon.get(f"/v2/images/{image_id}/members", who=persona),
            ikon.get(f"/v2/images/{image_id}/tasks", who=persona),
            ikon.delete(image_id, who=persona),
            ikon.patch(image_id, [{"op": "add", "path": "/x", "value": "y"}], who=persona),
            ikon.upload(image_id, b"x", who=persona),
            ikon.act(image_id, "deactivate", who=persona),
            ikon.call("PUT", f"/v2/images/{image_id}/stage", b"x", BYTES, who=persona),
            ikon.call("PUT", f"/v2/images/{image_id}/tags/x", who=persona),
        ]
        assert [answer.status for answer in answers] == [404] * len(answers)
        for query in ("", "?status=pending_delete", "?status=active", "?name=rich", f"?id={image_id}", "?visibility=all&os_hidden=false"):
            assert image_id not in ikon.ids(query, who=persona)
        assert ikon.browse(f"?marker={image_id}", who=persona).status == 400
    assert ikon.call("DELETE", f"/v2/stores/one/{image_id}", who=ADMIN).status == 404
    assert ikon.post(f"/ikon/v1/images/{image_id}/copies", {"store": "two"}, who=ADMIN).status == 404
    assert ikon.try_create({"id": image_id}).status == 409
    assert len(files(ikon, image_id)) == 1


def test_a_restored_image_is_whole(ikon: Ikon) -> None:
    who = someone()
    before = rich(ikon, who)
    image_id = before["id"]
    assert ikon.delete(image_id, who=who).status == 204

    said = command(ikon, "trash", "restore", image_id)

    assert (said.returncode, said.stdout) == (0, f"Image {image_id} is back\n"), said.stderr
    after = ikon.show(image_id, who=who)
    assert {**after, "updated_at": ""} == {**before, "updated_at": ""}
    assert ikon.members(image_id) == {"borrowers": "accepted"}
    assert ikon.download(image_id, who=who).body == DATA
    assert image_id in ikon.ids("?tag=one&name=rich", who=who)
    assert image_id in ikon.ids(who=Persona("borrowers"))
    assert ikon.delete(image_id, who=who).status == 204
    assert image_id in kept(ikon)


def test_a_purged_image_is_gone_with_its_data(ikon: Ikon) -> None:
    image_id = ikon.active(DATA)
    assert ikon.delete(image_id).status == 204
    assert command(ikon, "trash", "purge", image_id).stdout == f"Image {image_id} is purged\n"
    assert files(ikon, image_id) == []
    for again in ("restore", "purge"):
        said = command(ikon, "trash", again, image_id)
        assert (said.returncode, said.stderr) == (1, f"Error: No image with ID {image_id} is in the trash\n")


def test_everything_is_purged_at_once(ikon: Ikon) -> None:
    made = [ikon.active(b"x") for _ in range(3)]
    for image_id in made:
        assert ikon.delete(image_id).status == 204
    assert set(made) <= kept(ikon).keys()
    assert " images are purged\n" in command(ikon, "trash", "purge", "--all").stdout
    assert kept(ikon) == {}
    end = time.monotonic() + 20
    while any(files(ikon, image_id) for image_id in made):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert command(ikon, "trash", "list").stdout == ""


def test_the_list_says_what_is_there_and_for_how_long(ikon: Ikon) -> None:
    name = "a\tname\x1b[2J that plays with terminals"
    image_id = ikon.active(DATA, name=name)
    assert ikon.delete(image_id).status == 204

    entry = kept(ikon)[image_id]
    lines = [line.split("\t") for line in command(ikon, "trash", "list").stdout.splitlines()]

    assert (entry["name"], entry["owner"], entry["size"], entry["status"]) == (name, "home", len(DATA), "pending_delete")
    assert entry["deleted_at"] < entry["purge_at"]
    [line] = [line for line in lines if line[0] == image_id]
    assert line == [image_id, "home", str(len(DATA)), entry["deleted_at"], entry["purge_at"], "a?name?[2J that plays with terminals"]


def test_images_without_data_of_their_own_are_not_kept(ikon: Ikon) -> None:
    queued, staged = ikon.create()["id"], ikon.create()["id"]
    assert ikon.call("PUT", f"/v2/images/{staged}/stage", DATA, BYTES).status == 204
    for image_id in (queued, staged):
        assert ikon.delete(image_id).status == 204
        assert image_id not in kept(ikon)
        assert files(ikon, image_id) == []


def test_a_project_stays_charged_until_its_image_is_purged(ikon: Ikon) -> None:
    who = someone()
    image_id = ikon.active(b"x" * 600_000, who=who)
    assert ikon.delete(image_id, who=who).status == 204
    late = ikon.create(who=who)["id"]
    assert ikon.upload(late, b"x" * 600_000, who=who).status == 413
    assert command(ikon, "trash", "purge", image_id).returncode == 0
    assert ikon.upload(late, b"x" * 600_000, who=who).status == 204


@pytest.mark.parametrize("who", [MEMBER, READER])
def test_only_administrators_reach_the_trash(ikon: Ikon, who: Persona) -> None:
    image_id = ikon.active(b"x")
    assert ikon.delete(image_id).status == 204

    def asked(method: str, path: str) -> Answer:
        return ikon.call(method, f"/ikon/v1/{path}", who=who)

    answers = [
        asked("GET", "trash"),
        asked("DELETE", "trash"),
        asked("DELETE", f"trash/{image_id}"),
        asked("POST", f"trash/{image_id}/restore"),
    ]
    answers += [asked("GET", "periodic"), asked("POST", "periodic/reaper/run")]
    assert [answer.status for answer in answers] == [403] * 6
    assert image_id in kept(ikon)


@pytest.mark.parametrize("image_id", [UNUSED_ID, "nonsense", "%00", "x" * 5000])
def test_what_is_not_in_the_trash_is_not_found(ikon: Ikon, image_id: str) -> None:
    assert ikon.call("DELETE", f"/ikon/v1/trash/{image_id}", who=ADMIN).status == 404
    assert ikon.call("POST", f"/ikon/v1/trash/{image_id}/restore", who=ADMIN).status == 404


@pytest.mark.parametrize("marker", ["", "x", "1:", "1:x", f"{'9' * 19}:{UNUSED_ID}", "%00"])
def test_a_marker_that_no_page_gave_is_refused_by_name(ikon: Ikon, marker: str) -> None:
    answer = ikon.get(f"/ikon/v1/trash?marker={marker}", who=ADMIN)
    assert (answer.status, "marker" in answer.message) == (400, True)


@pytest.mark.parametrize("words", [[], ["--all", "an-image"]])
def test_purge_wants_one_image_or_all(ikon: Ikon, words: list[str]) -> None:
    said = command(ikon, "trash", "purge", *words)
    assert (said.returncode, "Name one image, or --all" in said.stderr) == (2, True)


# What runs by itself


def test_what_runs_by_itself_is_run_by_hand_and_tells_what_it_did(ikon: Ikon) -> None:
    for name in ("reaper", "updater"):
        said = command(ikon, "periodic", "run", name)
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith((f"{name}\t", f"{name}@"))
        assert "looked at" in said.stdout
    listed = command(ikon, "periodic", "list").stdout.splitlines()
    assert [line.partition("\t")[0].partition("@")[0] for line in listed] == ["reaper", "updater"]
    doctor = command(ikon, "doctor").stdout
    assert "ok     periodic reaper@" in doctor
    assert "ok     periodic updater: looked at" in doctor
    assert 'ikon_periodic_ran_timestamp_seconds{process="reaper"}' in ikon.get("/metrics").body.decode()


@pytest.mark.parametrize("name", ["nobody", "%00", "x" * 3000])
def test_what_does_not_run_by_itself_is_not_found(ikon: Ikon, name: str) -> None:
    answer = ikon.post(f"/ikon/v1/periodic/{name}/run", who=ADMIN)
    assert (answer.status, "reaper, updater" in answer.message) == (404, True)


def test_a_task_says_when_it_will_be_forgotten(ikon: Ikon) -> None:
    image_id = ikon.create()["id"]
    assert ikon.call("PUT", f"/v2/images/{image_id}/stage", DATA, BYTES).status == 204
    assert ikon.post(f"/v2/images/{image_id}/import", {"method": {"name": "glance-direct"}}).status == 202
    end = time.monotonic() + 20
    while ikon.show(image_id)["status"] != "active":
        assert time.monotonic() < end
        time.sleep(0.05)

    [raw] = ikon.get(f"/v2/images/{image_id}/tasks").json["tasks"]
    task = ikon.get(f"/v2/tasks/{raw['id']}", who=ADMIN).json

    assert raw["expires_at"][11:] == raw["updated_at"][11:]
    assert raw["expires_at"][:10] > raw["updated_at"][:10]
    assert task["expires_at"] == f"{raw['expires_at'][:19]}Z"
