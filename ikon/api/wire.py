"""The shapes of records on the wire."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ikon import policy, protection
from ikon.config import Settings
from ikon.context import Context
from ikon.db.copies import Copy
from ikon.model.image import Image, Member, timestamp


def image(ctx: Context, record: Image) -> dict[str, Any]:
    """An image as the API shows it. Names of stores are for those who may see where data is: the owner's project and administrators."""
    path = f"/v2/images/{record.id}"
    shown: dict[str, Any] = {
        **protection.readable(ctx, record.properties),
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
    if record.importing.job is not None:
        shown["os_glance_import_task"] = record.importing.job
    if record.importing.known:
        shown["os_glance_importing_to_stores"] = ",".join(record.importing.to)
        shown["os_glance_failed_import"] = ",".join(record.importing.failed)
    return shown


def located(shown: dict[str, Any], places: Sequence[Copy] | None, settings: Settings) -> dict[str, Any]:
    """A record with the places of its data, as far as the settings show them. places None: the caller may not see them."""
    if places is not None and settings.show_locations:
        shown["locations"] = locations(places)
    sound = [copy for copy in places or () if copy.state != "bad"]
    if sound and settings.show_direct_url:
        shown["direct_url"] = sound[0].url
    return shown


def locations(places: Sequence[Copy]) -> list[dict[str, Any]]:
    """Places of an image's data, with what was said of those that callers named."""
    return [
        {"url": copy.url, "metadata": (msgspec.json.decode(copy.metadata) if copy.metadata else {}) | {"store": copy.store}}
        for copy in places
    ]


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
