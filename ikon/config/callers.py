"""Who callers are, what they may, and how long they are waited for."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from ikon.config.amounts import Count, Positive, Seconds


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


class Signatures(Struct, frozen=True, forbid_unknown_fields=True):
    """Where certificates of signed images are; with identity "keystone" their data is always compared with its signature."""

    key_manager: Annotated[
        str,
        Meta(
            description="Barbican's address, as \"https://barbican.example.org\"; empty: what Keystone's catalogue has as key-manager. "
            "With another identity, signatures are verified only where it is set."
        ),
    ] = ""


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
