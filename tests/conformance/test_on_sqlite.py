"""Tempest's tests of the image service, and the code of Nova, Cinder and Horizon, against servers on SQLite."""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.drivers import accounts, drive
from tests.conformance.lab import Lab, lab
from tests.conformance.suite import CONVERSIONS, IMAGE, IMAGE_TESTS, LISTS, run

pytestmark = pytest.mark.slow
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("cloud"), None) as made:
        accounts(made)
        yield made
        assert made.unforeseen() == []


@pytest.mark.parametrize("service", ["nova", "cinder", "horizon"])
def test_what_a_neighbour_ships_for_talking_to_the_image_service_works(cloud: Lab, service: str, record_property: Record) -> None:
    well, said = drive(cloud, service)
    record_property("conformance", said.strip())
    assert well, said


def test_tempests_image_tests_pass(cloud: Lab, record_property: Record) -> None:
    report = run(cloud, "image-sqlite", IMAGE)
    record_property("conformance", str(report))
    assert (report.faults, report.judged) == ([], IMAGE_TESTS)


def test_images_of_every_format_are_converted_as_they_are_imported(cloud: Lab, record_property: Record) -> None:
    report = run(cloud, "conversion", CONVERSIONS, region="Convert", image_conversion=True)
    record_property("conformance", str(report))
    assert report.faults == []


def test_tempests_lists_of_data_that_is_not_what_it_is_said_to_be_pass(cloud: Lab, record_property: Record) -> None:
    report = run(cloud, "lists", LISTS, region="AsTold", image_format_enforcement=False)
    record_property("conformance", str(report))
    assert report.faults == []
