"""Several stores: what is told of them, copies in more than one, weights, and schemas."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.wire.server import ADMIN, COMMAND, MEMBER, READER, STRANGER, Answer, Ikon, Persona

SERVICE = Persona("services", "service")
DATA = b"one content in several places" * 1000


def remove(ikon: Ikon, image_id: str, store: str, who: Persona = ADMIN) -> Answer:
    return ikon.call("DELETE", f"/v2/stores/{store}/{image_id}", who=who)


def places(ikon: Ikon, image_id: str) -> list[str]:
    return sorted(path.parent.name for path in ikon.files() if path.name.startswith(image_id))


# What is told


@pytest.mark.parametrize("who", [MEMBER, READER, STRANGER, ADMIN, Persona("home", ""), Persona(None, "")])
def test_every_caller_learns_the_stores_and_the_import_methods(ikon: Ikon, who: Persona) -> None:
    stores, methods = ikon.get("/v2/info/stores", who=who), ikon.get("/v2/info/import", who=who)

    assert stores.json == {"stores": [{"id": "one", "description": "The first", "default": "true"}, {"id": "two"}]}
    assert methods.json == {
        "import-methods": {
            "description": "Import methods available.",
            "type": "array",
            "value": ["glance-direct", "web-download", "copy-image"],
        }
    }


@pytest.mark.parametrize(("who", "status"), [(ADMIN, 200), (SERVICE, 200), (MEMBER, 403), (READER, 403), (Persona("home", ""), 403)])
def test_administrators_and_services_learn_more_of_the_stores(ikon: Ikon, who: Persona, status: int) -> None:
    answer = ikon.get("/v2/info/stores/detail", who=who)

    assert answer.status == status
    if status == 200:
        one, two = answer.json["stores"]
        assert (one["type"], one["weight"], one["default"], two["weight"]) == ("file", 20, "true", 10)
        assert one["properties"]["data_dir"] == str(ikon.directory / "one")


@pytest.mark.parametrize("who", [MEMBER, Persona(None, "")])
def test_schemas_are_for_everyone_and_clients_can_validate_by_them(ikon: Ikon, who: Persona) -> None:
    image, images = ikon.get("/v2/schemas/image", who=who).json, ikon.get("/v2/schemas/images", who=who).json

    record = ikon.show(ikon.active(b"x"))
    assert set(record) <= set(image["properties"])
    assert (image["name"], image["additionalProperties"]) == ("image", {"type": "string"})
    assert [link["rel"] for link in image["links"]] == ["self", "enclosure", "describedby"]
    for name in ("status", "size", "checksum", "created_at", "self", "file", "schema", "os_hash_value"):
        assert image["properties"][name]["readOnly"] is True
    for name in ("name", "visibility", "disk_format", "min_ram", "tags", "owner", "protected"):
        assert "readOnly" not in image["properties"][name]
    for name in ("architecture", "os_distro", "kernel_id"):
        assert image["properties"][name]["is_base"] is False
    assert images["properties"]["images"]["items"] == image
    assert set(images["properties"]) == {"images", "first", "next", "schema"}


# Copies


def test_a_second_copy_serves_when_it_is_preferred_or_the_first_is_gone(ikon: Ikon) -> None:
    image_id = ikon.active(DATA)

    answer = ikon.copy(image_id, "two")

    assert (answer.status, ikon.show(image_id)["stores"], places(ikon, image_id)) == (202, "one,two", ["one", "two"])
    assert ikon.download(image_id, query="?prefer=two").body == DATA
    assert remove(ikon, image_id, "one").status == 204
    assert (ikon.show(image_id)["stores"], places(ikon, image_id)) == ("two", ["two"])
    assert ikon.download(image_id).body == ikon.download(image_id, query="?prefer=one").body == DATA


def test_the_last_copy_is_not_taken_away(ikon: Ikon) -> None:
    image_id = ikon.active(DATA)

    answer = remove(ikon, image_id, "one")

    assert answer.status == 403
    assert answer.message == "Cannot delete image data from the only store containing it. Consider deleting the image instead."
    assert ikon.download(image_id).body == DATA


def test_removing_from_a_store_is_held_to_what_is_there(ikon: Ikon) -> None:
    image_id, queued = ikon.active(DATA), str(ikon.create()["id"])

    unknown = remove(ikon, "zz", "nowhere")
    assert (unknown.status, unknown.message) == (409, "The selected store nowhere is not available on this node.")
    assert (remove(ikon, "zz", "one").status, remove(ikon, "zz", "one").message) == (404, "Failed to find image zz")
    assert remove(ikon, queued, "one").status == 409
    elsewhere = remove(ikon, image_id, "two")
    assert (elsewhere.status, elsewhere.message) == (404, f"Image {image_id} is not stored in store two.")


@pytest.mark.parametrize(("who", "status"), [(MEMBER, 403), (READER, 403), (STRANGER, 404)])
def test_only_administrators_move_copies(ikon: Ikon, who: Persona, status: int) -> None:
    image_id = ikon.active(DATA)

    assert ikon.copy(image_id, "two", who=who).status == status
    assert ikon.copy(image_id, "two").status == 202
    assert remove(ikon, image_id, "one", who).status == status
    assert ikon.show(image_id)["stores"] == "one,two"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"store": 1},
        {"store": None},
        {"store": ["two"]},
        [],
        "two",
        None,
        {"store": "three"},
        {"store": ""},
        {"store": "os_glance_staging_store"},
        {"store": "one"},
    ],
)
def test_a_copy_that_cannot_be_made_is_refused(ikon: Ikon, body: Any) -> None:
    image_id = ikon.active(DATA)

    assert ikon.post(f"/ikon/v1/images/{image_id}/copies", body, who=ADMIN).status == 400
    assert (ikon.show(image_id)["stores"], places(ikon, image_id)) == ("one", ["one"])


def test_an_image_without_data_has_nothing_to_copy(ikon: Ikon) -> None:
    answer = ikon.copy(str(ikon.create()["id"]), "two")

    assert (answer.status, answer.message) == (409, "Only images with status active can be targeted for copying")


def test_the_operator_copies_by_command(ikon: Ikon) -> None:
    image_id = ikon.active(DATA)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([COMMAND, "image", "copy", "--config", ikon.config, *words], capture_output=True, text=True, check=False)

    done, again, missing = command(image_id, "two"), command(image_id, "two"), command("zz", "two")

    [job] = ikon.get(f"/ikon/v1/jobs?image={image_id}", who=ADMIN).json["jobs"]
    assert (job["kind"], job["state"]) == ("copy", "done")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-2:]) == (f"Job {job['id']} copies", ["done", f"Image {image_id} is in store two"])
    assert ikon.show(image_id)["stores"] == "one,two"
    assert (again.returncode, again.stderr) == (1, "Error: Image is already present at store 'two'\n")
    assert (missing.returncode, missing.stderr) == (1, "Error: No image found with ID zz\n")


def test_a_copy_by_command_that_fails_says_why_and_ends_with_1(tmp_path: Path) -> None:
    with Ikon(tmp_path, quota={"bytes": 1_500_000}) as ikon:
        image_id = ikon.active(bytes(1_000_000))

        failed = subprocess.run(
            [COMMAND, "image", "copy", "--config", ikon.config, image_id, "two"], capture_output=True, text=True, check=False
        )

        [job] = ikon.get(f"/ikon/v1/jobs?image={image_id}", who=ADMIN).json["jobs"]
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"Error: Job {job['id']} is failed: Image exceeds the storage quota")


def test_deleting_an_image_takes_every_copy(ikon: Ikon) -> None:
    image_id = ikon.active(DATA)
    ikon.copy(image_id, "two")

    ikon.delete(image_id)

    assert places(ikon, image_id) == []


def test_the_store_of_higher_weight_is_read_first(ikon: Ikon) -> None:
    image_id = ikon.active(DATA, store="two")
    ikon.copy(image_id, "one")
    for path in ikon.files():
        if path.name.startswith(image_id) and path.parent.name == "one":
            path.write_bytes(path.read_bytes()[::-1])

    before = ikon.said().count("suspect")
    preferred, between = ikon.download(image_id, query="?prefer=two"), ikon.said().count("suspect")
    default, after = ikon.download(image_id), ikon.said().count("suspect")

    assert (preferred.body, default.body) == (DATA, DATA)
    assert before == between < after  # only who reads the damaged copy finds it out


def test_places_of_data_are_shown_where_the_operator_wants_it_and_to_those_who_may_see_them(tmp_path: Path) -> None:
    with Ikon(tmp_path, show_locations=True, show_direct_url=True) as ikon:
        image = str(ikon.create(visibility="public", who=ADMIN, owner="home")["id"])
        assert ikon.show(image, who=MEMBER)["locations"] == []
        assert ikon.upload(image, b"data", {"X-Image-Meta-Store": "two"}).status == 204
        assert ikon.copy(image, "one").status == 202

        for who in (MEMBER, READER, ADMIN):
            for record in (ikon.show(image, who=who), ikon.browse("", who=who).json["images"][0]):
                assert [place["metadata"]["store"] for place in record["locations"]] == ["one", "two"]
                assert record["direct_url"] == record["locations"][0]["url"]
                assert record["direct_url"].startswith(f"file://{tmp_path}/one/{image}.")
        for record in (ikon.show(image, who=STRANGER), ikon.browse("", who=STRANGER).json["images"][0]):
            assert not {"locations", "direct_url", "stores"} & record.keys()


def test_places_of_data_are_shown_to_nobody_by_default(ikon: Ikon) -> None:
    image = str(ikon.create()["id"])
    assert ikon.upload(image, b"data").status == 204
    assert not {"locations", "direct_url"} & ikon.show(image, who=ADMIN).keys()
