"""Built-in users are the same on every database: told apart by every byte, listed in one order, gone when removed."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ikon.context import Context
from ikon.db import schema, users
from ikon.db.engine import make_engine
from ikon.kit import Kit
from ikon.model.user import NewUser, User
from ikon.problems import Conflict, Forbidden, NotFound
from ikon.service import users as verbs
from tests.contract.test_verbs_databases import ADMIN, ALICE, kit_on

HERE = "192.0.2.1"


@pytest.fixture
async def kit(database_url: str, tmp_path: Path) -> AsyncIterator[Kit]:
    schema.upgrade(make_engine(database_url))
    async with kit_on(database_url, tmp_path) as made:
        yield made


def user(name: str, password: str = "hash") -> User:
    return User(name, "home", ("member", "service"), password)


async def test_a_user_is_kept_as_it_was_given(kit: Kit) -> None:
    assert await kit.db.write(users.add, user("älice 🐧", "$argon2id$x"))

    found = await kit.db.read(users.get, "älice 🐧")

    assert found is not None
    assert (found.name, found.project, found.roles, found.password) == ("älice 🐧", "home", ("member", "service"), "$argon2id$x")
    assert abs(found.created - 1000 * time.time()) < 60_000


async def test_names_differ_by_every_byte_and_are_listed_in_their_order(kit: Kit) -> None:
    names = ["a", "A", "á", "a\u0301", "ß", "ss", "Z", "z", "🐧", "a b", "x" * 255]
    for name in names:
        assert await kit.db.write(users.add, user(name))
        assert not await kit.db.write(users.add, user(name, "other"))

    for absent in ("a ", "S", "", "x" * 254, "x" * 8000):
        assert await kit.db.read(users.get, absent) is None
    listed: list[str] = []
    while page := await kit.db.read(users.page, listed[-1] if listed else "", 3):
        listed += [each.name for each in page]
    assert listed == sorted(names, key=lambda name: name.encode())


async def test_a_password_changes_and_a_user_goes_only_where_there_is_one(kit: Kit) -> None:
    await kit.db.write(users.add, user("alice"))

    assert await kit.db.write(users.set_password, "alice", "new")
    assert await kit.db.write(users.set_password, "alice", "new")
    assert not await kit.db.write(users.set_password, "Alice", "new")
    found = await kit.db.read(users.get, "alice")
    assert found is not None and found.password == "new"
    assert not await kit.db.write(users.remove, "bob")
    assert await kit.db.write(users.remove, "alice")
    assert await kit.db.read(users.get, "alice") is None


async def test_of_many_who_add_one_name_at_one_time_one_does(kit: Kit) -> None:
    new = [NewUser("alice", f"project {n}", f"secret {n}", ["member"]) for n in range(8)]

    answers = await asyncio.gather(*(verbs.add(kit, ADMIN, each) for each in new), return_exceptions=True)

    (winner,) = [n for n, answer in enumerate(answers) if answer is None]
    assert sum(isinstance(answer, Conflict) for answer in answers) == 7
    found = await verbs.authenticate(kit, "alice", f"secret {winner}", HERE)
    assert found is not None and found.project == f"project {winner}"


async def test_name_and_password_prove_a_user_until_it_is_changed_or_removed(kit: Kit) -> None:
    await verbs.add(kit, ADMIN, NewUser("alice", "home", "old", ["admin", "service"]))
    found = await verbs.authenticate(kit, "alice", "old", HERE)
    assert found is not None and found.roles == ("admin", "service")
    for name, password in (("alice", "new"), ("Alice", "old"), ("nobody", "old"), ("", "")):
        assert await verbs.authenticate(kit, name, password, HERE) is None

    await verbs.set_password(kit, ADMIN, "alice", "new")
    assert await verbs.authenticate(kit, "alice", "old", HERE) is None
    assert await verbs.authenticate(kit, "alice", "new", HERE) is not None
    await verbs.remove(kit, ADMIN, "alice")
    assert await verbs.authenticate(kit, "alice", "new", HERE) is None
    for verb in (verbs.remove(kit, ADMIN, "alice"), verbs.set_password(kit, ADMIN, "alice", "x")):
        with pytest.raises(NotFound, match="No user 'alice'"):
            await verb


@pytest.mark.parametrize(
    "who", [ALICE, Context("s", "alpha", None, frozenset(("service", "manager"))), Context(roles=frozenset(("member",)))]
)
async def test_users_are_the_administrators_business(kit: Kit, who: Context) -> None:
    for verb in (
        verbs.add(kit, who, NewUser("eve", "home", "x", ["admin"])),
        verbs.browse(kit, who, ""),
        verbs.remove(kit, who, "alice"),
        verbs.set_password(kit, who, "alice", "x"),
    ):
        with pytest.raises(Forbidden):
            await verb
    assert await kit.db.read(users.page, "", 9) == []
