"""The suites on the databases on which `make test` leaves them out."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.lab import Lab, lab
from tests.conformance.suite import IMAGE, IMAGE_TESTS, PLUG_IN, PLUG_IN_TESTS, run
from tests.services.servers import Server

pytestmark = pytest.mark.full
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cloud"), None) as made:
        yield made
        assert made.unforeseen() == []


@pytest.fixture(scope="module")
def on_postgres(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cloud"), postgres) as made:
        yield made
        assert made.unforeseen() == []


def test_the_plug_ins_tests_pass_on_sqlite(on_sqlite: Lab, record_property: Record) -> None:
    report = run(on_sqlite, "plug-in-sqlite", PLUG_IN)
    record_property("conformance", str(report))
    assert (report.faults, report.judged) == ([], PLUG_IN_TESTS)


@pytest.mark.parametrize(
    ("name", "tests", "count"), [("image", IMAGE, IMAGE_TESTS), ("plug-in", PLUG_IN, PLUG_IN_TESTS)], ids=["image", "plug-in"]
)
def test_all_pass_on_postgresql(on_postgres: Lab, name: str, tests: str, count: int, record_property: Record) -> None:
    report = run(on_postgres, f"{name}-postgresql", tests)
    record_property("conformance", str(report))
    assert (report.faults, report.judged) == ([], count)
