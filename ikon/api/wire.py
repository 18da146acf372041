"""The shapes of records on the wire."""

from typing import Any

from ikon import policy
from ikon.context import Context
from ikon.model.image import Image, Member, timestamp


def image(ctx: Context, record: Image) -> dict[str, Any]:
    """An image as the API shows it. Names of stores are for those who may see where data is: the owner's project and administrators."""
    path = f"/v2/images/{record.id}"
    shown: dict[str, Any] = {
        **record.properties,
        "id": record.id,
        "name": record.name,
        "status": record.status,
        "visibility": record.visibility,
        "protected": record.protected,
        "os_hidden": record.os_hidden,
        "owner": record.owner,
        "disk_format": record.disk_format,
        "container_format": record.container_format,
        "min_disk": record.min_disk,
        "min_ram": record.min_ram,
        "size": record.size,
        "virtual_size": record.virtual_size,
        "checksum": record.checksum,
        "os_hash_algo": record.os_hash_algo,
        "os_hash_value": record.os_hash_value,
        "created_at": timestamp(record.k),
        "updated_at": timestamp(record.updated),
        "tags": record.tags,
        "self": path,
        "file": f"{path}/file",
        "schema": "/v2/schemas/image",
    }
    if record.stores and policy.allows(ctx, "get_image_location", record):
        shown["stores"] = ",".join(record.stores)
    return shown


def member(image_id: str, project: str, entry: Member) -> dict[str, Any]:
    """One project that an image is shared with, as the API shows it."""
    return {
        "member_id": project,
        "image_id": image_id,
        "status": entry.status,
        "created_at": timestamp(entry.created),
        "updated_at": timestamp(entry.updated),
        "schema": "/v2/schemas/member",
    }
