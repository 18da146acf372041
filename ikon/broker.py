"""Rings workers on other machines through RabbitMQ: "queue Q has work". A message carries no job, and one that is lost costs time only.

Whoever answers a request waits for nothing here: a ring lies in memory until the one thread that publishes takes it. Connections are made
anew whatever broke them, and the work goes on without them meanwhile: every worker also looks for jobs by itself.
"""

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from ikon import log

EXCHANGE = "ikon"
#: Rings that wait for the thread that publishes; more are dropped.
WAITING = 1000
#: Seconds for which a message waits for a worker, messages a queue holds, seconds after which a queue that nobody uses is gone.
TTL_S, MESSAGES, UNUSED_S = 60, 10_000, 86_400
HEARTBEAT_S, CONNECT_S, ANSWER_S = 10, 3.0, 10.0
#: Seconds between two looks after a connection; between two looks whether there is room again; before a broken one is made anew.
TEND_S, FULL_S, AGAIN_S = 2.0, 0.2, (0.5, 5.0)
#: Seconds that the last rings of a process get.
FAREWELL_S = 1.0


class Broker:
    """Publishes rings, and hears them. The URL is a secret: it holds a password. away: whether it was out of reach at the last try."""

    def __init__(self, url: str) -> None:
        self._url, self.away = url, False
        self._rings: queue.Queue[str | None] = queue.Queue(WAITING)
        self._closing = threading.Event()
        self._publisher = self._start("broker-ring", self._publish)

    def ring(self, name: str) -> None:
        """Say that a queue of jobs has work. From any thread; returns at once."""
        with contextlib.suppress(queue.Full):
            self._rings.put_nowait(name)

    def listen(self, names: Sequence[str], heard: Callable[[], None], has_room: Callable[[], bool]) -> None:
        """Call `heard`, on a thread, when one of these queues was rung, and once whenever rings may have been missed.

        While there is no room rings are left to other processes.
        """
        self._start("broker-hear", lambda connection: self._hear(connection, names, heard, has_room))

    def close(self) -> None:
        """Publish what was rung, if that is quickly done, and let the threads go."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._rings.put_nowait(None)
        self._publisher.join(FAREWELL_S)

    def _start(self, name: str, work: Callable[[Any], None]) -> threading.Thread:
        thread = threading.Thread(target=self._keep, args=(work,), name=name, daemon=True)
        thread.start()
        return thread

    def _keep(self, work: Callable[[Any], None]) -> None:
        """Do the work on a connection, and on the next one when that breaks."""
        said = False
        while not self._closing.is_set():
            try:
                with connected(self._url) as connection:
                    if said:
                        log.get().info("broker reached again", broker=shown(self._url))
                    said = self.away = False
                    work(connection)
            except Exception as error:  # drivers raise many kinds, and a thread that ended would stay silent for ever
                if not said:
                    log.get().warning("broker not reached", broker=shown(self._url), because=f"{type(error).__name__}: {error}")
                said = self.away = True
            self._closing.wait(random.uniform(*AGAIN_S))  # noqa: S311  spreads load, guards nothing

    def _publish(self, connection: Any) -> None:
        from kombu import Producer

        channel = connection.channel()
        producer, declared, tended = Producer(channel, _exchange(), auto_declare=False), set(), time.monotonic()
        while True:
            try:
                name = self._rings.get(timeout=TEND_S)
            except queue.Empty:
                name = ""
            if name is None:
                return
            if name:
                if name not in declared:
                    _queue(name)(channel).declare()
                    declared.add(name)
                producer.publish(b"", routing_key=name, delivery_mode=1, content_type="application/octet-stream", content_encoding="binary")
            if not name or time.monotonic() - tended > TEND_S:
                _tend(connection, 0.001)
                tended = time.monotonic()

    def _hear(self, connection: Any, names: Sequence[str], heard: Callable[[], None], has_room: Callable[[], bool]) -> None:
        taking = False

        def take(message: Any) -> None:
            nonlocal taking
            if has_room():
                message.ack()
                heard()
            else:
                taking = False
                consumer.cancel()
                message.requeue()

        consumer = connection.Consumer([_queue(name) for name in names], on_message=take, prefetch_count=1)
        heard()
        while not self._closing.is_set():
            if not taking and has_room():
                taking = True
                consumer.consume()
            _tend(connection, TEND_S if taking else FULL_S)


def shown(url: str) -> str:
    """A broker's URL without its secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}{parts.path}"


@contextlib.contextmanager
def connected(url: str) -> Iterator[Any]:
    """A connection to the broker. Raises whatever its driver raises."""
    from kombu import Connection

    # the driver alone would take any certificate
    tls = {"ssl": {"context": {"check_hostname": True}, "server_hostname": None}} if url.startswith("amqps:") else {}
    times = {"read_timeout": ANSWER_S, "write_timeout": ANSWER_S}
    with Connection(url, heartbeat=HEARTBEAT_S, connect_timeout=CONNECT_S, transport_options=times, **tls) as connection:
        connection.connect()
        yield connection


def _exchange() -> Any:
    from kombu import Exchange

    return Exchange(EXCHANGE, "direct", durable=True)


def _queue(name: str) -> Any:
    """The broker's queue of a queue of jobs."""
    from kombu import Queue

    bounds = {"message_ttl": TTL_S, "max_length": MESSAGES, "expires": UNUSED_S}
    return Queue(f"{EXCHANGE}.{name}", _exchange(), routing_key=name, durable=True, **bounds)


def _tend(connection: Any, seconds: float) -> None:
    """Take what comes in within some seconds, and keep the connection alive."""
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=seconds)
    connection.heartbeat_check()
