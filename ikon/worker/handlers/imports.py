"""Import of staged or fetched data, and copies of an active image's data into more stores."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from ikon.db import copies, events, images
from ikon.model.image import Importing
from ikon.model.job import Job
from ikon.problems import ImageRefused, Problem
from ikon.steps.base import Step
from ikon.steps.store import Store, context
from ikon.stores.registry import STAGING
from ikon.worker.kinds import Kind


class Import:
    """Data that was staged becomes the image's."""

    def steps(self, job: Job) -> Sequence[Step]:
        """See Kind."""
        return [Store(staged=True)]

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """The image waits for another try with its staged data, or for other data where this can never be the image's; and says why."""
        image = images.lock(conn, job.image_id or "")
        if image is None or image.importing.job != job.id:
            return
        staged = [copy for copy in copies.of_image(conn, image.id) if copy.store == STAGING and copy.state == "ready"]
        if isinstance(why, ImageRefused):
            for copy in staged:
                copies.condemn(conn, copy)
            staged = []
        image = images.save(
            conn,
            image,
            msgspec.structs.replace(
                image,
                status="uploading" if staged else "queued",
                size=staged[0].size if staged else None,
                reason=str(why)[:1000],
                importing=Importing(None, [], image.importing.to),
            ),
        )
        kept = staged[0].size if staged else None
        events.failed(conn, context(job), "image.import.failed", image, why, **events.job_facts(job), kept=kept)


class CopyImage:
    """An active image's data is put into more stores. The image stays as it is when that fails."""

    def steps(self, job: Job) -> Sequence[Step]:
        """See Kind."""
        return [Store(staged=False)]

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """See Kind."""
        image = images.lock(conn, job.image_id or "")
        if image is None or image.importing.job != job.id:
            return
        image = images.save(conn, image, msgspec.structs.replace(image, importing=Importing(None, [], image.importing.to)))
        events.failed(conn, context(job), "image.import.failed", image, why, **events.job_facts(job))


KINDS: dict[str, Kind] = {"import": Import(), "copy": CopyImage()}
