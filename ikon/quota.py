"""How much a project may hold. Limits are read before a transaction, which takes plain values."""

from sqlalchemy import Connection

from ikon.db import room, usage
from ikon.problems import QuotaExceeded


def charge(conn: Connection, project: str | None, by: int, limit: int, image_id: str | None = None) -> None:
    """Charge a project with bytes that its copies already name, last in a transaction. limit 0: none.

    image_id: whose job is charged, and was promised this. Raises QuotaExceeded, which rolls everything back.
    """
    if limit and project is not None:
        total = usage.charge(conn, project, by)
        if by > 0:
            _require(conn, project, total - by, by, limit, image_id)


def require(conn: Connection, project: str | None, by: int, limit: int, image_id: str) -> None:
    """Make sure that a project may hold so many bytes more, last in a transaction that promises them to an image's job.

    Raises QuotaExceeded.
    """
    if limit and project is not None:
        _require(conn, project, usage.charge(conn, project, 0), by, limit, image_id)


def _require(conn: Connection, project: str, total: int, by: int, limit: int, image_id: str | None) -> None:
    free = limit - total - sum(each.size for each in room.ahead(conn, project) if each.image_id != image_id)
    if by > free:
        raise QuotaExceeded(
            f"Image exceeds the storage quota: The size of the data {by} will exceed the limit. {max(0, free)} bytes remaining. "
            "Its setting is [quota] bytes"
        )
