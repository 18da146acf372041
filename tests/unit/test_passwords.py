"""Passwords are compared in the same time whoever is named, looked at once in minutes, and guessed at a few times a minute."""

import asyncio
import statistics
import time
from collections.abc import Iterator

import argon2
import pytest

from ikon import passwords as module
from ikon.passwords import AGAIN_S, KEPT_S, NOBODY, TRIES, Passwords
from ikon.problems import Busy, TooManyTries

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def passwords(clock: Clock) -> Iterator[Passwords]:
    made = Passwords(clock)
    yield made
    made.close()


async def seconds(passwords: Passwords, name: str, password: str, stored: str | None) -> float:
    began = time.perf_counter()
    await passwords.match(name, password, stored, HERE)
    return time.perf_counter() - began


async def wrong(passwords: Passwords, name: str, times: int, address: str = HERE) -> None:
    for n in range(times):
        assert not await passwords.match(name, f"guess {n}", None, address)


async def test_the_right_password_matches_and_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash("pässwörd:x")

    assert await passwords.match("alice", "pässwörd:x", stored, HERE)
    for other in ("pässwörd", "pässwörd:X", "", "pässwörd:x ", stored):
        assert not await passwords.match("alice", other, stored, HERE)


async def test_a_hash_tells_nothing_of_what_is_hashed_and_is_never_the_same(passwords: Passwords) -> None:
    one, two = await passwords.hash("secret"), await passwords.hash("secret")

    assert one != two
    assert one.startswith("$argon2id$")
    assert argon2.extract_parameters(one) == argon2.extract_parameters(NOBODY)


@pytest.mark.parametrize("stored", ["", "x", "$argon2id$", "$argon2id$v=19$m=19456,t=2,p=1$AAAA$", "secret"])
async def test_a_broken_hash_matches_nothing(passwords: Passwords, stored: str) -> None:
    assert not await passwords.match("alice", "secret", stored, HERE)


async def test_a_name_that_nobody_has_costs_what_a_wrong_password_costs(passwords: Passwords) -> None:
    stored = await passwords.hash("secret")
    unknown, known = [], []
    for n in range(9):
        unknown.append(await seconds(passwords, f"nobody {n}", "guess", None))
        known.append(await seconds(passwords, f"alice {n}", "guess", stored))

    assert 0.5 < statistics.median(unknown) / statistics.median(known) < 2


async def test_a_password_is_looked_at_once_and_again_after_a_while(passwords: Passwords, clock: Clock) -> None:
    stored = await passwords.hash("secret")
    first = await seconds(passwords, "alice", "secret", stored)
    again = statistics.median([await seconds(passwords, "alice", "secret", stored) for _ in range(50)])
    clock.now += KEPT_S + 1
    late = await seconds(passwords, "alice", "secret", stored)

    assert again < first / 10
    assert late > 10 * again


async def test_a_new_password_ends_the_old_one_at_once(passwords: Passwords) -> None:
    old, new = await passwords.hash("old"), await passwords.hash("new")
    assert await passwords.match("alice", "old", old, HERE)

    assert not await passwords.match("alice", "old", new, HERE)
    assert not await passwords.match("alice", "old", None, HERE)
    assert await passwords.match("alice", "new", new, HERE)


async def test_what_is_remembered_of_one_name_serves_no_other(passwords: Passwords) -> None:
    stored, other = await passwords.hash("secret"), await passwords.hash("other")
    assert await passwords.match("alice", "secret", stored, HERE)

    assert not await passwords.match("bob", "secret", other, HERE)


async def test_after_some_wrong_passwords_even_the_right_one_has_to_wait(passwords: Passwords, clock: Clock) -> None:
    stored = await passwords.hash("secret")
    assert await passwords.match("alice", "secret", stored, HERE)
    for n in range(TRIES):
        assert not await passwords.match("alice", f"guess {n}", stored, HERE)

    for password in ("guess", "secret"):  # remembered as right: the answer must not tell that this was the one
        with pytest.raises(TooManyTries) as refused:
            await passwords.match("alice", password, stored, HERE)
        assert refused.value.headers == {"Retry-After": str(int(AGAIN_S))}
    assert await passwords.match("alice", "secret", stored, THERE)
    await wrong(passwords, "bob", 1)
    clock.now += AGAIN_S
    assert await passwords.match("alice", "secret", stored, HERE)
    await wrong(passwords, "alice", 1)
    with pytest.raises(TooManyTries):
        await passwords.match("alice", "secret", stored, HERE)
    clock.now += TRIES * AGAIN_S
    await wrong(passwords, "alice", TRIES)


async def test_an_unknown_name_is_limited_like_a_known_one(passwords: Passwords) -> None:
    await wrong(passwords, "nobody", TRIES)

    with pytest.raises(TooManyTries):
        await passwords.match("nobody", "guess", None, HERE)


async def test_right_passwords_cost_no_tries(passwords: Passwords, clock: Clock) -> None:
    stored = await passwords.hash("secret")
    for _ in range(TRIES + 5):
        clock.now += KEPT_S + 1
        assert await passwords.match("alice", "secret", stored, HERE)
    clock.now += 0.001

    await wrong(passwords, "alice", TRIES)


async def test_guesses_at_one_time_are_as_many_as_guesses_in_turn(passwords: Passwords) -> None:
    stored = await passwords.hash("secret")

    answers = await asyncio.gather(*(passwords.match("alice", f"guess {n}", stored, HERE) for n in range(50)), return_exceptions=True)

    assert answers.count(False) == TRIES
    assert sum(isinstance(answer, TooManyTries) for answer in answers) == 50 - TRIES


async def test_many_requests_with_the_right_password_at_one_time_all_pass_and_look_at_it_once(passwords: Passwords) -> None:
    stored = await passwords.hash("secret")
    once = await seconds(passwords, "bob", "secret", stored)
    began = time.perf_counter()

    answers = await asyncio.gather(*(passwords.match("alice", "secret", stored, HERE) for _ in range(200)))

    assert answers == [True] * 200
    assert time.perf_counter() - began < 20 * once


async def test_more_than_can_wait_are_told_to_come_again(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 4)

    answers = await asyncio.gather(*(passwords.match(f"name {n}", "guess", None, HERE) for n in range(20)), return_exceptions=True)

    assert answers.count(False) == module.THREADS + 4
    refused = [answer for answer in answers if isinstance(answer, Busy)]
    assert len(refused) == 20 - module.THREADS - 4
    assert refused[0].headers == {"Retry-After": "1"}
    await wrong(passwords, "name 19", TRIES)  # what was not looked at was no try


async def test_memory_does_not_grow_with_names(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNTED", 3)
    monkeypatch.setattr(module, "KEPT", 3)
    stored = await passwords.hash("secret")
    for n in range(8):
        await passwords.match(f"name {n}", "secret", stored, HERE)
        await passwords.match(f"name {n}", "guess", stored, HERE)

    assert (len(passwords._owed), len(passwords._right), len(passwords._asked)) == (3, 3, 0)
