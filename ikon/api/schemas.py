"""JSON schemas of records, in the dialect that image clients read; types and limits come from the model."""

from typing import Any, get_args

from ikon.model.image import CHOICES, UUID, ContainerFormat, DiskFormat, Status, Visibility
from ikon.model.member import MemberStatus
from ikon.model.tasks import STATES, TYPES

UUID_PATTERN = f"^{UUID.pattern}$"


def _text(description: str, most: int | None = 255, *, null: bool = True, read_only: bool = False, **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["null", "string"] if null else "string", "description": description, **more}
    if most is not None:
        schema["maxLength"] = most
    if read_only:
        schema["readOnly"] = True
    return schema


def _number(description: str, *, null: bool = False, read_only: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["null", "integer"] if null else "integer", "description": description}
    return {**schema, "readOnly": True} if read_only else schema


def _link(description: str) -> dict[str, Any]:
    return _text(description, None, null=False, read_only=True)


def _known(description: str, **more: Any) -> dict[str, Any]:
    """A custom property that clients know by name."""
    return {"type": "string", "description": description, "is_base": False, **more}


LOCATIONS = {
    "type": "array",
    "description": "Places from which the image's data can be read",
    "items": {
        "type": "object",
        "properties": {"url": {"type": "string", "maxLength": 255}, "metadata": {"type": "object"}},
        "required": ["url", "metadata"],
    },
}

IMAGE: dict[str, Any] = {
    "name": "image",
    "properties": {
        "id": {"type": "string", "description": "Identifier of the image, a UUID", "pattern": UUID_PATTERN},
        "name": _text("Name for people; need not be unique"),
        "status": _text("Where the image is in its life", None, null=False, read_only=True, enum=list(get_args(Status))),
        "visibility": _text("Who can see the image", None, null=False, enum=list(get_args(Visibility))),
        "protected": {"type": "boolean", "description": "Whether deleting the image is refused"},
        "os_hidden": {"type": "boolean", "description": "Whether the image is left out of the default list"},
        "checksum": _text("MD5 of the data, in hexadecimal", 32, read_only=True),
        "os_hash_algo": _text("Algorithm of os_hash_value", 64, read_only=True),
        "os_hash_value": _text("Digest of the data by os_hash_algo, in hexadecimal", 128, read_only=True),
        "owner": _text("Project that the image belongs to"),
        "size": _number("Bytes of data", null=True, read_only=True),
        "virtual_size": _number("Bytes of the disk that the data describes", null=True, read_only=True),
        "container_format": _text("What the data is wrapped in", None, enum=[None, *get_args(ContainerFormat)]),
        "disk_format": _text("Format of the disk", None, enum=[None, *get_args(DiskFormat)]),
        "created_at": _link("When the image was registered"),
        "updated_at": _link("When the record last changed"),
        "tags": {"type": "array", "description": "Words that group images", "items": {"type": "string", "maxLength": 255}},
        "direct_url": _link("Where the data is kept, where that is shown"),
        "min_ram": _number("Memory in MiB that a server booted from the image needs"),
        "min_disk": _number("Disk in GiB that a server booted from the image needs"),
        "self": _link("Path of this record"),
        "file": _link("Path of the data"),
        "stores": _link("Names of the stores that keep the data, separated by commas, where that is shown"),
        "schema": _link("Path of this schema"),
        "locations": LOCATIONS,
        "kernel_id": {**_known("Image to boot as the kernel of an AMI-style image", pattern=UUID_PATTERN), "type": ["null", "string"]},
        "ramdisk_id": {**_known("Image to boot as the ramdisk of an AMI-style image", pattern=UUID_PATTERN), "type": ["null", "string"]},
        "instance_uuid": _known("Server that the image was made from, for information"),
        "architecture": _known("Processor architecture that the system in the image is for"),
        "os_distro": _known("Common name of the operating system's distribution, in lower case"),
        "os_version": _known("Version of the operating system, as its maker names it"),
        "description": _known("What the image is, for people"),
        "cinder_encryption_key_id": _known("Key that decrypts a volume made from the image"),
        "cinder_encryption_key_deletion_policy": _known(
            "Whether that key goes with the image", enum=list(CHOICES["cinder_encryption_key_deletion_policy"])
        ),
    },
    "additionalProperties": {"type": "string"},
    "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}, {"rel": "describedby", "href": "{schema}"}],
}

IMAGES: dict[str, Any] = {
    "name": "images",
    "properties": {
        "images": {"type": "array", "items": IMAGE},
        "first": {"type": "string"},
        "next": {"type": "string"},
        "schema": {"type": "string"},
    },
    "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, {"rel": "describedby", "href": "{schema}"}],
}

MEMBER: dict[str, Any] = {
    "name": "member",
    "properties": {
        "member_id": {"type": "string", "description": "Project that the image is shared with"},
        "image_id": {"type": "string", "description": "Identifier of the image, a UUID", "pattern": UUID_PATTERN},
        "created_at": {"type": "string", "description": "When the image was shared"},
        "updated_at": {"type": "string", "description": "When the project last answered"},
        "status": {"type": "string", "description": "What the project has answered", "enum": list(get_args(MemberStatus))},
        "schema": {"type": "string", "readOnly": True},
    },
}

MEMBERS: dict[str, Any] = {
    "name": "members",
    "properties": {"members": {"type": "array", "items": MEMBER}, "schema": {"type": "string"}},
    "links": [{"rel": "describedby", "href": "{schema}"}],
}

_TASK: dict[str, Any] = {
    "id": {"type": "string", "description": "Identifier of the task, a UUID", "pattern": UUID_PATTERN},
    "type": {"type": "string", "description": "What the task does", "enum": list(TYPES)},
    "status": {"type": "string", "description": "How far the task is", "enum": list(dict.fromkeys(STATES.values()))},
    "owner": {"type": "string", "description": "Project that the task belongs to"},
    "image_id": {"type": "string", "description": "Image that the task is about"},
    "request_id": {"type": "string", "description": "Request that began the task"},
    "user_id": {"type": "string", "description": "User who began the task"},
    "expires_at": {"type": ["null", "string"], "description": "When the task will no longer be shown"},
    "created_at": {"type": "string", "description": "When the task was asked for"},
    "updated_at": {"type": "string", "description": "When the task last changed"},
    "self": {"type": "string", "readOnly": True},
    "schema": {"type": "string", "readOnly": True},
}
TASK: dict[str, Any] = {
    "name": "task",
    "properties": _TASK
    | {
        "input": {"type": ["null", "object"], "description": "What was asked for"},
        "result": {"type": ["null", "object"], "description": "What came of it"},
        "message": {"type": "string", "description": "Why it failed, for people"},
    },
}

TASKS: dict[str, Any] = {
    "name": "tasks",
    "properties": {"tasks": {"type": "array", "items": {"name": "task", "properties": _TASK}}, "schema": {"type": "string"}},
    "links": [{"rel": "describedby", "href": "{schema}"}],
}
