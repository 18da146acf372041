"""The images that lists are measured with: image i is the same on every server and in every run, and no neighbour tells what it is like.

Project `big` owns 45 %, a tenth are public, and the rest belong to 2,000 small projects, the first much larger than the last; 2 % are
hidden, 1 % are shared with `big` and accepted, 1 % wait for its answer. Each has six properties and two tags: some that every image has,
some that one has.
"""

import hashlib
import random
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

BIG, CLOUD, EMPTY = "big", "cloud", "nobody"
SMALLS = 2000
DISTROS = "ubuntu debian fedora centos rocky alma suse arch windows cirros".split()
#: Seconds since 1970 when image 0 was created; each further one a second later.
BEGAN_S = 1_704_067_200
#: A prime above any number of images: a multiple of i modulo it is as good as random, and no two images have the same.
PRIME = 9_999_991


class Entry(NamedTuple):
    """One image, in the words of the API. created, updated: seconds since 1970. members: status by project."""

    id: str
    owner: str
    visibility: str
    os_hidden: bool
    status: str
    name: str
    disk_format: str
    size: int | None
    min_disk: int
    created: int
    updated: int
    members: dict[str, str]
    properties: dict[str, str]
    tags: list[str]

    @property
    def checksum(self) -> str:
        return self.id.replace("-", "")

    @property
    def os_hash_value(self) -> str:
        return self.checksum * 4

    @property
    def created_at(self) -> str:
        return f"{datetime.fromtimestamp(self.created, UTC):%Y-%m-%dT%H:%M:%SZ}"


def entry(i: int) -> Entry:
    """Image i; later images are newer."""
    digest = hashlib.blake2b(f"image {i}".encode(), digest_size=56).digest()
    whose, tenant, hidden, queued, distro, version, bus, role, tag, rare = struct.unpack("<10L", digest[16:])
    owner, visibility, members = _ownership(whose / 2**32 * 100, tenant / 2**32)
    waits = queued % 50 == 0
    return Entry(
        id=str(uuid.UUID(bytes=digest[:16], version=4)),
        owner=owner,
        visibility=visibility,
        os_hidden=hidden % 50 == 0,
        status="queued" if waits else "active",
        name=f"image-{i:07d}",
        disk_format="raw" if bus % 7 == 0 else "qcow2",
        size=None if waits else i * 6151 % PRIME * 1024 + 512,
        min_disk=20 if role % 7 == 0 else 0,
        created=BEGAN_S + i,
        updated=BEGAN_S + 2 * PRIME + i * 7919 % PRIME,
        members=members,
        properties={
            "os_distro": DISTROS[distro % 10],
            "os_version": f"{version % 30}.04",
            "hw_disk_bus": "virtio" if bus % 10 else "scsi",
            "hw_vif_model": "virtio",
            "bench_role": f"role-{role % 100}",
            "bench_serial": f"serial-{i}",
        },
        tags=[f"bench-t{tag % 20}", f"bench-u{rare % 1000}"],
    )


def _ownership(percent: float, fraction: float) -> tuple[str, str, dict[str, str]]:
    """Owner, visibility and members."""
    small = f"small-{int(SMALLS * fraction**3):04d}"
    if percent < 45:
        return BIG, "private" if percent < 5 else "shared", {}
    if percent < 55:
        return CLOUD, "public", {}
    if percent < 57:
        return small, "community", {}
    if percent < 59:
        return small, "shared", {BIG: "accepted" if percent < 58 else "pending"}
    return small, "private" if percent < 80 else "shared", {}


def some(images: int, count: int, fits: Callable[[Entry], bool], *, among: tuple[float, float] = (0, 1)) -> list[Entry]:
    """About so many images that fit, drawn at random from a stretch of the set: (0, 0.5) is its older half. Fewer where they are rare."""
    chance, found = random.Random(images), {}
    first, last = (int(images * part) for part in among)
    for _ in range(last - first):
        if len(found) == count:
            break
        i = chance.randrange(first, last)
        if i not in found and fits(one := entry(i)):
            found[i] = one
    return list(found.values())
