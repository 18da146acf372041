"""What each role may do: one rule for each operation, asked in one place, inside the verb.

The defaults are those of the OpenStack Image API's personas: reader sees, member changes what its project owns, admin everything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ikon.context import Context
from ikon.model.image import Image, shared
from ikon.problems import Forbidden, NotFound


@dataclass(frozen=True)
class Rule:
    """Who may do something. text: as a policy file of OpenStack would write it. holds: the same for a caller, the image that it is about,
    and the project whose entry in the image's list of members it is about; images that the caller does not see never come here.
    """

    text: str
    holds: Callable[[Context, Image | None, str | None], bool]

    def __and__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.text} and {other.text}", lambda *about: self.holds(*about) and other.holds(*about))

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(f"({self.text}) or ({other.text})", lambda *about: self.holds(*about) or other.holds(*about))


def _role(name: str) -> Rule:
    return Rule(f"role:{name}", lambda ctx, image, member: name in ctx.roles and not ctx.system_scope)


ADMIN = Rule("rule:context_is_admin", lambda ctx, image, member: ctx.admin)
MEMBER, READER, SERVICE = _role("member"), _role("reader"), _role("service")
#: In the project that the image belongs to; for what is about no image, in any.
OWN = Rule(
    "project_id:%(project_id)s", lambda ctx, image, member: ctx.project is not None and (image is None or image.owner == ctx.project)
)
#: In a project that the image is shared with, for that project's own entry alone.
SHARED = Rule(
    "project_id:%(member_id)s", lambda ctx, image, member: image is not None and shared(ctx, image) and member in (None, ctx.project)
)
#: In any project that sees the image; which images that are is decided before.
SEEN = Rule(
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s "
    "or 'shared':%(visibility)s)",
    lambda ctx, image, member: ctx.project is not None,
)
#: Services, by a role of their own token.
SERVICE_API = Rule("rule:service_api", lambda ctx, image, member: ctx.admin or SERVICE.holds(ctx, image, member))
OWN_MEMBER, OWN_READER = ADMIN | MEMBER & OWN, ADMIN | READER & OWN

#: The rule that says who an administrator is.
ADMIN_RULE = "context_is_admin"
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
    "manage_users": ADMIN,
    "manage_jobs": ADMIN,
    "manage_trash": ADMIN,
    "manage_periodic": ADMIN,
}


class Overrides(Protocol):
    """An operator's own rules, which stand above those here."""

    def holds(self, name: str, ctx: Context, image: Image | None, member: str | None) -> bool:
        """Whether the rule of that name lets the caller do it."""


_overrides: Overrides | None = None


def follow(overrides: Overrides | None) -> None:
    """Have an operator's rules decide in this process from now on; None: those here alone."""
    global _overrides
    _overrides = overrides


def appointed(ctx: Context) -> Context:
    """The caller, once the operator's rules, where there are any, have said whether it is an administrator."""
    return replace(ctx, appointed=allows(ctx, ADMIN_RULE)) if _overrides else ctx


def allows(ctx: Context, action: str, image: Image | None = None, member: str | None = None) -> bool:
    """Whether the rule of an operation lets this caller do it, to the image and the project's entry that it is about, if any."""
    rules = _overrides if _overrides and not ctx.local else None
    return rules.holds(action, ctx, image, member) if rules else RULES[action].holds(ctx, image, member)


def require(ctx: Context, action: str, image: Image | None = None, member: str | None = None) -> None:
    """Raises Forbidden unless the rule allows it; for an image that the caller may not even look at, NotFound."""
    if not allows(ctx, action, image, member):
        if action == "get_image":
            raise NotFound("The resource could not be found.")
        raise Forbidden(f"You are not authorized to complete {action} action.")
