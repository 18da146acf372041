"""What images may be, what projects may hold of them, and what becomes of deleted ones."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ikon.config.amounts import LONGEST_S, Count, Positive, Seconds


class Quota(Struct, frozen=True, forbid_unknown_fields=True):
    """What one project may hold."""

    bytes: Annotated[Count, Meta(description="Bytes of image data a project may hold, every stored copy counted; 0 sets no limit.")] = 0
    staged_bytes: Annotated[
        Count, Meta(description="Bytes that a project may have staged or fetched for imports, until these end; 0 sets no limit.")
    ] = 0
    images: Annotated[Count, Meta(description="Images that a project may have; 0 sets no limit.")] = 0
    uploading: Annotated[
        Count, Meta(description="Images of a project that may be uploaded, staged, imported or copied at once; 0 sets no limit.")
    ] = 0
    counted: Annotated[
        bool, Meta(description="Count what projects hold where nothing else here asks for it, so that `ikon quota set` can limit one.")
    ] = False
    from_keystone: Annotated[
        bool,
        Meta(
            description="Take limits from Keystone alone: its unified limits of the image service, image_size_total and "
            "image_stage_total in MiB, image_count_total, image_count_uploading. One that is not registered is 0."
        ),
    ] = False


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on single requests and images."""

    image_bytes: Annotated[Positive, Meta(description="Size in bytes of the largest image taken.")] = 1 << 40
    properties: Annotated[Count, Meta(description="Custom properties an image may have.")] = 128
    tags: Annotated[Count, Meta(description="Tags an image may have.")] = 128
    members: Annotated[int, Meta(ge=0, le=1000, description="Projects an image may be shared with.")] = 128
    locations: Annotated[int, Meta(ge=1, le=1000, description="Locations an image may have.")] = 10
    page: Annotated[Positive, Meta(description="Images on a list page when the caller names no limit.")] = 25
    page_max: Annotated[Positive, Meta(description="Images on the longest list page; a higher limit is cut to this.")] = 1000
    list_s: Annotated[Seconds, Meta(description="Seconds after which a list that finds too little is given up with 503.")] = 10.0


class Formats(Struct, frozen=True, forbid_unknown_fields=True):
    """What the bytes of an image may be. What each format is refused for: docs/how-to/upload-in-every-format.md."""

    require_match: Annotated[
        bool, Meta(description="Refuse data that is not of the image's disk_format and container_format; of VMDK it always is.")
    ] = True
    raw_means_raw: Annotated[
        bool, Meta(description="Refuse recognised other formats (qcow2, LUKS, gzip ...) as raw; otherwise safe ones pass.")
    ] = False
    virtual_size_max_gib: Annotated[int, Meta(ge=1, le=1 << 32, description="GiB of the largest disk that an image may describe.")] = 65536
    vmdk_allowed_types: Annotated[
        list[str], Meta(description="createTypes that a VMDK may have; one that is not a single sparse extent is refused all the same.")
    ] = field(default_factory=lambda: ["streamOptimized", "monolithicSparse"])
    qcow2_extended_l2: Annotated[bool, Meta(description="Allow qcow2 images with extended L2 entries (subclusters).")] = False
    qcow2_encrypted: Annotated[bool, Meta(description="Allow qcow2 images that are encrypted inside.")] = False
    gpt_strict: Annotated[
        bool, Meta(description="Refuse a GPT disk whose protective MBR has further partitions or does not span the disk.")
    ] = True


class Metadefs(Struct, frozen=True, forbid_unknown_fields=True):
    """What metadata definitions there are, and what they do."""

    catalogue: Annotated[bool, Meta(description="Give a new embedded database the common definitions, as `ikon metadefs load` would.")] = (
        True
    )
    check: Annotated[
        Literal["off", "warn", "refuse"],
        Meta(
            description="What becomes of a property that a caller writes, and that does not fit its definition or looks like a misspelt "
            'one: "warn" says so in the header Warning, "refuse" answers 400.'
        ),
    ] = "off"


class Trash(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of deleted images."""

    keep_s: Annotated[
        int, Meta(ge=0, le=LONGEST_S, description="Seconds for which the operator can take a deleted image back; 0: its bytes go at once.")
    ] = 0
