"""The image record, what callers may write of it, and who may see it."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from ikon.context import Context
from ikon.model.signature import plain
from ikon.problems import BadRequest, BadValue, QuotaExceeded, ReadOnly

Visibility = Literal["public", "community", "shared", "private"]
Status = Literal["queued", "saving", "uploading", "importing", "active", "deactivated", "killed", "deleted", "pending_delete"]
DiskFormat = Literal["ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop", "gpt"]
ContainerFormat = Literal["ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"]

Text = Annotated[str, Meta(max_length=255)]
#: MiB and GiB counts end where a signed 32-bit column ends, as clients know it.
Size32 = Annotated[int, Meta(ge=0, le=2**31 - 1)]
#: Bytes a property's value may have: what every database holds in a text column.
VALUE_BYTES = 65_535
UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")

#: Set by the server alone; a request that names one is refused.
READ_ONLY = frozenset(
    (
        "created_at",
        "updated_at",
        "status",
        "checksum",
        "size",
        "virtual_size",
        "direct_url",
        "self",
        "file",
        "schema",
        "stores",
        "os_hash_algo",
        "os_hash_value",
    )
)
RESERVED = frozenset(["locations", "location", "deleted", "deleted_at"])
#: Formats describe data; they may change only while there is none.
FORMATS = ("disk_format", "container_format")


#: Custom properties that clients may send as null, which means that they are not set.
NULLABLE = frozenset(("kernel_id", "ramdisk_id"))
#: Custom properties that have one of a few values.
CHOICES = {"cinder_encryption_key_deletion_policy": ("on_image_deletion", "do_not_delete")}


class Writable(Struct, frozen=True, forbid_unknown_fields=True):
    """The base fields that callers may write, with their types and defaults."""

    name: Annotated[Text | None, Meta(description="Descriptive name for the image")] = None
    visibility: Annotated[Visibility, Meta(description="Scope of image accessibility")] = "shared"
    protected: Annotated[bool, Meta(description="If true, the image cannot be deleted")] = False
    os_hidden: Annotated[bool, Meta(description="If true, the image is left out of the default list")] = False
    owner: Annotated[Text | None, Meta(description="Project that owns the image")] = None
    disk_format: Annotated[DiskFormat | None, Meta(description="Format of the disk")] = None
    container_format: Annotated[ContainerFormat | None, Meta(description="Format of the container")] = None
    min_disk: Annotated[Size32, Meta(description="Disk space in GiB needed to boot the image")] = 0
    min_ram: Annotated[Size32, Meta(description="Memory in MiB needed to boot the image")] = 0
    tags: Annotated[list[Text], Meta(description="Strings that group the image with others")] = []


BASE = frozenset(f.name for f in msgspec.structs.fields(Writable))


class Member(Struct, frozen=True, array_like=True):
    """A project that an image is shared with. status: "pending", "accepted" or "rejected". created, updated: microseconds."""

    status: str
    created: int
    updated: int


class Importing(Struct, frozen=True, array_like=True):
    """An import at work on an image, or what the last one left.

    job: None when none is at work. to: stores that are still to get the data. failed: stores that did not get it.
    known: whether there ever was one; from then on `to` and `failed` are shown, empty or not: by that clients know that one has ended.
    """

    job: str | None = None
    to: list[str] = []
    failed: list[str] = []
    known: bool = False


class Image(Struct, frozen=True):
    """One image as the database holds it.

    k: creation time in microseconds since 1970, made unique; it is primary key, list order and marker. updated: microseconds.
    size, virtual_size: bytes. stores: names of the stores with a ready copy, oldest copy first.
    digests: the copy whose block digests count.
    reason: why the last attempt to give the image its data failed.
    members: whom it is shared with, by project; they count only while its visibility is "shared".
    """

    k: int
    id: str
    owner: str | None
    visibility: str
    os_hidden: bool
    status: str
    name: str | None
    disk_format: str | None
    container_format: str | None
    size: int | None
    virtual_size: int | None
    min_disk: int
    min_ram: int
    protected: bool
    checksum: str | None
    os_hash_algo: str | None
    os_hash_value: str | None
    updated: int
    version: int
    reason: str | None
    digests: str | None
    properties: dict[str, str]
    tags: list[str]
    stores: list[str]
    members: dict[str, Member]
    importing: Importing = Importing()


def visible(ctx: Context, image: Image) -> bool:
    """Whether the image exists for this caller at all: an operator's, one's own, open to everyone, or shared with the caller's project."""
    return (
        ctx.admin
        or (ctx.project is not None and image.owner == ctx.project)
        or image.visibility in ("public", "community")
        or shared(ctx, image)
    )


def shared(ctx: Context, image: Image) -> bool:
    """Whether the image is shared with the caller's project, accepted or not."""
    return image.visibility == "shared" and ctx.project is not None and ctx.project in image.members


def timestamp(us: int) -> str:
    """Microseconds since 1970 as the wire shows times: UTC, whole seconds."""
    return f"{datetime.fromtimestamp(us // 1_000_000, UTC).isoformat()[:19]}Z"  # strftime takes eight times as long, twice a record


def refuse_server_fields(name: str) -> None:
    """Raises ReadOnly for an attribute that no caller may set."""
    if name in READ_ONLY:
        raise ReadOnly(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith("os_glance"):
        raise ReadOnly(f"Attribute '{name}' is reserved.")


def schema_problem(reason: str, schema: str = "image") -> BadValue:
    """A value of the wrong type, form or length, in the words that clients look for."""
    return BadValue(f"Provided object does not match schema '{schema}': {reason}")


def check_text(name: str, value: str, schema: str = "image") -> None:
    """Raises BadValue for characters that cannot be kept or shown: NUL, and halves of surrogate pairs."""
    if "\0" in value:
        raise schema_problem(f"{name!r} holds a NUL character, which no name, tag or property may", schema)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise schema_problem(f"{name!r} is not valid Unicode", schema) from None


def check_base(fields: dict[str, Any]) -> Writable:
    """Base fields with their types and ranges checked. Raises BadValue naming the field; tags come back without duplicates."""
    for name in ("min_disk", "min_ram"):
        value = fields.get(name, 0)
        if isinstance(value, float) and value.is_integer():
            fields = {**fields, name: int(value)}  # JSON has one kind of number: 1.0 is 1
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if value < 0:
                raise BadValue(f"Invalid value '{value}' for parameter '{name}': Cannot be a negative value")
            if value > 2**31 - 1:
                raise BadValue(f"Invalid value '{value}' for parameter '{name}': value out of range, must not exceed 2147483647.")
    try:
        made = msgspec.convert(fields, Writable)
    except msgspec.ValidationError as error:
        raise schema_problem(_named(error, fields)) from None
    for name in ("name", "owner"):
        if (text := getattr(made, name)) is not None:
            check_text(name, text)
    for tag in made.tags:
        check_text("tags", tag)
    return msgspec.structs.replace(made, tags=list(dict.fromkeys(made.tags)))


def _named(error: msgspec.ValidationError, fields: dict[str, Any]) -> str:
    """msgspec's sentence with the field in front and, for an enumeration, what is allowed."""
    text, _, path = str(error).partition(" - at `$.")
    name = re.split(r"[\[.`]", path)[0] if path else ""
    allowed = {"visibility": Visibility, "disk_format": DiskFormat, "container_format": ContainerFormat}.get(name)
    hint = f"; allowed: {', '.join(get_args(allowed))}" if allowed else ""
    return f"{name}: {text}{hint}" if name else text


def check_property(name: str, value: Any) -> None:
    """Raises BadValue unless name and value can be a custom property."""
    if len(name) > 255:
        raise BadRequest(f"Custom property should not be greater than 255 characters: '{name[:40]}...' has {len(name)}.")
    check_text(name[:40], name)
    if not isinstance(value, str):
        raise schema_problem(f"custom property {name!r} must be a string, not {value!r:.40}")
    check_text(name, value)
    if name in NULLABLE and not UUID.fullmatch(value):
        raise schema_problem(f"{name}: {value!r:.60} is not the id of an image")
    if name in CHOICES and value not in CHOICES[name]:
        raise schema_problem(f"{name}: {value!r:.60} is none of its values; allowed: {', '.join(CHOICES[name])}")
    if len(value.encode()) > VALUE_BYTES:
        raise schema_problem(f"custom property {name!r} is longer than {VALUE_BYTES} bytes")


def check_counts(properties: int | None, tags: int | None, limits: tuple[int, int]) -> None:
    """Raises QuotaExceeded when there are more custom properties or tags (None: not asked) than `limits` allows."""
    for what, count, most in (("properties", properties, limits[0]), ("tags", tags, limits[1])):
        if count is not None and count > most:
            raise QuotaExceeded(f"The limit has been exceeded on the number of allowed image {what}. Attempted: {count}, Maximum: {most}")


def require_formats(image: Image) -> None:
    """Raises BadRequest unless an image says in which formats its data is to be."""
    if missing := [name for name in FORMATS if getattr(image, name) is None]:
        raise BadRequest(f"{'Properties' if len(missing) > 1 else 'Property'} {', '.join(missing)} must be set prior to saving data.")


def check_id(value: Any) -> str:
    """A caller's own image id. Raises BadValue unless it has the form of a UUID."""
    if not isinstance(value, str) or not UUID.fullmatch(value):
        raise schema_problem(f"id: {value!r:.60} does not match the form of a UUID, 8-4-4-4-12 hexadecimal digits")
    return value


class New(Struct, frozen=True):
    """A checked request to create an image. id None: the server chooses one. owner_given: the caller named an owner, even null."""

    id: str | None
    base: Writable
    properties: dict[str, str]
    owner_given: bool


def parse_new(body: Any) -> New:
    """Check a create request. Raises BadRequest, BadValue or ReadOnly, naming the attribute."""
    if not isinstance(body, dict):
        raise BadRequest("Unexpected body type. Expected an object with the image's attributes.")
    base, properties, image_id = {}, {}, None
    for name, value in body.items():
        refuse_server_fields(name)
        if name == "id":
            image_id = check_id(value)
        elif name in BASE:
            base[name] = value
        elif not (name in NULLABLE and value is None):
            check_property(name, value)
            properties[name] = plain(name, value)
    return New(image_id, check_base(base), properties, "owner" in body)
