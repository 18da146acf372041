"""`ikon policy`: who may do what, and why. Reads the settings; no server is asked."""

import click

from ikon import policy as rules
from ikon import protection
from ikon.cli.options import settings, settings_options
from ikon.config import Settings
from ikon.context import Context
from ikon.model.image import Image, Member
from ikon.policyfile import PolicyFile


@click.group()
def policy() -> None:
    """Look at the rules of who may do what, those of a policy file above Ikon's own."""


@policy.command()
@settings_options
def show(config: str | None, data: str | None) -> None:
    """Print the rules in force as a policy file would have them; a comment says which come from yours."""
    chosen = settings(config, data=data)
    for name, (text, from_file) in _in_force(chosen).items():
        click.echo(f'"{name}": "{text}"{f"  # from {chosen.policy.file}" if from_file else ""}')


@policy.command()
@settings_options
def check(config: str | None, data: str | None) -> None:
    """Read the policy file as a server would, and tell what in it Ikon has no use for."""
    chosen = settings(config, data=data)
    found = [name for name, (_, from_file) in _in_force(chosen).items() if from_file]
    click.echo(f"{chosen.policy.file or 'no policy file'}: {sum(name in rules.RULES for name in found)} rules stand above Ikon's own")
    for name in found:
        if name not in rules.RULES:
            click.echo(f"{name}: no operation of Ikon's; it counts where other rules name it")
    if (protected := _protection(chosen)) is not None:
        click.echo(f"{chosen.policy.property_protection_file}: {len(protected.sections)} sections protect properties")


@policy.command()
@settings_options
@click.argument("action", type=click.Choice(list(rules.RULES)))
@click.option("--role", "roles", multiple=True, help="A role of the caller; may be given several times.")
@click.option("--project", default="caller", show_default=True, help="The caller's project.")
@click.option("--owner", help="Project of the image that it is about; without it, it is about none.")
@click.option("--visibility", default="private", show_default=True, help="The image's visibility.")
@click.option("--shared/--not-shared", help="Whether the image is shared with the caller's project.")
@click.option("--property", "properties", multiple=True, help="A property of the image, as NAME=VALUE.")
def explain(
    config: str | None,
    data: str | None,
    action: str,
    roles: tuple[str, ...],
    project: str,
    owner: str | None,
    visibility: str,
    shared: bool,
    properties: tuple[str, ...],
) -> None:
    """Say whether a caller may do ACTION to an image that it sees, by which rule, and which of its conditions hold."""
    chosen = settings(config, data=data)
    ctx = Context("someone", project, roles=frozenset(role.lower() for role in roles))
    image = _image(owner, visibility, project if shared else None, properties) if owner else None
    file = PolicyFile(chosen.policy.file)
    allowed = file.holds(action, ctx, image, None)
    text, from_file = file.rules()[action]
    by = chosen.policy.file if from_file else "Ikon's own rule"
    click.echo(f"{action}: {'allowed' if allowed else 'refused'} by {by}: {text}")
    for line in file.explain(action, ctx, image, None):
        click.echo(f"  {'yes' if line.holds else 'no '}  {line.text}")


@policy.command("property")
@settings_options
@click.argument("name")
@click.option("--role", "roles", multiple=True, help="A role of the caller; may be given several times.")
@click.option("--project", default="caller", show_default=True, help="The caller's project.")
def explain_property(config: str | None, data: str | None, name: str, roles: tuple[str, ...], project: str) -> None:
    """Say what a caller may do with the property NAME of an image that it may change, and which section of the file decides."""
    chosen = settings(config, data=data)
    protected, file = _protection(chosen), chosen.policy.property_protection_file
    if protected is None:
        click.echo("no property is protected")
        return
    ctx = Context("someone", project, roles=frozenset(role.lower() for role in roles))
    section = protected.section(name)
    click.echo(f"{name}: [{section.pattern.pattern}] of {file}" if section else f"{name}: no section of {file} is for it, so nobody")
    for operation in protection.OPERATIONS:
        who = ", ".join(sorted(section.who[operation])) if section else ""
        click.echo(f"  {'yes' if protected.allows(ctx, operation, name) else 'no '}  {operation}: {who or protection.NOBODY}")


def _protection(chosen: Settings) -> protection.Protection | None:
    """Who may do what with properties. Raises StartError."""
    return protection.configured(chosen.policy, PolicyFile(chosen.policy.file) if chosen.policy.file else None)


def _in_force(chosen: Settings) -> dict[str, tuple[str, bool]]:
    """Text of each rule, and whether it comes from the file. Raises StartError."""
    if not chosen.policy.file:
        return {name: (rule.text, False) for name, rule in rules.RULES.items()}
    return PolicyFile(chosen.policy.file).rules()


def _image(owner: str, visibility: str, shared_with: str | None, properties: tuple[str, ...]) -> Image:
    """An active image of which nothing else is known."""
    members = {shared_with: Member("accepted", 0, 0)} if shared_with else {}
    return Image(
        k=1,
        id="00000000-0000-4000-8000-000000000000",
        owner=owner,
        visibility="shared" if shared_with else visibility,
        os_hidden=False,
        status="active",
        name=None,
        disk_format="raw",
        container_format="bare",
        size=0,
        virtual_size=0,
        min_disk=0,
        min_ram=0,
        protected=False,
        checksum=None,
        os_hash_algo=None,
        os_hash_value=None,
        updated=0,
        version=1,
        reason=None,
        digests=None,
        properties=dict(each.partition("=")[::2] for each in properties),
        tags=[],
        stores=[],
        members=members,
    )
