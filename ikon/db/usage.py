"""What each project holds: one row a project, counted on in the transaction that changes it, which touches that row last of all.

Rows are kept where quotas are. `copies.py` and `images.py` note what they change; before the commit it is added to the rows of the projects
that it is about, in the order of their names, and what grows is held against their limits. So nothing is forgotten, and no two wait for
each other in a ring.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from ikon.db import missing, room, tables, terms
from ikon.model.image import Image
from ikon.model.quota import COMING_IN, RESOURCES, STAGING, Limits, OwnLimits, Usage, is_over
from ikon.model.terms import COPYING, text
from ikon.problems import QuotaExceeded

t = tables.usage
c = tables.copies.c
NAMES = [each.name for each in RESOURCES]
AMOUNTS, OWN = [t.c[name] for name in NAMES], [t.c[f"most_{name}"] for name in NAMES]
#: Not known: counted anew from images and copies when it is next needed.
UNKNOWN = -1
UNKNOWN_ROW = dict.fromkeys(NAMES, UNKNOWN)
LOCK = sa.select(*AMOUNTS, *OWN).where(t.c.project == sa.bindparam("project")).with_for_update()
UPDATE = sa.update(t).where(t.c.project == sa.bindparam("of")).values({name: sa.bindparam(name) for name in NAMES})
#: Terms of the images that data comes into, or waits to.
COMING = (COPYING, *(text("s", status) for status in COMING_IN))


class Owed(msgspec.Struct):
    """What a transaction adds to a project. asked: bytes more that it wants promised; None: none. images: whose data that is."""

    more: Usage = Usage()
    asked: int | None = None
    images: set[str] = msgspec.field(default_factory=set)


#: Limits that were learned for this transaction, by project.
Given = dict[str, Limits]


class Elsewhere(Protocol):
    """Who else sets limits."""

    def __call__(self, project: str, given: Given, *, enough: Callable[[Limits], bool]) -> Limits:
        """A project's limits: those given, else those known, if they are enough. Raises Lacking."""


class Rules(msgspec.Struct, frozen=True):
    """How projects are limited. defaults: where a project has none of its own. elsewhere: by whom instead, None: by nobody else."""

    defaults: Limits
    elsewhere: Elsewhere | None = None


def counting(rules: Rules) -> Callable[[Connection, Given], AbstractContextManager[None]]:
    """What a transaction runs in where quotas are kept. It raises QuotaExceeded, and Lacking where limits have to be learned."""

    @contextmanager
    def around(conn: Connection, given: Given) -> Iterator[None]:
        owed: dict[str, Owed] = {}
        info = conn.info  # which a connection that is lost meanwhile does not give
        info["owed"] = owed
        try:
            yield
            for project in sorted(owed):
                _settle(conn, project, owed[project], rules, given)
        finally:
            info.pop("owed", None)

    return around


def is_counted(conn: Connection) -> bool:
    """Whether what this transaction changes has to be noted."""
    return "owed" in conn.info


def note(conn: Connection, project: str | None, image_id: str, **more: int) -> None:
    """Remember what this transaction adds to what a project holds, or takes from it."""
    if project and (owed := _of(conn, project, image_id)):  # "": jobs have it where there is none
        owed.more += Usage(**more)


def note_copy(conn: Connection, project: str | None, image_id: str, store: str, more: int) -> None:
    """The same of bytes of a copy."""
    note(conn, project, image_id, **{"staged_bytes" if store == STAGING else "bytes": more})


def note_image(conn: Connection, before: Image | None, after: Image | None) -> None:
    """The same of an image. None: there is none."""
    for image, sign in ((before, -1), (after, 1)):
        if image is not None:
            note(conn, image.owner, image.id, images=sign, uploading=sign * is_busy(image))


def is_busy(image: Image) -> bool:
    """Whether data comes into the image, or waits to, or is copied into more stores."""
    return image.status in COMING_IN or image.importing.job is not None


def demand(conn: Connection, project: str | None, image_id: str, size: int) -> None:
    """See to it that a project may hold so many bytes more, which an image's job is promised. 0: that it holds no more than it may."""
    if project and (owed := _of(conn, project, image_id)):
        owed.asked = (owed.asked or 0) + size


def _of(conn: Connection, project: str, image_id: str) -> Owed | None:
    owed: dict[str, Owed] | None = conn.info.get("owed")
    if owed is None:
        return None
    found = owed.setdefault(project, Owed())
    found.images.add(image_id)
    return found


def _settle(conn: Connection, project: str, owed: Owed, rules: Rules, given: Given) -> None:
    if owed.more == Usage() and owed.asked is None:
        return
    grows = owed.asked is not None or any(getattr(owed.more, name) > 0 for name in NAMES)
    before, own = _lock(conn, project)
    after = count(conn, project) if before is None else before + owed.more  # what this transaction did is among the rows already
    if grows:
        refused = functools.partial(_refused, conn, project, after, owed)
        if rules.elsewhere:
            limits = rules.elsewhere(project, given, enough=lambda limits: refused(limits) is None)
        else:
            limits = own.over(rules.defaults)
        if why := refused(limits):
            raise QuotaExceeded(why)
    if after == before:
        _set(conn, project, after + Usage(bytes=1))  # for a promise alone: on Galera only a row that changes is certified
    _set(conn, project, after)


def _set(conn: Connection, project: str, held: Usage) -> None:
    conn.execute(UPDATE, {"of": project, **msgspec.structs.asdict(held)})


def _lock(conn: Connection, project: str) -> tuple[Usage | None, OwnLimits]:
    """What the project's row says, made if it is not there; None: that is not known. The row stays locked."""
    row = conn.execute(LOCK, {"project": project}).first()
    if row is None:
        missing.insert(conn, t, project=project, **UNKNOWN_ROW)
        row = conn.execute(LOCK, {"project": project}).one()
    return _read(row)


def _read(row: Any) -> tuple[Usage | None, OwnLimits]:
    amounts, own = row[: len(NAMES)], row[len(NAMES) :]
    return (None if min(amounts) < 0 else Usage(*amounts)), OwnLimits(*own)


def _refused(conn: Connection, project: str, after: Usage, owed: Owed, limits: Limits) -> str | None:
    """Why these limits do not let it be; None: they do."""
    for each in RESOURCES:
        by, limit, is_bytes = getattr(owed.more, each.name), getattr(limits, each.name), each.name == "bytes"
        asked = owed.asked if is_bytes else None
        if limit is None or (by <= 0 and asked is None):
            continue
        by = max(0, by) + (asked or 0)
        total = getattr(after, each.name) + (asked or 0)
        if is_bytes:
            total += sum(ahead.size for ahead in room.ahead(conn, project) if ahead.image_id not in owed.images)
        if total > limit:
            return is_over(each, project, limit, total - by, by)
    return None


def count(conn: Connection, project: str) -> Usage:
    """What the rows of the project's images and copies add up to."""
    staged = sa.case((c.store == STAGING, c.reserved), else_=0)
    sums = sa.select(*(sa.func.coalesce(sa.func.sum(column), 0) for column in (c.reserved, staged))).where(c.project == project)
    both, waiting = map(int, conn.execute(sums).one())
    images, uploading = (terms.count(conn, f"o:{project}", names) for names in (("",), COMING))
    return Usage(both - waiting, waiting, images, uploading)


def look(conn: Connection, project: str) -> tuple[Usage | None, OwnLimits]:
    """What a project holds, None where that is not known, and its own limits. Locks nothing."""
    row = conn.execute(sa.select(*AMOUNTS, *OWN).where(t.c.project == project)).first()
    return _read(row) if row else (None, OwnLimits())


def page(conn: Connection, after: str, most: int) -> list[tuple[str, Usage | None, OwnLimits]]:
    """Projects that have a row, by name, behind `after`. What they hold is None where it is not known."""
    found = conn.execute(sa.select(t.c.project, *AMOUNTS, *OWN).where(t.c.project > after).order_by(t.c.project).limit(most)).all()
    return [(row[0], *_read(row[1:])) for row in found]


def limit(conn: Connection, project: str, own: dict[str, int | None]) -> None:
    """Give a project limits of its own, by name; None takes one back. What it holds already stays, be it more."""
    _lock(conn, project)
    conn.execute(sa.update(t).where(t.c.project == project).values({f"most_{name}": amount for name, amount in own.items()}))


def projects(conn: Connection, after: str, limit: int) -> list[str]:
    """Projects that have a row, by name, behind `after`."""
    return list(conn.execute(sa.select(t.c.project).where(t.c.project > after).order_by(t.c.project).limit(limit)).scalars())


def mend(conn: Connection, project: str) -> tuple[Usage, Usage]:
    """Make a project's row what its images and copies add up to. Returns that, and the drift: none where it was not known."""
    held, _ = _lock(conn, project)
    total = count(conn, project)  # whoever changes one counts it before the commit, and so waits for this row or is counted
    if held != total:
        _set(conn, project, total)
    return total, Usage() if held is None else total - held


def doubt(conn: Connection) -> None:
    """Have every row counted anew when it is needed: quotas may have been off for a while."""
    conn.execute(sa.update(t).values(UNKNOWN_ROW))
