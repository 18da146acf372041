"""Custom properties that not everybody may read or write, by their names: a file in the form of OpenStack's image service says who.

Its sections are regular expressions, in order; the first that is found in a property's name counts. Each says who may create, read, update
and delete such a property. What a caller may not read does not exist for that caller, wherever properties show or can be asked for.
"""

import configparser
import functools
import re
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ikon.config import Policy
from ikon.context import Context
from ikon.model.image import Image
from ikon.problems import ReadOnly, StartError

SETTING = "config: policy.property_protection_file"
OPERATIONS = ("create", "read", "update", "delete")
EVERYONE, NOBODY = "@", "!"
#: Beginning of sections that files of OpenStack have for properties which only the server sets: nobody can set those here.
OURS = "os_glance"
#: Decisions, and sections of names that a property can have, that are remembered.
KEPT, LONGEST = 10_000, 255


class Rules(Protocol):
    """An operator's own rules, which sections may name."""

    def names(self) -> Collection[str]:
        """Of all rules there are."""

    def as_of(self) -> Hashable:
        """What is another whenever the rules are others."""

    def holds(self, name: str, ctx: Context, image: Image | None, member: str | None) -> bool:
        """Whether the rule of that name, which there is, lets the caller do it."""


@dataclass(frozen=True)
class Section:
    """Who may do what with the properties in whose names a pattern is found: roles, or the name of one rule, by operation."""

    pattern: re.Pattern[str]
    who: dict[str, frozenset[str]]


class Protection:
    """One file's sections. May be asked from any thread."""

    def __init__(self, path: str, rules: Rules | None) -> None:
        """rules: what the sections name; None: they name roles. Raises StartError, naming file, section and key."""
        self.sections = [_section(path, name, values, rules) for name, values in _read(path) if not name.startswith(OURS)]
        self._rules = rules
        self._known: tuple[Hashable, dict[Hashable, bool]] = (None, {})
        self._remembered = functools.lru_cache(KEPT)(self._search)

    def allows(self, ctx: Context, operation: str, name: str) -> bool:
        """Whether the caller may do that with a property of this name. Roles of a service that passes a request on count here.

        Decided for each caller by what the section says and not by the name: users choose names, and a page may have 100,000 of them.
        """
        section = self.section(name)
        who: frozenset[str] = section.who[operation] if section else frozenset()
        known, key = self._decided(), (who, self._who(ctx))
        found = known.get(key)
        if found is None:
            found = known[key] = self._decide(ctx, who)
        return found

    def section(self, name: str) -> Section | None:
        """The section that counts for a property."""
        return self._remembered(name) if len(name) <= LONGEST else self._search(name)

    def _search(self, name: str) -> Section | None:
        return next((section for section in self.sections if section.pattern.search(name)), None)

    def _decided(self) -> dict[Hashable, bool]:
        """What has been decided under the rules as they are now."""
        as_of = self._rules.as_of() if self._rules else None
        if self._known[0] != as_of or len(self._known[1]) >= KEPT:
            self._known = (as_of, {})
        return self._known[1]

    def _who(self, ctx: Context) -> Hashable:
        """What of a caller decides."""
        if self._rules is None:
            return _roles(ctx)
        return ctx.user, ctx.project, ctx.domain, ctx.system_scope, ctx.roles, ctx.service_roles

    def _decide(self, ctx: Context, who: frozenset[str]) -> bool:
        if self._rules is None or EVERYONE in who or NOBODY in who:
            return EVERYONE in who or not who.isdisjoint(_roles(ctx))
        there = self._rules.names()  # a rule may have been taken out of its file since the start
        return any(rule in there and self._rules.holds(rule, ctx, None, None) for rule in who)


def _roles(ctx: Context) -> frozenset[str]:
    return ctx.roles | ctx.service_roles if ctx.service_roles else ctx.roles


def _read(path: str) -> Iterable[tuple[str, dict[str, str]]]:
    parser = configparser.RawConfigParser()
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise StartError(f"{SETTING}: {path}: {' '.join(str(error).split())}") from None
    return [(name, dict(parser.items(name))) for name in parser.sections()]


def _section(path: str, name: str, values: dict[str, str], rules: Rules | None) -> Section:
    where = f"{SETTING}: {path}: [{name}]"
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise StartError(f"{where}: this is no regular expression: {error}") from None
    who = {}
    for key in OPERATIONS:
        if key not in values:
            raise StartError(f"{where}: {key} is missing. A section says who may {', '.join(OPERATIONS)}")
        who[key] = frozenset(part.strip() for part in values[key].split(",") if part.strip())
        if {EVERYONE, NOBODY} <= who[key]:
            raise StartError(f"{where} {key} = {values[key]}: {EVERYONE} is everyone and {NOBODY} is nobody: only one can be")
        if rules is None:
            who[key] = frozenset(role.lower() for role in who[key])
        elif len(who[key]) > 1:
            raise StartError(f"{where} {key} = {values[key]}: by policies, one rule's name stands here, or {EVERYONE} or {NOBODY}")
        elif unknown := who[key] - {EVERYONE, NOBODY} - set(rules.names()):
            raise StartError(f"{where} {key} = {min(unknown)}: no rule has this name. Add it to policy.file")
    return Section(pattern, who)


def configured(settings: Policy, rules: Rules | None) -> Protection | None:
    """What the settings name. rules: those of the policy file, if there is one. Raises StartError."""
    if not settings.property_protection_file:
        return None
    by_policies = settings.property_protection_rule_format == "policies"
    if by_policies and rules is None:
        raise StartError("config: policy.property_protection_rule_format = 'policies': sections then name rules of policy.file. Set that")
    return Protection(settings.property_protection_file, rules if by_policies else None)


_protection: Protection | None = None


def follow(protection: Protection | None) -> None:
    """Have a file decide in this process from now on; None: everybody may do everything with every property."""
    global _protection
    _protection = protection


def may(ctx: Context, operation: str, name: str) -> bool:
    """Whether the caller may create, read, update or delete a property of this name. The operator at the server's socket may."""
    return _protection is None or ctx.local or _protection.allows(ctx, operation, name)


def readable(ctx: Context, properties: dict[str, str]) -> dict[str, str]:
    """Those of an image's properties that exist for the caller."""
    if _protection is None or ctx.local:
        return properties
    return {name: value for name, value in properties.items() if may(ctx, "read", name)}


def require_creatable(ctx: Context, names: Iterable[str]) -> None:
    """Raises ReadOnly for a property that the caller may not give an image."""
    for name in names:
        if not may(ctx, "create", name):
            raise reserved(name)


def reserved(name: str) -> ReadOnly:
    """The answer to who may not write a property."""
    return ReadOnly(f"Attribute '{name}' is reserved.")
