"""Import of staged or fetched data, and copies of an active image's data into more stores."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from ikon.db import copies, events, images
from ikon.model.image import Importing
from ikon.model.imports import DIRECT, LOCATION
from ikon.model.job import Job
from ikon.model.tasks import POSTED
from ikon.problems import ImageRefused, ImageTooLarge, Problem
from ikon.service.data import drop_staged
from ikon.steps.base import Step
from ikon.steps.convert import Convert
from ikon.steps.decompress import Decompress
from ikon.steps.glance_download import GlanceDownload
from ikon.steps.inject_metadata import InjectMetadata
from ikon.steps.staging import context
from ikon.steps.store import Store
from ikon.steps.web_download import WebDownload
from ikon.stores.registry import STAGING
from ikon.worker.handlers.locations import Location
from ikon.worker.kinds import Kind

#: What is wrong with the data itself, so that no other try can go better with it.
NEVER = (ImageRefused, ImageTooLarge)


class Import:
    """Data that was staged, or is fetched, becomes the image's. Which steps lie between is fixed when the job is enqueued."""

    def steps(self, job: Job) -> Sequence[Step]:
        """See Kind."""
        return [STEPS[name] for name in job.input["steps"]]

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """The image waits for another try with its staged data, or for other data where this can never be the image's; and says why."""
        image = images.lock(conn, job.image_id or "")
        if image is None or image.importing.job != job.id:
            return
        staged = [copy for copy in copies.of_image(conn, image.id) if copy.store == STAGING and copy.state in copies.STAGED]
        direct = job.input["request"]["method"] == DIRECT
        if isinstance(why, NEVER):
            drop_staged(conn, image.id)
            staged = []
        image = images.save(
            conn,
            image,
            msgspec.structs.replace(
                image,
                status="uploading" if staged and direct else "queued",
                size=staged[0].size if staged and direct else None,
                reason=str(why)[:1000],
                importing=Importing(None, [], image.importing.to, known=True),
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
        image = images.save(conn, image, msgspec.structs.replace(image, importing=Importing(None, [], image.importing.to, known=True)))
        events.failed(conn, context(job), "image.import.failed", image, why, **events.job_facts(job))


STEPS: dict[str, Step] = {
    step.name: step for step in (WebDownload(), GlanceDownload(), Decompress(), Convert(), InjectMetadata(), Store(staged=True))
}
KINDS: dict[str, Kind] = {"import": Import(), "copy": CopyImage(), POSTED: Import(), LOCATION: Location()}
