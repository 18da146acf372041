"""Policy files of OpenStack's form: what Ikon's own rules say in that form is what they do, and what a file says stands above them."""

import itertools
import os
import subprocess
import time
from pathlib import Path

import pytest

from ikon import policyfile
from ikon.cli.policy import _image
from ikon.context import Context
from ikon.model import metadef
from ikon.model.image import Image, visible
from ikon.model.metadef import Namespace
from ikon.policy import RULES
from ikon.policyfile import PolicyFile
from ikon.problems import StartError
from tests.wire.server import COMMAND

ROLES = [(), ("reader",), ("member",), ("member", "reader"), ("admin",), ("admin", "member", "reader"), ("service",), ("manager",)]
#: Those with a project: a token without one has no roles in Keystone, and no way to say in a rule that it has none.
CALLERS = [
    Context("user", project, roles=frozenset(roles), system_scope=system)
    for project, roles, system in itertools.product(("home", "partner"), ROLES, (False, True))
]
IMAGES = [
    _image(owner, visibility, partner, ())
    for owner, visibility, partner in itertools.product(("home", "away"), ("public", "community", "shared", "private"), (None, "partner"))
]

NAMESPACES = [
    Namespace(1, "NS", None, None, visibility, False, owner, 0, 0, 1)
    for owner, visibility in itertools.product(("home", "away"), ("public", "private"))
]


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return str(path)


def test_ikons_rules_mean_in_openstacks_form_what_they_do() -> None:
    told = PolicyFile("")._enforcer
    compared = 0
    for name, ctx, image, member in itertools.product(RULES, CALLERS, (None, *IMAGES, *NAMESPACES), (None, "partner", "home")):
        if (not isinstance(image, Image) and member is not None) or (isinstance(image, Image) and not visible(ctx, image)):
            continue
        if isinstance(image, Namespace) and ("metadef" not in name or not metadef.visible(ctx, image)):
            continue
        about = policyfile.target(ctx, image, member), policyfile.credentials(ctx)
        assert bool(told.enforce(name, *about)) == RULES[name].holds(ctx, image, member), (name, ctx, image, member)
        compared += 1
    assert compared > 5_000


def test_a_file_that_says_who_writes_definitions_is_followed_by_all_rules_that_name_it(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, '"metadef_admin": "role:librarian"\n"get_metadef_tags": "\'public\':%(visibility)s"\n'))
    librarian, admin = (Context("user", "home", roles=frozenset((role, "reader"))) for role in ("librarian", "admin"))

    for rule in ("add_metadef_namespace", "modify_metadef_object", "delete_metadef_tags"):
        assert [file.holds(rule, who, NAMESPACES[0], None) for who in (librarian, admin)] == [True, False]
    assert [file.holds("get_metadef_namespace", who, NAMESPACES[3], None) for who in (librarian, admin)] == [False, True]
    assert [file.holds("get_metadef_tags", librarian, each, None) for each in NAMESPACES] == [True, False, True, False]


def test_a_file_that_says_who_is_a_service_is_followed_by_all_rules_that_name_it(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, '"service_api": "role:machine"\n'))
    machine, service = (Context("user", "services", roles=frozenset((role, "reader"))) for role in ("machine", "service"))

    for rule in ("add_image_location", "fetch_image_location"):
        assert [file.holds(rule, who, IMAGES[0], None) for who in (machine, service)] == [True, False]


BUILDER = Context("user", "home", roles=frozenset(("builder", "reader")))
MEMBER = Context("user", "home", roles=frozenset(("member", "reader")))


def test_a_rule_of_the_file_stands_above_ikons_and_the_others_stay(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, '"add_image": "role:builder"\n'))

    assert [file.holds("add_image", who, None, None) for who in (BUILDER, MEMBER)] == [True, False]
    assert [file.holds("delete_image", who, IMAGES[0], None) for who in (BUILDER, MEMBER)] == [False, True]


def test_a_rule_may_name_fields_and_properties_of_an_image(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, "\"modify_image\": \"not 'yes':%(frozen)s and project_id:%(owner)s and 'raw':%(disk_format)s\"\n"))

    frozen, free, plain = (_image("home", "private", None, properties) for properties in (("frozen=yes",), ("frozen=no",), ()))

    assert [file.holds("modify_image", MEMBER, image, None) for image in (frozen, free, plain)] == [False, True, True]
    assert not file.holds("modify_image", Context("user", "away", roles=MEMBER.roles), free, None)


def test_a_property_does_not_pass_for_a_field(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, '"modify_image": "project_id:%(owner)s"\n'))

    assert not file.holds("modify_image", MEMBER, _image("away", "public", None, ("owner=home", "project_id=home")), None)


def test_what_is_unknown_is_equal_to_nothing(tmp_path: Path) -> None:
    file = PolicyFile(written(tmp_path, '"modify_image": "project_id:%(project_id)s or None:%(member_id)s or project_id:%(nothing)s"\n'))

    assert not file.holds("modify_image", Context("user", None, roles=MEMBER.roles), _image("home", "public", None, ()), None)


@pytest.mark.parametrize(
    "text", ['"add_image": "role:admin', "- a list", '"add_image": "rule:nothing"\n', '"a": "rule:b"\n"b": "rule:a"\n']
)
def test_a_file_that_makes_no_sense_ends_the_start_by_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartError) as refused:
        PolicyFile(written(tmp_path, text))

    assert str(refused.value).startswith(f"config: policy.file: {tmp_path}/policy.yaml: ")


def test_a_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nothing\.yaml"):
        PolicyFile(f"{tmp_path}/nothing.yaml")


def test_a_change_counts_without_a_restart_and_a_broken_one_changes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = PolicyFile(written(tmp_path, '"add_image": "role:builder"\n'))
    assert not file.holds("add_image", MEMBER, None, None)

    written(tmp_path, '"add_image": "role:member"\n')
    wait_until(lambda: file.holds("add_image", MEMBER, None, None))

    written(tmp_path, '"add_image": "role:')
    said = ""
    while "policy file cannot be read" not in said:
        assert file.holds("add_image", MEMBER, None, None)
        time.sleep(0.05)
        said += "".join(capfd.readouterr())

    os.unlink(tmp_path / "policy.yaml")
    time.sleep(2 * policyfile.LOOK_S)
    assert file.holds("add_image", MEMBER, None, None)


def wait_until(true: object) -> None:
    end = time.monotonic() + 30
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def ikon(*words: str, file: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "policy", *words]
    return subprocess.run(command, env=os.environ | {"IKON_POLICY__FILE": file}, capture_output=True, text=True, check=False)


def test_the_command_shows_checks_and_explains(tmp_path: Path) -> None:
    file = written(tmp_path, '"add_image": "role:builder or rule:context_is_admin"\n"manage_image_cache": "!"\n')

    shown = ikon("show", file=file).stdout.splitlines()
    assert f'"add_image": "(role:builder or rule:context_is_admin)"  # from {file}' in shown
    assert any(line.startswith('"get_images": ') and "#" not in line for line in shown)

    checked = ikon("check", file=file).stdout.splitlines()
    assert checked == [
        f"{file}: 1 rules stand above Ikon's own",
        "manage_image_cache: no operation of Ikon's; it counts where other rules name it",
    ]

    told = ikon("explain", "add_image", "--role", "admin", file=file).stdout.splitlines()
    assert told == [
        f"add_image: allowed by {file}: (role:builder or rule:context_is_admin)",
        "  no   role:builder",
        "  yes  rule:context_is_admin",
        "  yes  role:admin",
    ]

    told = ikon("explain", "delete_image", "--role", "member", "--owner", "other", "--visibility", "public", file=file).stdout.splitlines()
    assert told[0].startswith("delete_image: refused by Ikon's own rule: ")
    assert "  no   project_id:%(project_id)s" in told
    assert "  yes  role:member" in told


def test_the_command_refuses_a_broken_file(tmp_path: Path) -> None:
    done = ikon("check", file=written(tmp_path, '"add_image": "role:'))

    assert (done.returncode, done.stderr.startswith(f"ikon: config: policy.file: {tmp_path}/policy.yaml: ")) == (2, True)


def test_a_file_may_name_the_rules_that_openstacks_own_files_name(tmp_path: Path) -> None:
    names = {
        "get_task": "default",
        "stores_info_detail": "service_api",
        "get_metadef_namespace": "metadef_default",
        "add_metadef_tag": "metadef_admin",
    }
    file = PolicyFile(written(tmp_path, "".join(f'"{name}": "rule:{rule}"\n' for name, rule in names.items())))

    assert file.holds("stores_info_detail", Context("nova", "service", roles=frozenset(("service",))), None, None)
    assert not file.holds("stores_info_detail", MEMBER, None, None)
