"""`ikon metadefs` against a running server that is new: what comes with it, files in and out, and properties that are refused."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ikon.model import definition_file
from ikon.service.metadef_files import CATALOGUE
from tests.unit.model.test_definition_file import WHOLE
from tests.wire.server import ADMIN, COMMAND, MEMBER, STRANGER, UNUSED_ID, Ikon

pytestmark = pytest.mark.slow

SETTINGS = {"metadefs": {"check": "refuse"}}
FILES = sorted(CATALOGUE.iterdir())


def command(ikon: Ikon, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "metadefs", *map(str, words), "--config", ikon.config], capture_output=True, text=True, check=False)


def done(ikon: Ikon, *words: object) -> list[str]:
    """The lines of a command that succeeds."""
    finished = command(ikon, *words)
    assert (finished.returncode, finished.stderr) == (0, ""), finished
    return finished.stdout.splitlines()


def exported(ikon: Ikon, directory: Path) -> dict[str, bytes]:
    done(ikon, "export", directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def written(directory: Path, *contents: Any) -> list[Path]:
    """Files with these contents, bytes as they are."""
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.json" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return paths


def test_a_new_server_has_the_catalogue_and_everybody_may_read_it(ikon: Ikon) -> None:
    listed = ikon.get("/v2/metadefs/namespaces?limit=100", who=STRANGER).json["namespaces"]
    assert {one["namespace"] for one in listed} >= {json.loads(path.read_bytes())["namespace"] for path in FILES}

    pinning = ikon.get("/v2/metadefs/namespaces/OS::Compute::CPUPinning?resource_type=OS::Nova::Flavor", who=MEMBER).json
    assert set(pinning["properties"]) == {"hw:cpu_policy", "hw:cpu_thread_policy"}


def test_export_writes_the_bytes_that_were_loaded(ikon: Ikon, tmp_path: Path) -> None:
    found = exported(ikon, tmp_path)

    assert sorted(found.values()) == sorted(path.read_bytes() for path in FILES)
    assert set(found) == {definition_file.file_name(json.loads(content)["namespace"]) for content in found.values()}
    before = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert done(ikon, "export", tmp_path, "OS::Compute::TPM") == [f"1 namespaces are in {tmp_path}"]
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_ino != before[path]] == ["OS::Compute::TPM.json"]


def test_what_is_removed_comes_back_with_the_next_load_and_not_with_the_next_start(ikon: Ikon, tmp_path: Path) -> None:
    refused = command(ikon, "remove", "OS::Compute::TPM")
    assert (refused.returncode, "protected" in refused.stderr) == (1, True)

    assert done(ikon, "remove", "--protected", "OS::Compute::TPM", "OS::Compute::VTPM") == [
        "Namespace OS::Compute::TPM is removed",
        "Namespace OS::Compute::VTPM is removed",
    ]
    assert ikon.stop() == 0
    ikon.start()
    assert len(done(ikon, "list")) == 30

    loaded = done(ikon, "load")
    assert sorted(line.partition("\t")[0] for line in loaded) == ["loaded"] * 2 + ["skipped"] * 30
    assert sorted(exported(ikon, tmp_path).values()) == sorted(path.read_bytes() for path in FILES)


def test_a_file_with_every_construct_goes_in_and_out_and_meets_itself(ikon: Ikon, tmp_path: Path) -> None:
    paths = written(tmp_path / "in", WHOLE)
    assert done(ikon, "load", *paths) == ["loaded\tMy::Own"]
    assert done(ikon, "load", *paths) == ["skipped\tMy::Own"]
    for option in ("--merge", "--prefer-new", "--overwrite"):
        assert done(ikon, "load", option, tmp_path / "in") == ["unchanged\tMy::Own"]

    content = exported(ikon, tmp_path / "out")["My::Own.json"]
    assert "private\tprotected\tteam\t7\t2\t2" in "\n".join(done(ikon, "list"))
    done(ikon, "remove", "--protected", "My::Own")
    assert done(ikon, "load", tmp_path / "out/My::Own.json") == ["loaded\tMy::Own"]
    assert exported(ikon, tmp_path / "again")["My::Own.json"] == content
    done(ikon, "remove", "--protected", "My::Own")


BROKEN: dict[str, tuple[Any, str]] = {
    "no JSON": (b'{"namespace": "Bad",', "not JSON: line 1 column 21"),
    "no UTF-8": (b'{"namespace": "\xff"}', "not UTF-8"),
    "no object": ([1], "Expected an object"),
    "no namespace": ({"display_name": "Bad"}, "namespace"),
    "unknown field": ({"namespace": "Bad", "colour": 1}, "colour"),
    "key twice": (b'{"namespace": "Bad", "tags": [], "tags": []}', "'tags' is in one object twice"),
    "wrong type": ({"namespace": "Bad", "properties": {"p": {"title": "P", "type": "text"}}}, "properties: p: type"),
    "name twice": ({"namespace": "Bad", "objects": [{"name": "o"}, {"name": "o"}]}, "already exists"),
    "too long": ({"namespace": "B" * 81}, "namespace"),
    "too much": ({"namespace": "Bad", "tags": [{"name": str(n)} for n in range(1001)]}, "1000"),
    "named twice": ({"namespace": "Good"}, "is in"),
}  # fmt: skip


def test_broken_files_are_refused_each_with_its_reason_and_nothing_is_half_loaded(ikon: Ikon, tmp_path: Path) -> None:
    before = exported(ikon, tmp_path / "before")
    good = {"namespace": "Good", "tags": [{"name": "x"}]}

    refused = command(ikon, "load", "--overwrite", *written(tmp_path / "in", good, *(content for content, _ in BROKEN.values())))

    assert (refused.returncode, refused.stdout) == (1, "")
    head, *lines = refused.stderr.splitlines()
    assert head == "Error: nothing is loaded:"
    for number, (line, (_, reason)) in enumerate(zip(lines, BROKEN.values(), strict=True), 1):
        assert line.startswith(f"{tmp_path}/in/{number}.json: ")
        assert reason in line
    assert exported(ikon, tmp_path / "after") == before


def test_a_directory_is_read_flat_and_one_without_files_is_said_so(ikon: Ikon, tmp_path: Path) -> None:
    (tmp_path / "in/deeper").mkdir(parents=True)
    (tmp_path / "in/deeper/x.json").write_text("broken")
    (tmp_path / "in/notes.txt").write_text("broken")
    empty = command(ikon, "load", tmp_path / "in")
    assert (empty.returncode, "no file in this directory ends with .json" in empty.stderr) == (1, True)

    written(tmp_path / "in", {"namespace": "Flat", "protected": False})

    assert done(ikon, "load", tmp_path / "in") == ["loaded\tFlat"]
    assert done(ikon, "remove", "Flat") == ["Namespace Flat is removed"]


def test_options_that_contradict_each_other_are_refused(ikon: Ikon) -> None:
    for words in (("load", "--prefer-new", "--overwrite"), ("remove",), ("remove", "--all", "X")):
        assert command(ikon, *words).returncode == 2
    nowhere = command(ikon, "export", "/dev/null")
    assert (nowhere.returncode, "Error: /dev/null: " in nowhere.stderr) == (1, True)
    missing = command(ikon, "remove", "No::Such")
    assert (missing.returncode, "No::Such was not found" in missing.stderr) == (1, True)


def test_a_route_says_what_it_takes(ikon: Ikon) -> None:
    for path, text in {"?existing=replace": "skip, merge, prefer-new, overwrite"}.items():
        answer = ikon.post(f"/ikon/v1/metadefs{path}", {"namespace": "X"}, who=ADMIN)
        assert (answer.status, text in answer.message) == (400, True)
    assert ikon.post("/ikon/v1/metadefs", {"namespace": "X"}, who=MEMBER).status == 403
    assert ikon.get("/ikon/v1/metadefs", who=MEMBER).status == 403
    assert ikon.get("/ikon/v1/metadefs?marker=%00", who=ADMIN).status == 400
    assert ikon.call("DELETE", "/ikon/v1/metadefs/OS::Compute::TPM?protected=maybe", who=ADMIN).status == 400
    assert ikon.call("DELETE", "/ikon/v1/metadefs/OS::Compute::TPM", who=ADMIN).status == 403


def test_large_namespaces_go_in_and_out(ikon: Ikon, tmp_path: Path) -> None:
    content = {"namespace": "Large", "objects": [{"name": f"o{n}", "description": "x" * 40_000} for n in range(100)]}

    assert done(ikon, "load", *written(tmp_path, content)) == ["loaded\tLarge"]

    assert len(exported(ikon, tmp_path / "out")["Large.json"]) > 4_000_000
    assert done(ikon, "remove", "Large") == ["Namespace Large is removed"]


def test_a_new_server_has_no_definitions_where_the_setting_says_so(tmp_path: Path) -> None:
    with Ikon(tmp_path / "bare", metadefs={"catalogue": False}) as bare:
        assert done(bare, "list") == []
        assert done(bare, "load", CATALOGUE / "compute-watchdog.json") == ["loaded\tOS::Compute::Watchdog"]


# [metadefs] check = "refuse"


def test_a_property_that_does_not_fit_is_refused_with_its_remedy(ikon: Ikon) -> None:
    refused = ikon.try_create({"disk_format": "raw", "hw_disk_buss": "virtio", "hw_cpu_cores": "four"})

    assert refused.status == 400
    for words in ("hw_cpu_cores: 'four' is not a whole number", "looks like hw_disk_bus; rename it to hw_disk_bus"):
        assert words in refused.message.replace("&#x27;", "'").replace("&#39;", "'")
    assert ikon.try_create({"disk_format": "raw", "hw_disk_bus": "virtio", "my_own": "x"}).status == 201


def test_only_what_a_patch_touches_is_refused(ikon: Ikon, tmp_path: Path) -> None:
    image_id = ikon.create(later="x", own="y")["id"]
    says = {"later": {"title": "Later", "type": "integer"}}
    about = {"namespace": "Later", "resource_type_associations": [{"name": "OS::Glance::Image"}], "properties": says}
    done(ikon, "load", *written(tmp_path, about))

    def patch(*operations: dict[str, str]) -> int:
        return ikon.patch(image_id, list(operations)).status

    assert patch({"op": "replace", "path": "/name", "value": "n"}, {"op": "replace", "path": "/own", "value": "z"}) == 200
    assert patch({"op": "replace", "path": "/later", "value": "y"}) == 400
    assert patch({"op": "replace", "path": "/later", "value": "7"}) == 200
    assert patch({"op": "add", "path": "/laterr", "value": "7"}) == 200, "a short name is nobody's misspelling"
    assert patch({"op": "add", "path": "/os_admn_user", "value": "root"}, {"op": "add", "path": "/own", "value": "other"}) == 400
    assert ikon.show(image_id)["own"] == "z", "all of a patch is refused"
    assert patch({"op": "remove", "path": "/later"}) == 200
    done(ikon, "remove", "Later")


def test_who_may_not_change_an_image_learns_that_first(ikon: Ikon) -> None:
    image_id = ikon.create(visibility="community")["id"]
    wrong = [{"op": "add", "path": "/hw_cpu_cores", "value": "four"}]

    assert ikon.patch(image_id, wrong, who=STRANGER).status == 403
    assert ikon.patch(UNUSED_ID, wrong).status == 404
    assert ikon.patch(image_id, wrong).status == 400
