"""`ikon doctor`: looks at what a server needs, and says what to do about what is wrong."""

import asyncio
import shutil
from pathlib import Path

import click
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ikon import broker, events
from ikon.cli.options import settings, settings_options
from ikon.config import Settings, is_loopback
from ikon.db import checks, copies, deliveries, runs, schema, trash, users
from ikon.db.checks import Finding
from ikon.db.engine import make_engine, now_ms
from ikon.db.tables import SCHEMA
from ikon.keystone import Keystone, UnifiedLimits
from ikon.model.periodic import told
from ikon.model.quota import RESOURCES
from ikon.problems import IdentityDown, Problem, StartError
from ikon.stores.registry import open_stores
from ikon.transfer.fetch import Fetcher

LEAST_FREE = 1 << 30


@click.command()
@settings_options
def doctor(config: str | None, data: str | None) -> None:
    """Check settings, data directory, database, clock, broker, events, stores, identity and limits. Ends with 1 when something is wrong."""
    chosen = settings(config, data=data)
    findings: list[Finding] = []
    for look in (_data, _database, _broker, _events, _stores, _identity, _limits):
        findings += look(chosen)
    for finding in findings:
        click.echo(f"{'WRONG' if finding.remedy else 'ok':5}  {finding.what}: {finding.said}")
        if finding.remedy:
            click.echo(f"       -> {finding.remedy}")
    if any(finding.remedy for finding in findings):
        raise SystemExit(1)


def _data(chosen: Settings) -> list[Finding]:
    try:
        free = shutil.disk_usage(chosen.data).free
    except OSError as error:
        return [Finding("data", f"{chosen.data}: {error.strerror}", "Start the server once, or name its directory with --data")]
    return [Finding("data", f"{chosen.data}, {free >> 20} MiB free", _room(free))]


def _room(free: int) -> str:
    return "" if free >= LEAST_FREE else "Make room: an upload or a change that finds the disk full is refused"


def _database(chosen: Settings) -> list[Finding]:
    if schema.is_absent(chosen.database):
        return [Finding("database", "not made yet", "Start the server once: it makes its database")]
    engine = make_engine(chosen.database)
    url = engine.url.render_as_string()
    try:
        found = schema.version(engine)
        with engine.connect() as conn:
            findings = checks.look(conn) + checks.durability(conn)
            findings += _at_work(conn) if found == SCHEMA else []
    except StartError as error:
        said, _, remedy = str(error).removeprefix("database: ").rpartition(". ")
        return [Finding("database", said, remedy)]
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error)
        return [Finding("database", f"{url}: {reason}", "Start the database, and check the setting `database`")]
    finally:
        engine.dispose()
    return [Finding("database", f"{url} at schema {found or 'none'}, needed is {SCHEMA}", schema.remedy(found)), *findings]


def _at_work(conn: Connection) -> list[Finding]:
    """What the processes that run by themselves did last, and what waits for them."""
    findings = []
    for report in runs.last(conn):
        ago_s = (now_ms(conn) - report.at) // 1000
        remedy = "See the server's log for `periodic run`" if report.failed else ""
        findings.append(Finding(f"periodic {report.name}", f"{told(report)}, {ago_s} s ago", remedy))
    count, size = trash.size(conn)
    findings += [Finding("trash", f"{count} images, {size >> 20} MiB")] if count else []
    for store, waiting in copies.waiting(conn).items():
        findings.append(Finding(f"store {store}", f"the bytes of {waiting} deleted copies are still there; they go when the store allows"))
    return findings


def _broker(chosen: Settings) -> list[Finding]:
    if not chosen.broker:
        return []
    try:
        with broker.connected(chosen.broker):
            return [Finding("broker", f"{broker.shown(chosen.broker)} answers")]
    except Exception as error:  # drivers raise many kinds
        remedy = "Start it, or correct the setting `broker`; until then workers look for jobs every ten seconds"
        return [Finding("broker", f"{broker.shown(chosen.broker)}: {type(error).__name__}: {error}", remedy)]


def _events(chosen: Settings) -> list[Finding]:
    """Events that sinks have not heard of; nothing where the database, of which `_database` speaks, cannot tell."""
    if schema.is_absent(chosen.database):
        return []
    engine = make_engine(chosen.database)
    try:
        with engine.connect() as conn:
            found = deliveries.backlog(conn)
    except SQLAlchemyError:
        return []
    finally:
        engine.dispose()
    configured = {sink.name for sink in events.sinks(chosen)}
    return [
        Finding(
            f"events for {each.sink}",
            f"{each.count} untold, {each.parked} of them parked, the oldest for {each.oldest_ms // 1000} s",
            _untold(each, each.sink in configured),
        )
        for each in found
    ]


def _untold(backlog: deliveries.Backlog, is_configured: bool) -> str:
    if not is_configured:
        return "No setting below [events] names it, so nobody tells them: set it again, or delete its rows in the table deliveries"
    if backlog.parked:
        return (
            "They were tried for a day; the log says why (event not told yet). When that is mended, restart a server: it tries them again"
        )
    return "It does not take them; the log says why (event not told yet). They are tried again" if backlog.refused else ""


def _stores(chosen: Settings) -> list[Finding]:
    if not Path(chosen.data).exists():
        return []  # opening stores makes their directories, and looking must leave no trace
    try:
        stores = open_stores(chosen, Fetcher(chosen).begin)
    except StartError as error:
        return [Finding("stores", str(error), "Correct the setting")]
    findings = []
    for name, store in stores.all.items():
        try:
            room = asyncio.run(store.usage())
        except Problem as problem:
            findings.append(Finding(f"store {name}", str(problem), "See that the store is mounted and running"))
            continue
        said = f"{room.free >> 20} MiB free" if room.free is not None else "answers"
        findings.append(Finding(f"store {name}", said, _room(room.free) if room.free is not None else ""))
    return findings


def _identity(chosen: Settings) -> list[Finding]:
    if chosen.identity == "none" and chosen.none_beyond_loopback:
        return [Finding("identity", "none, beyond loopback", "Everyone who can connect is admin: set identity, or listen on loopback")]
    findings = [Finding("identity", chosen.identity)]
    if chosen.identity == "users":
        if not is_loopback(chosen.address[0]) and not chosen.trusted_proxies:
            remedy = "Serve loopback behind a TLS proxy; is the proxy another machine, name it in trusted_proxies"
            findings = [Finding("identity", f"users, on {chosen.listen} without TLS: passwords can be read on their way", remedy)]
        findings += _users(chosen)
    if chosen.identity == "keystone":
        findings = [_keystone(chosen)]
    return findings


def _keystone(chosen: Settings) -> Finding:
    """Whether Keystone tells us about tokens: of one that is none it says so."""

    async def ask() -> None:
        keystone = Keystone(chosen)
        try:
            await keystone.token("none")
        finally:
            keystone.close()

    try:
        asyncio.run(ask())
    except (IdentityDown, StartError) as problem:
        return Finding(
            "identity", f"keystone, {chosen.keystone.url}: {problem}", "See the line before, and check the settings of [keystone]"
        )
    return Finding("identity", f"keystone, {chosen.keystone.url} answers")


def _limits(chosen: Settings) -> list[Finding]:
    """Whether Keystone tells what projects may hold, where it sets that."""
    if not chosen.quota.from_keystone:
        return []

    async def ask() -> dict[str, int]:
        unified = UnifiedLimits(chosen)
        try:
            return await unified.of("none")
        finally:
            unified.close()

    try:
        found = asyncio.run(ask())
    except (IdentityDown, StartError) as problem:
        return [Finding("limits", str(problem), "See the line before; the user of [keystone] needs the role reader on the system")]
    missing = [each.wire for each in RESOURCES if each.wire not in found]
    remedy = f"Register {', '.join(missing)}: what is not registered is 0" if missing else ""
    return [Finding("limits", f"Keystone has {len(found)} of the image service", remedy)]


def _users(chosen: Settings) -> list[Finding]:
    """Whether there is anybody who could log in; nothing where the database, of which `_database` speaks, cannot tell."""
    if schema.is_absent(chosen.database):
        return []
    engine = make_engine(chosen.database)
    try:
        with engine.connect() as conn:
            found = users.page(conn, "", 1)
    except SQLAlchemyError:
        return []
    finally:
        engine.dispose()
    return [Finding("users", "there are some" if found else "there are none", "" if found else "Add one: ikon user add NAME --project P")]
