"""From a list request to sets of images in the index: a branch for each scope that the caller sees. docs/design/lists.md has the table."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from ikon.context import Context
from ikon.db.terms import hashed
from ikon.model.listing import Listing, Need
from ikon.model.terms import share, sorting


class Source(NamedTuple):
    """A set of images: the rows of a table whose columns have these values. Its rows lie in order of k."""

    table: str
    columns: tuple[str, ...]
    values: tuple[Any, ...]


class Branch(NamedTuple):
    """The images of one scope that are in all of its sources, of which there is at least one."""

    scope: str
    sources: tuple[Source, ...]


class Scopes:
    """Knows the scopes' sources in one database's index, for lists of hidden images or of the others."""

    def __init__(self, secret: bytes, hidden: bool) -> None:
        self._secret, self._hidden = secret, hidden

    def source(self, scope: str, need: Need) -> Source:
        """The images of a scope of which a term is true, or that have this value in a field."""
        if isinstance(need, str):
            return Source("terms", ("t",), (self._hash(scope, need),))
        field, value = need
        return Source("sorts", ("t", "v"), (self.order(scope, field), value))

    def order(self, scope: str, field: str) -> int:
        """The `t` under which a scope is sorted by a field."""
        return self._hash(scope, sorting(field))

    def narrowed(self, branch: Branch, need: Need) -> Branch:
        """The images of a branch for which a need holds as well.

        A share's terms, but for the plain one, are found in `a`: a shared image is not community.
        """
        shared = branch.scope.startswith("m:") and isinstance(need, str)
        plain = self.source(branch.scope, "")
        kept = branch.sources if shared else tuple(source for source in branch.sources if source != plain)
        return Branch(branch.scope, (*kept, self.source("a" if shared else branch.scope, need)))

    def beside_order(self, branch: Branch) -> tuple[Source, ...]:
        """What must be probed of a branch that is read in the order of a field: all but what says no more than its scope."""
        plain = self.source(branch.scope, "")
        return tuple(source for source in branch.sources if source != plain)

    def branches(self, ctx: Context, listing: Listing) -> list[Branch]:
        """All branches of a list; together they hold every image of it, and maybe more."""
        if listing.column:
            name, value = listing.column
            return [Branch("", (Source("images", (name,), (value,)),))]
        found = [self._branch(scope, needs) for scope, needs in _scopes(ctx, listing)]
        several: list[tuple[Need, ...]] = []
        for each in listing.filters:
            if len(each.needs) == 1:
                found = [self.narrowed(branch, each.needs[0]) for branch in found]
            elif each.needs:
                several.append(each.needs)
        if several:
            choice = min(several, key=len)  # one look for each of the fewest values; the others are tested on the images
            found = [self.narrowed(branch, need) for branch, need in itertools.product(found, choice)]
        return found

    def _branch(self, scope: str, needs: tuple[Need, ...]) -> Branch:
        branch = Branch(scope, (self.source(scope, ""),))
        for need in needs:
            branch = self.narrowed(branch, need)
        return branch

    def _hash(self, scope: str, term: str) -> int:
        return hashed(self._secret, scope, self._hidden, term)


def _scopes(ctx: Context, listing: Listing) -> Iterator[tuple[str, tuple[Need, ...]]]:
    """Each scope that the caller's list is made of, with the terms that are asked of it beside the filters."""
    if listing.owners is not None:
        for owner in listing.owners:
            yield from _of_owner(ctx, listing, owner)
    elif ctx.admin:
        yield from _of_admin(ctx, listing.visibility)
    else:
        yield from _of_user(ctx, listing)


def _of_admin(ctx: Context, visibility: str | None) -> Iterator[tuple[str, tuple[Need, ...]]]:
    if visibility == "public":
        yield "p", ()
    elif visibility == "community":
        yield "c", ()
    elif visibility in ("private", "shared"):
        yield "a", (f"v:{visibility}",)
    else:
        yield "a", ()
        if visibility == "all":
            yield "c", ()
        elif ctx.project is not None:
            yield f"o:{ctx.project}", ("v:community",)


def _of_user(ctx: Context, listing: Listing) -> Iterator[tuple[str, tuple[Need, ...]]]:
    visibility = listing.visibility
    if ctx.project is not None and visibility in (None, "all", "private", "shared"):
        yield f"o:{ctx.project}", () if visibility in (None, "all") else (f"v:{visibility}",)
        yield from _shares(ctx, listing)
    if visibility in (None, "all", "public"):
        yield "p", ()
    if visibility in ("all", "community"):
        yield "c", ()


def _shares(ctx: Context, listing: Listing) -> Iterator[tuple[str, tuple[Need, ...]]]:
    if listing.visibility != "private":
        for answer in listing.answers:
            yield share(ctx.project or "", answer), ()


def _of_owner(ctx: Context, listing: Listing, owner: str) -> Iterator[tuple[str, tuple[Need, ...]]]:
    """The images of one project, as far as the caller sees them."""
    wanted, own = listing.visibility, owner == ctx.project
    if wanted in ("public", "community") or (wanted and wanted != "all" and (own or ctx.admin)):
        yield f"o:{owner}", (f"v:{wanted}",)
    elif own or (ctx.admin and wanted):
        yield f"o:{owner}", ()
    else:
        seen = ["public", "private", "shared"] if ctx.admin else ["public"] if wanted is None else ["public", "community"]
        for visibility in seen if wanted in (None, "all") else ():
            yield f"o:{owner}", (f"v:{visibility}",)
    if not own and not ctx.admin and ctx.project is not None and wanted in (None, "all", "shared"):
        yield from _shares(ctx, listing)
