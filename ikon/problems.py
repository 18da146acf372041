"""Every way a request can fail: one class each, with its HTTP status, title and hint.

A problem is raised where it is noticed and turned into a response by `api/` alone. Its text goes to the client, so it names only what the
caller sent or may see; facts for the operator go into the log.
"""

from collections.abc import Iterable
from http import HTTPStatus

REASONS = {413: "Request Entity Too Large", 416: "Request Range Not Satisfiable"}  # clients match on these phrases, not on the newer ones


def reason_phrase(status: int) -> str:
    """The phrase of the status line, as image clients know it."""
    return REASONS.get(status) or HTTPStatus(status).phrase


class Problem(Exception):
    """A request cannot be carried out. `str()` is the sentence for the client; `hint`, where set, says what to do about it."""

    status = 400
    title = "Bad Request"
    hint = ""

    def __init__(self, message: str = "", *, headers: dict[str, str] | None = None, retry_after_s: int | None = None) -> None:
        text = message or (self.__doc__ or "").split("\n")[0]
        super().__init__(f"{text.rstrip('.')}. {self.hint}" if self.hint else text)
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)


# What the caller sent


class BadRequest(Problem):
    """The request cannot be understood."""


class BadValue(Problem):
    """A value is not allowed."""

    title = "Value is not allowed"


class PropertyRefused(BadValue):
    """A property is not what its metadata definition says."""

    title = "Property does not fit its definition"


class Unauthenticated(Problem):
    """The server could not verify who you are."""

    status, title = 401, "Not authenticated"


class Forbidden(Problem):
    """You may not do this."""

    status, title = 403, "Forbidden"


class ReadOnly(Problem):
    """The attribute is read-only or reserved."""

    status, title = 403, "Attribute cannot be set"


class NotFound(Problem):
    """The resource could not be found."""

    status, title = 404, "Not found"


class MethodNotAllowed(Problem):
    """The method is not allowed for this resource."""

    status, title = 405, "Method not allowed"


class ImageNotFound(NotFound):
    """No such image is visible to the caller."""

    title = "Image not found"

    def __init__(self, image_id: str) -> None:
        super().__init__(f"No image found with ID {image_id}")


class ImageExists(Problem):
    """The id has been given before, and an id is never given twice."""

    status, title = 409, "Image ID already exists"

    def __init__(self, image_id: str) -> None:
        super().__init__(f"Image ID {image_id} already exists!")


class StatusConflict(Problem):
    """The image is not in a status that allows this."""

    status, title = 409, "Status does not allow this"


class Conflict(Problem):
    """The request conflicts with what is there."""

    status, title = 409, "Conflict"


class ImageDeleted(Problem):
    """The image was deleted while its data came in."""

    status, title = 410, "Image was deleted"


class StagedDataGone(Conflict):
    """The staged data of this image is gone."""

    title, hint = "Staged data is gone", "Delete the image, and stage it again"


class StagedTooLong(Conflict):
    """The staged data was not imported for too long, and is gone."""

    title, hint = "Staged data was not imported", "Stage it again"


class SealBroken(Conflict):
    """The caller's token that this import was to show cannot be opened here."""

    title, hint = "Token cannot be opened", "Import again; the operator has to give all nodes the same `secret`"


class Cancelled(Conflict):
    """It was cancelled."""

    title = "Cancelled"


class OutOfTime(Conflict):
    """It was still at work when the time for jobs was over."""

    title, hint = "Out of time", "Begin it again, or ask the operator for more time"


class VersionMismatch(Problem):
    """The image has changed since you read it (If-Match)."""

    status, title, hint = 412, "Image has changed", "Read it again and repeat the change"


class TooLarge(Problem):
    """The request body is too large."""

    status, title = 413, "Request is too large"


class ImageTooLarge(TooLarge):
    """The incoming image is larger than this service takes."""

    title, hint = "Image is too large", "Its setting is [limits] image_bytes"


class QuotaExceeded(TooLarge):
    """The project's limit would be exceeded."""

    title = "Quota exceeded"


class StoreFull(TooLarge):
    """The store has no room for the rest of this image.

    `because` tells the operator how much there is. It never goes to a client, who would see by it what others do.
    """

    title, hint = "Store is full", "Choose another store, or ask the operator for room"

    def __init__(self, message: str = "", *, because: str = "") -> None:
        super().__init__(message)
        self.because = because


class UnsupportedMediaType(Problem):
    """The Content-Type is not supported here."""

    status, title = 415, "Unsupported media type"


class ImageRefused(Problem):
    """The image's data is not taken for what is in it."""

    status, title = 415, "Image is refused"


class FormatMismatch(ImageRefused):
    """The image's data is not what its disk_format or container_format says."""

    title = "Format does not match"


class UnsafeImage(ImageRefused):
    """Image failed safety checks."""

    title = "Image is not safe"


class PackedDataRefused(ImageRefused):
    """The compressed data is not taken."""

    title = "Compressed data is refused"
    hint = "Taken are gzip, xz, zstd, and zip with one deflated file; whole, nothing behind, up to 200 times their size"


class SignatureRefused(ImageRefused):
    """The image's signature is not verified."""

    status, title = 400, "Signature is not verified"
    hint = "Send the data that was signed, or correct the img_signature properties"

    def __init__(self, image_id: str | None, why: str) -> None:
        super().__init__(f"Signature verification failed{f' for image {image_id}' if image_id else ''}: {why}")


class SignedAsItIs(ImageRefused):
    """A signed image is not unpacked or converted: its signature is of the data as it came."""

    title, hint = "Signed image would be changed", "Send the data as this service stores it, signed as such; or remove the signature"


class ConversionFailed(ImageRefused):
    """The image cannot be converted."""

    title, hint = "Image cannot be converted", "Look whether `qemu-img check` and `qemu-img convert` take it, and send what they make"


class RangeNotSatisfiable(Problem):
    """The range requested is not available."""

    status, title = 416, "Range not satisfiable"


class TooManyTries(Problem):
    """Too many wrong passwords."""

    status, title = 429, "Too many tries"


class HeadersTooLarge(Problem):
    """A request header is too long."""

    status, title = 431, "Request header is too long"


class ClientGone(Problem):
    """The client closed the connection, or sent less than it announced."""

    title = "Client went away"


# What is wrong here


class Unavailable(Problem):
    """The service cannot answer now."""

    status, title = 503, "Unavailable"


class ConversionUnavailable(Unavailable):
    """Images cannot be converted here."""

    title, hint = "Cannot convert", "The operator has been told; an image that is already in the wanted format needs no conversion"


class RoomPromised(StoreFull, Unavailable):
    """The room in a store is promised to others, who are writing: a request is refused, a job waits."""

    title, hint = "Room is promised to others", "Try again later, choose another store, or ask the operator for room"


class NoRoom(Unavailable):
    """There is no room here to work on the image."""

    title, hint = "No room to work", "Try again later; the operator has been told"


class Interrupted(Unavailable):
    """The server that was at work on this stopped before it was complete."""

    title = "Server stopped"


class LeaseLost(Unavailable):
    """The server lost touch with its database for too long, and others took over what it was at work on."""

    title = "Server lost touch with its database"


class ServerFailed(Unavailable):
    """The server failed while it worked on this; its log says how."""

    title = "Server failed"


class WornOut(Unavailable):
    """The processes that worked on it ended too often while they did."""

    title = "Begun too often"


class StoreDown(Unavailable):
    """The store does not answer."""

    title = "Store is not available"


class RegionDown(Unavailable):
    """The other region does not answer."""

    title = "Region does not answer"

    def __init__(self, region: str, because: str) -> None:
        super().__init__(f"Region {region} does not answer")
        self.because = because  # for the operator


class StoreDenied(Unavailable):
    """The store refuses to be written to."""

    title = "Store refuses writes"


class DataUnavailable(Unavailable):
    """No intact copy of the image's data can be read now."""

    title, hint = "Image data is not available", "Try again later; the operator has been told"


class NotVerified(DataUnavailable):
    """The image's data has not been read and verified yet."""

    title, hint = "Image data is not verified yet", "Try again later; it is served once it has been found right"


class Busy(Unavailable):
    """Too many requests are waiting."""

    title = "Too busy"


class IdentityDown(Unavailable):
    """The identity service does not answer, so that nobody can tell who you are. Your token may be good: try again."""

    title = "Identity service is not available"


class KeyManagerDown(Unavailable):
    """The key manager does not answer, so that the signature cannot be verified."""

    title, hint = "Key manager is not available", "Try again later; the operator has been told"


class DatabaseDown(Unavailable):
    """The database does not answer."""

    title = "Database is not available"


class OutcomeUnknown(DatabaseDown):
    """The connection to the database broke during a COMMIT: whether the change was made must be looked up."""


class TooSlow(Unavailable):
    """The answer would take longer than the time allowed."""

    title, hint = "Took too long", "Narrow the filters, or use the default sort"


# What is wrong with a source that was to be fetched


class SourceProblem(Problem):
    """The source cannot be fetched.

    `because` tells the operator why. It never goes to a client: what differs by address or port would scan the network for whoever asks.
    """

    status, title = 502, "Source cannot be fetched"

    def __init__(self, message: str = "", *, because: str = "") -> None:
        super().__init__(message)
        self.because = because[:500]


class SourceNotAllowed(SourceProblem):
    """The URL, or one that it redirects to, is not allowed."""

    status, title = 400, "Source is not allowed"

    def __init__(self, ports: Iterable[int], *, because: str) -> None:
        allowed = f"http or https, a host's name or public address, no user name, and of ports {', '.join(map(str, ports))}"
        super().__init__(f"The URL, or one that it redirects to, is not allowed. Allowed: {allowed}", because=because)


class SourceUnreachable(SourceProblem):
    """The source cannot be reached, or may not be."""

    title, hint = "Source cannot be reached", "Check its address, or ask the operator, whose log says more"


class SourceDenied(SourceProblem):
    """The source does not give the data."""

    title = "Source does not give the data"

    def __init__(self, code: int, message: str = "", *, because: str = "") -> None:
        text = message or "The source does not give the data"
        super().__init__(f"{text}: it answered with HTTP status {code}", because=because or f"HTTP status {code}")
        self.code = code


class SourceTooSlow(SourceProblem):
    """The source stalled, or gave its data too slowly."""

    title, hint = "Source is too slow", "Try again later, or choose another source"


class SourceBroken(SourceProblem):
    """The source broke off, or answered in a way that cannot be trusted."""

    title = "Source is broken"


class SourceChanged(SourceProblem):
    """The source broke off, and does not show that what it has now is the same data."""

    title, hint = "Source has changed", "Start over from its beginning"


class SourceTooLarge(SourceProblem):
    """The source has more data than is allowed."""

    status, title, hint = 413, "Source is too large", "Its setting is [limits] image_bytes"


class RemoteNotActive(SourceProblem):
    """The image in the other region has no data, or is not to be used."""

    title, hint = "Remote image is not active", "Import it once it is active there"


class DigestMismatch(SourceProblem):
    """The data that came is not what the given digest says."""

    title = "Digest does not match"


class StartError(Exception):
    """The service cannot start as configured. The text names the setting, what was given and what is allowed."""
