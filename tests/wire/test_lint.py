"""Images are held against the metadata definitions: by the command, by its route, and with a warning where they are written."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model.lint_samples import PLANTED, SOUND
from tests.wire.server import ADMIN, COMMAND, MEMBER, READER, STRANGER, UNUSED_ID, Answer, Ikon, Persona

pytestmark = pytest.mark.slow

SETTINGS = {"metadefs": {"check": "warn"}}


def lint(ikon: Ikon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "image", "lint", *words, "--config", ikon.config], capture_output=True, text=True, check=False)


def make(ikon: Ikon, properties: dict[str, str], *, who: Persona = MEMBER, **fields: Any) -> str:
    return str(ikon.create(who=who, **fields, **properties)["id"])


def look(ikon: Ikon, image_id: str, *, who: Persona = MEMBER) -> Answer:
    return ikon.get(f"/ikon/v1/images/{image_id}/lint", who=who)


def findings(ikon: Ikon, image_id: str, *, who: Persona = MEMBER) -> list[dict[str, Any]]:
    answer = look(ikon, image_id, who=who)
    assert answer.status == 200, answer
    return list(answer.json["findings"])


def define(ikon: Ikon, name: str, **fields: Any) -> None:
    about = {"resource_type_associations": [{"name": "OS::Glance::Image"}], "visibility": "public"}
    assert ikon.post("/v2/metadefs/namespaces", {"namespace": name} | about | fields, who=ADMIN).status == 201


def test_the_command_finds_nothing_on_twenty_sound_images(ikon: Ikon) -> None:
    images = [make(ikon, properties) for properties in SOUND]

    done = lint(ikon, *images, "--fix")

    assert (done.returncode, done.stdout, done.stderr) == (0, "0 found in 20 images\n", "")


def test_the_command_names_each_of_twenty_planted_mistakes_and_what_to_do(ikon: Ikon) -> None:
    images = [make(ikon, planted.properties) for planted in PLANTED]

    done = lint(ikon, *images)

    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    assert last == "20 found in 20 images"
    for line, image_id, planted in zip(lines, images, PLANTED, strict=True):
        assert line.startswith(f"{image_id}: ")
        assert planted.named in line.partition("; ")[0]
        assert planted.said in line.partition("; ")[2]


def test_what_is_proposed_mends_the_image_when_the_client_is_told_so(ikon: Ikon) -> None:
    for planted in (one for one in PLANTED if one.remedied is not None):
        image_id = make(ikon, planted.properties)

        _, *commands, _ = lint(ikon, image_id, "--fix").stdout.splitlines()

        assert ikon.show(image_id) == ikon.show(image_id) | planted.properties, "a proposal changes nothing"
        operations = []
        for words in (shlex.split(command) for command in commands):
            assert (words[:2], words[-1]) == (["openstack", "image"], image_id)
            for option, value in zip(words[3:-1:2], words[4:-1:2], strict=True):
                assert option == "--property"
                name, _, text = value.partition("=")
                operations.append(
                    {"op": "add", "path": f"/{name}", "value": text} if words[2] == "set" else {"op": "remove", "path": f"/{name}"}
                )
        assert ikon.patch(image_id, operations).status == 200
        left = {name: value for name, value in ikon.show(image_id).items() if name in {*planted.properties, *(planted.remedied or {})}}
        assert left == planted.remedied
        assert findings(ikon, image_id) == []


def test_the_fix_of_a_finding_is_a_patch_that_the_service_takes(ikon: Ikon) -> None:
    image_id = make(ikon, {"hw_dsik_bus": "virtio", "hw_cpu_cores": "2.0", "os_type": "Linux"})

    found = findings(ikon, image_id)

    assert [(one["property"], one["kind"], one["namespace"]) for one in found] == [
        ("hw_cpu_cores", "type", "OS::Compute::VirtCPUTopology"),
        ("hw_dsik_bus", "unknown", None),
        ("os_type", "value", "OS::Compute::LibvirtImage"),
    ]
    assert ikon.patch(image_id, [change for one in found for change in one["fix"]]).status == 200
    assert findings(ikon, image_id) == []


def test_who_does_not_see_an_image_is_told_nothing_of_it(ikon: Ikon) -> None:
    image_id = make(ikon, {"hw_cpu_cores": "x"}, visibility="private")

    hidden, absent = look(ikon, image_id, who=STRANGER), look(ikon, UNUSED_ID, who=STRANGER)

    assert hidden.status == absent.status == 404
    assert hidden.message.replace(image_id, UNUSED_ID) == absent.message
    assert [one["property"] for one in findings(ikon, image_id, who=READER)] == ["hw_cpu_cores"]
    assert [one["property"] for one in findings(ikon, image_id, who=ADMIN)] == ["hw_cpu_cores"]
    assert ikon.get(f"/ikon/v1/images/{image_id}/lint", {"X-Roles": None}, who={}).status == 401


def test_namespaces_that_the_caller_does_not_see_do_not_count(ikon: Ikon) -> None:
    says = {"secret_knob": {"title": "Secret", "type": "string", "enum": ["hidden-choice"]}}
    define(ikon, "Private", properties=says, visibility="private", owner="elsewhere")
    image_id = make(ikon, {"secret_knob": "x", "secret_knop": "x"}, visibility="community")

    assert [one["property"] for one in findings(ikon, image_id, who=STRANGER)] == ["secret_knob", "secret_knop"]
    assert findings(ikon, image_id) == []
    assert "hidden-choice" not in look(ikon, image_id).body.decode()


def test_what_an_object_requires_is_missed_with_its_default(ikon: Ikon) -> None:
    properties = {"web_port": {"title": "Port", "type": "integer", "default": 80}, "web_root": {"title": "Root", "type": "string"}}
    define(ikon, "Web", objects=[{"name": "Server", "required": ["web_port"], "properties": properties}])
    image_id = make(ikon, {"web_root": "/"})

    (found,) = findings(ikon, image_id)

    assert (found["property"], found["kind"], found["namespace"]) == ("web_port", "missing", "Web")
    assert found["fix"] == [{"op": "add", "path": "/web_port", "value": "80"}]


def test_who_writes_what_does_not_fit_is_warned_and_the_image_is_kept(ikon: Ikon) -> None:
    made = ikon.try_create({"disk_format": "raw", "hw_disk_buss": "virtio", "hw_cpu_cores": "four"})
    sound = ikon.try_create({"disk_format": "raw", "hw_disk_bus": "virtio", "own": "x"})
    image_id = made.json["id"]
    patched = ikon.patch(
        image_id, [{"op": "add", "path": "/os_type", "value": 'a "b" ä\n'}, {"op": "replace", "path": "/name", "value": "n"}]
    )
    other = ikon.patch(image_id, [{"op": "replace", "path": "/name", "value": "m"}, {"op": "add", "path": "/own", "value": "x"}])

    assert (made.status, sound.status, patched.status, other.status) == (201, 201, 200, 200)
    first, second = made.headers["Warning"].split('", 299 ikon "')
    assert first.startswith("299 ikon \"hw_cpu_cores: 'four' is not a whole number; ")
    assert second == "'hw_disk_buss' is not defined, and looks like hw_disk_bus; rename it to hw_disk_bus\""
    assert patched.headers["Warning"].startswith('299 ikon "os_type: \'a \\"b\\" ?\\\\n\' is none of the values')
    assert "Warning" not in sound.headers
    assert "Warning" not in other.headers, "what was there before is nobody's news"
    assert ikon.show(image_id)["os_type"] == 'a "b" ä\n'


def test_a_terminal_gets_no_control_characters_and_a_shell_no_words_of_users(ikon: Ikon) -> None:
    escape = "\x1b[2J"
    hostile = "$(reboot); 'x'"
    image_id = make(ikon, {"hw_disk_bus": escape, f"hw_disk_buss{escape}": "x", "HW_VIF_MODEL": hostile, "os-distro": f"a{escape}"})

    done = lint(ikon, image_id, "--fix")

    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert f"  openstack image set --property {shlex.quote(f'hw_vif_model={hostile}')} {image_id}" in done.stdout.splitlines()
    assert f"  openstack image unset --property HW_VIF_MODEL {image_id}" in done.stdout.splitlines(), "what cannot be set is not unset"


def test_the_command_says_which_image_is_not_there(ikon: Ikon) -> None:
    done = lint(ikon, UNUSED_ID)

    assert (done.returncode, done.stdout) == (1, "")
    assert UNUSED_ID in done.stderr
    assert "Traceback" not in done.stderr


def test_properties_that_the_caller_may_not_read_are_not_held_against_anything(tmp_path: Path) -> None:
    file = tmp_path / "protection.conf"
    operations = ("create", "read", "update", "delete")
    sections = {"^(hidden_|web_port)": "admin", ".*": "@"}
    file.write_text("".join(f"[{name}]\n" + "".join(f"{each} = {who}\n" for each in operations) for name, who in sections.items()))
    with Ikon(tmp_path / "ikon", policy={"property_protection_file": str(file)}, metadefs={"check": "warn"}) as ikon:
        numbers = {name: {"title": "N", "type": "integer"} for name in ("hidden_size", "web_port")}
        web = {"name": "Web", "required": ["web_port"], "properties": {"web_root": {"title": "Root", "type": "string"}}}
        define(ikon, "Hidden", properties=numbers, objects=[web])
        image_id = make(ikon, {"web_root": "/", "hidden_size": "x", "hidden_sizee": "x"}, who=ADMIN, visibility="community", owner="home")

        assert [one["property"] for one in findings(ikon, image_id, who=ADMIN)] == ["hidden_size", "hidden_sizee", "web_port"]
        assert findings(ikon, image_id) == []
        answer = ikon.patch(image_id, [{"op": "add", "path": "/web_root", "value": "/srv"}])
        assert (answer.status, answer.headers["Warning"]) == (200, None)
        near = ikon.patch(image_id, [{"op": "add", "path": "/hiden_size", "value": "1"}])
        assert "rename it to hidden_size" in near.headers["Warning"]
        assert "is set as well" not in near.headers["Warning"], "whether it is there is not told"
