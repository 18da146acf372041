"""A deleted image that can be had back, and places in the list of them."""

import re

from msgspec import Struct

from ikon.model.image import Image
from ikon.problems import BadValue

#: Where a page of the list goes on: due and id of the image before.
Place = tuple[int, str]
MARKER = re.compile(r"([0-9]{1,18}):([0-9a-fA-F-]{36})")


class Trashed(Struct, frozen=True):
    """An image in the trash. deleted, due: when it came there and when it is purged, in ms since 1970 by the database's clock."""

    image: Image
    deleted: int
    due: int


def marker(last: Trashed) -> str:
    """The marker of the page behind an image."""
    return f"{last.due}:{last.image.id}"


def place(text: str) -> Place:
    """The place that a marker names. Raises BadValue."""
    match = MARKER.fullmatch(text)
    if match is None:
        raise BadValue("marker: it must be one that `next` of another page gave")
    return int(match[1]), match[2]
