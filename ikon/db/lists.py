"""Pages of lists in time that depends on the page, not on the number of images: walks of the index in db/terms.py.

A list is made of branches (db/branches.py), each read in its own order and merged. Of a branch's sources the rarest is read and the others
are probed. Every image that is found is tested against the real rule and every filter, so that the index can cost time, and never a wrong
answer.

Orders that the index has are walked; those that begin with a field of few values are enumerated; of small sets, and of what is left, every
image is looked at and the best ones are kept. docs/design/lists.md says what costs what.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from sqlalchemy import Connection

from ikon.context import Context
from ikon.db import images, keys, terms
from ikon.db.branches import Branch, Scopes
from ikon.model.image import ContainerFormat, DiskFormat, Image, Status, visible
from ikon.model.listing import Listing, includes
from ikon.model.terms import SORTED, text, value
from ikon.problems import BadValue

#: Images of a set are counted up to here to see which set is the rarest.
COUNTED = 1000
#: Sets of fewer images than this are collected and sorted, whatever the order.
SMALL = 2000
#: Rows of the index that one statement probes: few at first, for matches are mostly near.
SLICE, LONGEST_SLICE = 500, 8000
#: Images fetched at once: as many as are wanted at first, more when too few of them pass the filters.
FEWEST, FETCHED = 8, 500
#: Seconds that a walk goes on before others have their turn: on SQLite all reads share one thread.
TURN_S = 0.02
#: Fields of few values: the letter of their terms, and the values in order of their bytes, null first.
FEW: dict[str, tuple[str, list[str | None]]] = {
    "status": ("s", sorted(get_args(Status))),
    "disk_format": ("d", [None, *sorted(get_args(DiskFormat))]),
    "container_format": ("f", [None, *sorted(get_args(ContainerFormat))]),
}

Sorts = Sequence[tuple[str, bool]]
#: An image of the answer, or None after a statement, when others may have their turn.
Steps = Iterator[Image | None]


class Walk:
    """One list page on its way: `resume` until it returns True, then `found` is the page."""

    def __init__(self, ctx: Context, listing: Listing, shown: Callable[[Image], bool] = lambda _: True) -> None:
        """shown: whether an image that fits is for the caller to see, where a rule that no index knows decides it."""
        self.found: list[Image] = []
        self._ctx, self._listing, self._shown = ctx, listing, shown
        self._steps: Steps | None = None
        self._conn: Connection
        self._scopes: Scopes

    def resume(self, conn: Connection) -> bool:
        """Go on for a short while. True when the page is complete. Raises BadValue for a marker that the caller does not see."""
        self._conn = conn
        steps, self._steps = self._steps, None
        if steps is None:  # at the beginning, and again after a failure of the database
            self.found, steps = [], self._begin()
        until = time.monotonic() + TURN_S
        for image in steps:
            if image is not None:
                self.found.append(image)
                if len(self.found) == self._listing.limit:
                    return True
            elif time.monotonic() > until:
                self._steps = steps
                return False
        return True

    def _begin(self) -> Steps:
        listing, marker = self._listing, None
        if listing.marker is not None:
            marker = images.get(self._conn, listing.marker)
            if (
                marker is None or not visible(self._ctx, marker) or not self._shown(marker)
            ):  # one answer for both: a marker tells nobody what there is
                raise BadValue(f"No image found with ID {listing.marker}")
        self._scopes = Scopes(terms.key(self._conn), listing.os_hidden)
        branches = self._scopes.branches(self._ctx, listing)
        if (few := self._in_span(branches)) is not None:
            yield from self._kept(self._matching(sorted(few)), listing.sorts, marker)
        else:
            yield from self._ordered(branches, listing.sorts, marker)

    def _in_span(self, branches: list[Branch]) -> set[int] | None:
        """All images in the span of a filter, if those are few; None when no filter has one, or it has many."""
        for span in (each.span for each in self._listing.filters):
            if span is not None and not self._listing.column:
                orders = [self._scopes.order(scope, span.field) for scope in {branch.scope for branch in branches}]
                few = keys.within(self._conn, orders, span.least, span.most, SMALL)
                if few is not None:
                    return few
        return None

    def _ordered(self, branches: list[Branch], sorts: Sorts, marker: Image | None) -> Steps:
        """The images of the branches in any order, behind the marker."""
        (field, ascending), rest = sorts[0], sorts[1:]
        by_k = field == "k"
        branches, total = self._planned(branches, COUNTED if by_k else SMALL)
        if by_k:
            yield from self._by_k(branches, marker.k if marker else None, ascending, self._wanted())
        elif total < SMALL or not branches[0].scope or (field == "id" and len(sorts) < len(self._listing.sorts)):
            yield from self._collected(branches, sorts, marker)
        elif field in FEW:
            yield from self._by_few(branches, field, ascending, rest, marker)
        elif field in SORTED:
            yield from self._by_value(branches, field, ascending, rest, marker)
        else:
            yield from self._by_id(ascending, marker.id if marker else None)

    def _planned(self, branches: list[Branch], most: int) -> tuple[list[Branch], int]:
        """The branches that can hold images, the rarest source of each first; and how many images there may be, counted up to `most` each.

        Nothing is counted where it could change nothing: in order of k, branches of one source are read as they are.
        """
        sure = [branch for branch in branches if len(branch.sources) == 1] if most == COUNTED else []
        branches = [branch for branch in branches if branch not in sure]
        if not branches:
            return sure, most * len(sure)
        counts = keys.count(self._conn, {source for branch in branches for source in branch.sources}, most)
        planned = [Branch(branch.scope, tuple(sorted(branch.sources, key=counts.__getitem__))) for branch in branches]
        planned = [branch for branch in planned if counts[branch.sources[0]]]
        return sure + planned, sum(counts[branch.sources[0]] for branch in planned)

    def _wanted(self) -> int:
        """Images to ask for: those that the page lacks."""
        return min(max(self._listing.limit - len(self.found), FEWEST), FETCHED)

    def _by_k(self, branches: list[Branch], after: int | None, ascending: bool, wanted: int) -> Steps:
        """In order of creation: each branch is walked, the keys are merged, and the images fetched as far as they are needed."""
        first, last = self._listing.created
        if ascending:
            after = first - 1 if after is None else max(after, first - 1)
        else:
            after = min(last, 2**63 - 2) + 1 if after is None else min(after, last + 1)
        length = SLICE
        while branches:
            part = keys.by_k(self._conn, branches, after, ascending, wanted, length)
            found = [k for k in part.found if first <= k <= last]
            for at in range(0, len(found), wanted):
                yield from self._matching(found[at : at + wanted])
            if part.end is None or len(found) < len(part.found):
                return
            branches, after = part.unfinished, part.end
            wanted, length = min(2 * wanted, FETCHED), min(2 * length, LONGEST_SLICE)

    def _by_value(self, branches: list[Branch], field: str, ascending: bool, rest: Sorts, marker: Image | None) -> Steps:
        """In order of a field, value by value: images of one value are a list of their own, in the order that is left."""
        at = None
        if marker is not None:
            at = value(marker, field)
            yield from self._of_value(branches, field, at, rest, marker)
        wanted, length, order = self._wanted(), SLICE, self._order(((field, ascending), *rest))
        orders = [self._scopes.order(branch.scope, field) for branch in branches]
        probes = [self._scopes.beside_order(branch) for branch in branches]
        while True:
            part = keys.by_value(self._conn, orders, probes, at, ascending, wanted, length)
            whole = [k for v, k in part.found if v != part.end]
            yield from sorted((image for image in self._matching(whole) if image is not None), key=order)
            if part.end is None:
                return
            at, wanted, length = part.end, min(2 * wanted, FETCHED), min(2 * length, LONGEST_SLICE)
            yield from self._of_value(branches, field, at, rest, None)

    def _of_value(self, branches: list[Branch], field: str, at: bytes, rest: Sorts, marker: Image | None) -> Steps:
        yield from self._ordered([self._scopes.narrowed(branch, (field, at)) for branch in branches], rest, marker)

    def _by_few(self, branches: list[Branch], field: str, ascending: bool, rest: Sorts, marker: Image | None) -> Steps:
        """In order of a field that has few values: a list for each of them."""
        letter, values = FEW[field]
        values = values if ascending else values[::-1]
        if marker is not None:
            values = values[values.index(getattr(marker, field)) :]
        for each in values:
            of_value = [self._scopes.narrowed(branch, text(letter, each)) for branch in branches]
            at = marker if marker is not None and getattr(marker, field) == each else None
            yield from self._ordered(of_value, rest, at)

    def _by_id(self, ascending: bool, after: str | None) -> Steps:
        """In order of ids: all images there are, for ids come in no order that a scope would know."""
        wanted = self._wanted()
        while batch := images.by_id(self._conn, after, ascending, wanted):
            yield from (image for image in batch if self._matches(image))
            yield None
            after, wanted = batch[-1].id, min(2 * wanted, FETCHED)

    def _collected(self, branches: list[Branch], sorts: Sorts, marker: Image | None) -> Steps:
        """Every image of the branches, of which those are kept that come first."""
        return self._kept(self._by_k(branches, None, False, FETCHED), sorts, marker)

    def _kept(self, steps: Steps, sorts: Sorts, marker: Image | None) -> Steps:
        """Of the images that come in whatever order, the first ones behind the marker, in order."""
        order, wanted = self._order(sorts), self._listing.limit - len(self.found)
        after = order(marker) if marker is not None else None
        best: list[Image] = []
        for image in steps:
            if image is None:
                yield None
            elif after is None or after < order(image):
                best.append(image)
                if len(best) > 2 * wanted + FETCHED:
                    best = sorted(best, key=order)[:wanted]
        yield from sorted(best, key=order)[:wanted]

    def _matching(self, found: Sequence[int]) -> Steps:
        """The images under these keys, in their order, that are part of the answer."""
        for at in range(0, len(found), FETCHED):
            there = images.by_k(self._conn, found[at : at + FETCHED])
            yield from (there[k] for k in found[at : at + FETCHED] if k in there and self._matches(there[k]))
            yield None

    def _matches(self, image: Image) -> bool:
        fits = includes(self._ctx, self._listing, image) and all(each.test(image) for each in self._listing.filters)
        return fits and self._shown(image)

    def _order(self, sorts: Sorts) -> Callable[[Image], Any]:
        """What images are compared by: values as the index has them, upside down where they descend."""

        def order(image: Image) -> tuple[Any, ...]:
            values = ((value(image, field), ascending) for field, ascending in sorts)
            return tuple(v if ascending else _Descending(v) for v, ascending in values)

        return order


class _Descending(bytes):
    """A value that comes before smaller ones."""

    def __lt__(self, other: bytes) -> bool:
        return bytes.__gt__(self, other)
