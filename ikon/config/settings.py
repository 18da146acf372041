"""All settings of a server: those that stand by themselves, and a table for each subject."""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from msgspec import Meta, Struct, field

from ikon.config.amounts import Positive, Seconds
from ikon.config.callers import Cors, Http, Keystone, Policy, Signatures
from ikon.config.events import Events
from ikon.config.images import Formats, Limits, Metadefs, Quota, Trash
from ikon.config.imports import Conversion, Egress, Imports, Jobs, Region, Staging


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
    metadefs: Annotated[Metadefs, Meta(description="What metadata definitions there are, and what they do.")] = Metadefs()
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
