"""Those outside who are told of events: the log, and OpenStack's notification bus. Each takes one event, or says that it cannot now."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import NAMESPACE_OID, uuid5

import msgspec

from ikon import log
from ikon.config import Settings
from ikon.db.deliveries import Delivery
from ikon.model.event import Sink, notifications
from ikon.problems import StartError, Unavailable
from ikon.threads import Late, Pool

#: Seconds for one notification.
SEND_S = 30.0


class Sender(Protocol):
    """Tells a sink."""

    async def send(self, delivery: Delivery) -> None:
        """Tell of one event. May be called again for the same one. Raises Unavailable when the sink has not certainly heard of it."""

    def close(self) -> None:
        """Let go."""


class Log:
    """The server's own log."""

    async def send(self, delivery: Delivery) -> None:
        """See Sender."""
        kept = msgspec.json.decode(delivery.body)
        facts = {name: kept[name] for name in ("project", "user", "request", "detail") if kept[name] is not None}
        log.get().info("image event", kind=delivery.kind, image=delivery.image_id, version=delivery.version, **facts)

    def close(self) -> None:
        """See Sender."""


class Notifications:
    """OpenStack's notification bus, through its own library, which is imported only here: it costs half a second and 40 MB."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartError where the library is missing, or cannot use the URL."""
        self._settings = settings.events
        self._send = _bus(settings.events.notifications, settings.events.exchange)
        self._pool = Pool("notifications", 1, SEND_S)

    async def send(self, delivery: Delivery) -> None:
        """See Sender."""
        kept = msgspec.json.decode(delivery.body)
        for name, priority, payload in notifications(delivery.kind, kept, tuple(self._settings.disabled_notifications)):
            message = {
                "message_id": str(uuid5(NAMESPACE_OID, f"{delivery.n} {delivery.image_id} {name}")),  # the same, if it is told again
                "publisher_id": self._settings.publisher_id,
                "event_type": name,
                "priority": priority,
                "payload": payload,
                "timestamp": f"{datetime.fromtimestamp(kept['at_us'] / 1e6, UTC):%Y-%m-%d %H:%M:%S.%f}",
            }
            topic = f"{self._settings.topic}.{priority.lower()}"
            context = {"request_id": kept["request"], "user": kept["user"], "project_id": kept["project"]}
            try:
                await self._pool.run(self._send, topic, context, message)
            except Late:
                raise Unavailable("The notification bus takes too long") from None

    def close(self) -> None:
        """See Sender."""
        self._pool.close()


def _bus(url: str, exchange: str) -> Callable[[str, dict[str, Any], dict[str, Any]], None]:
    """What puts a message on the bus, and raises Unavailable when the bus has not taken it."""
    try:
        import oslo_messaging
        from oslo_config import cfg
    except ImportError:
        raise StartError("config: events.notifications: install what it needs first: pip install 'ikon[openstack]'") from None
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    try:
        transport = oslo_messaging.get_notification_transport(conf, url=url)
    except Exception as error:
        raise StartError(f"config: events.notifications: the URL cannot be used: {type(error).__name__}") from None
    conf.set_override("control_exchange", exchange)

    def send(topic: str, context: dict[str, Any], message: dict[str, Any]) -> None:
        # its Notifier logs a failure and returns; what is below it says so
        target = oslo_messaging.Target(topic=topic, exchange=exchange)
        try:
            transport._send_notification(target, context, message, version=2.0, retry=0)
        except Exception as error:  # drivers raise many kinds
            raise Unavailable(f"The notification bus did not take it: {type(error).__name__}") from error

    return send


def sinks(settings: Settings) -> list[Sink]:
    """The sinks that are configured."""
    events, found = settings.events, []
    if events.log:
        found.append(Sink("log"))
    if events.notifications:
        found.append(Sink("notifications", all=False, disabled=tuple(events.disabled_notifications)))
    return found


def senders(settings: Settings) -> dict[str, Sender]:
    """What tells the sinks that are configured, by their names. Raises StartError."""
    made: dict[str, Callable[[], Sender]] = {"log": Log, "notifications": lambda: Notifications(settings)}
    return {sink.name: made[sink.name]() for sink in sinks(settings)}
