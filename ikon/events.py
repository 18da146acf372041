"""Those outside who hear of events: the log, OpenStack's notification bus, a webhook. Each takes one event, or says that it cannot now."""

import base64
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import NAMESPACE_OID, uuid5

import msgspec

from ikon import log
from ikon.config import Settings, webhook_keys
from ikon.db.deliveries import Delivery
from ikon.model.event import Sink, notifications, webhook
from ikon.problems import StartError, Unavailable
from ikon.threads import Late, Pool

#: Seconds for one notification.
SEND_S = 30.0
#: Sends JSON with these headers to one URL, and answers the status; raises Unavailable where there is no answer.
Post = Callable[[Mapping[str, str], bytes], Awaitable[int]]


class Sender(Protocol):
    """Tells a sink. at_once: how many events, each of another image, may be sent side by side."""

    at_once: int

    async def send(self, delivery: Delivery) -> None:
        """Tell of one event. May be called again for the same one. Raises Unavailable when the sink has not certainly heard of it."""

    def close(self) -> None:
        """Let go."""


def message_id(delivery: Delivery, name: str) -> str:
    """What a message is known by: the same each time it is told, and another's never. A row's number alone may come again."""
    return str(uuid5(NAMESPACE_OID, f"{delivery.n} {delivery.image_id} {delivery.version} {delivery.at} {name}"))


class Log:
    """The server's own log."""

    at_once = 1

    async def send(self, delivery: Delivery) -> None:
        """See Sender."""
        kept = msgspec.json.decode(delivery.body)
        facts = {name: kept[name] for name in ("project", "user", "request", "detail") if kept[name] is not None}
        if "more" in kept:
            log.get().info("image event", kind=delivery.kind, image=delivery.image_id, version=delivery.version, **facts)
        else:
            facts |= {field: kept["payload"][field] for field in ("namespace", "name") if field in kept["payload"]}
            log.get().info("definition event", kind=delivery.kind, version=delivery.version, **facts)

    def close(self) -> None:
        """See Sender."""


class Notifications:
    """OpenStack's notification bus, through its own library, which is imported only here: it costs half a second and 40 MB."""

    at_once = 1

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
                "message_id": message_id(delivery, name),
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


class Webhook:
    """A URL of the operator's, told by POST and signed as Standard Webhooks 1.0.0 says (symmetric, v1), so that its libraries verify it.

    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """

    at_once = 8

    def __init__(self, secret: str, post: Post) -> None:
        """secret: one as config.webhook_keys reads it, or several, which all sign while one takes the place of another."""
        self._keys, self._post = webhook_keys(secret), post

    async def send(self, delivery: Delivery) -> None:
        """See Sender. Only a status of 2xx says that it was heard."""
        message, at = message_id(delivery, delivery.kind), str(int(time.time()))
        body = msgspec.json.encode(webhook(message, delivery.kind, delivery.version, msgspec.json.decode(delivery.body)))
        status = await self._post(
            {"webhook-id": message, "webhook-timestamp": at, "webhook-signature": self._sign(message, at, body)}, body
        )
        if not 200 <= status < 300:
            raise Unavailable(f"The webhook answered with HTTP status {status}")

    def _sign(self, message: str, at: str, body: bytes) -> str:
        signed = f"{message}.{at}.".encode() + body
        return " ".join(f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in self._keys)

    def close(self) -> None:
        """See Sender."""


def sinks(settings: Settings) -> list[Sink]:
    """The sinks that are configured."""
    events, found = settings.events, []
    if events.log:
        found.append(Sink("log"))
    if events.notifications:
        found.append(Sink("notifications", all=False, disabled=tuple(events.disabled_notifications)))
    if events.webhook:
        found.append(Sink("webhook"))
    return found


def senders(settings: Settings, posting: Callable[[str, str], Post]) -> dict[str, Sender]:
    """What tells the sinks that are configured, by their names. posting: what sends to the URL of a setting. Raises StartError."""
    made: dict[str, Callable[[], Sender]] = {
        "log": Log,
        "notifications": lambda: Notifications(settings),
        "webhook": lambda: Webhook(settings.events.webhook_secret, posting("events.webhook", settings.events.webhook)),
    }
    return {sink.name: made[sink.name]() for sink in sinks(settings)}
