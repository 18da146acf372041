"""Who is told of what happens."""

from typing import Annotated

from msgspec import Meta, Struct, field


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told of what happens to images, beside each image's own timeline."""

    log: Annotated[bool, Meta(description="Write what happens to images into the server's log, but for attempts of jobs.")] = False
    notifications: Annotated[
        str,
        Meta(
            description="URL of OpenStack's notification bus for oslo.messaging, rabbit://USER:PASSWORD@HOST:5672/VHOST; empty: none. "
            "Best set by IKON_EVENTS__NOTIFICATIONS: it is a secret. Needs `pip install 'ikon[openstack]'`."
        ),
    ] = ""
    exchange: Annotated[str, Meta(min_length=1, description="Exchange of the notifications.")] = "glance"
    topic: Annotated[str, Meta(min_length=1, description="Topic of the notifications; queues are named TOPIC.info and TOPIC.error.")] = (
        "notifications"
    )
    publisher_id: Annotated[str, Meta(min_length=1, description="Who notifications say that they come from.")] = "image.localhost"
    disabled_notifications: Annotated[
        list[str], Meta(description='Notifications that are not sent, by name or group, as "image.update" or "image.member".')
    ] = field(default_factory=list)
    webhook: Annotated[
        str,
        Meta(
            description="URL that what happens to images, but for attempts of jobs, is sent to by POST, http:// or https://; empty: none. "
            "It may be an inside one, whatever [egress] says; `egress.ca_file` counts."
        ),
    ] = ""
    webhook_secret: Annotated[
        str,
        Meta(
            description="What webhooks are signed with: `whsec_` and base64 of 24 to 64 random bytes. Several, parted by spaces, sign side "
            "by side. Best set by IKON_EVENTS__WEBHOOK_SECRET: it is a secret."
        ),
    ] = ""
