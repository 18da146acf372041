"""Tempest's tests of the image service and those of glance-tempest-plugin, against two servers on MariaDB."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.lab import Lab, lab
from tests.conformance.suite import IMAGE, IMAGE_TESTS, PLUG_IN, PLUG_IN_TESTS, run
from tests.services.servers import Server

pytestmark = pytest.mark.slow
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def cloud(mariadb: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cloud"), mariadb) as made:
        yield made
        assert made.unforeseen() == []


def test_tempests_image_tests_pass(cloud: Lab, record_property: Record) -> None:
    report = run(cloud, "image-mariadb", IMAGE)
    record_property("conformance", str(report))
    assert (report.faults, report.judged) == ([], IMAGE_TESTS)


def test_the_plug_ins_tests_of_who_may_do_what_pass(cloud: Lab, record_property: Record) -> None:
    report = run(cloud, "plug-in-mariadb", PLUG_IN)
    record_property("conformance", str(report))
    assert (report.faults, report.judged) == ([], PLUG_IN_TESTS)
