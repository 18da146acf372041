"""What about a database server, or about its user's rights there, would make Ikon fail, and what to do about it."""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection

from ikon.db.engine import now_ms
from ikon.db.tables import metadata

#: Seconds by which the clocks of a node and of its database may differ.
CLOCK_S = 5.0
#: What serving takes, and what migrations take beside it.
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "INDEX", "DROP")
GRANT = re.compile(r"GRANT (.+?) ON (`(?:[^`]|``)+`|\*)\.\* TO ")


class Finding(NamedTuple):
    """One thing looked at. remedy: what to do; empty when all is well."""

    what: str
    said: str
    remedy: str = ""


def look(conn: Connection) -> list[Finding]:
    """Look at the server behind a connection; needs no rights that Ikon itself does not. Of SQLite there is little to say."""
    if conn.dialect.name == "sqlite":
        return [_clock(conn)]
    return [_clock(conn), *(_postgresql(conn) if conn.dialect.name == "postgresql" else _mariadb(conn))]


def durability(conn: Connection) -> list[Finding]:
    """Whether what the database calls committed survives a power cut. An operator may choose otherwise, so that it is no part of `look`."""
    if conn.dialect.name == "sqlite":
        return []
    if conn.dialect.name == "postgresql":
        setting, value = "synchronous_commit", str(conn.exec_driver_sql("SHOW synchronous_commit").scalar())
    else:
        setting = "innodb_flush_log_at_trx_commit"
        value = str(conn.exec_driver_sql(f"SELECT @@{setting}").scalar())
    sound = value != "off" if conn.dialect.name == "postgresql" else value == "1"
    remedy = "" if sound else "Set it to 1 (MariaDB) or on (PostgreSQL): a crash of the database now forgets committed images"
    return [Finding("durability", f"{setting} = {value}", remedy)]


def _clock(conn: Connection) -> Finding:
    skew = now_ms(conn) / 1000 - time.time()
    return Finding("clock", f"{skew:+.1f} s from the database's", "" if abs(skew) < CLOCK_S else "Keep the clocks of all nodes with NTP")


# PostgreSQL


def _postgresql(conn: Connection) -> Iterator[Finding]:
    encoding = str(conn.exec_driver_sql("SHOW server_encoding").scalar())
    yield Finding(
        "text", encoding, "" if encoding == "UTF8" else "Make the database anew: CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'"
    )
    standby = bool(conn.exec_driver_sql("SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on'").scalar())
    yield _writable(not standby)
    user = conn.exec_driver_sql("SELECT current_user").scalar()
    may_create = conn.exec_driver_sql("SELECT has_schema_privilege(current_schema(), 'CREATE')").scalar()
    owned = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND NOT pg_has_role(tableowner, 'USAGE') ORDER BY 1"
    foreign = [name for (name,) in conn.exec_driver_sql(owned) if name in _tables()]
    if foreign:
        yield Finding("rights", f"{user} does not own {', '.join(foreign)}", f"ALTER TABLE ... OWNER TO {user}, for each")
    elif not may_create:
        yield Finding(
            "rights", f"{user} may not create tables", f"GRANT CREATE ON SCHEMA public TO {user}, or make {user} the database's owner"
        )
    else:
        yield Finding("rights", f"{user} has what it needs")


# MariaDB and MySQL


def _mariadb(conn: Connection) -> Iterator[Finding]:
    yield _writable(not conn.exec_driver_sql("SELECT @@read_only").scalar())
    logged, form = conn.exec_driver_sql("SELECT @@log_bin, @@binlog_format").one()
    if logged and form == "STATEMENT":  # every change would fail at READ COMMITTED
        yield Finding("binary log", f"binlog_format = {form}", "Set binlog_format = ROW: with STATEMENT the server refuses changes")
    yield _rights(conn)
    yield from _tables_of_mariadb(conn)
    yield from _galera(conn)


def _rights(conn: Connection) -> Finding:
    database, user = conn.exec_driver_sql("SELECT DATABASE(), CURRENT_USER()").one()
    has: set[str] = set()
    for (line,) in conn.exec_driver_sql("SHOW GRANTS"):
        match = GRANT.match(line)
        if match and _covers(match[2], database):
            has |= set(RIGHTS) if match[1].startswith("ALL PRIVILEGES") else {right.strip().upper() for right in match[1].split(",")}
    lacking = [right for right in RIGHTS if right not in has]
    remedy = f"GRANT {', '.join(lacking)} ON {database}.* TO {user}" if lacking else ""
    return Finding("rights", f"{user} lacks {', '.join(lacking)}" if lacking else f"{user} has what it needs", remedy)


def _covers(granted: str, database: str) -> bool:
    """Whether a grant's database, in which % and _ stand for any characters, is this one."""
    pattern = granted.strip("`").replace("``", "`")
    parts = re.findall(r"\\.|.", pattern)
    form = "".join({"%": ".*", "_": "."}.get(part, re.escape(part[-1])) for part in parts)
    return granted == "*" or re.fullmatch(form, database) is not None


def _tables_of_mariadb(conn: Connection) -> Iterator[Finding]:
    mariadb = getattr(conn.dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"
    query = "SELECT table_name, engine, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
    wrong: dict[str, list[str]] = {"engine": [], "text": []}
    found = [row for row in conn.exec_driver_sql(query) if row[0] in _tables()]
    for name, engine, has in found:
        wrong["engine"] += [] if engine == "InnoDB" else [name]
        wrong["text"] += [] if has == collation or name not in metadata.tables else [name]
    keyed = (
        "SELECT table_name FROM information_schema.table_constraints WHERE table_schema = DATABASE() AND constraint_type = 'PRIMARY KEY'"
    )
    keys = {name for (name,) in conn.exec_driver_sql(keyed)}
    remedies = {
        "engine": "ALTER TABLE ... ENGINE = InnoDB, for each",
        "text": f"ALTER TABLE ... CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}, for each: it takes different names for the same",
        "primary key": "ALTER TABLE ... ADD PRIMARY KEY, for each, of the columns that the reference names: Galera needs one",
    }
    wrong["primary key"] = [row[0] for row in found if row[0] not in keys]
    for what, names in wrong.items():
        if names:
            yield Finding(what, f"not as it must be in {', '.join(sorted(names))}", remedies[what])


def _galera(conn: Connection) -> Iterator[Finding]:
    """Whether a node of Galera is with its cluster, and set up so that two nodes may be written to at once."""
    named = "SHOW VARIABLES WHERE variable_name IN ('wsrep_on', 'binlog_format', 'innodb_autoinc_lock_mode')"
    settings = {str(name): str(value) for name, value in conn.exec_driver_sql(named)}
    if settings.get("wsrep_on") != "ON":
        return
    status = {str(name): str(value) for name, value in conn.exec_driver_sql("SHOW STATUS LIKE 'wsrep_cluster_s%%'")}
    said = f"{status['wsrep_cluster_status']}, {status['wsrep_cluster_size']} members"
    yield Finding(
        "galera", said, "" if status["wsrep_cluster_status"] == "Primary" else "The node is apart from its cluster: bring the others back"
    )
    for name, needed in (("binlog_format", "ROW"), ("innodb_autoinc_lock_mode", "2")):
        if settings[name] != needed:
            yield Finding("galera", f"{name} = {settings[name]}", f"Set {name} = {needed} on every node")


def _writable(is_writable: bool) -> Finding:
    if is_writable:
        return Finding("writable", "yes")
    return Finding("writable", "no: it is a standby, or set read-only", "Name the server that takes changes in the setting `database`")


def _tables() -> set[str]:
    return {*metadata.tables, "alembic_version"}
