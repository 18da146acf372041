"""Every way a request can fail: one class each, with its HTTP status, title and hint.

A problem is raised where it is noticed and turned into a response by `api/` alone. Its text goes to the client, so it names only what the
caller sent or may see; facts for the operator go into the log.
"""

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


class VersionMismatch(Problem):
    """The image has changed since you read it (If-Match)."""

    status, title, hint = 412, "Image has changed", "Read it again and repeat the change"


class TooLarge(Problem):
    """The request body is too large."""

    status, title = 413, "Request is too large"


class ImageTooLarge(TooLarge):
    """The incoming image is larger than this service takes."""

    title = "Image is too large"


class QuotaExceeded(TooLarge):
    """The project's limit would be exceeded."""

    title = "Quota exceeded"


class StoreFull(TooLarge):
    """The store has no room for the rest of this image."""

    title, hint = "Store is full", "Choose another store, or ask the operator for room"


class UnsupportedMediaType(Problem):
    """The Content-Type is not supported here."""

    status, title = 415, "Unsupported media type"


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


class StoreDown(Unavailable):
    """The store does not answer."""

    title = "Store is not available"


class StoreDenied(Unavailable):
    """The store refuses to be written to."""

    title = "Store refuses writes"


class DataUnavailable(Unavailable):
    """No intact copy of the image's data can be read now."""

    title, hint = "Image data is not available", "Try again later; the operator has been told"


class Busy(Unavailable):
    """Too many requests are waiting."""

    title = "Too busy"


class DatabaseDown(Unavailable):
    """The database does not answer."""

    title = "Database is not available"


class OutcomeUnknown(DatabaseDown):
    """The connection to the database broke during a COMMIT: whether the change was made must be looked up."""


class TooSlow(Unavailable):
    """The answer would take longer than the time allowed."""

    title, hint = "Took too long", "Narrow the filters, or use the default sort"


class StartError(Exception):
    """The service cannot start as configured. The text names the setting, what was given and what is allowed."""
