"""Settings: one TOML file, overridden by environment and command line; every error names the key, what was given and what is allowed.

The sentence beside each field is its help text; the reference page is made from them.
"""

import base64
import functools
import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Struct, field

from ikon.problems import StartError

MIB = 1 << 20
#: Beginnings of variables that are ours; `IKON_QUOTA__BYTES` sets `[quota] bytes`.
PREFIX = "IKON_"
#: Settings whose values no message repeats, beside those with "secret" or "password" in their name.
SECRETS = ("broker", "database", "events.notifications")
#: An origin in the one form in which browsers send it (RFC 6454, 6.2).
ORIGIN = re.compile(r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
#: URL of a service: a region, the key manager, this one. All readers of URLs agree on it; the fetcher reads it more strictly still.
ENDPOINT = re.compile(r"https?://([a-z0-9]([a-z0-9_.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~/-]*)?")
#: Characters of a secret that nobody guesses.
SECRET = 32
#: Ranges that `[egress] allowed_networks` may open, which are closed otherwise: private ones and loopback.
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "127.0.0.0/8", "::1/128")

S = TypeVar("S", bound=Struct)
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
#: Ten years.
LONGEST_S = 315_360_000


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


class Trash(Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of deleted images."""

    keep_s: Annotated[
        int, Meta(ge=0, le=LONGEST_S, description="Seconds for which the operator can take a deleted image back; 0: its bytes go at once.")
    ] = 0


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


class Http(Struct, frozen=True, forbid_unknown_fields=True):
    """How long and how much the server waits for a client."""

    header_timeout_s: Annotated[Seconds, Meta(description="Seconds for the first byte of a connection and for a request's headers.")] = 10.0
    header_bytes: Annotated[Positive, Meta(description="Bytes of all headers of a request together.")] = 32 * 1024
    url_bytes: Annotated[Positive, Meta(description="Bytes of a request's URL.")] = 8 * 1024
    stall_s: Annotated[Seconds, Meta(description="Seconds without one byte moved after which a body is given up.")] = 60.0
    body_rate_bytes_s: Annotated[Count, Meta(description="Least average rate of an upload in bytes a second; 0 sets none.")] = 0
    connections_per_address: Annotated[Count, Meta(description="Connections from one address, loopback excepted; 0 sets no limit.")] = 0


class Cors(Struct, frozen=True, forbid_unknown_fields=True):
    """Web pages that may use the API from a browser."""

    allowed_origins: Annotated[
        list[str], Meta(description='Origins of these pages, as "https://dashboard.example.org"; none: no page may, and nothing is said.')
    ] = field(default_factory=list)


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


class Keystone(Struct, frozen=True, forbid_unknown_fields=True):
    """The identity service that tokens are looked up at, with identity "keystone"; and as whom Ikon asks there."""

    url: Annotated[str, Meta(description='Keystone\'s address with its version, as "https://keystone.example.org:5000/v3".')] = ""
    www_authenticate_uri: Annotated[str, Meta(description="Where clients without a token are told to get one; empty: `url`.")] = ""
    username: Annotated[str, Meta(description="User that Ikon asks as.")] = "glance"
    password: Annotated[str, Meta(description="Its password. Best set by IKON_KEYSTONE__PASSWORD: it is a secret.")] = ""
    project: Annotated[str, Meta(description="Project that this user works in.")] = "service"
    domain: Annotated[str, Meta(description="Name of the domain of this user and project.")] = "Default"
    application_credential_id: Annotated[str, Meta(description="Application credential to ask with, in place of user and password.")] = ""
    application_credential_secret: Annotated[
        str, Meta(description="Its secret. Best set by IKON_KEYSTONE__APPLICATION_CREDENTIAL_SECRET.")
    ] = ""
    service_roles: Annotated[
        list[str],
        Meta(
            description="Roles of services whose X-Service-Token lets an expired token of a user pass, and requests that an application "
            "credential's access rules do not name."
        ),
    ] = field(default_factory=lambda: ["service"])
    region: Annotated[
        str,
        Meta(
            description="Region of this image service: whose limits count with [quota] from_keystone, and whose key-manager is asked; "
            "empty: the only one in the catalogue."
        ),
    ] = ""
    ca_file: Annotated[str, Meta(description="PEM file of certificate authorities trusted instead of the library's; empty: those.")] = ""
    timeout_s: Annotated[Seconds, Meta(description="Seconds that Keystone may take to answer.")] = 10.0
    cache_s: Annotated[
        Seconds, Meta(description="Seconds for which it is remembered what a token is; for so long a revoked one still counts.")
    ] = 60.0
    memcached: Annotated[
        list[str],
        Meta(description='memcached servers, as "HOST:PORT", by which the processes of a cluster ask once for all; none: each asks.'),
    ] = field(default_factory=list)
    memcached_secret: Annotated[
        str, Meta(description="What signs entries there, the same on all nodes. Best set by IKON_KEYSTONE__MEMCACHED_SECRET.")
    ] = ""


class Signatures(Struct, frozen=True, forbid_unknown_fields=True):
    """Where certificates of signed images are; with identity "keystone" their data is always compared with its signature."""

    key_manager: Annotated[
        str,
        Meta(
            description="Barbican's address, as \"https://barbican.example.org\"; empty: what Keystone's catalogue has as key-manager. "
            "With another identity, signatures are verified only where it is set."
        ),
    ] = ""


class Policy(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may do what, where it is not as Ikon has it."""

    file: Annotated[
        str, Meta(description="A policy file in OpenStack's form, YAML or JSON; what it does not name stays as it is. Empty: none.")
    ] = ""
    property_protection_file: Annotated[
        str,
        Meta(description="A file in the form of OpenStack's image service that says who may do what with which properties. Empty: none."),
    ] = ""
    property_protection_rule_format: Annotated[
        Literal["roles", "policies"], Meta(description="What that file names: roles of callers, or rules of `policy.file`.")
    ] = "roles"


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of what happens to images, beside each image's own timeline."""

    log: Annotated[bool, Meta(description="Write what happens to images into the server's log, but for attempts of jobs.")] = False
    notifications: Annotated[
        str,
        Meta(
            description="URL of OpenStack's notification bus for oslo.messaging, rabbit://USER:PASSWORD@HOST:5672/VHOST; empty: none. "
            "Best set by IKON_EVENTS__NOTIFICATIONS: it is a secret. Needs `pip install 'ikon[openstack]'`."
        ),
    ] = ""
    exchange: Annotated[str, Meta(min_length=1, description="Exchange of the notifications.")] = "glance"
    topic: Annotated[str, Meta(min_length=1, description="Topic of the notifications; queues are named TOPIC.info and TOPIC.error.")] = (
        "notifications"
    )
    publisher_id: Annotated[str, Meta(min_length=1, description="Who notifications say that they come from.")] = "image.localhost"
    disabled_notifications: Annotated[
        list[str], Meta(description='Notifications that are not sent, by name or group, as "image.update" or "image.member".')
    ] = field(default_factory=list)
    webhook: Annotated[
        str,
        Meta(
            description="URL that what happens to images, but for attempts of jobs, is sent to by POST, http:// or https://; empty: none. "
            "It may be an inside one, whatever [egress] says; `egress.ca_file` counts."
        ),
    ] = ""
    webhook_secret: Annotated[
        str,
        Meta(
            description="What webhooks are signed with: `whsec_` and base64 of 24 to 64 random bytes. Several, parted by spaces, sign side "
            "by side. Best set by IKON_EVENTS__WEBHOOK_SECRET: it is a secret."
        ),
    ] = ""


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one Ikon server."""

    data: Annotated[str, Meta(min_length=1, description="Directory of everything this server keeps: database, images, run files.")] = (
        "ikon-data"
    )
    listen: Annotated[str, Meta(description='Address and port to serve on, as "HOST:PORT" or "[IPV6]:PORT".')] = "127.0.0.1:9292"
    identity: Annotated[
        Literal["none", "headers", "users", "keystone"],
        Meta(
            description='Who callers are: "none" (everyone is the admin of project "default"; loopback only), "headers" '
            '(X-User-Id, X-Project-Id, X-Roles ... as a Keystone middleware in front sets them), "users" (name and password by HTTP '
            'Basic, of those whom `ikon user add` made) or "keystone" (tokens of the Keystone of [keystone]).'
        ),
    ] = "none"
    none_beyond_loopback: Annotated[
        bool, Meta(description='Let identity "none" serve beyond loopback: everyone who can connect is admin.')
    ] = False
    trusted_proxies: Annotated[
        list[str],
        Meta(
            description='Networks, as "10.0.0.0/8", of proxies in front. With identity "headers" their identity headers are believed, as '
            "loopback's always are; with \"users\" what they say in X-Forwarded-For, and nobody else's; without public_endpoint, "
            "what they say in X-Forwarded-Proto, -Host, -Port and -Prefix about the URL that the client asked for."
        ),
    ] = field(default_factory=list)
    public_endpoint: Annotated[
        str,
        Meta(
            description='URL that clients reach this server by, as "https://cloud.example:9292/image": what absolute links begin with; '
            "empty: what a proxy of trusted_proxies says, or the request's Host."
        ),
    ] = ""
    keystone: Annotated[Keystone, Meta(description="The identity service that tokens are looked up at.")] = field(default_factory=Keystone)
    signatures: Annotated[Signatures, Meta(description="Where certificates of signed images are.")] = Signatures()
    policy: Annotated[Policy, Meta(description="Who may do what, where it is not as Ikon has it.")] = Policy()
    database: Annotated[
        str,
        Meta(
            description="Database URL: sqlite:////PATH, mysql+pymysql://... or postgresql+psycopg://...; "
            "empty: SQLite in the data directory."
        ),
    ] = ""
    broker: Annotated[
        str,
        Meta(
            description="URL of the RabbitMQ that wakes workers in other processes, amqp://USER:PASSWORD@HOST:5672/VHOST or amqps://...; "
            "empty: each looks for jobs every ten seconds. Best set by IKON_BROKER: it is a secret."
        ),
    ] = ""
    secret: Annotated[
        str,
        Meta(
            description="At least 32 characters, the same on all nodes, with which callers' tokens are sealed while imports from other "
            "regions wait; empty: no token is passed on. Best set by IKON_SECRET."
        ),
    ] = ""
    stores: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            description='Where image bytes are kept, a table [stores.NAME] each with "type" and that type\'s settings; '
            'none: a file store "local".'
        ),
    ] = field(default_factory=dict)
    default_store: Annotated[str, Meta(description="Store for uploads that name none; empty: the first of [stores].")] = ""
    show_locations: Annotated[
        bool, Meta(description="Show `locations`, the URLs of an image's data, to its project and administrators.")
    ] = False
    show_direct_url: Annotated[
        bool, Meta(description="Show `direct_url`, the URL of the copy that is read first, to its project and administrators.")
    ] = False
    workers: Annotated[Positive, Meta(description="Server processes; more than 1 needs MariaDB or PostgreSQL.")] = 1
    node: Annotated[str, Meta(description="This machine's name in a cluster; empty: the host name.")] = ""
    buffer_mib: Annotated[int, Meta(ge=1, description="MiB of memory for image data on its way in, all uploads together.")] = 48
    shutdown_grace_s: Annotated[Seconds, Meta(description="Seconds that running requests get to finish after SIGTERM.")] = 30.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least severity logged.")] = "info"
    log_format: Annotated[Literal["text", "json"], Meta(description='"text": key=value lines; "json": one object a line.')] = "text"
    quota: Annotated[Quota, Meta(description="What one project may hold.")] = Quota()
    limits: Annotated[Limits, Meta(description="Bounds on single requests and images.")] = Limits()
    formats: Annotated[Formats, Meta(description="What the bytes of an image may be.")] = field(default_factory=Formats)
    staging: Annotated[Staging, Meta(description="Where data waits between its arrival and its import.")] = Staging()
    imports: Annotated[Imports, Meta(description="How data comes into images beside uploads.")] = field(default_factory=Imports)
    regions: Annotated[dict[str, Region], Meta(description="Other image services to import from, a table [regions.NAME] each.")] = field(
        default_factory=dict
    )
    jobs: Annotated[Jobs, Meta(description="Work that outlives a request.")] = Jobs()
    conversion: Annotated[Conversion, Meta(description="What imported images are converted to, and what that may use.")] = Conversion()
    trash: Annotated[Trash, Meta(description="What becomes of deleted images.")] = Trash()
    events: Annotated[Events, Meta(description="Who is told of what happens to images.")] = field(default_factory=Events)
    http: Annotated[Http, Meta(description="How long and how much the server waits for a client.")] = Http()
    cors: Annotated[Cors, Meta(description="Web pages that may use the API from a browser.")] = Cors()
    egress: Annotated[Egress, Meta(description="What Ikon may fetch from elsewhere.")] = Egress()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def own_servers(self) -> list[str]:
        """Hosts that Ikon itself stands on: no URL of a user's leads there."""
        parts = urlsplit(self.database)
        hosts = [
            parts.hostname or "",
            *(host.split(":")[0] for given in parse_qs(parts.query).get("host", []) for host in given.split(",")),
            urlsplit(self.broker).hostname or "",
            urlsplit(self.keystone.url).hostname or "",
            urlsplit(self.signatures.key_manager).hostname or "",
            *(server.rpartition(":")[0].strip("[]") for server in self.keystone.memcached),
            # a bus may be named as several, `rabbit://USER:PASSWORD@ONE:5672,USER:PASSWORD@OTHER:5672/`
            *(urlsplit(f"//{each}").hostname or "" for each in urlsplit(self.events.notifications).netloc.split(",")),
        ]
        return [host for host in hosts if host and not host.startswith("/")]

    @property
    def run(self) -> Path:
        """Directory of locks and sockets of running servers."""
        return Path(self.data) / "run"


def load(file: str | None, overrides: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a TOML file, the environment and the command line, the later ones stronger. Overrides that are None do not count.

    Raises StartError, naming the key, where it came from and what is allowed.
    """
    environ = os.environ if environ is None else environ
    file = file or environ.get(PREFIX + "CONFIG")
    raw: dict[str, Any] = _file(file) if file else {}
    origin = dict.fromkeys(raw, f"in {file}")
    for name, text in environ.items():
        if name.startswith(PREFIX) and name != PREFIX + "CONFIG":
            _put(raw, origin, name, text)
    for key, value in overrides.items():
        if value is not None:
            raw[key] = value
            origin[key] = f"from --{key.replace('_', '-')}"
    regions = raw.get("regions")
    for name, table in regions.items() if isinstance(regions, dict) else ():
        _convert(table, Region, {}, f"regions.{name}")  # one by one: of a whole table the error does not say whose it is
    return _completed(_convert(raw, Settings, origin))


def _convert(raw: Any, kind: type[S], origin: Mapping[str, str], where: str = "") -> S:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise StartError(explain(error, raw, kind, origin, where)) from None


def _file(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"config: cannot read {file}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"config: {file} is not valid TOML: {error}") from None


def _put(raw: dict[str, Any], origin: dict[str, str], name: str, text: str) -> None:
    """Set what an environment variable says, read as the type of its field. A name that is no setting is an error."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    if parts[0] == "regions" and len(parts) > 1:
        _put_region(raw, name, parts[1], "__".join(parts[2:]), text)
        return
    kind: Any = Settings
    for depth, part in enumerate(parts):
        known = {f.name: f.type for f in msgspec.structs.fields(kind)} if isinstance(kind, type) and issubclass(kind, Struct) else {}
        if part not in known:
            stem = PREFIX + "".join(f"{outer.upper()}__" for outer in parts[:depth])
            names = ", ".join(stem + key.upper() for key in sorted(known)) or "none below this"
            raise StartError(f"environment: {name} is no setting. Known: {names}")
        kind = _plain(known[part])
    try:
        given = [p.strip() for p in text.split(",") if p.strip()] if get_origin(kind) is list else text
        value = msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise StartError(f"environment: {name}={text!r}: {error}. {_help(Settings, parts)}{_inside(name, kind)}") from None
    origin[parts[0]] = f"from {name}"
    for part in parts[:-1]:
        raw = raw.setdefault(part, {})
    raw[parts[-1]] = value


def _put_region(raw: dict[str, Any], name: str, region: str, key: str, text: str) -> None:
    """Set one text of a region that the file names: its password, which a file may not be the place for."""
    regions = raw.get("regions", {})
    found = [table for given, table in regions.items() if in_environment(given) == region] if isinstance(regions, dict) else []
    if key not in ("url", "user", "password") or len(found) != 1 or not isinstance(found[0], dict):
        names = (
            ", ".join(f"{PREFIX}REGIONS__{in_environment(given).upper()}__PASSWORD" for given in regions) or "none without [regions.NAME]"
        )
        raise StartError(f"environment: {name} is no setting. Known: url, user and password of regions that the file names, as {names}")
    found[0][key] = text


def in_environment(region: str) -> str:
    """A region's name as a variable writes it, in lower case."""
    return re.sub(r"[^a-z0-9]", "_", region.lower())


def _inside(name: str, kind: Any) -> str:
    """Where to go with a table, which no single variable can hold."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return f" Set one key of it, as in {name}__{msgspec.structs.fields(kind)[0].name.upper()}"
    return " Write it into the settings file" if get_origin(kind) is dict else ""


def _plain(kind: Any) -> Any:
    return getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind


def explain(error: msgspec.ValidationError, raw: Any, kind: Any, origin: Mapping[str, str], where: str = "") -> str:
    """One line for a person: key, what was given, why not, what is allowed. `where` names the table that `raw` came from."""
    text = str(error)
    match = re.search(r" - at `\$\.?(.*)`$", text)
    path = [part for part in re.sub(r"\[[^]]*\]", "", match[1]).split(".") if part] if match else []
    text = text[: match.start()] if match else text
    unknown, missing = re.search(r"unknown field `(.+)`", text), re.search(r"missing required field `(.+)`", text)
    if unknown:
        path, allowed = [*path, unknown[1]], _known(kind, path)
    else:
        path += [missing[1]] if missing else []
        allowed = _help(kind, path)
    given = raw
    for part in path:
        given = given.get(part) if isinstance(given, Mapping) else given
    key = ".".join(filter(None, [where, *path]))
    shown = "..." if re.search(r"secret|password", key) or key in SECRETS else repr(given)
    said = "is missing" if missing else "is no setting" if unknown else f"= {shown}"  # what is misspelled may be a secret
    source = origin.get(path[0] if path else "", "")
    return f"config: {key} {said}{source and f' ({source})'}: {text}. {allowed}".rstrip()


def _known(kind: Any, path: list[str]) -> str:
    for part in path:
        kind = _plain(next((f.type for f in msgspec.structs.fields(kind) if f.name == part), kind))
    return f"Known keys here: {', '.join(sorted(f.name for f in msgspec.structs.fields(kind)))}"


def _help(kind: Any, path: list[str]) -> str:
    text = ""
    for part in path:
        if not (isinstance(kind, type) and issubclass(kind, Struct)):
            break
        found = next((f.type for f in msgspec.structs.fields(kind) if f.name == part), None)
        text = next((m.description for m in getattr(found, "__metadata__", ()) if m.description), "")
        kind = _plain(found)
    if get_origin(kind) is Literal:
        text += f" Allowed: {', '.join(get_args(kind))}"
    return text


def _completed(settings: Settings) -> Settings:
    """Fill in what follows from other settings, and refuse what contradicts itself."""
    data = Path(settings.data).absolute()
    changes: dict[str, Any] = {"data": str(data), "node": settings.node or socket.gethostname()}
    changes["database"] = settings.database or f"sqlite:///{data}/ikon.db"
    if not changes["database"].startswith(("sqlite:////", "mysql+", "postgresql+")):
        raise StartError(f"config: database = {settings.database!r}: not a database this server knows. {_help(Settings, ['database'])}")
    if settings.broker:
        _check_broker(settings.broker)
    if settings.workers > 1 and changes["database"].startswith("sqlite:"):
        raise StartError(
            f"config: workers = {settings.workers}: SQLite is served by one process. Allowed: 1, or set database to MariaDB or PostgreSQL"
        )
    changes["staging"] = msgspec.structs.replace(settings.staging, path=str(Path(settings.staging.path or data / "staging").absolute()))
    stores = settings.stores or {"local": {"type": "file", "path": str(data / "images")}}
    for name in stores:
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or name.startswith("os_glance"):
            raise StartError(
                f"config: stores.{name}: a store's name has 1 to 64 letters, digits, '_', '.' or '-', and does not begin with os_glance"
            )
    default = settings.default_store or next(iter(stores))
    if default not in stores:
        raise StartError(f"config: default_store = {default!r}: no such store. Allowed: {', '.join(stores)}")
    changes |= {"stores": stores, "default_store": default}
    _check_address(settings)
    for network in settings.trusted_proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise StartError(f"config: trusted_proxies: {network!r}: {error}. {_help(Settings, ['trusted_proxies'])}") from None
    if settings.public_endpoint and not ENDPOINT.fullmatch(settings.public_endpoint):
        raise StartError(
            f"config: public_endpoint: {settings.public_endpoint!r} is no URL of a service. "
            "Allowed: http:// or https://, a host in lower case, :PORT and a path, without user, query or fragment. "
            f"{_help(Settings, ['public_endpoint'])}"
        )
    for origin in settings.cors.allowed_origins:
        if not ORIGIN.fullmatch(origin):
            raise StartError(
                f"config: cors.allowed_origins: {origin!r} is no origin as browsers send it. "
                "Allowed: http:// or https://, a host in lower case, and :PORT where it is not the usual one; no path"
            )
    if (address := settings.signatures.key_manager) and not ENDPOINT.fullmatch(address):
        raise StartError(f"config: signatures.key_manager = {address!r}: {_help(Settings, ['signatures', 'key_manager'])}")
    _check_egress(settings.egress)
    _check_regions(settings)
    regions = settings.regions or (settings.identity == "keystone" and settings.secret)  # else the catalogue has them
    offered = [method for method in settings.imports.methods if method != "glance-download" or regions]
    changes["imports"] = msgspec.structs.replace(settings.imports, methods=offered)
    return msgspec.structs.replace(settings, **changes)


def _check_egress(egress: Egress) -> None:
    for text in egress.allowed_networks:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise StartError(f"config: egress.allowed_networks: {text!r}: {error}. {_help(Egress, ['allowed_networks'])}") from None
        ranges = [ipaddress.ip_network(name) for name in PRIVATE]
        if not any(network.network_address in wide and network.broadcast_address in wide for wide in ranges):
            raise StartError(
                f"config: egress.allowed_networks: {text!r}: public addresses are open anyway, and others stay closed. "
                f"Allowed: networks within {', '.join(PRIVATE)}"
            )
    for host in egress.allowed_hosts:
        if not re.fullmatch(r"(?!.*\.[0-9]+$)(?![0-9]+$)[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", host) or is_loopback(host):
            raise StartError(
                f"config: egress.allowed_hosts: {host!r}: not the name of a host. "
                "Allowed: names in lower case, without port; addresses belong into allowed_networks, and so does loopback"
            )


def _check_regions(settings: Settings) -> None:
    if settings.secret and len(settings.secret) < SECRET:
        raise StartError(
            f"config: secret: it has {len(settings.secret)} characters. Allowed: {SECRET} or more, as `openssl rand -hex 32` makes"
        )
    for name, region in settings.regions.items():
        alike = [other for other in settings.regions if in_environment(other) == in_environment(name)]
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name) or len(alike) > 1:
            raise StartError(
                f"config: regions.{name}: a region's name has 1 to 64 letters, digits, '_', '.' or '-', "
                "and differs from others in letters or digits"
            )
        if not ENDPOINT.fullmatch(region.url):
            raise StartError(
                f"config: regions.{name}.url: this is no endpoint. Allowed: http:// or https://, a host in lower case, :PORT and a path "
                "where it has them; no user name, no query"
            )
        if bool(region.user) != bool(region.password) or ":" in region.user or not (region.user + region.password).isprintable():
            raise StartError(
                f"config: regions.{name}: user and password go together, are printable, and the user has no colon. "
                f"The password may come from {PREFIX}REGIONS__{in_environment(name).upper()}__PASSWORD"
            )
        for prefix in region.properties:
            if not prefix or prefix.startswith("os_glance"):
                raise StartError(f"config: regions.{name}.properties: {prefix!r}: the beginning of a property's name, and not os_glance")


def _check_broker(url: str) -> None:
    """The URL is a secret, so that no message repeats it."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("amqp", "amqps") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise StartError(f"config: broker: this is no URL of a RabbitMQ. {_help(Settings, ['broker'])}")


def check_keystone(chosen: Keystone) -> None:
    """Only for who serves: commands run where the secrets are not. Raises StartError."""
    parts = urlsplit(chosen.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.rstrip("/").endswith("/v3"):
        raise StartError(f"config: keystone.url = {chosen.url!r}: {_help(Settings, ['keystone', 'url'])}")
    if not (chosen.application_credential_secret if chosen.application_credential_id else chosen.password):
        name = "application_credential_secret" if chosen.application_credential_id else "password"
        raise StartError(f"config: keystone.{name} is missing. {_help(Settings, ['keystone', name])}")
    for server in chosen.memcached:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise StartError(f"config: keystone.memcached: {server!r}: {_help(Settings, ['keystone', 'memcached'])}")
    if chosen.memcached and not chosen.memcached_secret:
        raise StartError(f"config: keystone.memcached_secret is missing. {_help(Settings, ['keystone', 'memcached_secret'])}")


def webhook_keys(secret: str) -> list[bytes]:
    """The keys that webhooks are signed with, in the form of Standard Webhooks 1.0.0. Raises StartError, which does not repeat them."""
    try:
        keys = [base64.b64decode(text.removeprefix("whsec_"), validate=True) for text in secret.split()]
    except ValueError:
        keys = []
    if not keys or not all(24 <= len(key) <= 64 for key in keys):
        raise StartError(
            "config: events.webhook_secret is missing, or is none. Allowed: whsec_ and base64 of 24 to 64 random bytes. "
            'Make one: echo "whsec_$(openssl rand -base64 32)"'
        )
    return keys


def _check_address(settings: Settings) -> None:
    host, colon, port = settings.listen.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise StartError(f"config: listen = {settings.listen!r}: {_help(Settings, ['listen'])}")
    if settings.identity == "none" and not is_loopback(settings.address[0]) and not settings.none_beyond_loopback:
        raise StartError(
            f'config: listen = {settings.listen!r}: with identity = "none" everyone who can connect is admin, so only loopback is served. '
            'Set identity = "keystone", "headers" or "users", or none_beyond_loopback = true if this is what you want'
        )


@functools.lru_cache(256)
def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
