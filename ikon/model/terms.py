"""The words of the index behind lists: who sees an image, what is true of it, and what it can be sorted by.

Scopes, each without the hidden images or with them alone:

    a          every image that is not community          m:PROJECT             images shared with a project that has accepted
    c          every community image                      m:PROJECT\\0pending    ... that has not decided
    o:PROJECT  every image of a project                   m:PROJECT\\0rejected   ... that has refused
    p          every public image

All terms of an image are found in each of its scopes but those of shares, which have the plain term alone: what is shared is in `a` as
well. Every scope can be sorted.
"""

from collections.abc import Iterator

from ikon.model.image import Image
from ikon.model.quota import COMING_IN

#: Fields that lists can be sorted by without looking at more than the page.
SORTED = ("name", "size", "updated")
#: The algorithm that nearly every image has: no term says so.
USUAL_HASH = "sha512"
#: The term of an image that is copied into more stores.
COPYING = "i"


def value(image: Image, field: str) -> bytes:
    """What an image is sorted by: null before every value, text by byte, numbers by size."""
    return encoded(getattr(image, field))


def encoded(found: str | int | None) -> bytes:
    """A value as `v` holds it."""
    if found is None:
        return b"\0"
    return b"\1" + (found.encode() if isinstance(found, str) else found.to_bytes(8, "big"))


def spelled(image: Image) -> Iterator[str]:
    """All that lists may filter by and that is true of an image. The plain term, first, is true of every image."""
    yield ""
    yield text("n", image.name)
    yield text("s", image.status)
    yield text("d", image.disk_format)
    yield text("f", image.container_format)
    yield text("v", image.visibility)
    if image.importing.job is not None and image.status not in COMING_IN:
        yield COPYING
    if image.protected:
        yield "x"
    if image.min_disk:
        yield f"g:{image.min_disk}"
    if image.min_ram:
        yield f"r:{image.min_ram}"
    if image.virtual_size is not None:
        yield f"z:{image.virtual_size}"
    if image.os_hash_algo not in (None, USUAL_HASH):
        yield text("h", image.os_hash_algo)
    for name, content in image.properties.items():
        yield f"p:{name}\0{content}"
    for tag in image.tags:
        yield f"t:{tag}"


def text(kind: str, content: str | None) -> str:
    """The term that says that a field has this text, or none."""
    return kind if content is None else f"{kind}:{content}"


def scopes(image: Image) -> tuple[list[str], list[str]]:
    """The scopes in which all terms of an image are found, and those of its shares."""
    whole = ["c" if image.visibility == "community" else "a"]
    if image.owner is not None:
        whole.append(f"o:{image.owner}")
    if image.visibility == "public":
        whole.append("p")
    shares = [share(project, member.status) for project, member in image.members.items()] if image.visibility == "shared" else []
    return whole, shares


def share(project: str, status: str) -> str:
    """The scope of the images shared with a project that it has answered in one way."""
    return f"m:{project}" if status == "accepted" else f"m:{project}\0{status}"  # no project's name holds a NUL


def sorting(field: str) -> str:
    """The term under which a scope is kept in the order of a field."""
    return f"sort:{field}"
