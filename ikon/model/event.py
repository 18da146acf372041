"""What an event says to those outside who want to hear of it, in the form of OpenStack's notifications of images and definitions."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from ikon.context import Context
from ikon.model.image import Image, timestamp
from ikon.model.metadef import Entry, Namespace, Object, Property

#: What OpenStack calls each event of ours, and how urgent it is. Others are Ikon's own.
NOTIFICATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    **{kind: ((kind, "INFO"),) for kind in ("image.create", "image.update", "image.prepare", "image.delete")},
    **{kind: ((kind, "INFO"),) for kind in ("image.member.create", "image.member.update", "image.member.delete")},
    "image.activate": (("image.upload", "INFO"), ("image.activate", "INFO")),
    "image.upload.failed": (("image.upload", "ERROR"),),
    **{
        kind: ((kind, "INFO"),)
        for kind in (
            *(f"metadef_{what}.{deed}" for what in ("namespace", "object", "property", "tag") for deed in ("create", "update", "delete")),
            *(f"metadef_namespace.delete_{what}" for what in ("objects", "properties", "tags")),
            *(f"metadef_resource_type.{deed}" for deed in ("create", "delete")),
        )
    },
}
#: Fields of a record that a notification carries as they are.
AS_THEY_ARE = ("id", "name", "status", "min_disk", "min_ram", "protected", "checksum", "owner", "disk_format", "container_format")
#: What else a webhook is told of an image.
MORE = ("os_hidden", "os_hash_algo", "os_hash_value", "stores")
#: What a notification says of each property that is defined, null where nothing is.
PROPERTY = (
    "type", "title", "description", "default", "minimum", "maximum", "enum", "pattern", "minLength", "maxLength", "confidential", "items",
    "uniqueItems", "minItems", "maxItems", "additionalItems",
)  # fmt: skip


class Sink(Struct, frozen=True):
    """Somebody who is told of events. all: of Ikon's own too. disabled: names of events, or of groups of them, that are not told."""

    name: str
    all: bool = True
    disabled: tuple[str, ...] = ()

    def wants(self, kind: str) -> bool:
        """Whether an event of this kind is told."""
        names = [name for name, _ in NOTIFICATIONS.get(kind, ())] or ([kind] if self.all else [])
        return any(not is_disabled(name, self.disabled) for name in names)


def is_disabled(name: str, disabled: tuple[str, ...]) -> bool:
    """Whether a name is on the list, or in a group that is: "image.member" is the group of "image.member.create" and is in "image"."""
    return any(name == each or name.startswith(f"{each}.") for each in disabled)


def body(ctx: Context, kind: str, image: Image, detail: str | None, now_us: int) -> str:
    """What is kept of an event until it is told, JSON: the image as it was then, who did it, and what was said with it."""
    said: dict[str, Any] = {"project": ctx.project, "user": ctx.user, "request": ctx.request_id, "detail": detail, "at_us": now_us}
    said |= {"more": {name: getattr(image, name) for name in MORE}}
    record = _record(kind, image, now_us)
    if kind == "image.upload.failed":
        said |= {"image": record, "payload": _why(detail)}
    elif kind.startswith("image.member."):
        said |= {"image": record, "payload": _member(kind, image, msgspec.json.decode(detail or "{}"), now_us)}
    else:
        said |= {"payload": record | ({"backend": detail} if kind == "image.prepare" else {})}
    return msgspec.json.encode(said).decode()


def definition_body(ctx: Context, kind: str, namespace: Namespace, entry: Entry | None, name_old: str | None, now_us: int) -> str:
    """The same of what happened to a namespace of metadata definitions, or to an entry in it. name_old: what it was called before."""
    about: dict[str, Any]
    times: Namespace | Entry = entry or namespace
    if entry is None:
        names = ("namespace", "display_name", "protected", "visibility", "owner", "description")
        about = {name: getattr(namespace, name) for name in names} | {"namespace_old": name_old or namespace.namespace}
    else:
        about = {"namespace": namespace.namespace, "name": entry.name, "name_old": name_old or entry.name} | _defined(entry)
    if entry is None or entry.kind != "property":
        about |= {"created_at": timestamp(times.created), "updated_at": timestamp(times.updated)}
    deleted = kind.endswith(".delete")
    about |= {"deleted": deleted, "deleted_at": timestamp(now_us) if deleted else None}
    said = {"project": ctx.project, "user": ctx.user, "request": ctx.request_id, "detail": None, "at_us": now_us}
    return msgspec.json.encode(said | {"payload": about}).decode()


def _defined(entry: Entry) -> dict[str, Any]:
    if isinstance(entry.value, Property):
        return _property(entry.value)
    said = msgspec.to_builtins(entry.value)
    if isinstance(entry.value, Object):
        properties = [{"name": name} | _property(each) for name, each in (entry.value.properties or {}).items()]
        return {"properties": properties, "required": said.get("required"), "description": said.get("description")}
    return {name: said.get(name) for name in ("prefix", "properties_target")} if entry.kind == "resource_type" else {}


def _property(value: Property) -> dict[str, Any]:
    said = msgspec.to_builtins(value)
    return {name: said.get(name) for name in PROPERTY}


def _record(kind: str, image: Image, now_us: int) -> dict[str, Any]:
    deleted = kind == "image.delete"
    payload = {name: getattr(image, name) for name in AS_THEY_ARE} | {"size": image.size, "virtual_size": image.virtual_size}
    payload |= {"created_at": timestamp(image.k), "updated_at": timestamp(image.updated)}
    payload |= {
        "is_public": image.visibility == "public",
        "visibility": image.visibility,
        "properties": image.properties,
        "tags": image.tags,
    }
    payload |= {"deleted": deleted, "deleted_at": timestamp(now_us) if deleted else None}
    if deleted:
        payload["status"] = "deleted"
    if kind in ("image.prepare", "image.activate"):
        payload |= {"os_glance_importing_to_stores": image.importing.to, "os_glance_failed_import": image.importing.failed}
    return payload


def _member(kind: str, image: Image, said: dict[str, Any], now_us: int) -> dict[str, Any]:
    project, deleted = said["member_id"], kind.endswith(".delete")
    entry = image.members.get(project)
    created, updated = (entry.created, entry.updated) if entry else (now_us, now_us)
    payload = {"image_id": image.id, "member_id": project, "status": said["status"]}
    payload |= {"created_at": timestamp(created), "updated_at": timestamp(updated)}
    return payload | {"deleted": deleted, "deleted_at": timestamp(now_us) if deleted else None}


def _why(detail: str | None) -> str:
    """A failure's text, without what the operator alone is told."""
    try:
        return str(msgspec.json.decode(detail or "").get("why", ""))
    except (msgspec.DecodeError, AttributeError):
        return detail or ""


def notifications(kind: str, kept: dict[str, Any], disabled: tuple[str, ...]) -> list[tuple[str, str, Any]]:
    """The notifications of an event as it was kept: names, priorities and payloads, in order."""
    found = []
    for name, priority in NOTIFICATIONS.get(kind, ()):
        payload = kept["payload"]
        if name == "image.activate":
            payload = {key: value for key, value in payload.items() if not key.startswith("os_glance_")}
        if not is_disabled(name, disabled):
            found.append((name, priority, payload))
    return found


def webhook(message_id: str, kind: str, version: int, kept: dict[str, Any]) -> dict[str, Any]:
    """What a webhook is told of an event as it was kept, in the form that Standard Webhooks recommends: type, timestamp, data."""
    return {
        "type": kind,
        "timestamp": datetime.fromtimestamp(kept["at_us"] / 1e6, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "data": {
            "id": message_id,
            "version": version,
            **({"image": kept.get("image", kept["payload"]) | kept["more"]} if "more" in kept else {"definition": kept["payload"]}),
            "actor": {name: kept[name] for name in ("project", "user", "request")},
            "detail": _public(kept["detail"]),
        },
    }


def _public(detail: str | None) -> Any:
    """What was said with an event: a text or an object, without what the operator alone is told."""
    try:
        said = msgspec.json.decode(detail or "null")
    except msgspec.DecodeError:
        return detail
    return {name: value for name, value in said.items() if name != "because"} if isinstance(said, dict) else detail
