"""What became of an image, in words: from facts to cause, effect, remedy and what was kept.

The words stand in tables, of which the first row that fits a fact speaks. All is pure: whoever calls has looked the facts up. An operator
learns all; a tenant nothing of hosts, paths and other tenants, and nothing by which networks could be looked over.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from ikon import problems
from ikon.model.image import Image
from ikon.model.job import Job

#: Seconds after which a job that still waits for its turn is worth a word: without a broker it is found within 13 s.
LONG_S = 30
#: What ended, or began, an image's data; the last of them says why it is as it is.
DECIDES = re.compile(r"image\.(create|prepare|stage|activate|import|location|upload\.failed|upload\.refused|(import|location)\.failed)")


class Fact(Struct, frozen=True, kw_only=True):
    """One thing that happened, or holds now (at None). kind: of an event, or beginning with "now.".

    problem, why: class and text of what went wrong. because: what only an operator is told of that. text: what else was recorded.
    method: of the import, or the job's kind. was: the image's status before. kept: staged bytes that are still there.
    ours: whether the image's own project did it. owner: whether the process at work is alive, silent or gone.
    """

    kind: str
    at: int | None = None
    by: str = ""
    ours: bool = False
    problem: str = ""
    why: str = ""
    because: str = ""
    text: str = ""
    job: str = ""
    method: str = ""
    step: str = ""
    attempt: int = 0
    store: str = ""
    node: str = ""
    was: str = ""
    kept: int | None = None
    owner: str = ""
    seconds: int = 0

    @property
    def where(self) -> str:
        """What the tables' patterns of places are compared with."""
        return " ".join(filter(None, (self.kind, self.was, self.owner, self.method, self.step)))


class Entry(Struct, frozen=True, omit_defaults=True):
    """One paragraph of the timeline. at: ms since 1970, None: now."""

    what: str
    at: int | None = None
    by: str = ""
    cause: str = ""
    effect: str = ""
    remedy: str = ""
    kept: str = ""


class Cause(NamedTuple):
    """A row: which facts, and what they mean. said, where: patterns of what was said of the problem, and of its place; "" fits all.

    remedy: for an operator. ask: for a tenant, "": the same.
    """

    problem: str
    cause: str
    remedy: str
    ask: str = ""
    said: str = ""
    where: str = ""


class Effect(NamedTuple):
    """A row: which places, and what was left there. staged: only where staged bytes are still there."""

    where: str
    effect: str
    kept: str
    staged: bool = False


TOLD = "Nothing: the operator has been told"
LOG = "Look into the server's log at this time"
STORES = "See that the store is mounted, its server up and its disk healthy: ikon doctor"
OTHER_STORE = "Choose another store, or ask the operator"
GOES_ON = "Nothing: it goes on by itself"
REPEATS = "Nothing. If it repeats, look into the server's log at this time"
OTHER_DATA = "Bring other data, or create the image with the format that this data has"
SOURCE = "Check the URL, and try from the server's own machine: curl -I URL"
COPY = "Look at the disk below that store; delete the copy there, and make it again: ikon image copy"
STAGING = "Look at the disk of the staging area"

# fmt: off
CAUSES = [
    # who brought the data
    Cause("ClientGone", "The client closed the connection, or sent less than it announced, before all data had come",
          "Look at what stands between client and server: proxies cut long uploads by time or by size",
          "Upload again; a proxy on the way may cut long uploads"),
    Cause("BadRequest", "The data was not as long as the client had announced: {said}", "Upload again, with its right length",
          said="^Size "),
    Cause("ImageDeleted", "The image was deleted while its data came in", "Create it again"),
    Cause("", "It was deleted while its data came in", "Create it again", where=r"^image\.delete (saving|uploading|importing)"),
    Cause("Cancelled", "It was cancelled", "Import again"),
    Cause("OutOfTime", "It was still at work when its time was over", "Raise [jobs] deadline_s if it needs more, and run: ikon jobs retry",
          "Import again, or ask the operator for more time"),
    # what the data is
    Cause("FormatMismatch", "The data is not in the format that the image names: {said}", OTHER_DATA),
    Cause("UnsafeImage", "The data holds what could harm those who boot it: {said}", OTHER_DATA),
    Cause("PackedDataRefused", "The compressed data is a decompression bomb, or made like one: {said}", "Send the data uncompressed",
          said="times its size|small parts|memory"),
    Cause("PackedDataRefused", "The compressed data cannot be unpacked: {said}", "Compress it anew, or send it uncompressed"),
    Cause("ConversionFailed", "The conversion into another format failed: {said}",
          "Look whether qemu-img check and qemu-img convert take the image"),
    Cause("ConversionUnavailable", "Images cannot be converted here: {said}", "Install qemu-img: ikon doctor", "Ask the operator"),
    Cause("DigestMismatch", "The data is not what its digest says: {said}",
          "Correct the digest, or look at the source, whose data may have been changed"),
    Cause("ImageTooLarge|SourceTooLarge", "The data is larger than this service takes: {said}",
          "Raise limits.image_bytes if it is to be taken", "Send an image in a format that leaves empty space out"),
    Cause("QuotaExceeded", "The project's quota is used up: {said}",
          "Raise its limit (ikon quota show), or have the project delete images", "Delete images, or ask the operator for more"),
    # where it is to go
    Cause("StoreFull", "A disk is full: {said}", "Make room in the store, or name another one", OTHER_STORE),
    Cause("RoomPromised", "A disk has no room for it at this time: {said}",
          "Wait until others who write have ended, or make room", "Try again later"),
    Cause("NoRoom", "There is no room to work on the image: {said}", "Make room in the staging area", "Try again later"),
    Cause("StoreDenied", "A store refuses to be written to: {said}",
          "Let the server's user write there; is it mounted read-only?", OTHER_STORE),
    Cause("StoreDown", "A store hangs: {said}", STORES, OTHER_STORE, said="too long"),
    Cause("StoreDown", "A store is gone or fails: {said}", STORES, OTHER_STORE),
    Cause("DataUnavailable", "A copy in store {store} is damaged or gone: {said}", COPY, TOLD, where=r"^image\.copy\.suspect"),
    Cause("StagedTooLong", "Nobody imported the staged data in time", "Stage it again, and import it; [staging] keep_s is that time",
          "Stage it again, and import it sooner"),
    Cause("StagedDataGone", "The staged data was lost, or is damaged: the staging area has it no more", STAGING, "Bring the data again"),
    Cause("DataUnavailable", "The staged data was lost, or is damaged: {said}", STAGING, "Bring the data again",
          where="glance-direct|web-download|glance-download"),
    Cause("DataUnavailable", "No intact copy of the image's data can be read: {said}",
          "Look for `no intact copy` in the log, and bring the store back", "Ask the operator"),
    # where it comes from
    Cause("RegionDown", "The other region does not answer: {said}", "Look at that service, and at [regions] or the catalogue", GOES_ON),
    Cause("SourceDenied", "The other region has no such image, or does not show it: {said}",
          "Look whether it is there, to whom it is shown, and as whom Ikon asks there", "Look whether it is there, and may be seen",
          said=r"\b(401|403|404|410)\b", where="glance-download"),
    Cause("SourceNotAllowed", "The other region redirects to where nothing may be fetched from",
          "Correct its URL in [regions] or the catalogue", "Ask the operator", where="glance-download"),
    Cause("SourceBroken", "The other region says of the image what cannot be: {said}", "Look at the image there",
          said="^The (region|remote image)"),
    Cause("SourceUnreachable", "The source has an address that may not be fetched from", "Open it in [egress], if it is to be allowed",
          said="private or loopback|not globally|is this machine|carries an address|in egress"),
    Cause("SourceUnreachable", "TLS with the source failed", "See to the source's certificate; [egress] ca_file names more authorities",
          said=r"(?i)certificate|\bssl\b|\btls\b"),
    Cause("SourceUnreachable", "The source's name cannot be looked up: DNS failed", "See to the name, or to this machine's resolver",
          said=r"Errno -\d|name resolution|not known|not looked up|no address"),
    Cause("SourceUnreachable", "The source takes no connection", SOURCE, said="(?i)refused|in time|timed out|unreachable|connect call"),
    Cause("SourceUnreachable", "The source cannot be reached, or may not be", SOURCE, "Check the URL, or ask the operator"),
    Cause("SourceNotAllowed", "The URL, or one that it redirects to, is not allowed", "See [egress] in the settings",
          "Use another URL, or ask the operator"),
    Cause("SourceDenied", "The source has nothing at this URL: {said}", "Correct the URL", said=r"\b(404|410)\b"),
    Cause("SourceDenied", "The source wants an authorisation that it was not given: {said}", "Use a URL that anybody may read",
          said=r"\b(401|403|407)\b"),
    Cause("SourceDenied", "The source does not give the data: {said}", "See to the source"),
    Cause("SourceTooSlow", "The source is too slow, or has stalled", "Use another source, or raise egress.stall_s", "Use another source"),
    Cause("SourceBroken", "The source redirects without an end", "Correct the URL", said="redirect"),
    Cause("SourceBroken", "The source broke off, or does not keep to HTTP: {said}", "Use another source"),
    Cause("SourceChanged", "The source is too slow, or has stalled, and cannot go on where it did",
          "Use another source, or raise egress.stall_s", "Use another source", said=r"\(no data for|\([0-9]+ bytes a second"),
    Cause("SourceChanged", "The source broke off, and has changed since, or cannot say that it has not",
          "Import again, from its beginning"),
    # what works on it
    Cause("Interrupted", "The server process that received the data ended before it was complete", LOG, "Upload again",
          where=r"^image\.upload"),
    Cause("Interrupted", "The server process at work on it ended: it was killed, crashed or was restarted", REPEATS, GOES_ON),
    Cause("LeaseLost", "The server process at work on it fell silent for longer than its lease: paused, or cut off from the database",
          "Look at that machine, and at its way to the database", "Try again"),
    Cause("DatabaseDown|OutcomeUnknown", "The database did not answer, was restarted, or broke off in mid-change",
          "Look at the database: ikon doctor", "Try again"),
    Cause("WornOut", "Every process that worked on it ended while it did, again and again",
          "Look for a kernel that ran out of memory; then: ikon jobs retry {job}", "Ask the operator"),
    Cause("ServerFailed", "The server failed in a way that nobody foresaw", f"{LOG}, and report what is there", "Ask the operator"),
    # what is so now
    Cause("", "Its data lies on node {node}, on which no server runs", "Start the server there; or delete the image, and begin anew",
          "Ask the operator; or delete the image, and begin anew", where=r"^now\.job\.queued nowhere"),
    Cause("", "The broker is away, so that no process is told of it; each looks for work by itself every ten seconds",
          "Start RabbitMQ: ikon doctor", GOES_ON, where=r"^now\.job\.queued unheard"),
    Cause("", "No process has taken it for {seconds} s: all are busy, none does jobs, or the broker is away",
          "Look at ikon jobs list, at [jobs] slots, [conversion] at_once and at the broker", "Wait, or ask the operator",
          where=r"^now\.job\.queued long"),
    Cause("", "The server process at work on it has ended, or is silent", "Nothing: another takes over within a minute", GOES_ON,
          where=r"^now\.(job\.running|taking) (\w+ )?(silent|gone)"),
    Cause("", "A copy of its data is damaged or gone, in store {store}", COPY, TOLD, where=r"^now\.suspect"),
]

STILL = "what finished steps did, and staged data"
EFFECTS = [
    Effect(r"^image\.upload\.refused", "The image stays queued, without data", "nothing: none of the data was read"),
    Effect(r"^image\.upload\.failed uploading", "The image is queued again, without staged data", "nothing of the data that had come"),
    Effect(r"^image\.upload\.failed", "The image is queued again, without data", "nothing of the data that had come"),
    Effect(r"^image\.import\.failed .*copy", "The image stays as it was, in the stores that it had", "all data that it had"),
    Effect(r"^image\.import\.failed", "The import has ended, and the image waits for another",
           "the staged data, {kept}: another try needs no new upload", staged=True),
    Effect(r"^image\.import\.failed", "The import has ended, and the image is queued again", "no data"),
    Effect(r"^image\.location\.failed queued", "The image is queued again, without data", "nothing"),
    Effect(r"^image\.location\.failed", "Nothing is read from there", "its data elsewhere, if it has any"),
    Effect(r"^image\.job\.put_off", "The step is tried again by itself", STILL),
    Effect(r"^image\.job\.(lost|handed_back)", "It goes on behind the last finished step, in another process if need be", STILL),
    Effect(r"^image\.store\.failed", "The image is active, without a copy in store {store}", "its data in the other stores"),
    Effect(r"^(image\.copy\.|now\.)suspect", "Readers get another copy's bytes; where there is none an error, never wrong bytes",
           "the other copies"),
    Effect(r"^image\.delete (saving|uploading|importing)", "What brought its data was ended", "nothing"),
    Effect(r"^now\.job\.waiting", "It is tried again in {seconds} s", STILL),
    Effect(r"^now\.job", "", STILL),
]
# fmt: on

WHAT = {
    "image.create": "created",
    "image.prepare": "an upload began",
    "image.activate": "became active",
    "image.update": "changed",
    "image.stage": "data was staged",
    "image.import": "an import was asked for",
    "image.import.retry": "the import was begun again",
    "image.import.cancel": "the end of the import was asked for",
    "image.import.failed": "the import failed in step {step}",
    "image.location": "a location was added",
    "image.location.failed": "the location in store {store} was refused",
    "image.upload.failed": "the upload failed",
    "image.upload.refused": "an upload was refused",
    "image.job.put_off": "step {step} failed in attempt {attempt}",
    "image.job.lost": "attempt {attempt} was lost in step {step}",
    "image.job.handed_back": "attempt {attempt} was left in step {step}",
    "image.store.failed": "store {store} was left behind",
    "image.copy.suspect": "the copy in store {store} is suspect",
    "image.delete": "deleted",
    "image.restore": "taken back from the trash",
    "image.purge": "deleted for good",
    "image.member.create": "shared",
    "image.member.update": "a member answered",
    "image.member.delete": "shared with one less",
    "now.fine": "it is {was}",
    "now.suspect": "it is {was}",
    "now.deleted": "it is deleted",
    "now.taking": "it is {was}: data comes in",
    "now.job.queued": "step {step} waits for its turn",
    "now.job.waiting": "step {step} waits for another try",
    "now.job.running": "step {step} is at work, attempt {attempt}",
}


def explain(fact: Fact, *, tenant: bool) -> Entry:
    """A fact in words."""
    fact = msgspec.structs.replace(fact, because="") if tenant else fact
    said = fact.why.partition(". ")[0].rstrip(".")
    words = {**msgspec.structs.asdict(fact), "said": said, "kept": amount(fact.kept or 0), "step": fact.step or "?"}
    cause, remedy = _cause(fact, tenant=tenant)
    effect = next((row for row in EFFECTS if re.search(row.where, fact.where) and (fact.kept is not None or not row.staged)), None)
    what = WHAT.get(fact.kind, fact.kind.partition(".")[2].replace(".", " ")).format_map(words)
    by = ("your project" if fact.ours else "somebody else") if tenant else fact.by
    return Entry(
        what=f"{what}: {fact.text}" if fact.text else what,
        at=fact.at,
        by=by if fact.by and not fact.problem else "",
        cause=cause.format_map(words) + (f" ({fact.because})" if cause and fact.because else ""),
        effect=effect.effect.format_map(words) if effect else "",
        remedy=remedy.format_map(words),
        kept=effect.kept.format_map(words) if effect else "",
    )


def _cause(fact: Fact, *, tenant: bool) -> tuple[str, str]:
    """What is behind a fact and what to do about it. What no row knows speaks for itself."""
    said = f"{fact.why} {fact.because}"
    for row in CAUSES:
        if fact.problem in row.problem.split("|") and re.search(row.said, said) and re.search(row.where, fact.where):
            return row.cause, row.ask if tenant and row.ask else row.remedy
    kind = getattr(problems, fact.problem, None)
    return ("{said}", str(kind.hint) if kind else "") if fact.problem else ("", "")


def now(
    image: Image | None, job: Job | None, facts: Sequence[Fact], *, step: str, owner: str, seconds: int, suspect: str | None, node: str = ""
) -> Fact:
    """How things stand. image None: deleted. job: at work on it. step: which the job is at. suspect: a store with a bad copy.

    owner: of what is at work, "alive", "silent" or "gone"; of a queued job "nowhere" where no process could do it, "unheard" where none is
    told of it. seconds: until a job is tried again, or since it was enqueued. node: where it must be done.
    """
    if image is None:
        last = next((fact for fact in reversed(facts) if fact.kind in ("image.delete", "image.purge")), Fact(kind="now.deleted"))
        return msgspec.structs.replace(last, at=None)
    decided = next((fact for fact in reversed(facts) if DECIDES.fullmatch(fact.kind)), None)
    if job is not None:
        failed = next((fact for fact in reversed(facts) if fact.kind == "image.job.put_off" and fact.job == job.id), None)
        seen = failed if failed is not None and job.state == "waiting" else Fact(kind="")
        if job.state == "queued" and owner != "nowhere":
            owner = "long" if seconds > LONG_S else owner
        at_work = {"job": job.id, "step": step, "attempt": job.attempt, "owner": owner, "seconds": seconds, "node": node}
        return msgspec.structs.replace(seen, kind=f"now.job.{job.state}", at=None, by="", **at_work)
    if image.status == "saving" or (image.status == "uploading" and owner):
        return Fact(kind="now.taking", was=image.status, owner=owner)
    if suspect is not None:
        return Fact(kind="now.suspect", was=image.status, store=suspect)
    if decided is not None and decided.problem:
        return msgspec.structs.replace(decided, at=None)
    return Fact(kind="now.fine", was=image.status)


def amount(size: int) -> str:
    """Bytes as people read them."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size} bytes"


#: What could tell a tenant about machines and others: URLs, paths, addresses, names of hosts, ids.
TELLTALE = re.compile(
    r"[A-Za-z][\w+.-]*://\S+"
    r"|(?<![\w.])/[^\s,;:'\")\]]+"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d+)?"
    r"|\[?(?:(?:[0-9A-Fa-f]{1,4}:){3,}|[0-9A-Fa-f:]*::)[0-9A-Fa-f:.]*\]?"
    r"|\b[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\b"
    r"|\b(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+(?:[A-Za-z]{2,})\b(?::\d+)?"
)


def discreet(entry: Entry, own: Sequence[str], hidden: Sequence[str]) -> Entry:
    """An entry for a tenant: without what could tell of machines or others. own: ids that may stay. hidden: names that may not."""
    names = re.compile("|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in sorted(hidden, key=len, reverse=True) if name) or r"(?!)")

    def clean(text: str) -> str:
        return TELLTALE.sub(lambda found: found[0] if found[0] in own else "...", names.sub("...", text))

    words = {name: clean(text) for name, text in msgspec.structs.asdict(entry).items() if isinstance(text, str)}
    return msgspec.structs.replace(entry, **words)
