"""The words of `ikon why`: each row of its tables by a fact that it is about, and what a tenant is not told."""

import msgspec
import pytest

from ikon import problems
from ikon.model import timeline
from ikon.model.timeline import CAUSES, EFFECTS, WHAT, Entry, Fact, amount, discreet, explain, now
from tests.unit.model.facts import IMAGE, image, job

UPLOAD, IMPORT, PUT_OFF = "image.upload.failed", "image.import.failed", "image.job.put_off"


def fact(problem: str = "", why: str = "Some words. And a hint", kind: str = IMPORT, because: str = "", **more: object) -> Fact:
    return Fact(**{"kind": kind, "problem": problem, "why": why, "because": because, "step": "store", "method": "web-download"} | more)  # type: ignore[arg-type]


#: For each row of CAUSES, in their order, a fact and words that stand in its cause.
ROWS = [
    (fact("ClientGone", kind=UPLOAD, was="saving"), "The client closed"),
    (fact("BadRequest", "Size mismatch: expected 5 bytes, got 4 bytes", UPLOAD), "expected 5 bytes, got 4"),
    (fact("ImageDeleted"), "was deleted while"),
    (fact(kind="image.delete", was="saving", why="", method="", step=""), "was deleted while"),
    (fact("Cancelled"), "was cancelled"),
    (fact("OutOfTime"), "its time was over"),
    (fact("FormatMismatch"), "not in the format that the image names: Some words"),
    (fact("UnsafeImage"), "could harm"),
    (fact("PackedDataRefused", "The gzip data unpacks to more than 200 times its size"), "decompression bomb"),
    (fact("PackedDataRefused", "The gzip data ends too early"), "cannot be unpacked: The gzip data ends too early"),
    (fact("ConversionFailed", step="convert"), "conversion into another format failed"),
    (fact("ConversionUnavailable", step="convert"), "cannot be converted here"),
    (fact("DigestMismatch"), "not what its digest says"),
    (fact("SourceTooLarge"), "larger than this service takes"),
    (fact("QuotaExceeded"), "quota is used up"),
    (fact("StoreFull", "Store one is full. Choose another"), "A disk is full: Store one is full"),
    (fact("RoomPromised"), "no room for it at this time"),
    (fact("NoRoom"), "no room to work"),
    (fact("StoreDenied"), "refuses to be written to"),
    (fact("StoreDown", "Store one takes too long"), "A store hangs"),
    (fact("StoreDown", "Store one failed: No such file or directory"), "gone or fails: Store one failed: No such file"),
    (fact("DataUnavailable", kind="image.copy.suspect", store="one"), "A copy in store one is damaged"),
    (fact("StagedTooLong", kind=UPLOAD, was="uploading"), "Nobody imported the staged data"),
    (fact("StagedDataGone"), "staged data was lost"),
    (fact("DataUnavailable", method="glance-direct"), "staged data was lost"),
    (fact("DataUnavailable", method="copy-image"), "No intact copy"),
    (fact("RegionDown", "Region east does not answer", PUT_OFF), "other region does not answer: Region east"),
    (
        fact("SourceDenied", "Region east does not give image x: it answered with HTTP status 403", method="glance-download"),
        "does not show it: Region east",
    ),
    (fact("SourceNotAllowed", method="glance-download"), "redirects to where"),
    (
        fact("SourceBroken", "The remote image's record cannot be used: its size is not a number of bytes"),
        "says of the image what cannot be",
    ),
    (fact("SourceUnreachable", because="10.0.0.1 is private or loopback, and not in egress.allowed_networks"), "may not be fetched from"),
    (fact("SourceUnreachable", because="203.0.113.9: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"), "TLS"),
    (fact("SourceUnreachable", because="[Errno -2] Name or service not known"), "DNS"),
    (fact("SourceUnreachable", because="203.0.113.9: [Errno 111] Connect call failed"), "takes no connection"),
    (fact("SourceUnreachable"), "cannot be reached, or may not be"),
    (fact("SourceNotAllowed"), "is not allowed"),
    (fact("SourceDenied", "The source does not give the data: it answered with HTTP status 404"), "nothing at this URL"),
    (fact("SourceDenied", "The source does not give the data: it answered with HTTP status 403"), "wants an authorisation"),
    (fact("SourceDenied", "The source does not give the data: it answered with HTTP status 500"), "does not give the data"),
    (fact("SourceTooSlow"), "too slow, or has stalled"),
    (fact("SourceBroken", "The source redirects more than 5 times"), "redirects without an end"),
    (fact("SourceBroken"), "broke off, or does not keep to HTTP"),
    (fact("SourceChanged", because="it broke off (no data for 60.0 s), and has neither a strong ETag nor Last-Modified"), "has stalled"),
    (fact("SourceChanged", because="asked to go on at byte 5, it answered 200"), "has changed since"),
    (fact("Interrupted", kind=UPLOAD, was="saving"), "that received the data ended"),
    (fact("Interrupted", kind="image.job.lost"), "killed, crashed or was restarted"),
    (fact("LeaseLost", kind="image.job.lost"), "fell silent"),
    (fact("OutcomeUnknown", kind=PUT_OFF), "The database did not answer"),
    (fact("WornOut"), "again and again"),
    (fact("ServerFailed", kind=PUT_OFF), "nobody foresaw"),
    (fact(kind="now.job.queued", owner="nowhere", node="n7"), "lies on node n7"),
    (fact(kind="now.job.queued", owner="unheard"), "The broker is away"),
    (fact(kind="now.job.queued", owner="long", seconds=40), "taken it for 40 s"),
    (fact(kind="now.job.running", owner="gone"), "has ended, or is silent"),
    (fact(kind="now.suspect", was="active", store="two"), "damaged or gone, in store two"),
]


@pytest.mark.parametrize("number", range(len(CAUSES)))
def test_every_row_speaks_about_its_fact_and_says_what_to_do(number: int) -> None:
    given, words = ROWS[number]

    cause, _ = timeline._cause(given, tenant=False)
    told = explain(given, tenant=False)

    assert cause is CAUSES[number].cause, "another row speaks"
    assert words in told.cause
    assert told.remedy


def test_every_row_has_its_fact() -> None:
    assert len(ROWS) == len(CAUSES)


def test_what_no_row_knows_speaks_for_itself() -> None:
    told = explain(fact("VersionMismatch", "The image has changed"), tenant=False)

    assert (told.cause, told.remedy) == ("The image has changed", problems.VersionMismatch.hint)


@pytest.mark.parametrize(
    ("given", "effect", "kept"),
    [
        (fact("StoreFull", kind="image.upload.refused"), "stays queued", "none of the data was read"),
        (fact("StoreFull", kind=UPLOAD, was="uploading"), "without staged data", "nothing of the data"),
        (fact("StoreFull", kind=UPLOAD, was="saving"), "queued again, without data", "nothing of the data"),
        (fact("StoreFull", method="copy-image"), "stays as it was", "all data"),
        (fact("StoreFull", kept=3 << 20), "waits for another", "staged data, 3.0 MiB"),
        (fact("FormatMismatch"), "queued again", "no data"),
        (fact("StoreDown", kind=PUT_OFF), "tried again by itself", "finished steps"),
        (fact("Interrupted", kind="image.job.lost"), "behind the last finished step", "finished steps"),
        (fact("StoreDown", kind="image.store.failed", store="two"), "without a copy in store two", "other stores"),
        (fact("DataUnavailable", kind="image.copy.suspect"), "never wrong bytes", "other copies"),
        (fact(kind="image.delete", was="importing"), "was ended", "nothing"),
        (fact("DigestMismatch", kind="image.location.failed", was="queued"), "queued again", "nothing"),
        (fact("DigestMismatch", kind="image.location.failed", was="active"), "Nothing is read from there", "elsewhere"),
        (fact("StoreDown", kind="now.job.waiting", seconds=9), "tried again in 9 s", "finished steps"),
        (fact(kind="now.job.running"), "", "finished steps"),
    ],
)
def test_every_effect_says_what_was_kept(given: Fact, effect: str, kept: str) -> None:
    told = explain(given, tenant=False)

    assert effect in told.effect
    assert kept in told.kept


def test_every_effect_is_tried() -> None:
    [mark] = [mark for mark in test_every_effect_says_what_was_kept.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert len(mark.args[1]) == len(EFFECTS)


def test_every_kind_of_fact_has_words() -> None:
    for kind in WHAT:
        assert explain(Fact(kind=kind, was="active"), tenant=False).what
    assert explain(Fact(kind="image.something.new"), tenant=False).what == "something new"


# How things stand


STAGED = fact("StoreFull", at=5, kept=7, job="j")


def stands(**how: object) -> Fact:
    return now(**{"image": image(), "job": None, "facts": [], "step": "store", "owner": "", "seconds": 0, "suspect": None} | how)  # type: ignore[arg-type]


def test_the_last_thing_that_decided_says_why_an_image_is_as_it_is() -> None:
    later = Fact(kind="image.update", at=6)

    assert stands(facts=[STAGED, later]) == msgspec.structs.replace(STAGED, at=None)
    assert stands(facts=[STAGED, Fact(kind="image.activate", at=6)], image=image(status="active")).kind == "now.fine"
    assert stands().kind == "now.fine"


def test_a_job_that_waits_says_what_failed_and_when_it_is_tried_again() -> None:
    failed = fact("StoreDown", kind=PUT_OFF, at=5, job="j")
    of_another = fact("StoreFull", kind=PUT_OFF, at=6, job="k")

    seen = stands(job=job(state="waiting"), facts=[failed, of_another], seconds=8)

    assert (seen.kind, seen.problem, seen.seconds, seen.at) == ("now.job.waiting", "StoreDown", 8, None)


@pytest.mark.parametrize(
    ("state", "owner", "seconds", "shown"),
    [
        ("queued", "", 5, ""),
        ("queued", "", 31, "long"),
        ("queued", "nowhere", 5, "nowhere"),
        ("queued", "unheard", 5, "unheard"),
        ("queued", "unheard", 31, "long"),
        ("running", "alive", 500, "alive"),
        ("running", "silent", 500, "silent"),
    ],
)
def test_a_job_at_work_says_who_has_it(state: str, owner: str, seconds: int, shown: str) -> None:
    seen = stands(job=job(state=state), facts=[fact("StoreDown", kind=PUT_OFF, job="j")], owner=owner, seconds=seconds)

    assert (seen.kind, seen.owner, seen.problem) == (f"now.job.{state}", shown, "")


def test_data_that_comes_in_a_bad_copy_and_a_deletion_are_told() -> None:
    deleted = Fact(kind="image.delete", was="saving", at=9)

    assert stands(image=image(status="saving"), owner="alive").kind == "now.taking"
    assert stands(image=image(status="active"), suspect="two").store == "two"
    assert stands(image=None, facts=[deleted]) == msgspec.structs.replace(deleted, at=None)
    assert stands(image=None, facts=[deleted, Fact(kind="image.purge", at=10)]).kind == "image.purge"
    assert stands(image=None).kind == "now.deleted"


def test_amounts_are_as_people_read_them() -> None:
    assert [amount(size) for size in (5, 2048, 3 << 20, 5 << 30)] == ["5 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB"]


# What a tenant is not told


@pytest.mark.parametrize("number", range(len(CAUSES)))
def test_a_tenant_is_not_told_what_is_the_operators(number: int) -> None:
    given = msgspec.structs.replace(ROWS[number][0], because="the operator's own", by="someone of project other")

    told = str(explain(given, tenant=True))

    assert "operator's own" not in told
    assert "someone" not in told


def test_a_tenant_cannot_tell_why_a_source_is_out_of_reach() -> None:
    whys = ["10.0.0.1 is private or loopback", "certificate has expired", "[Errno -2] Name or service not known", "Connect call failed", ""]

    told = {explain(fact("SourceUnreachable", because=why), tenant=True) for why in whys}

    assert len(told) == 1


@pytest.mark.parametrize(
    "secret",
    [
        "/srv/images/one",
        "/etc",
        "file:///srv/images/a.b",
        "https://user:word@mirror.example.org:8443/path?token=1",
        "mirror.example.org",
        "node7.inner.example:9292",
        "192.168.7.9",
        "192.168.7.9:5672",
        "2001:db8::17",
        "[fe80::1]",
        "::1",
        "11111111-2222-3333-4444-555555555555",
        "11111111222233334444555555555555",
        "compute-7",
        "other-project",
    ],
)
def test_a_tenants_text_has_no_place_name_or_id_of_others(secret: str) -> None:
    entry = Entry(what=f"x: {secret}", at=5, cause=f"Store one failed ({secret}): no", remedy=f"ask {secret}", kept=f"'{secret}'")

    told = discreet(entry, [IMAGE], ["compute-7", "other-project", "other"])

    assert secret not in str(told)
    assert told.cause.startswith("Store one failed (...")
    assert told.at == 5


def test_a_tenants_text_keeps_what_is_the_tenants_own() -> None:
    words = f"Image {IMAGE} has 3.5 GiB, disk_format qcow2; 12:30:05, e.g. vmdk/ova, and/or projects"

    assert discreet(Entry(what=words), [IMAGE], ["compute-7", "project"]).what == words
