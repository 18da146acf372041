"""How data comes into images beside uploads: from where, by which jobs, and made into what."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ikon.config.amounts import LONGEST_S, Count, Positive, Seconds

#: Ranges that `[egress] allowed_networks` may open, which are closed otherwise: private ones and loopback.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "127.0.0.0/8", "::1/128")
Port = Annotated[int, Meta(ge=1, le=65535)]


class Staging(Struct, frozen=True, forbid_unknown_fields=True):
    """Where data waits between its arrival and its import."""

    path: Annotated[str, Meta(description="Directory of staged data; empty: `staging` in the data directory.")] = ""
    shared: Annotated[
        bool, Meta(description="Whether every node sees this directory; otherwise the node that took data in imports it.")
    ] = False
    keep_s: Annotated[
        int, Meta(ge=60, le=LONGEST_S, description="Seconds for which staged data that nobody imports is kept, that of failed imports too.")
    ] = 604_800


class Imports(Struct, frozen=True, forbid_unknown_fields=True):
    """How data comes into images beside uploads."""

    methods: Annotated[
        list[Literal["glance-direct", "web-download", "copy-image", "glance-download"]],
        Meta(description="Import methods on offer; glance-download only where [regions] names one, or with Keystone and `secret`."),
    ] = field(default_factory=lambda: ["glance-direct", "web-download", "copy-image", "glance-download"])
    decompress: Annotated[
        bool, Meta(description="Unpack gzip, xz, zstd and zip data at import, unless container_format is compressed.")
    ] = False
    inject: Annotated[dict[str, str], Meta(description="Properties that imported images are given.")] = field(default_factory=dict)
    inject_except_roles: Annotated[list[str], Meta(description="Roles whose imports are given no properties.")] = field(
        default_factory=lambda: ["admin"]
    )


class Region(Struct, frozen=True, forbid_unknown_fields=True):
    """Another image service, from which images are imported by glance-download: docs/how-to/import-from-another-region.md."""

    url: Annotated[str, Meta(description='Its endpoint, as "https://images.east.example.org"; private and loopback addresses are allowed.')]
    user: Annotated[
        str, Meta(description="Name that Ikon gives there by HTTP Basic; empty: callers' own tokens are passed on, see `secret`.")
    ] = ""
    password: Annotated[str, Meta(description="Password of `user`. Best set in the environment: it is a secret.")] = ""
    properties: Annotated[
        list[str], Meta(description="Beginnings of the names of properties that are taken over with an image, beside its formats.")
    ] = field(default_factory=lambda: ["hw_", "trait:", "os_distro", "os_secure_boot", "os_type"])


class Jobs(Struct, frozen=True, forbid_unknown_fields=True):
    """Work that outlives a request."""

    slots: Annotated[Count, Meta(description="Jobs that one process works on at once; 0: it works on none.")] = 4
    per_project: Annotated[
        Count, Meta(description="Jobs of one project that are worked on at once, everywhere together; 0 sets no limit.")
    ] = 0
    per_store: Annotated[
        Count, Meta(description="Jobs into one store that are worked on at once, everywhere together; 0 sets no limit.")
    ] = 0
    deadline_s: Annotated[
        Seconds, Meta(description="Seconds from its beginning, or from a retry, after which a job that is still at work is given up.")
    ] = 172_800.0
    keep_s: Annotated[int, Meta(ge=0, le=LONGEST_S, description="Seconds for which a job that has ended is still shown.")] = 172_800


class Conversion(Struct, frozen=True, forbid_unknown_fields=True):
    """What imported images are converted to, and what one conversion may use."""

    output_format: Annotated[
        Literal["", "raw", "qcow2", "vmdk"], Meta(description="disk_format that imported images are converted to; empty: none is.")
    ] = ""
    at_once: Annotated[
        Positive, Meta(description="Conversions at once on a node, of all processes with this data directory; others wait in the queue.")
    ] = 2
    memory_mib: Annotated[int, Meta(ge=256, description="MiB of addresses that a conversion may take.")] = 1024
    cpu_s_gib: Annotated[Seconds, Meta(description="Seconds of processor time for each GiB of the disk, besides 60.")] = 60.0
    time_s_gib: Annotated[Seconds, Meta(description="Seconds for each GiB of the disk, besides 60.")] = 300.0


class Egress(Struct, frozen=True, forbid_unknown_fields=True):
    """What Ikon may fetch from elsewhere: http and https, public addresses only unless opened here."""

    allowed_hosts: Annotated[
        list[str], Meta(description="Hosts whose addresses may be private ones, each by its exact name; loopback is not opened by a name.")
    ] = field(default_factory=list)
    allowed_networks: Annotated[
        list[str],
        Meta(
            description='Private networks that may be fetched from, as "10.1.0.0/16"; loopback only where it is written here, and an '
            'address of this machine only by itself, as "10.1.0.5/32".'
        ),
    ] = field(default_factory=list)
    allowed_ports: Annotated[list[Port], Meta(description="Ports that may be fetched from; 80 and 443 if not set.")] = field(
        default_factory=lambda: [80, 443]
    )
    ca_file: Annotated[str, Meta(description="PEM file of certificate authorities trusted beside the system's; empty: none.")] = ""
    stall_s: Annotated[
        Seconds, Meta(description="Seconds without data after which a source is tried again; over as long a time it must give 10 kB/s.")
    ] = 60.0
    total_s: Annotated[Seconds, Meta(description="Seconds that one fetch may take in all, retries included.")] = 86400.0
