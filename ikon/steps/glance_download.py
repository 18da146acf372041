"""Fetch an image's data, formats and some of its properties from another image service into the staging store."""

import base64
import functools
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from ikon import protection
from ikon.config import Region
from ikon.db import images
from ikon.kit import Kit
from ikon.model.image import Image
from ikon.model.imports import INTERFACES
from ikon.model.job import Job
from ikon.model.remote import RECORD_BYTES, Remote, open_to, parse, taken_over
from ikon.problems import Conflict, RegionDown, SourceBroken, SourceDenied, SourceTooLarge, SourceUnreachable
from ikon.seal import unseal
from ikon.steps import staging
from ikon.steps.base import Work
from ikon.steps.web_download import Where, bring
from ikon.transfer.fetch import PASSING
from ikon.transfer.intake import lost


class GlanceDownload:
    """Reads the remote image's record, then its data; both must fit. A region that does not answer is asked again later."""

    name = "glance-download"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        asked, limits = work.job.input["request"], kit.settings.limits
        region, headers = self._region(kit, work.job)
        url = f"{region.url.rstrip('/').removesuffix('/v2')}/v2/images/{asked['remote_id']}"
        with _told(asked["region"], asked["remote_id"]):
            remote = await self._look(kit, work.job, url, headers, region)
            if remote.size is not None and remote.size > limits.image_bytes:
                raise SourceTooLarge(because=f"its record says {remote.size} bytes, {limits.image_bytes} are allowed")
            if remote.size is None and remote.digest is None:
                raise SourceBroken("The remote image's record tells neither size nor digest: a part could pass for the whole")
            where = Where(f"{url}/file", remote.digest, remote.size, headers, chosen=True)
            may = functools.partial(protection.may, staging.caller(work.job))
            await bring(kit, work, where, lambda image: taken_over(image, remote, limits.properties, may))

    def _region(self, kit: Kit, job: Job) -> tuple[Region, dict[str, str]]:
        """Where to ask, and with what to prove who asks."""
        name = job.input["request"]["region"]
        region = kit.settings.regions.get(name)
        if region is None and (endpoint := job.input.get("endpoint")):  # out of the catalogue, when the import was asked for
            region = Region(endpoint)
        if region is None:
            there = ", ".join(kit.settings.regions)
            nor = ", nor has the catalogue an image service there with this interface" if "endpoint" in job.input else ""
            raise Conflict(f"No region {name:.64} is configured where this import is worked on{nor}. Configured: {there}")
        if (interface := job.input["request"]["interface"]) not in INTERFACES:
            raise Conflict(f"Region {name:.64} has no interface {interface:.64}. It has {', '.join(INTERFACES)}")
        if region.user:
            given = base64.b64encode(f"{region.user}:{region.password}".encode()).decode()
            return region, {"Authorization": f"Basic {given}"}
        sealed = job.input.get("token")
        return region, {"X-Auth-Token": unseal(kit.settings.secret, sealed, job.id)} if sealed else {}

    async def _look(self, kit: Kit, job: Job, url: str, headers: dict[str, str], region: Region) -> Remote:
        """The remote image's record. One that its project would not get by itself is answered like one that does not exist."""
        try:
            async with kit.fetcher.open(url, limit=RECORD_BYTES, headers=headers, chosen=True) as source:
                body = b"".join([block async for block in source])
        except SourceTooLarge as problem:
            raise SourceBroken("The remote image's record is too long", because=problem.because) from None
        remote = parse(body, job.input["request"]["remote_id"], region.properties)
        image = await kit.db.read(_image, job)
        if "X-Auth-Token" not in headers and not open_to(remote, image, admin=job.input["admin"]):
            raise SourceDenied(404, because=f"it is {remote.visibility} in a project that is not this image's")
        return remote


def _image(conn: Connection, job: Job) -> Image:
    image = images.get(conn, job.image_id or "")
    if image is None:
        raise lost(conn, job.image_id or "")
    return image


@contextmanager
def _told(region: str, image_id: str) -> Iterator[None]:
    """Problems of a source in the words of a region: whoever asks knows no URL of it, and need not be kept from knowing that it is down."""
    try:
        yield
    except SourceUnreachable as problem:
        raise RegionDown(region, problem.because) from problem
    except SourceDenied as problem:
        if problem.code in PASSING:
            raise RegionDown(region, problem.because) from problem
        raise SourceDenied(problem.code, f"Region {region} does not give image {image_id}", because=problem.because) from None
