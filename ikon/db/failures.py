"""What the failures of three databases mean, and which problem each is to a caller. Knows the drivers' codes, no table."""

import sqlite3
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError

from ikon.problems import Busy, DatabaseDown, Problem, TooSlow

#: LOST: this connection is of no use, another may be. CONTENDED: others hold what is needed; all is undone. DOWN: it answers, and cannot.
#: SLOW: it was given up after its time.
Meaning = Literal["lost", "contended", "down", "slow"]
LOST: Meaning = "lost"
CONTENDED: Meaning = "contended"
DOWN: Meaning = "down"
SLOW: Meaning = "slow"

#: 1047 is a Galera node outside its cluster; 1290 and 1836 a server made read-only, as in a failover.
MYSQL: dict[int, Meaning] = {
    **dict.fromkeys((1040, 1047, 1053, 1203, 1290, 1836, 1927, 2002, 2003, 2006, 2013, 2055, 4031), LOST),
    **dict.fromkeys((1020, 1205, 1213, 3101), CONTENDED),
    **dict.fromkeys((1021, 1026, 1114), DOWN),
    **dict.fromkeys((1317, 1969, 3024), SLOW),
}
POSTGRESQL: dict[str, Meaning] = {
    **dict.fromkeys(("25P03", "53300", "57P01", "57P02", "57P03", "57P05"), LOST),
    **dict.fromkeys(("40001", "40P01", "55P03"), CONTENDED),
    **dict.fromkeys(("53000", "53100", "53200", "58030"), DOWN),
    "57014": SLOW,
}
#: By SQLite's primary codes: busy, locked; no memory, read-only, I/O error, corrupt, full, cannot open, not a database; interrupted.
SQLITE: dict[int, Meaning] = {**dict.fromkeys((5, 6), CONTENDED), **dict.fromkeys((7, 8, 10, 11, 13, 14, 26), DOWN), 9: SLOW}


def meaning(error: BaseException, *, writing: bool) -> Meaning | None:
    """What a failure of a driver says about the database; None for all that is a matter of the function that ran."""
    if isinstance(error, PendingRollbackError):
        return LOST  # the function went on with a connection that was lost
    if not isinstance(error, (DBAPIError, sqlite3.Error)) or isinstance(error, IntegrityError):
        return None
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return LOST
    orig: Any = getattr(error, "orig", error)  # our own BEGIN and SAVEPOINT on SQLite fail without SQLAlchemy around them
    if (code := getattr(orig, "sqlite_errorcode", None)) is not None:
        return SQLITE.get(code & 0xFF) if writing or code & 0xFF != 8 else None  # 8 from a read is a mistake in the program
    if orig.args and isinstance(orig.args[0], int):
        return MYSQL.get(orig.args[0])
    state = getattr(orig, "sqlstate", None) or ""
    if state.startswith("08") or (writing and state == "25006"):  # a standby; from a read it is a mistake in the program: it tried to write
        return LOST
    return POSTGRESQL.get(state)


def problem(means: Meaning, cause: BaseException) -> Problem:
    """What the caller hears, caused by the driver's own error."""
    found: Problem
    if means == CONTENDED:
        found = Busy("The database is busy with other changes of the same things.", retry_after_s=1)
    elif means == SLOW:
        found = TooSlow()
    else:
        found = DatabaseDown(retry_after_s=1)
    found.__cause__ = cause
    return found


def facts(error: BaseException) -> str:
    """The driver's words, for the log, without the statement and its values."""
    return str(getattr(error, "orig", None) or error)
