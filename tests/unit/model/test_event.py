"""What is told of events, in the form that OpenStack's consumers know."""

import msgspec
import pytest

from ikon.context import Context
from ikon.model import event
from ikon.model.event import Sink
from ikon.model.image import Image, Member

CTX = Context("alice", "alpha", None, frozenset(("member",)))
IMAGE = Image(
    1_700_000_000_000_000, "an-id", "alpha", "public", False, "active", "a1", "raw", "bare", 100, 100, 0, 0, False, "md5", "sha512", "sha",
    1_700_000_001_000_000, 3, None, None, {"os_type": "linux"}, ["x"], ["local"], {"beta": Member("pending", 1_700_000_000_000_000, 1_700_000_001_000_000)},
)  # fmt: skip
NOW_US = 1_700_000_002_000_000


def told(kind: str, detail: str | None = None, *disabled: str) -> list[tuple[str, str, object]]:
    return event.notifications(kind, msgspec.json.decode(event.body(CTX, kind, IMAGE, detail, NOW_US)), disabled)


def test_an_update_carries_the_record_as_consumers_know_it() -> None:
    assert told("image.update") == [
        (
            "image.update",
            "INFO",
            {
                "id": "an-id", "name": "a1", "status": "active", "created_at": "2023-11-14T22:13:20Z", "updated_at": "2023-11-14T22:13:21Z",
                "min_disk": 0, "min_ram": 0, "protected": False, "checksum": "md5", "owner": "alpha", "disk_format": "raw",
                "container_format": "bare", "size": 100, "virtual_size": 100, "is_public": True, "visibility": "public",
                "properties": {"os_type": "linux"}, "tags": ["x"], "deleted": False, "deleted_at": None,
            },
        )
    ]  # fmt: skip


def test_data_that_came_in_is_an_upload_and_an_activation() -> None:
    (upload, _, first), (activate, _, second) = told("image.activate")
    assert (upload, activate) == ("image.upload", "image.activate")
    assert first == {**second, "os_glance_importing_to_stores": [], "os_glance_failed_import": []}  # type: ignore[dict-item]


def test_what_is_about_to_come_in_names_its_store() -> None:
    [(_, _, payload)] = told("image.prepare", "fast")
    assert payload["backend"] == "fast"  # type: ignore[index]


def test_an_upload_that_failed_is_an_error_with_its_reason_and_nothing_for_the_operator_alone() -> None:
    detail = '{"problem": "StoreDown", "why": "Store one does not answer", "because": "/srv/disk7: gone"}'
    assert told("image.upload.failed", detail) == [("image.upload", "ERROR", "Store one does not answer")]
    assert told("image.upload.failed", "upload again") == [("image.upload", "ERROR", "upload again")]


def test_a_deleted_image_is_told_as_deleted() -> None:
    [(_, _, payload)] = told("image.delete")
    assert (payload["status"], payload["deleted"], payload["deleted_at"]) == ("deleted", True, "2023-11-14T22:13:22Z")  # type: ignore[index]


def test_a_share_is_told_with_its_own_times() -> None:
    [(_, _, payload)] = told("image.member.update", '{"member_id": "beta", "status": "pending"}')
    assert payload == {
        "image_id": "an-id", "member_id": "beta", "status": "pending", "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:21Z", "deleted": False, "deleted_at": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("disabled", "kind", "wanted"),
    [
        ("image.update", "image.update", False),
        ("image.update", "image.create", True),
        ("image.member", "image.member.create", False),
        ("image.member", "image.create", True),
        ("image", "image.member.create", False),
        ("image.mem", "image.member.create", True),
        ("image.upload", "image.activate", True),
        ("task", "image.create", True),
    ],
)
def test_names_and_groups_are_left_out_where_they_are_disabled(disabled: str, kind: str, wanted: bool) -> None:
    assert Sink("notifications", all=False, disabled=(disabled,)).wants(kind) is wanted


def test_one_half_of_an_event_may_be_left_out() -> None:
    assert [name for name, _, _ in told("image.activate", None, "image.upload")] == ["image.activate"]


def test_what_is_ikons_own_is_no_notification() -> None:
    assert not Sink("notifications", all=False).wants("image.import.retry")
    assert Sink("log").wants("image.import.retry")
