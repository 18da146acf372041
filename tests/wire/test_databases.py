"""What depends on the database, over the wire on the big ones: text, order, missing values, several at once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.wire.server import PATCH, Ikon, on_database, q, someone

pytestmark = pytest.mark.slow


@pytest.fixture(params=["mariadb_url", "postgres_url"])
def ikon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ikon]:
    with on_database(tmp_path, request.getfixturevalue(request.param)) as server:
        yield server
        assert (server.stop(), server.unforeseen()) == (0, [])


def test_an_image_lives_its_life(ikon: Ikon) -> None:
    data = b"x" * 3_000_000
    image_id = ikon.active(data, name="\U0001f427 a\nb ", colour="\U0001f427", tags=["é", "e\u0301", "", "A", "a "])

    record = ikon.show(image_id)
    assert (record["name"], record["colour"], record["tags"]) == ("\U0001f427 a\nb ", "\U0001f427", ["é", "e\u0301", "", "A", "a "])
    assert ikon.download(image_id, {"Range": "bytes=1048570-1048580"}).body == b"x" * 11
    assert ikon.act(image_id, "deactivate").status == ikon.act(image_id, "reactivate").status == 204
    assert ikon.try_create({"id": image_id}).status == 409
    assert ikon.delete(image_id).status == 204
    assert ikon.try_create({"id": image_id}).status == 409
    assert ikon.get(f"/v2/images/{image_id}").status == 404


def test_text_is_compared_by_every_byte(ikon: Ikon) -> None:
    who = someone()
    names = ["a", "A", "a ", "á", "a\u0301", "ß", "ss", "", " ", "\U0001f427", "\U0001f428", "z"]
    for name in names:
        ikon.create(who=who, name=name)

    for name in names:
        assert [image["name"] for image in ikon.browse(f"?name=eq:{q(name)}", who=who).json["images"]] == [name]
    for limit in (1, 5, 100):
        pages = ikon.walk(f"?sort=name:asc&limit={limit}", who=who)
        assert [image["name"] for page in pages for image in page] == sorted(names, key=lambda name: name.encode())


def test_ids_differ_by_case(ikon: Ikon) -> None:
    image_id = "ABCDEF00-0000-4000-8000-000000000000"
    ikon.create(id=image_id)

    assert ikon.get(f"/v2/images/{image_id.lower()}").status == 404
    assert ikon.create(id=image_id.lower())["id"] == image_id.lower()


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_missing_values_come_first_in_ascending_order_on_every_page(ikon: Ikon, direction: str) -> None:
    who = someone()
    made = [ikon.create(who=who, name=["b", None, "a"][n % 3], disk_format=[None, "raw"][n % 2])["id"] for n in range(12)]
    records = {image_id: ikon.show(image_id) for image_id in made}

    for field in ("name", "disk_format", "size", "status"):
        ordered = sorted(
            made if direction == "asc" else made[::-1],
            key=lambda i, f=field: (records[i][f] is not None, records[i][f] or ""),
            reverse=direction == "desc",
        )
        for limit in (1, 5):
            pages = ikon.walk(f"?sort={field}:{direction}&limit={limit}", who=who)
            assert [image["id"] for page in pages for image in page] == ordered


def test_twelve_clients_that_patch_twelve_keys_all_succeed(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: ikon.patch(image_id, [{"op": "add", "path": f"/key{n}", "value": "x"}], PATCH), range(36)))

    assert {answer.status for answer in answers} == {200}
    assert len([key for key in ikon.show(image_id) if key.startswith("key")]) == 36


def test_a_record_of_eight_mebibytes_is_kept(ikon: Ikon) -> None:
    image_id = str(ikon.create()["id"])
    for at in range(0, 128, 8):
        operations = [{"op": "add", "path": f"/p{n}", "value": "\U0001f427" * 16_383} for n in range(at, at + 8)]
        assert ikon.patch(image_id, json.dumps(operations, ensure_ascii=False).encode()).status == 200

    assert ikon.show(image_id)["p127"] == "\U0001f427" * 16_383
