"""Built-in users: who they are, what their roles imply, and what their names and passwords may be."""

import re
from typing import Any, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from ikon.problems import BadValue

T = TypeVar("T")

Role = Literal["admin", "manager", "member", "reader", "service"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Each of these holds all that stand behind it, as Keystone's default roles do. `service` stands alone.
RANKS: tuple[Role, ...] = ("admin", "manager", "member", "reader")

#: A name ends at the colon in HTTP Basic, is a segment of a path, and is typed and read by people.
NAME = re.compile(r"\w[^:/]*(?<!\s)")
#: RFC 7617 allows none of these in names and passwords.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
NAME_LENGTH, PROJECT_LENGTH, PASSWORD_LENGTH = 255, 255, 1000


class User(Struct, frozen=True):
    """One user of one project, as the database holds it. password: its argon2 hash; created: milliseconds since 1970."""

    name: str
    project: str
    roles: tuple[Role, ...]
    password: str
    created: int = 0


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A request to add a user; `password` is what the user will type."""

    name: str
    project: str
    password: str
    roles: list[Role]


class NewPassword(Struct, frozen=True, forbid_unknown_fields=True):
    """A request to change a user's password."""

    password: str


def with_implied(roles: tuple[Role, ...]) -> frozenset[str]:
    """The roles given and those that they imply: admin implies manager, that member, that reader."""
    highest = min((RANKS.index(role) for role in roles if role in RANKS), default=len(RANKS))
    return frozenset(roles) | frozenset(RANKS[highest:])


def parse_new(body: Any) -> NewUser:
    """Check a request to add a user. Raises BadValue naming the field; roles come back once each, the highest first."""
    new = _converted(body, NewUser)
    _check_text("name", new.name, NAME_LENGTH)
    if not NAME.fullmatch(new.name):
        raise BadValue("name: begins with a letter, a digit or '_', holds neither ':' nor '/', and does not end with a blank")
    _check_text("project", new.project, PROJECT_LENGTH)
    _check_text("password", new.password, PASSWORD_LENGTH)
    if not new.roles:
        raise BadValue(f"roles: name one at least; allowed: {', '.join(ROLES)}")
    return msgspec.structs.replace(new, roles=[role for role in ROLES if role in new.roles])


def parse_password(body: Any) -> str:
    """Check a request to change a password, and return it. Raises BadValue naming the field."""
    password = _converted(body, NewPassword).password
    _check_text("password", password, PASSWORD_LENGTH)
    return password


def _converted(body: Any, kind: type[T]) -> T:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        field = re.split(r"[\[.`]", path.removeprefix("."))[0]
        allowed = f"; allowed: {', '.join(ROLES)}" if field == "roles" else ""
        raise BadValue(f"{field or 'body'}: {said}{allowed}") from None


def _check_text(field: str, value: str, most: int) -> None:
    """Raises BadValue, which never holds the value: it may be a password."""
    if not 1 <= len(value) <= most:
        raise BadValue(f"{field}: has {len(value)} characters; allowed: 1 to {most}")
    if CONTROL.search(value):
        raise BadValue(f"{field}: holds a control character, a line's end for instance; none is allowed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue(f"{field}: is not valid Unicode") from None
