"""Names, passwords and roles of built-in users: what is taken, what is refused and why, what follows from a role."""

from typing import Any

import pytest

from ikon.model.user import ROLES, Role, parse_new, parse_password, with_implied
from ikon.problems import BadValue

GOOD: dict[str, Any] = {"name": "alice", "project": "home", "password": "correct horse", "roles": ["member"]}


@pytest.mark.parametrize("name", ["a", "Alice", "alice@example.org", "älice", "爱丽丝", "a b", "_svc-1.x", "a%41", "x" * 255, "1"])
def test_a_name_that_can_be_typed_is_taken_as_it_is(name: str) -> None:
    assert parse_new(GOOD | {"name": name}).name == name


@pytest.mark.parametrize("password", ["x", "a:b", " lead and trail ", "pässwörd", "🐧" * 1000, "\\n", "'\"$`"])
def test_any_password_without_control_characters_is_taken(password: str) -> None:
    assert parse_new(GOOD | {"password": password}).password == password
    assert parse_password({"password": password}) == password


BAD = [
    ({"name": ""}, "name: has 0 characters; allowed: 1 to 255"),
    ({"name": "x" * 256}, "name: has 256 characters; allowed: 1 to 255"),
    ({"name": "a:b"}, "name: begins with a letter"),
    ({"name": "a/b"}, "name: begins with a letter"),
    ({"name": ".."}, "name: begins with a letter"),
    ({"name": " a"}, "name: begins with a letter"),
    ({"name": "a "}, "name: begins with a letter"),
    ({"name": "a\0b"}, "name: holds a control character"),
    ({"name": "a\n"}, "name: holds a control character"),
    ({"name": "a\ud800"}, "name: is not valid Unicode"),
    ({"name": 3}, "name: Expected `str`, got `int`"),
    ({"project": ""}, "project: has 0 characters"),
    ({"project": "p\x7f"}, "project: holds a control character"),
    ({"project": None}, "project: Expected `str`, got `null`"),
    ({"password": ""}, "password: has 0 characters; allowed: 1 to 1000"),
    ({"password": "x" * 1001}, "password: has 1001 characters"),
    ({"password": "two\nlines"}, "password: holds a control character, a line's end"),
    ({"password": ["geheim"]}, "password: Expected `str`, got `array`"),
    ({"roles": []}, "roles: name one at least; allowed: admin, manager, member, reader, service"),
    ({"roles": ["root"]}, "roles: Invalid enum value 'root'; allowed: admin"),
    ({"roles": ["Admin"]}, "roles: Invalid enum value"),
    ({"roles": "admin"}, "roles: Expected `array`, got `str`; allowed: admin"),
    ({"role": "admin"}, "body: Object contains unknown field `role`"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[str(change)[:40] for change, _ in BAD])
def test_what_cannot_be_a_user_is_refused_by_the_name_of_its_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadValue) as refused:
        parse_new(GOOD | change)

    assert str(refused.value).startswith(said)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("field", GOOD)
def test_every_field_of_a_new_user_is_required(field: str) -> None:
    with pytest.raises(BadValue, match=f"missing required field `{field}`"):
        parse_new({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize("body", [None, 3, "x", [], {}, {"password": 3}, {"password": "x", "name": "y"}, {"password": "\0"}])
def test_what_is_no_new_password_is_refused(body: Any) -> None:
    with pytest.raises(BadValue, match=r"password|body"):
        parse_password(body)


def test_roles_are_kept_once_each_the_highest_first() -> None:
    assert parse_new(GOOD | {"roles": ["service", "reader", "admin", "reader"]}).roles == ["admin", "reader", "service"]


@pytest.mark.parametrize(
    ("roles", "held"),
    [
        (["admin"], "admin manager member reader"),
        (["manager"], "manager member reader"),
        (["member"], "member reader"),
        (["reader"], "reader"),
        (["service"], "service"),
        (["reader", "service"], "reader service"),
        (["reader", "manager"], "manager member reader"),
        (list(ROLES), "admin manager member reader service"),
    ],
)
def test_a_higher_role_implies_the_lower_ones_and_service_stands_alone(roles: list[Role], held: str) -> None:
    assert with_implied(tuple(roles)) == frozenset(held.split())
