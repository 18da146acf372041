"""What each role may do: one rule for each operation, asked in one place, inside the verb.

The defaults are those of the OpenStack Image API's personas: reader sees, member changes what its project owns, admin everything.
"""

from collections.abc import Callable

from ikon.context import Context
from ikon.model.image import Image
from ikon.problems import Forbidden, NotFound

Rule = Callable[[Context, Image | None], bool]


def _admin(ctx: Context, image: Image | None) -> bool:
    return ctx.admin


def _in_project(role: str) -> Rule:
    """Role in the project that the image belongs to; for operations without an image, in any project."""

    def rule(ctx: Context, image: Image | None) -> bool:
        if ctx.admin:
            return True
        here = ctx.project is not None and (image is None or image.owner == ctx.project)
        return role in ctx.roles and here and not ctx.system_scope

    return rule


def _wherever_visible(role: str) -> Rule:
    """Role in any project; which images a project sees at all is decided before."""

    def rule(ctx: Context, image: Image | None) -> bool:
        return ctx.admin or (role in ctx.roles and ctx.project is not None and not ctx.system_scope)

    return rule


def _admin_or_service(ctx: Context, image: Image | None) -> bool:
    return ctx.admin or "service" in ctx.roles


RULES: dict[str, Rule] = {
    "add_image": _in_project("member"),
    "get_images": _in_project("reader"),
    "get_image": _wherever_visible("reader"),
    "modify_image": _in_project("member"),
    "delete_image": _in_project("member"),
    "upload_image": _in_project("member"),
    "download_image": _wherever_visible("member"),
    "publicize_image": _admin,
    "communitize_image": _in_project("member"),
    "get_image_location": _in_project("reader"),
    "delete_image_location": _admin,
    "copy_image": _admin,
    "deactivate": _in_project("member"),
    "reactivate": _in_project("member"),
    "stores_info_detail": _admin_or_service,
    "manage_users": _admin,
}


def allows(ctx: Context, action: str, image: Image | None = None) -> bool:
    """Whether the rule of an operation lets this caller do it, to this image where there is one."""
    return RULES[action](ctx, image)


def require(ctx: Context, action: str, image: Image | None = None) -> None:
    """Raises Forbidden unless the rule allows it; for an image that the caller may not even look at, NotFound."""
    if not allows(ctx, action, image):
        if action == "get_image":
            raise NotFound("The resource could not be found.")
        raise Forbidden(f"You are not authorized to complete {action} action.")
