"""The published `glance` client: each of its commands about metadata definitions, unchanged, does what it is for."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.wire.server import Ikon

pytestmark = pytest.mark.slow

PYTHON = Path(__file__).parents[2] / ".venv-clients/bin/python"
#: With this identity everybody is an administrator; the client knows no other endpoint than the one that it is given.
SETTINGS: dict[str, object] = {"identity": "none", "metadefs": {"catalogue": False}}
N = "/v2/metadefs/namespaces"
#: Runs commands one after the other in one process, as each start of the client takes seconds: what was printed, or why it failed.
RUN = """
import contextlib, io, json, sys
from glanceclient.shell import OpenStackImagesShell
for command in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            OpenStackImagesShell().main(["--os-auth-token", "none", "--os-image-url", sys.argv[1], *command])
        print(json.dumps([True, said.getvalue()]))
    except (Exception, SystemExit) as error:
        print(json.dumps([False, f"{said.getvalue()} {error}"]))
"""


def glance(ikon: Ikon, *commands: list[str]) -> list[tuple[bool, str]]:
    """Run commands of the client. Returns for each whether it succeeded, and what it said."""
    done = subprocess.run(
        [PYTHON, "-W", "ignore", "-c", RUN, f"http://127.0.0.1:{ikon.port}"],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_each_command_about_definitions_does_what_it_is_for(ikon: Ikon, tmp_path: Path) -> None:
    tree = {
        "namespace": "In", "visibility": "public", "objects": [{"name": "o", "properties": {"k": {"title": "K", "type": "string"}}}],
        "properties": {"p": {"title": "P", "type": "integer", "minimum": 1}}, "tags": [{"name": "t"}],
        "resource_type_associations": [{"name": "OS::Nova::Flavor", "prefix": "hw:"}],
    }  # fmt: skip
    (tmp_path / "in.json").write_text(json.dumps(tree))
    kept = {"title": "Size", "type": "integer", "minimum": 1, "maximum": 9, "default": "3"}
    schema = json.dumps({name: value for name, value in kept.items() if name not in ("title", "type")})
    grouped = json.dumps({"description": "D", "properties": {"k": {"title": "K", "type": "string", "enum": ["a"]}}})
    steps: list[tuple[list[str], str]] = [
        (["md-namespace-create", "NS", "--display-name", "Mine", "--description", "What it is", "--visibility", "public"], "Mine"),
        (["md-namespace-import", "--file", str(tmp_path / "in.json")], "OS::Nova::Flavor"),
        (["md-namespace-list"], "NS"),
        (["md-namespace-list", "--resource-types", "OS::Nova::Flavor", "--visibility", "public"], "In"),
        (["md-namespace-show", "In"], '["p"]'),
        (["md-namespace-show", "In", "--resource-type", "OS::Nova::Flavor"], '["hw:p"]'),
        (["md-namespace-update", "NS", "--protected", "False", "--description", "Else", "--visibility", "public"], "Else"),
        (["md-property-create", "NS", "--name", "size", "--title", "Size", "--type", "integer", "--schema", schema], "size"),
        (["md-property-list", "NS"], "Size"),
        (["md-property-show", "NS", "size"], "maximum"),
        (["md-property-update", "NS", "size", "--title", "Width"], "Width"),
        (["md-object-create", "NS", "--name", "group", "--schema", grouped], "group"),
        (["md-object-list", "NS"], "group"),
        (["md-object-show", "NS", "group"], '["k"]'),
        (["md-object-property-show", "NS", "group", "k"], '["a"]'),
        (["md-object-update", "NS", "group", "--name", "grouped"], "grouped"),
        (["md-tag-create", "NS", "--name", "one"], "one"),
        (["md-tag-create-multiple", "NS", "--names", "two,three"], "three"),
        (["md-tag-list", "NS"], "three"),
        (["md-tag-show", "NS", "two"], "two"),
        (["md-tag-update", "NS", "two", "--name", "zwei"], "zwei"),
        (["md-tag-delete", "NS", "zwei"], ""),
        (["md-resource-type-associate", "NS", "--name", "OS::Glance::Image", "--prefix", "hw_", "--properties-target", "image"], "hw_"),
        (["md-resource-type-list"], "OS::Glance::Image"),
        (["md-namespace-resource-type-list", "NS"], "hw_"),
        (["md-resource-type-deassociate", "NS", "OS::Glance::Image"], ""),
        (["md-object-delete", "NS", "grouped"], ""),
        (["md-property-delete", "NS", "size"], ""),
        (["md-namespace-objects-delete", "In"], ""),
        (["md-namespace-properties-delete", "In"], ""),
        (["md-namespace-tags-delete", "In"], ""),
        (["md-namespace-delete", "In"], ""),
    ]  # fmt: skip

    commands = [command for command, _ in steps]
    (_, known), *answers = glance(ikon, ["help"], *commands, ["md-namespace-show", "In"], ["md-tag-show", "NS", "zwei"])
    ran = list(zip(steps, answers, strict=False))

    assert [(command, said[-500:]) for (command, wanted), (well, said) in ran if not well or wanted not in said] == []
    assert [(well, "404" in said or "not found" in said.lower()) for well, said in answers[len(steps) :]] == [(False, True)] * 2
    (left,) = ikon.get(N, who={}).json["namespaces"]
    assert (left["namespace"], left["description"]) == ("NS", "Else")
    assert {tag["name"] for tag in ikon.get(f"{N}/NS/tags", who={}).json["tags"]} == {"three"}
    assert {word for word in known.split() if word.startswith("md-")} == {command[0] for command in commands}


def test_a_refusal_reaches_the_user_of_the_client(ikon: Ikon) -> None:
    first, second, third = glance(
        ikon,
        ["md-namespace-create", "Kept", "--protected", "True"],
        ["md-namespace-create", "Kept"],
        ["md-namespace-delete", "Kept"],
    )

    assert first[0]
    assert not second[0] and "The metadata definition namespace=Kept already exists." in second[1]
    assert not third[0] and "Metadata definition namespace Kept is protected and cannot be deleted." in third[1]
