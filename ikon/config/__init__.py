"""Settings: one TOML file, overridden by environment and command line; every error names the key, what was given and what is allowed.

The sentence beside each field is its help text; the reference page is made from them. A table is in the file of its subject (`images`,
`imports`, `callers`, `events`), and `settings` puts them together; `loading` reads them, `checks` refuses what contradicts itself.
"""

from ikon.config.amounts import MIB
from ikon.config.callers import Cors, Http, Keystone, Policy, Signatures
from ikon.config.checks import check_keystone, is_loopback, webhook_keys
from ikon.config.environment import PREFIX
from ikon.config.events import Events
from ikon.config.images import Formats, Limits, Metadefs, Quota, Trash
from ikon.config.imports import PRIVATE, Conversion, Egress, Imports, Jobs, Region, Staging
from ikon.config.loading import load
from ikon.config.messages import explain
from ikon.config.settings import Settings

__all__ = [
    "MIB",
    "PREFIX",
    "PRIVATE",
    "Conversion",
    "Cors",
    "Egress",
    "Events",
    "Formats",
    "Http",
    "Imports",
    "Jobs",
    "Keystone",
    "Limits",
    "Metadefs",
    "Policy",
    "Quota",
    "Region",
    "Settings",
    "Signatures",
    "Staging",
    "Trash",
    "check_keystone",
    "explain",
    "is_loopback",
    "load",
    "webhook_keys",
]
