"""Give imported images the properties that the operator wants them to have."""

from typing import Any

import msgspec
from sqlalchemy import Connection

from ikon.db import images
from ikon.kit import Kit
from ikon.model.job import Job
from ikon.steps.base import Work
from ikon.transfer.intake import lost


class InjectMetadata:
    """Sets the configured properties, unless the image is imported by somebody with a role that is exempt."""

    name = "inject-metadata"

    async def run(self, kit: Kit, work: Work) -> None:
        """See Step."""
        rules = kit.settings.imports
        exempt = set(rules.inject_except_roles) & set(work.job.input.get("roles", []))

        def change(conn: Connection, job: Job) -> dict[str, Any]:
            image = images.lock(conn, job.image_id or "")
            if image is None:
                raise lost(conn, job.image_id or "")
            if not exempt:
                images.save(conn, image, msgspec.structs.replace(image, properties={**image.properties, **rules.inject}))
            return {}

        await work.end(change)
