"""An operator's own rules: a policy file in OpenStack's form, through oslo.policy, which is imported only here, as it costs half a second.

What the file does not name is as ikon/policy.py has it. The file is looked at again once a second, so that a change counts without a
restart; one that cannot be read then leaves the rules as they were.
"""

import os
import time
from collections.abc import Collection, Hashable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ikon import log
from ikon.context import Context
from ikon.model.image import shared
from ikon.model.metadef import Namespace
from ikon.policy import ADMIN_RULE, METADEF_RULE, RULES, SERVICE_RULE, Subject
from ikon.problems import StartError

#: Rules that are no operation, by which files of OpenStack's image service may name what they do not say themselves.
NAMED = {
    "default": "",
    SERVICE_RULE: "role:service or role:admin",
    "metadef_default": "",
    "get_metadef_resource_type": "rule:list_metadef_resource_types",
}

#: Rules that ours name: what a file makes of those counts for ours too.
NAMED_BY_OURS = (ADMIN_RULE, METADEF_RULE, SERVICE_RULE)

if TYPE_CHECKING:
    from oslo_policy.policy import Enforcer

#: Seconds between two looks at the file.
LOOK_S = 1.0
#: Scopes of tokens that rules are about.
SCOPES = ["project"]
#: Fields of an image that rules may name, beside its properties.
FIELDS = ("id", "name", "owner", "visibility", "status", "protected", "os_hidden", "disk_format", "container_format", "min_disk", "min_ram")

#: Those of a namespace of metadata definitions.
NAMESPACE_FIELDS = ("namespace", "display_name", "description", "owner", "visibility", "protected")


class Line(NamedTuple):
    """One condition of a rule, and whether it holds for the caller in question."""

    text: str
    holds: bool


class PolicyFile:
    """The rules in force. May be asked from any thread."""

    def __init__(self, path: str) -> None:
        """path: empty for none. Raises StartError where the file, or the library, cannot be used."""
        self.path = path
        self._looked_at, self._as_of = time.monotonic(), _as_of(path)
        try:
            self._enforcer = _read(path)
        except ImportError:
            raise StartError("config: policy.file: install what reads it first: pip install 'ikon[openstack]'") from None
        except Exception as error:  # the library raises what its parsers raise
            raise StartError(f"config: policy.file: {path}: {type(error).__name__}: {error}") from None

    def holds(self, name: str, ctx: Context, image: Subject | None, member: str | None) -> bool:
        """Whether the rule of that name lets the caller do it."""
        self._look()
        enforcer = self._enforcer
        if enforcer.file_rules.keys().isdisjoint((name, *NAMED_BY_OURS)):
            return RULES[name].holds(ctx, image, member)
        return bool(enforcer.enforce(name, target(ctx, image, member), credentials(ctx)))

    def names(self) -> Collection[str]:
        """Of all rules in force, those that the file names for others as well."""
        return RULES.keys() | self._enforcer.file_rules.keys()

    def as_of(self) -> Hashable:
        """What is another once the file has been read again."""
        self._look()
        return self._enforcer

    def rules(self) -> dict[str, tuple[str, bool]]:
        """Text of each rule in force, and whether it comes from the file; those that the file names for others as well."""
        named = self._enforcer.file_rules
        return {name: (str(self._enforcer.rules[name]), name in named) for name in [*RULES, *sorted(named.keys() - RULES.keys())]}

    def explain(self, name: str, ctx: Context, image: Subject | None, member: str | None) -> Iterator[Line]:
        """The conditions of a rule one by one, those of the rules that it names too."""
        about = (target(ctx, image, member), credentials(ctx), self._enforcer)
        stack: list[Any] = [self._enforcer.rules[name]]
        seen = {name}
        while stack:
            check = stack.pop()
            parts = getattr(check, "rules", None) or ([check.rule] if hasattr(check, "rule") else [])
            if parts:
                stack += reversed(parts)
                continue
            yield Line(str(check), bool(check(*about)))
            if getattr(check, "kind", "") == "rule" and check.match not in seen:
                seen.add(check.match)
                stack.append(self._enforcer.rules[check.match])

    def _look(self) -> None:
        """Read the file again if it has changed: into rules of their own, as others may be asking the old ones."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        as_of = _as_of(self.path)
        if as_of != self._as_of:
            self._as_of = as_of
            try:
                self._enforcer = _read(self.path)
            except Exception as error:
                log.get().error("policy file cannot be read", path=self.path, because=f"{type(error).__name__}: {error}")


def _as_of(path: str) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _read(path: str) -> "Enforcer":
    """Rules of the file above those here. Raises ImportError, and whatever the library raises."""
    from oslo_config import cfg
    from oslo_policy import opts, policy

    if path:
        with open(path, "rb"):
            pass  # the library takes a file that it cannot read for one without rules
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    conf.register_opts(opts._options, group="oslo_policy")
    conf.set_override("policy_dirs", [], group="oslo_policy")
    enforcer = policy.Enforcer(conf, policy_file=os.path.abspath(path or os.devnull))
    enforcer.register_defaults([policy.RuleDefault(name, rule.text, scope_types=SCOPES) for name, rule in RULES.items()])
    enforcer.register_defaults([policy.RuleDefault(name, text) for name, text in NAMED.items()])
    enforcer.load_rules()
    enforcer.use_conf = False  # or it looks at the file before each answer, and others see half of the rules
    enforcer.check_rules(raise_on_violation=True)
    return enforcer


def target(ctx: Context, image: Subject | None, member: str | None) -> dict[str, Any]:
    """What rules may say about the image or namespace that a request is about: its fields, its properties, and the projects in question.

    What is not known is left out: a rule that names it does not hold. "None" would be equal to the project of a caller without one.
    """
    if image is None:
        about: dict[str, Any] = {"project_id": ctx.project, "owner": ctx.project, "member_id": member}
    elif isinstance(image, Namespace):
        about = {name: getattr(image, name) for name in NAMESPACE_FIELDS} | {"project_id": image.owner}
    else:
        own_entry = shared(ctx, image) and member in (None, ctx.project)
        entry = ctx.project if own_entry else member if member != ctx.project else None
        about = {name: getattr(image, name) for name in FIELDS} | {"project_id": image.owner, "image_id": image.id, "member_id": entry}
        about = image.properties | about
    return {name: value for name, value in about.items() if value is not None}


def credentials(ctx: Context) -> dict[str, Any]:
    """What rules may say about the caller."""
    known = {
        "user_id": ctx.user,
        "project_id": ctx.project,
        "domain_id": ctx.domain if ctx.project is None else None,
        "system_scope": "all" if ctx.system_scope else None,
    }
    roles = {"roles": sorted(ctx.roles), "service_roles": sorted(ctx.service_roles)}
    return {name: value for name, value in known.items() if value is not None} | roles | {"is_admin_project": True}
