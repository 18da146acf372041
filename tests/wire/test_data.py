"""Data in and out: PUT and GET of /v2/images/{id}/file, deactivation, deletion."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.wire.server import ADMIN, MEMBER, READER, STRANGER, Ikon, Persona, head

MIB = 1 << 20
#: Two and a half blocks of digests, and not a round number.
DATA = random.Random(1).randbytes(5 * MIB // 2 + 7)


@pytest.fixture
def image_id(ikon: Ikon) -> str:
    return str(ikon.create()["id"])


@pytest.fixture(scope="module")
def active(ikon: Ikon) -> str:
    return ikon.active(DATA)


def until(true: Callable[[], bool], patience_s: float = 10) -> None:
    end = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_as_before(ikon: Ikon, image_id: str) -> bool:
    """Whether an image is queued and a whole upload still makes it active."""
    until(lambda: ikon.show(image_id)["status"] == "queued")
    record = ikon.show(image_id)
    assert (record["size"], record["checksum"], record["os_hash_value"], record.get("stores")) == (None, None, None, None)
    assert ikon.download(image_id).status == 204
    until(lambda: not [path for path in ikon.files() if path.name.startswith(image_id)])
    until(lambda: ikon.upload(image_id, b"whole").status == 204)  # 409 while a refused upload that had just begun is being undone
    return ikon.download(image_id).body == b"whole"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


# Upload


@pytest.mark.parametrize("data", [b"", b"x", b"x" * MIB, DATA], ids=len)
@pytest.mark.parametrize("chunked", [False, True])
def test_what_goes_in_comes_out_with_its_digests(ikon: Ikon, image_id: str, data: bytes, chunked: bool) -> None:
    answer = ikon.upload(image_id, pieces(data, 300_000) if chunked else data)

    record = ikon.show(image_id)
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (204, b"", None)
    assert (record["status"], record["size"], record["stores"]) == ("active", len(data), "one")
    assert record["checksum"] == hashlib.md5(data).hexdigest()
    assert (record["os_hash_algo"], record["os_hash_value"]) == ("sha512", hashlib.sha512(data).hexdigest())
    assert ikon.download(image_id).body == data


@pytest.mark.parametrize("size", [1, 2, 100, 4096, 65_537, MIB, 3 * MIB])
def test_chunks_may_have_any_size(ikon: Ikon, image_id: str, size: int) -> None:
    data = DATA[:3000] if size < 100 else DATA

    assert ikon.upload(image_id, pieces(data, size)).status == 204
    assert ikon.show(image_id)["checksum"] == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize(
    "content_type",
    ["application/octet-stream", "application/octet-stream; charset=x", "Application/Octet-Stream", " application/octet-stream ;"],
)
def test_the_content_type_is_that_of_bytes(ikon: Ikon, image_id: str, content_type: str) -> None:
    assert ikon.upload(image_id, b"x", {"Content-Type": content_type}).status == 204


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "text/plain", "application/octet-streams", "image/png", "application/x-www-form-urlencoded"],
)
def test_any_other_content_type_is_refused(ikon: Ikon, image_id: str, content_type: str | None) -> None:
    answer = ikon.upload(image_id, b"x", {"Content-Type": content_type})

    assert (answer.status, "application/octet-stream" in answer.message) == (415, True)
    assert is_as_before(ikon, image_id)


@pytest.mark.parametrize("chunked", [False, True])
def test_an_announced_size_that_is_right_is_taken(ikon: Ikon, image_id: str, chunked: bool) -> None:
    assert ikon.upload(image_id, pieces(DATA, MIB) if chunked else DATA, {"x-openstack-image-size": str(len(DATA))}).status == 204


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("announced", "words"),
    [
        (2000, "Size mismatch: expected 2000 bytes, got 1000 bytes"),
        (10, "Size exceeds: expected 10 bytes"),
        (0, "Size exceeds: expected 0 bytes"),
        (1001, "Size mismatch"),
    ],
)
def test_an_announced_size_that_is_wrong_is_refused(ikon: Ikon, image_id: str, chunked: bool, announced: int, words: str) -> None:
    data = b"x" * 1000

    answer = ikon.upload(image_id, pieces(data, 300) if chunked else data, {"x-openstack-image-size": str(announced)})

    assert (answer.status, words in answer.message) == (400, True), answer
    assert is_as_before(ikon, image_id)


@pytest.mark.parametrize("size", ["x", "-1", "1.0", "", "1e3", "0x10", "9" * 19, "1 0", "１"])
def test_an_announced_size_that_is_no_size_is_refused(ikon: Ikon, image_id: str, size: str) -> None:
    answer = ikon.raw(
        head(
            "PUT", f"/v2/images/{image_id}/file", "Content-Type: application/octet-stream", "Content-Length: 1", "Connection: close"
        ).replace(b"\r\n\r\n", b"\r\nx-openstack-image-size: " + size.encode() + b"\r\n\r\nx")
    )

    assert (answer.status, answer.message) == (400, "Invalid or missing image size in request headers.")
    assert is_as_before(ikon, image_id)


def test_an_upload_into_a_store_by_name(ikon: Ikon, image_id: str) -> None:
    assert ikon.upload(image_id, b"x", {"X-Image-Meta-Store": "two"}).status == 204
    assert ikon.show(image_id)["stores"] == "two"
    assert [path.parent.name for path in ikon.files() if path.name.startswith(image_id)] == ["two"]


@pytest.mark.parametrize("store", ["three", "", "os_glance_staging_store", "os_glance_tasks_store", "../one", "One", "one,two", "x" * 1000])
def test_an_unknown_or_reserved_store_is_refused(ikon: Ikon, image_id: str, store: str) -> None:
    answer = ikon.upload(image_id, b"x", {"X-Image-Meta-Store": store})

    assert (answer.status, answer.message.startswith(f"Store for identifier {store} not found")) == (400, True)
    assert is_as_before(ikon, image_id)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"disk_format": None}, "Property disk_format must be set prior to saving data."),
        ({"container_format": None}, "Property container_format must be set prior to saving data."),
        ({"disk_format": None, "container_format": None}, "Properties disk_format, container_format must be set prior to saving data."),
    ],
)
def test_data_needs_its_formats(ikon: Ikon, fields: dict[str, None], words: str) -> None:
    image_id = str(ikon.create(**fields)["id"])

    assert (answer := ikon.upload(image_id, b"x")).status == 400
    assert answer.message == words
    ikon.patch(
        image_id,
        [{"op": "replace", "path": f"/{name}", "value": {"disk_format": "raw", "container_format": "bare"}[name]} for name in fields],
    )
    assert is_as_before(ikon, image_id)


def test_data_is_given_once(ikon: Ikon, active: str) -> None:
    answer = ikon.upload(active, b"other")

    assert (answer.status, answer.message) == (409, "Image status transition from active to saving is not allowed")
    ikon.act(active, "deactivate")
    assert ikon.upload(active, b"other").status == 409
    ikon.act(active, "reactivate")
    assert ikon.download(active).body == DATA


def begin(ikon: Ikon, image_id: str, *framing: str) -> bytes:
    return head("PUT", f"/v2/images/{image_id}/file", "Content-Type: application/octet-stream", *framing)


def test_a_second_upload_is_refused_at_once_and_the_first_goes_on(ikon: Ikon, image_id: str) -> None:
    with ikon.connect() as sock:
        sock.sendall(begin(ikon, image_id, "Content-Length: 10") + b"first")
        until(lambda: ikon.show(image_id)["status"] == "saving")
        second = ikon.upload(image_id, b"second")
        read = ikon.download(image_id)
        sock.sendall(b"-half")
        first = sock.recv(4096)

    assert (second.status, second.message) == (409, "Image status transition from saving to saving is not allowed")
    assert (read.status, first.split()[1]) == (204, b"204")
    assert ikon.download(image_id).body == b"first-half"


def test_of_many_uploads_at_once_one_wins_whole(ikon: Ikon, image_id: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ikon.upload(image_id, bytes([n]) * MIB), range(8)))

    winner = [n for n, answer in enumerate(answers) if answer.status == 204]
    assert sorted(answer.status for answer in answers) == [204] + [409] * 7
    assert ikon.download(image_id).body == bytes([winner[0]]) * MIB
    until(lambda: len([path for path in ikon.files() if path.name.startswith(image_id)]) == 1)


@pytest.mark.parametrize("image_id", ["zz", "a%2Fb", "00000000-0000-0000-0000-000000000000"])
def test_data_of_no_image_is_not_found(ikon: Ikon, image_id: str) -> None:
    assert ikon.upload(image_id, b"x").status == ikon.download(image_id).status == 404


def test_data_for_a_deleted_image_is_not_found(ikon: Ikon, image_id: str) -> None:
    ikon.delete(image_id)

    assert (ikon.upload(image_id, b"x").status, ikon.download(image_id).status) == (404, 404)


def test_deleting_during_an_upload_ends_it_with_410(ikon: Ikon, image_id: str) -> None:
    with ikon.connect() as sock:
        sock.sendall(begin(ikon, image_id, "Content-Length: 2000000") + b"x" * MIB)
        until(lambda: ikon.show(image_id)["status"] == "saving")
        deleted = ikon.delete(image_id)
        sock.sendall(b"x" * (2_000_000 - MIB))
        answer = sock.recv(4096)

    assert (deleted.status, answer.split()[1]) == (204, b"410")
    until(lambda: not [path for path in ikon.files() if path.name.startswith(image_id)])


# Bodies that are cut, or lie


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        ("Content-Length: 10", b"12345"),
        ("Content-Length: 10", b""),
        ("Content-Length: 9000000", b"x" * 1_000_000),
        ("Transfer-Encoding: chunked", b""),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\n123"),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n0\r\n"),
        ("Transfer-Encoding: chunked", b"F4240\r\n" + b"x" * 1_000_000 + b"\r\n"),
    ],
)
@pytest.mark.parametrize("closing", ["reset", "half-closed"])
def test_a_body_that_is_cut_leaves_nothing(ikon: Ikon, image_id: str, framing: str, body: bytes, closing: str) -> None:
    with ikon.connect() as sock:
        sock.sendall(begin(ikon, image_id, framing) + body)
        until(lambda: ikon.show(image_id)["status"] == "saving")
        if closing == "half-closed":
            sock.shutdown(1)
            until(lambda: ikon.show(image_id)["status"] == "queued")

    assert is_as_before(ikon, image_id)


@pytest.mark.parametrize(
    "body",
    [
        b"xyz\r\n",
        b"5\r\n12345678\r\n0\r\n\r\n",
        b"-5\r\n12345\r\n0\r\n\r\n",
        b"5\n12345\r\n0\r\n\r\n",
        b"FFFFFFFFFFFFFFFFF\r\nx",
        b"5\r\n12345\r\nzz\r\n",
        b"0x5\r\n12345\r\n0\r\n\r\n",
        b"5 5\r\n12345\r\n0\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_a_malformed_chunk_is_refused_and_leaves_nothing(ikon: Ikon, image_id: str, body: bytes) -> None:
    answer = ikon.raw(begin(ikon, image_id, "Transfer-Encoding: chunked") + body)

    assert answer.status == 400
    assert is_as_before(ikon, image_id)


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: x"], 400),
        (["Content-Length: -5"], 400),
        (["Content-Length: 99999999999999999999999999"], 400),
        (["Transfer-Encoding: gzip"], 501),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: chunked, chunked"], 501),
    ],
)
def test_a_body_whose_length_is_in_doubt_is_refused(ikon: Ikon, image_id: str, framing: list[str], status: int) -> None:
    answer = ikon.raw(begin(ikon, image_id, *framing) + b"5\r\n12345\r\n0\r\n\r\n")

    assert answer.status in (400, status)
    assert is_as_before(ikon, image_id)


def test_more_bytes_than_the_length_says_are_not_data(ikon: Ikon, image_id: str) -> None:
    answer = ikon.raw(begin(ikon, image_id, "Content-Length: 5") + b"1234567890")

    assert answer.status == 204
    assert ikon.download(image_id).body == b"12345"


def test_a_client_that_waits_for_leave_is_told_no_before_it_sends(ikon: Ikon, active: str, image_id: str) -> None:
    def ask(name: str) -> tuple[bytes, bytes]:
        with ikon.connect() as sock:
            sock.sendall(begin(ikon, name, "Content-Length: 5", "Expect: 100-continue"))
            first = sock.recv(4096)
            if b"100 Continue" not in first:
                return first, b""
            sock.sendall(b"12345")
            return first, sock.recv(4096)

    refused, _ = ask(active)
    begun, done = ask(image_id)

    assert refused.split()[1] == b"409"
    assert (begun.split()[1], done.split()[1]) == (b"100", b"204")


# Download


def test_a_download_says_all_that_clients_check(ikon: Ikon, active: str) -> None:
    answer = ikon.download(active)

    assert (answer.status, answer.body) == (200, DATA)
    assert {
        name.lower(): answer.headers[name]
        for name in ("Content-Type", "Content-Length", "Content-MD5", "ETag", "Accept-Ranges", "Content-Range")
    } == {
        "content-type": "application/octet-stream",
        "content-length": str(len(DATA)),
        "content-md5": hashlib.md5(DATA).hexdigest(),
        "etag": f'"{hashlib.sha512(DATA).hexdigest()}"',
        "accept-ranges": "bytes",
        "content-range": None,
    }


def test_head_of_data_is_its_download_without_the_bytes(ikon: Ikon, active: str) -> None:
    path = f"/v2/images/{active}/file"
    for headers in ({}, {"Range": "bytes=5-9"}):
        full, bare = ikon.get(path, headers), ikon.call("HEAD", path, None, headers)
        assert (bare.status, bare.body) == (full.status, b"")
        for name in ("Content-Length", "Content-MD5", "ETag", "Accept-Ranges", "Content-Range", "Content-Type"):
            assert bare.headers[name] == full.headers[name]
    assert ikon.call("HEAD", path, None, {"Range": "bytes=99999999-"}).status == 416


SIZE = len(DATA)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=5-9", 5, 9),
        (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB),
        (f"bytes={MIB}-{2 * MIB - 1}", MIB, 2 * MIB - 1),
        (f"bytes={MIB + 17}-{2 * MIB + 300}", MIB + 17, 2 * MIB + 300),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
        (f"bytes={SIZE - 5}-{SIZE + 5}", SIZE - 5, SIZE - 1),
        ("bytes=7-999999999999", 7, SIZE - 1),
        ("bytes=-1", SIZE - 1, SIZE - 1),
        ("bytes=-700000", SIZE - 700_000, SIZE - 1),
        (f"bytes=-{SIZE}", 0, SIZE - 1),
        (f"bytes=-{SIZE + 1}", 0, SIZE - 1),
        ("bytes=-0", 0, SIZE - 1),
        ("bytes = 1 - 2", 1, 2),
        ("bytes=00000005-00000009", 5, 9),
    ],
)
def test_a_range_is_that_part_of_the_image(ikon: Ikon, active: str, asked: str, first: int, last: int) -> None:
    answer = ikon.download(active, {"Range": asked})

    assert (answer.status, answer.reason) == (206, "Partial Content")
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["Content-MD5"] == hashlib.md5(DATA).hexdigest()
    assert answer.body == DATA[first : last + 1]


@pytest.mark.parametrize(
    "asked",
    [
        f"bytes={SIZE}-",
        f"bytes={SIZE}-{SIZE + 1}",
        "bytes=9-5",
        "bytes=99999999999999999999-",
        "bytes=-",
        "bytes=",
        "bytes",
        "items=0-1",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=--1",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=+1-2",
        "bytes=1.0-2",
        "0-5",
        "bytes:0-5",
        "bytes=٣-٤",
        "x" * 500,
    ],
)
def test_a_range_that_the_image_lacks_is_answered_with_its_size(ikon: Ikon, active: str, asked: str) -> None:
    answer = ikon.raw(
        head("GET", f"/v2/images/{active}/file", "Connection: close").replace(b"\r\n\r\n", b"\r\nRange: " + asked.encode() + b"\r\n\r\n")
    )

    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert "The Range requested is not available." in answer.message


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=0-1, 5-", "bytes=0-0,0-0", ","])
def test_several_ranges_at_once_are_refused(ikon: Ikon, active: str, asked: str) -> None:
    answer = ikon.download(active, {"Range": asked})

    assert (answer.status, "multiple ranges are not supported" in answer.message) == (400, True)


@pytest.mark.parametrize(
    ("asked", "first", "last"), [("bytes 5-9/*", 5, 9), (f"bytes 0-0/{SIZE}", 0, 0), (f"bytes 5-{SIZE - 1}/*", 5, SIZE - 1)]
)
def test_the_older_header_names_a_part_too(ikon: Ikon, active: str, asked: str, first: int, last: int) -> None:
    answer = ikon.download(active, {"Content-Range": asked})

    assert (answer.status, answer.headers["Content-Range"]) == (206, f"bytes {first}-{last}/{SIZE}")
    assert answer.body == DATA[first : last + 1]


@pytest.mark.parametrize(
    "asked", ["bytes */10", f"bytes 0-{SIZE}/*", "bytes 9-5/*", "bytes 5-9", "bytes=5-9/*", "nonsense", f"bytes {SIZE}-{SIZE}/*"]
)
def test_the_older_header_is_held_to_the_same_rules(ikon: Ikon, active: str, asked: str) -> None:
    answer = ikon.download(active, {"Content-Range": asked})

    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")


def test_of_both_headers_the_newer_one_counts(ikon: Ikon, active: str) -> None:
    assert ikon.download(active, {"Range": "bytes=1-1", "Content-Range": "bytes 5-9/*"}).body == DATA[1:2]


def test_an_image_of_no_bytes_is_downloaded_as_such(ikon: Ikon) -> None:
    image_id = ikon.active(b"")

    whole = ikon.download(image_id)
    assert (whole.status, whole.body, whole.headers["Content-Length"], whole.headers["Content-MD5"]) == (
        200,
        b"",
        "0",
        hashlib.md5(b"").hexdigest(),
    )
    for asked in ("bytes=0-", "bytes=0-5", "bytes=-5", "bytes=-0"):
        answer = ikon.download(image_id, {"Range": asked})
        assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0"), asked


def test_an_image_without_data_has_nothing_to_download(ikon: Ikon, image_id: str) -> None:
    for headers in ({}, {"Range": "bytes=0-"}):
        answer = ikon.download(image_id, headers)
        assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("prefer", ["one", "two", "two,one", "one,two", " two , one ", "", ","])
def test_a_download_may_prefer_stores(ikon: Ikon, active: str, prefer: str) -> None:
    assert ikon.download(active, query=f"?prefer={prefer.replace(' ', '%20')}").body == DATA


@pytest.mark.parametrize("prefer", ["three", "one,three", "os_glance_staging_store", "ONE", "%00"])
def test_a_preferred_store_must_be_there(ikon: Ikon, active: str, prefer: str) -> None:
    answer = ikon.download(active, query=f"?prefer={prefer}")

    assert (answer.status, "is not configured." in answer.message) == (400, True)


# Who may


@pytest.mark.parametrize(("who", "status"), [(MEMBER, 204), (ADMIN, 204), (READER, 403), (STRANGER, 404)])
def test_the_project_s_members_and_administrators_upload(ikon: Ikon, image_id: str, who: Persona, status: int) -> None:
    assert ikon.upload(image_id, b"x", who=who).status == status


def test_downloading_needs_the_member_role_of_any_project_that_sees_the_image(ikon: Ikon) -> None:
    image_id = ikon.active(b"x", visibility="community")

    assert [ikon.download(image_id, who=who).status for who in (MEMBER, STRANGER, ADMIN, READER)] == [200, 200, 200, 403]
    assert ikon.download(image_id, who=READER).message == "You are not authorized to complete download_image action."
    assert ikon.upload(image_id, b"y", who=STRANGER).message == "You are not authorized to complete upload_image action."


# Deactivated


def test_a_deactivated_image_is_kept_from_all_but_administrators(ikon: Ikon) -> None:
    image_id = ikon.active(b"secret", visibility="community")

    assert (ikon.act(image_id, "deactivate").status, ikon.show(image_id)["status"]) == (204, "deactivated")
    for who in (MEMBER, STRANGER):
        for headers in ({}, {"Range": "bytes=0-1"}):
            answer = ikon.download(image_id, headers, who=who)
            assert (answer.status, answer.message) == (403, "The requested image has been deactivated. Image data download is forbidden.")
    assert ikon.call("HEAD", f"/v2/images/{image_id}/file").status == 403
    assert ikon.download(image_id, who=ADMIN).body == b"secret"
    assert (ikon.act(image_id, "reactivate").status, ikon.download(image_id).body) == (204, b"secret")


def test_doing_it_again_changes_nothing(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")

    assert [ikon.act(image_id, action).status for action in ("reactivate", "deactivate", "deactivate", "reactivate")] == [204] * 4
    assert ikon.show(image_id)["status"] == "active"


@pytest.mark.parametrize("action", ["deactivate", "reactivate"])
def test_an_image_without_data_is_not_switched(ikon: Ikon, image_id: str, action: str) -> None:
    answer = ikon.act(image_id, action)

    assert (answer.status, answer.message) == (403, f"Not allowed to {action} image in status 'queued'")


@pytest.mark.parametrize("action", ["activate", "Deactivate", "", "x", "deactivate/x"])
def test_an_unknown_action_is_not_found(ikon: Ikon, active: str, action: str) -> None:
    assert ikon.act(active, action, who=ADMIN).status == 404


# Delete


@pytest.mark.parametrize("status", ["queued", "active", "deactivated"])
def test_an_image_is_deleted_in_any_status_with_its_bytes(ikon: Ikon, status: str) -> None:
    image_id = str(ikon.create()["id"]) if status == "queued" else ikon.active(DATA)
    if status == "deactivated":
        ikon.act(image_id, "deactivate")

    answer = ikon.delete(image_id)

    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (204, b"", None)
    assert ikon.get(f"/v2/images/{image_id}", who=ADMIN).status == 404
    assert image_id not in ikon.ids("?limit=1000&visibility=all", who=ADMIN)
    assert not [path for path in ikon.files() if path.name.startswith(image_id)]
    assert (ikon.delete(image_id).status, ikon.patch(image_id, []).status) == (404, 404)


def test_a_protected_image_stays_whoever_asks(ikon: Ikon) -> None:
    image_id = str(ikon.create(protected=True)["id"])

    for who in (MEMBER, ADMIN):
        answer = ikon.delete(image_id, who=who)
        assert (answer.status, answer.message) == (403, f"Image {image_id} is protected and cannot be deleted.")
    ikon.patch(image_id, [{"op": "replace", "path": "/protected", "value": False}])
    assert ikon.delete(image_id).status == 204


@pytest.mark.parametrize("image_id", ["zz", "00000000-0000-0000-0000-000000000000", "%20"])
def test_deleting_what_is_not_there_is_not_found(ikon: Ikon, image_id: str) -> None:
    assert ikon.delete(image_id).status == 404


def test_of_many_deletions_at_once_one_wins(ikon: Ikon) -> None:
    image_id = ikon.active(b"x")

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: ikon.delete(image_id).status, range(6)))

    assert sorted(answers) == [204] + [404] * 5


def test_a_download_that_has_begun_survives_the_deletion_or_breaks(ikon: Ikon) -> None:
    data = DATA * 8
    image_id = ikon.active(data)
    with ikon.connect() as sock:
        sock.sendall(head("GET", f"/v2/images/{image_id}/file", "Connection: close"))
        got = sock.recv(65536)
        assert ikon.delete(image_id).status == 204
        try:
            while more := sock.recv(1 << 20):
                got += more
        except ConnectionError:
            return
    body = got.partition(b"\r\n\r\n")[2]
    assert body == data
