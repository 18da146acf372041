"""What each role may do: one rule for each operation, asked in one place, inside the verb.

The defaults are those of the OpenStack Image API's personas: reader sees, member changes what its project owns, admin everything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ikon.context import Context
from ikon.model.image import Image, shared
from ikon.model.metadef import Namespace
from ikon.problems import Forbidden, NotFound

#: What a rule may be about: an image, or a namespace of metadata definitions.
Subject = Image | Namespace


@dataclass(frozen=True)
class Rule:
    """Who may do something. text: as a policy file of OpenStack would write it. holds: the same for a caller, what it is about, and the
    project whose entry in the image's list of members it is about; what the caller does not see never comes here.
    """

    text: str
    holds: Callable[[Context, Subject | None, str | None], bool]

    def __and__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.text} and {other.text}", lambda *about: self.holds(*about) and other.holds(*about))

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(f"({self.text}) or ({other.text})", lambda *about: self.holds(*about) or other.holds(*about))


def _role(name: str) -> Rule:
    return Rule(f"role:{name}", lambda ctx, image, member: name in ctx.roles and not ctx.system_scope)


#: Rules that others name: who an administrator is, who one of metadata definitions, and who a service.
ADMIN_RULE, METADEF_RULE, SERVICE_RULE = "context_is_admin", "metadef_admin", "service_api"
ADMIN = Rule(f"rule:{ADMIN_RULE}", lambda ctx, image, member: ctx.admin)
MEMBER, READER, SERVICE = _role("member"), _role("reader"), _role("service")
#: In the project that it belongs to; for what is about nothing, in any.
OWN = Rule(
    "project_id:%(project_id)s", lambda ctx, image, member: ctx.project is not None and (image is None or image.owner == ctx.project)
)
#: In a project that the image is shared with, for that project's own entry alone.
SHARED = Rule(
    "project_id:%(member_id)s",
    lambda ctx, image, member: isinstance(image, Image) and shared(ctx, image) and member in (None, ctx.project),
)
#: In any project that sees the image; which images that are is decided before.
SEEN = Rule(
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s "
    "or 'shared':%(visibility)s)",
    lambda ctx, image, member: ctx.project is not None,
)
#: In the project that a namespace belongs to, or, where everybody may read it, in any or none.
OPEN = Rule(
    "(project_id:%(project_id)s or 'public':%(visibility)s)",
    lambda ctx, about, member: OWN.holds(ctx, about, member) or (about is not None and about.visibility == "public"),
)
#: Services, by a role of their own token.
SERVICE_API = Rule(f"rule:{SERVICE_RULE}", lambda ctx, image, member: ctx.admin or SERVICE.holds(ctx, image, member))
OWN_MEMBER, OWN_READER = ADMIN | MEMBER & OWN, ADMIN | READER & OWN

METADEF_READER, METADEF_ADMIN = ADMIN | READER & OPEN, Rule(f"rule:{METADEF_RULE}", lambda ctx, about, member: ctx.admin)
RULES: dict[str, Rule] = {
    ADMIN_RULE: Rule("role:admin", lambda ctx, image, member: ctx.admin),
    "add_image": OWN_MEMBER,
    "get_images": OWN_READER,
    "get_image": ADMIN | READER & SEEN,
    "modify_image": OWN_MEMBER,
    "delete_image": OWN_MEMBER,
    "upload_image": OWN_MEMBER,
    "download_image": ADMIN | MEMBER & SEEN,
    "publicize_image": ADMIN,
    "communitize_image": OWN_MEMBER,
    "get_image_location": OWN_READER,
    "set_image_location": OWN_MEMBER,
    "delete_image_location": ADMIN,
    "add_image_location": SERVICE_API | MEMBER & OWN,
    "fetch_image_location": SERVICE_API,
    "copy_image": ADMIN,
    "get_image_tasks": OWN_READER,
    "get_image_timeline": OWN_READER,
    "tasks_api_access": ADMIN,
    "add_member": OWN_MEMBER,
    "get_member": OWN_READER | READER & SHARED,
    "get_members": OWN_READER | READER & SHARED,
    "modify_member": ADMIN | MEMBER & SHARED,
    "delete_member": OWN_MEMBER | MEMBER & SHARED,
    "deactivate": OWN_MEMBER,
    "reactivate": OWN_MEMBER,
    "stores_info_detail": ADMIN | SERVICE,
    METADEF_RULE: Rule("rule:context_is_admin", lambda ctx, about, member: ctx.admin),
    "get_metadef_namespaces": OWN_READER,
    "get_metadef_namespace": METADEF_READER,
    "add_metadef_namespace": METADEF_ADMIN,
    "modify_metadef_namespace": METADEF_ADMIN,
    "delete_metadef_namespace": METADEF_ADMIN,
    "get_metadef_objects": METADEF_READER,
    "get_metadef_object": METADEF_READER,
    "add_metadef_object": METADEF_ADMIN,
    "modify_metadef_object": METADEF_ADMIN,
    "delete_metadef_object": METADEF_ADMIN,
    "get_metadef_properties": METADEF_READER,
    "get_metadef_property": METADEF_READER,
    "add_metadef_property": METADEF_ADMIN,
    "modify_metadef_property": METADEF_ADMIN,
    "remove_metadef_property": METADEF_ADMIN,
    "get_metadef_tags": METADEF_READER,
    "get_metadef_tag": METADEF_READER,
    "add_metadef_tag": METADEF_ADMIN,
    "add_metadef_tags": METADEF_ADMIN,
    "modify_metadef_tag": METADEF_ADMIN,
    "delete_metadef_tag": METADEF_ADMIN,
    "delete_metadef_tags": METADEF_ADMIN,
    "list_metadef_resource_types": METADEF_READER,
    "add_metadef_resource_type_association": METADEF_ADMIN,
    "remove_metadef_resource_type_association": METADEF_ADMIN,
    "manage_users": ADMIN,
    "manage_jobs": ADMIN,
    "manage_quotas": ADMIN,
    "manage_trash": ADMIN,
    "manage_metadefs": ADMIN,
    "manage_periodic": ADMIN,
}


class Overrides(Protocol):
    """An operator's own rules, which stand above those here."""

    def holds(self, name: str, ctx: Context, image: Subject | None, member: str | None) -> bool:
        """Whether the rule of that name lets the caller do it."""


_overrides: Overrides | None = None


def follow(overrides: Overrides | None) -> None:
    """Have an operator's rules decide in this process from now on; None: those here alone."""
    global _overrides
    _overrides = overrides


def appointed(ctx: Context) -> Context:
    """The caller, once the operator's rules, where there are any, have said whether it is an administrator."""
    return replace(ctx, appointed=allows(ctx, ADMIN_RULE)) if _overrides else ctx


def allows(ctx: Context, action: str, image: Subject | None = None, member: str | None = None) -> bool:
    """Whether the rule of an operation lets this caller do it, to what it is about and the project's entry, if any."""
    rules = _overrides if _overrides and not ctx.local else None
    return rules.holds(action, ctx, image, member) if rules else RULES[action].holds(ctx, image, member)


def require(ctx: Context, action: str, image: Subject | None = None, member: str | None = None) -> None:
    """Raises Forbidden unless the rule allows it; for an image that the caller may not even look at, NotFound."""
    if not allows(ctx, action, image, member):
        if action == "get_image":
            raise NotFound("The resource could not be found.")
        raise Forbidden(f"You are not authorized to complete {action} action.")
