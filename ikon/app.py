"""Builds the kit and hangs the doors and the periodic processes on it. The only file that knows everything."""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import uvicorn

from ikon import events, log, policy, protection
from ikon.api.deadlines import Limits as HttpLimits
from ikon.api.door import Door
from ikon.api.protocol import protocol_class
from ikon.broker import Broker
from ikon.config import MIB, Settings
from ikon.db import deliveries, schema, usage
from ikon.db.engine import Database, make_engine
from ikon.db.lease import Lease, lock_file
from ikon.keystone import Keystone, UnifiedLimits
from ikon.kit import Kit
from ikon.model.job import Limits
from ikon.passwords import Passwords
from ikon.periodic import heartbeat, reaper, teller, updater
from ikon.periodic.base import Process, every
from ikon.problems import Problem, StartError
from ikon.queue import Queue
from ikon.quota import Quotas
from ikon.service import metadef_files
from ikon.signatures import Signatures
from ikon.stores.registry import Stores, open_stores
from ikon.transfer.fetch import Fetcher
from ikon.transfer.intake import Intake
from ikon.transfer.outflow import Outflow
from ikon.transfer.post import Poster
from ikon.worker.handlers.imports import KINDS
from ikon.worker.kinds import Kinds
from ikon.worker.loop import Worker

#: Seconds that undoing and saying goodbye may take when the server ends.
FAREWELL_S = 5.0
#: Seconds for which a server that starts looks after its dead predecessor's uploads before it serves, so that no client sees them run;
#: what then is left, and all that touches a store, is done while it serves.
TAKE_OVER_S = 0.25
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  #: malloc.h


@dataclass(frozen=True)
class Outside:
    """What speaks to others, none of whom is spoken to yet."""

    fetcher: Fetcher
    stores: Stores
    senders: Mapping[str, events.Sender]
    keystone: Keystone | None
    signatures: Signatures | None
    unified: UnifiedLimits | None


@contextlib.asynccontextmanager
async def open_kit(settings: Settings, processes: Sequence[Process] = ()) -> AsyncIterator[Kit]:
    """All parts, ready to work, and let go of in order. processes: what runs by itself, to be run by hand too. Raises StartError."""
    async with contextlib.AsyncExitStack() as opened:
        outside = opened.enter_context(_outside(settings))
        quotas = Quotas(settings.quota, outside.unified.of if outside.unified else None)
        passwords = opened.enter_context(closing(Passwords()))
        queue = opened.enter_context(closing(Queue(Broker(settings.broker) if settings.broker else None)))
        db = Database(settings.database, sinks=events.sinks(settings), around=quotas.around())
        opened.push_async_callback(db.close)
        lease = Lease(db, settings.node, settings.run)
        intake = opened.enter_context(closing(Intake(db, outside.stores, lease, settings.buffer_mib * MIB)))
        await lease.start()
        opened.push_async_callback(_leave, lease)
        if quotas.kept:
            await db.write(usage.doubt)
        yield Kit(
            settings=settings,
            db=db,
            lease=lease,
            stores=outside.stores,
            queue=queue,
            intake=intake,
            outflow=Outflow(db, outside.stores, settings.node),
            fetcher=outside.fetcher,
            kinds=Kinds(KINDS),
            quotas=quotas,
            senders=outside.senders,
            passwords=passwords,
            keystone=outside.keystone,
            signatures=outside.signatures,
            periodic={process.name: process.run_once for process in processes},
        )


async def _leave(lease: Lease) -> None:
    with contextlib.suppress(Problem, TimeoutError):
        await asyncio.wait_for(lease.end(), FAREWELL_S)


@contextlib.contextmanager
def _outside(settings: Settings) -> Iterator[Outside]:
    """Open what speaks to others, with an operator's rules in force; let go of at the end. Raises StartError."""
    _follow_rules(settings)
    with contextlib.ExitStack() as opened:
        fetcher = opened.enter_context(closing(Fetcher(settings)))
        senders = events.senders(settings, lambda setting, url: Poster(fetcher, setting, url).post)
        for sender in senders.values():
            opened.callback(sender.close)
        keystone = opened.enter_context(closing(Keystone(settings))) if settings.identity == "keystone" else None
        if signatures := _signatures(settings, keystone):
            opened.callback(signatures.close)
        unified = opened.enter_context(closing(UnifiedLimits(settings))) if settings.quota.from_keystone else None
        stores = opened.enter_context(closing(open_stores(settings, fetcher.begin)))
        yield Outside(fetcher, stores, senders, keystone, signatures, unified)


def _follow_rules(settings: Settings) -> None:
    """Put an operator's rules in force. Raises StartError."""
    if settings.policy.file:
        from ikon.policyfile import PolicyFile  # half a second that a server without one does not pay

        rules = PolicyFile(settings.policy.file)
        policy.follow(rules)
    else:
        rules = None
    protection.follow(protection.configured(settings.policy, rules))


def _signatures(settings: Settings, keystone: Keystone | None) -> Signatures | None:
    """What verifies signatures of images, where a key manager is known, or somebody who knows it."""
    if address := settings.signatures.key_manager:
        return Signatures(settings, lambda: address)
    return Signatures(settings, lambda: keystone.endpoint("key-manager")) if keystone is not None else None


def serve(settings: Settings, when_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises StartError before anything is served."""
    began = time.monotonic()
    _lock = prepare(settings)
    listening = [_tcp_socket(settings), _unix_socket(settings)]
    log.configure(settings.log_level, settings.log_format)
    when_ready()
    if settings.workers > 1:
        _supervise(settings, listening)
    else:
        _work(settings, listening, began)


def work(settings: Settings) -> None:
    """Work on jobs, and serve nobody, until SIGTERM or SIGINT. Raises StartError before any work."""
    began = time.monotonic()
    if settings.database.startswith("sqlite:"):
        raise StartError(
            "config: database: SQLite is worked on by one process, the server, which does the jobs as well. "
            "Set database to MariaDB or PostgreSQL to have workers beside it"
        )
    if not settings.jobs.slots:
        raise StartError(
            "config: jobs.slots = 0: a worker without slots does nothing. Allowed: 1 or more; --slots sets it for this process"
        )
    prepare(settings)
    log.configure(settings.log_level, settings.log_format)
    _tune_process()
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_work_on_jobs(settings, began))


def prepare(settings: Settings) -> int | None:
    """Make the data directory and the schema of an empty embedded database; refuse what this version cannot serve.

    Returns the lock that keeps a second server off an SQLite database. Raises StartError.
    """
    try:
        settings.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"config: data = {settings.data!r}: {error.strerror}. Name a directory that this user can write to") from None
    lock = None
    if settings.database.startswith("sqlite:"):
        lock = lock_file(settings.run / "lock")
        for stale in settings.run.glob("*-*-*-*-*"):
            stale.unlink(missing_ok=True)  # of processes that have ended: the lock proves it
    engine = make_engine(settings.database)
    try:
        schema.require(engine, metadef_files.stock if settings.metadefs.catalogue else None)
    finally:
        engine.dispose()
    with _outside(settings):  # what these parts cannot work with is said now, once, and not by each server process
        return lock


def _tcp_socket(settings: Settings) -> socket.socket:
    host, port = settings.address
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise StartError(f"config: listen = {settings.listen!r}: {error.strerror}. Name another address or port with --listen") from None
    listening.listen(2048)
    listening.setblocking(False)
    return listening


def _unix_socket(settings: Settings) -> socket.socket:
    """The socket that commands of this server's user speak to."""
    path = settings.run / "ikon.sock"
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    directory = os.open(settings.run, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listening.bind(f"/proc/self/fd/{directory}/ikon.sock")  # a socket's name has 107 bytes at most, a directory's more
    finally:
        os.close(directory)
    path.chmod(0o600)
    listening.listen(128)
    listening.setblocking(False)
    return listening


def _supervise(settings: Settings, listening: list[socket.socket]) -> None:
    """Keep `workers` processes alive until told to stop."""
    from ikon.supervisor import supervise

    supervise(settings.workers, lambda: _work(settings, listening, time.monotonic()))


def _work(settings: Settings, listening: list[socket.socket], began: float) -> None:
    _tune_process()
    with asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(_serve(settings, listening, began))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _tune_process() -> None:
    """Let the process open as many files as it may, and have blocks of up to 4 MiB come from memory that is kept.

    glibc by default maps large blocks afresh each time, and the page faults cost up to 2.8 times the CPU of a transfer.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    libc = ctypes.CDLL(None)
    for option, value in ((M_MMAP_THRESHOLD, 4 * MIB), (M_TRIM_THRESHOLD, 64 * MIB), (M_ARENA_MAX, 2)):
        libc.mallopt(option, value)


class Server(uvicorn.Server):
    """uvicorn's server, which comes back when told to stop, so that everything is let go of in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop in order at SIGTERM or SIGINT, from now to the end of the process: saying goodbye is not interrupted either."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


@contextlib.asynccontextmanager
async def _house(settings: Settings, *, serving: bool) -> AsyncIterator[Kit]:
    """The kit with all that runs by itself; jobs are handed back at the end."""
    processes = [
        Process("reaper", reaper.run_once, reaper.EVERY_S, per_node=True, at_once=True),
        Process("updater", updater.run_once, updater.EVERY_S, per_node=False, at_once=False),
        *(
            Process(teller.role(sink.name), teller.of(sink.name), teller.EVERY_S, per_node=False, at_once=False)
            for sink in events.sinks(settings)
        ),
    ]
    async with open_kit(settings, processes) as kit, asyncio.TaskGroup() as group:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reaper.take_over_lost(kit), TAKE_OVER_S)
        limits = Limits(settings.jobs.per_project, settings.jobs.per_store)
        worker = Worker(kit, KINDS, settings.jobs.slots, limits, gives_way=serving)
        working = group.create_task(worker.run())
        tasks = [
            group.create_task(every(heartbeat.EVERY_S, "heartbeat", lambda: heartbeat.run_once(kit))),
            *(group.create_task(process.repeat(kit)) for process in processes),
        ]
        if kit.senders:
            await kit.db.write(deliveries.unpark)
        yield kit
        worker.stop()
        await asyncio.wait([working], timeout=FAREWELL_S)
        for task in (*tasks, working):
            task.cancel()


async def _work_on_jobs(settings: Settings, began: float) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with _house(settings, serving=False):
        log.get().info("working", node=settings.node, slots=settings.jobs.slots, started_in_ms=round(1000 * (time.monotonic() - began)))
        await stopped.wait()
    log.get().info("stopped")


async def _serve(settings: Settings, listening: list[socket.socket], began: float) -> None:
    async with _house(settings, serving=True) as kit:
        server = Server(_uvicorn(settings, Door(kit)))
        gc.freeze()  # a full collection looked at 60,000 lasting objects each time, some 30 ms in which nobody is served
        log.get().info("serving", listen=settings.listen, data=settings.data, started_in_ms=round(1000 * (time.monotonic() - began)))
        await server.serve(sockets=listening)
        if unfinished := server.server_state.tasks:  # told to end when the grace time was over: they undo what they had begun
            for request in unfinished if server.force_exit else ():
                request.cancel()
            await asyncio.wait(unfinished, timeout=FAREWELL_S)
    log.get().info("stopped")


def _uvicorn(settings: Settings, app: Door) -> uvicorn.Config:
    http = settings.http
    limits = HttpLimits(
        header_timeout_s=http.header_timeout_s,
        header_bytes=http.header_bytes,
        url_bytes=http.url_bytes,
        body_stall_s=http.stall_s,
        write_stall_s=http.stall_s,
        body_rate_bytes_s=http.body_rate_bytes_s,
        connections_per_address=http.connections_per_address,
    )
    return uvicorn.Config(
        app,
        http=protocol_class(limits),
        loop="none",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(settings.shutdown_grace_s),
    )


def greeting(settings: Settings) -> str:
    """What a person who just started the server wants to know."""
    url = f"http://{settings.listen}"
    client = f"openstack --os-auth-type none --os-endpoint {url}"
    lines = [f"Ikon serves on {url} and keeps its data in {settings.data}"]
    if settings.identity == "none":
        lines += [
            "Try:",
            f"  {client} image create --disk-format qcow2 --container-format bare --file disk.qcow2 my-image",
            f"  {client} image list",
            f"  curl {url}/v2/images",
        ]
    if settings.identity == "users":
        client = f"openstack --os-auth-type http_basic --os-endpoint {url} --os-username NAME --os-password PASSWORD"
        lines += [
            "Add users, and let them try:",
            f"  ikon user add NAME --project PROJECT --data {settings.data}",
            f"  {client} image list",
        ]
    return "\n".join(lines)
