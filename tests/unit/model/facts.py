"""An image and a job, as tests of pure rules want them."""

from typing import Any

from ikon.model.image import Image
from ikon.model.job import Job

IMAGE = "01234567-89ab-cdef-0123-456789abcdef"


def image(**fields: Any) -> Image:
    """A queued image."""
    plain: dict[str, Any] = dict.fromkeys(Image.__struct_fields__[:21])
    plain |= {"k": 1, "id": IMAGE, "owner": "home", "visibility": "shared", "os_hidden": False, "status": "queued", "min_disk": 0}
    plain |= {"min_ram": 0, "protected": False, "updated": 1, "version": 1, "properties": {}, "tags": [], "stores": [], "members": {}}
    return Image(**plain | fields)


def job(**fields: Any) -> Job:
    """The first attempt of an import, whose id is "j"."""
    plain: dict[str, Any] = dict.fromkeys(Job.__struct_fields__)
    plain |= {"id": "j", "kind": "import", "image_id": IMAGE, "input": {}, "queue": "any", "project": "home", "store": "one"}
    plain |= {"state": "queued", "priority": 5, "turn": 1, "attempt": 1, "since": 0, "failures": 0, "step": 0, "checkpoint": {}}
    return Job(**plain | {"not_before": 0, "cancel": False, "created": 0} | fields)
