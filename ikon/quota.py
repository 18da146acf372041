"""How much a project may hold. Limits are read before a transaction, which takes plain values."""

from sqlalchemy import Connection

from ikon.db import usage
from ikon.problems import QuotaExceeded


def charge(conn: Connection, project: str | None, by: int, limit: int) -> None:
    """Charge a project with bytes that its copies already name, last in a transaction. limit 0: none.

    Raises QuotaExceeded, which rolls everything back.
    """
    if not limit or project is None:
        return
    total = usage.charge(conn, project, by)
    if by > 0 and total > limit:
        raise QuotaExceeded(
            f"Image exceeds the storage quota: The size of the data {by} will exceed the limit. "
            f"{max(0, limit - total + by)} bytes remaining."
        )
