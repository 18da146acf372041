"""Places that callers named as having an image's data: each is read once before anything of it is served."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from ikon.db import copies, events, images
from ikon.model.image import Importing
from ikon.model.job import Job
from ikon.problems import Problem
from ikon.steps.base import Step
from ikon.steps.staging import context
from ikon.steps.verify import Verify


class Location:
    """A location is read. Where its image waits for that, it becomes active by it, or waits for another."""

    def steps(self, job: Job) -> Sequence[Step]:
        """See Kind."""
        return [Verify()]

    def gave_up(self, conn: Connection, job: Job, why: Problem) -> None:
        """A location elsewhere stays in the record, as bad, as clients expect; one in a store of ours is forgotten, and left as it is."""
        image, foreign = images.lock(conn, job.image_id or ""), job.input["foreign"]
        if image is None or not copies.refuse(conn, job.input["copy"], keep=foreign):
            return
        copies.drop_digests(conn, image.id, job.input["copy"])
        stores = job.input["stores"] if foreign else []
        waits = {"status": "queued", "importing": Importing(), "stores": stores} if image.importing.job == job.id else {}
        reason = str(why)[:1000] if image.digests is None else image.reason  # else it has its data from elsewhere
        image = images.save(conn, image, msgspec.structs.replace(image, reason=reason, **waits))
        facts = events.job_facts(job) | {"store": job.input["stores"][0], "was": image.status}
        events.failed(conn, context(job), "image.location.failed", image, why, **facts)
