"""Rows of the built-in users."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, bindparam

from ikon.db import missing, tables
from ikon.db.engine import now_ms_sql
from ikon.model.user import User

t = tables.users
GET = sa.select(t).where(t.c.name == bindparam("name"))
PAGE = sa.select(t).where(t.c.name > bindparam("after")).order_by(t.c.name).limit(bindparam("most"))


def _user(row: Sequence[Any]) -> User:
    name, project, roles, password, created = row
    return User(name, project, tuple(roles.split(",")), password, created)


def get(conn: Connection, name: str) -> User | None:
    """One user. Asked at every request, so that a removal counts at once."""
    row = conn.execute(GET, {"name": name}).first()
    return _user(row) if row else None


def page(conn: Connection, after: str, most: int) -> list[User]:
    """Users in the order of their names, from the first behind `after` on."""
    return [_user(row) for row in conn.execute(PAGE, {"after": after, "most": most})]


def add(conn: Connection, user: User) -> bool:
    """Insert a user, created now. False when the name is taken."""
    roles = ",".join(user.roles)
    return missing.insert(conn, t, name=user.name, project=user.project, roles=roles, password=user.password, created=now_ms_sql())


def set_password(conn: Connection, name: str, password: str) -> bool:
    """Store another hash. False when there is no such user."""
    return conn.execute(sa.update(t).where(t.c.name == name).values(password=password)).rowcount == 1


def remove(conn: Connection, name: str) -> bool:
    """Delete a user; images belong to the project and stay. False when there is no such user."""
    return conn.execute(sa.delete(t).where(t.c.name == name)).rowcount == 1
