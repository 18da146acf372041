"""Files that protect properties: what they mean, what in them ends a start, and what is remembered of them."""

import os
import subprocess
from pathlib import Path

import pytest

from ikon import protection
from ikon.config import Policy
from ikon.context import Context
from ikon.policyfile import PolicyFile
from ikon.problems import StartError
from ikon.protection import OPERATIONS, Protection
from tests.wire.server import COMMAND

ROLES = """
[^x_owner_]
create = Admin, member
read = admin,member,reader
update = admin
delete = !
[secret]
create = admin
read = admin
update = admin
delete = admin
[os_glance.*]
create = !
read = !
update = !
delete = !
[.*]
create = @
read = @
update = @
delete =
"""
BY_POLICIES = """
[^x_]
create = owners
read = @
update = !
delete = context_is_admin
"""


def who(*roles: str, service: tuple[str, ...] = (), project: str = "home") -> Context:
    return Context("user", project, roles=frozenset(roles), service_roles=frozenset(service))


MEMBER, READER, ADMIN, NOBODY = who("member", "reader"), who("reader"), who("admin", "member", "reader"), who()


def written(tmp_path: Path, text: str, name: str = "protections.conf") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def may(found: Protection, ctx: Context, name: str) -> str:
    """The first letters of what a caller may do."""
    return "".join(operation[0] for operation in OPERATIONS if found.allows(ctx, operation, name))


def test_the_first_section_that_is_found_in_a_name_counts(tmp_path: Path) -> None:
    found = Protection(written(tmp_path, ROLES), None)

    assert [may(found, ctx, "x_owner_secret") for ctx in (ADMIN, MEMBER, READER, NOBODY)] == ["cru", "cr", "r", ""]
    assert [may(found, ctx, "a_secret_thing") for ctx in (ADMIN, MEMBER, READER, NOBODY)] == ["crud", "", "", ""]
    assert [may(found, ctx, "not_x_owner_") for ctx in (ADMIN, NOBODY)] == ["cru", "cru"]


def test_what_no_section_is_for_is_for_nobody(tmp_path: Path) -> None:
    found = Protection(written(tmp_path, ROLES.partition("[.*]")[0]), None)

    assert [may(found, ctx, "other") for ctx in (ADMIN, MEMBER)] == ["", ""]


def test_roles_of_a_service_count_for_properties_beside_those_of_its_user(tmp_path: Path) -> None:
    found = Protection(written(tmp_path, ROLES), None)

    assert may(found, who("reader", service=("admin",)), "secret") == "crud"
    assert may(found, who("reader", service=("service",)), "secret") == ""


def test_by_policies_a_rule_of_the_policy_file_decides(tmp_path: Path) -> None:
    rules = PolicyFile(written(tmp_path, '"owners": "role:owner and project_id:home"\n', "policy.yaml"))
    found = Protection(written(tmp_path, BY_POLICIES), rules)

    assert [may(found, ctx, "x_1") for ctx in (who("owner"), who("owner", project="away"), ADMIN, NOBODY)] == ["cr", "r", "rd", "r"]
    assert may(found, ADMIN, "y") == ""


def test_a_rule_that_is_changed_counts_at_once_and_one_that_is_gone_is_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ikon.policyfile.LOOK_S", 0.0)
    rules = PolicyFile(written(tmp_path, '"owners": "role:owner"\n', "policy.yaml"))
    found = Protection(written(tmp_path, BY_POLICIES), rules)
    assert [may(found, who(role), "x_1") for role in ("owner", "buyer")] == ["cr", "r"]

    for text, then in (('"owners": "role:buyer"\n', ["r", "cr"]), ('"others": "@"\n', ["r", "r"])):
        os.replace(written(tmp_path, text, "new"), tmp_path / "policy.yaml")
        assert [may(found, who(role), "x_1") for role in ("owner", "buyer")] == then


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("create = @\n", "File contains no section headers"),
        ("[a]\ncreate = @\nread = @\nupdate = @\n", "[a]: delete is missing"),
        ("[a]\n[a]\n", "section 'a' already exists"),
        ("[(]\ncreate = @\nread = @\nupdate = @\ndelete = @\n", "[(]: this is no regular expression"),
        ("[a]\ncreate = @, !\nread = @\nupdate = @\ndelete = @\n", "[a] create = @, !: @ is everyone and ! is nobody"),
        ("[a]\ncreate\n", "parsing errors"),
        ("[\xe9]\n", "codec can't decode"),
    ],
)
def test_a_file_that_makes_no_sense_ends_the_start_by_file_section_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "protections.conf"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(StartError) as refused:
        Protection(str(path), None)

    assert str(refused.value).startswith(f"config: policy.property_protection_file: {path}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "said"), [("owners, others", "one rule's name stands here"), ("unknown", "no rule has this name"), ("@,!", "only one can be")]
)
def test_by_policies_a_value_is_the_name_of_one_rule_that_there_is(tmp_path: Path, value: str, said: str) -> None:
    rules = PolicyFile(written(tmp_path, '"owners": "role:owner"\n', "policy.yaml"))

    with pytest.raises(StartError, match=said):
        Protection(written(tmp_path, BY_POLICIES.replace("owners", value)), rules)


def test_a_file_that_is_not_there_and_policies_without_a_policy_file_end_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nothing\.conf"):
        protection.configured(Policy(property_protection_file=f"{tmp_path}/nothing.conf"), None)
    with pytest.raises(StartError, match=r"property_protection_rule_format.*policy\.file"):
        protection.configured(
            Policy(property_protection_file=written(tmp_path, BY_POLICIES), property_protection_rule_format="policies"), None
        )


def test_a_rule_is_asked_once_for_a_caller_however_many_names_users_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    (tmp_path / "policy.yaml").write_text('"owners": "role:member"\n')
    rules = PolicyFile(str(tmp_path / "policy.yaml"))
    holds = rules.holds
    monkeypatch.setattr(rules, "holds", lambda name, *about: (asked.append(name), holds(name, *about))[1])
    found = Protection(written(tmp_path, BY_POLICIES), rules)

    assert all(found.allows(MEMBER, "create", f"x_{n}") for n in range(1000))
    assert not found.allows(who("reader"), "create", "x_0")
    assert asked == ["owners"] * 2


def test_what_is_remembered_of_names_and_callers_is_bounded(tmp_path: Path) -> None:
    found = Protection(written(tmp_path, ROLES), None)

    for n in range(protection.KEPT + 5):
        assert found.allows(who(f"role-{n}"), "read", f"name{n}")
    assert found.allows(MEMBER, "read", "x" * 256)

    assert len(found._known[1]) == 6
    assert found._remembered.cache_info().currsize == protection.KEPT


def test_the_command_says_what_a_caller_may_do_and_which_section_decides(tmp_path: Path) -> None:
    def ikon(*words: str, **env: str) -> list[str]:
        said = {f"IKON_POLICY__{name.upper()}": value for name, value in env.items()}
        return subprocess.run(
            [COMMAND, "policy", *words], env=os.environ | said, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    file = written(tmp_path, ROLES)

    assert ikon("property", "x_owner_1", "--role", "Member", property_protection_file=file) == [
        f"x_owner_1: [^x_owner_] of {file}",
        "  yes  create: admin, member",
        "  yes  read: admin, member, reader",
        "  no   update: admin",
        "  no   delete: !",
    ]
    assert f"{file}: 3 sections protect properties" in ikon("check", property_protection_file=file)
    assert ikon("property", "x") == ["no property is protected"]
