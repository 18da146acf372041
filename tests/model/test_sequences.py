"""Random sequences of all calls, from several projects: every answer is the one that the model gives."""

from collections import Counter
from pathlib import Path

import pytest

from tests.model.calls import Call, Caller, differs, expect, send
from tests.model.catalogue import Catalogue
from tests.wire.server import ADMIN, Ikon, on_database

pytestmark = pytest.mark.slow

SHORT, LONG, SEED = 3000, 100_000, 20260611  # calls


def follow(ikon: Ikon, seed: int, calls: int) -> Counter[str]:
    """Make so many calls and compare every answer. Returns how many of each were compared."""
    catalogue, counts = Catalogue(), Counter[str]()
    caller, done = Caller(seed, catalogue), list[Call]()
    for _ in range(calls):
        call = caller.next()
        done.append(call)
        answer, expected = send(ikon, call), expect(catalogue, call)
        difference = differs(call, expected, answer)
        if difference is not None:
            before = "\n".join(str(each) for each in done if each.image == call.image and each.verb != "list")
            raise AssertionError(f"seed {seed}, call {len(done)}: {call}: {difference}\nwhat was done to the image:\n{before[-3000:]}")
        counts[f"{call.verb} {answer.status}"] += 1
        if len(done) % 500 == 0:
            compare_all(ikon, catalogue)
    compare_all(ikon, catalogue)
    return counts


def compare_all(ikon: Ikon, catalogue: Catalogue) -> None:
    """Every image is as the model has it, and no other exists."""
    listed = {
        image["id"]
        for hidden in ("true", "false")
        for image in ikon.browse(f"?visibility=all&limit=1000&os_hidden={hidden}", who=ADMIN).json["images"]
    }
    assert listed == catalogue.images.keys()
    for image in catalogue.images:
        for verb in ("show", "members"):
            call = Call(verb, ADMIN, image, {})
            assert differs(call, expect(catalogue, call), send(ikon, call)) is None


def report(counts: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused = sum(count for name, count in counts.items() if int(name[-3:]) >= 400)
    with capsys.disabled():
        print(f"{counts.total()} calls compared, {refused} of them refusals, {len(counts)} kinds of answers", end=" ")


@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("mariadb", marks=pytest.mark.slow), pytest.param("postgresql", marks=pytest.mark.slow)]
)
def test_each_answer_is_the_one_that_the_model_gives(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str], database: str
) -> None:
    names = {"sqlite": "sqlite_url", "mariadb": "mariadb_url", "postgresql": "postgres_url"}
    with on_database(tmp_path, request.getfixturevalue(names[database])) as ikon:
        counts = follow(ikon, SEED, SHORT)
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
    report(counts, capsys)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
def test_each_answer_is_the_one_that_the_model_gives_for_long(tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    with Ikon(tmp_path) as ikon:
        counts = follow(ikon, seed, LONG)
        assert (ikon.stop(), ikon.unforeseen()) == (0, [])
    report(counts, capsys)
