"""What is counted, in Prometheus's terms. Logs tell stories; these do not."""

import functools

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST

REQUESTS = Counter("ikon_requests", "Requests answered", ["route", "method", "status"])
SECONDS = Histogram(
    "ikon_request_seconds",
    "Seconds from a request's headers to the end of its answer",
    ["route"],
    buckets=(0.002, 0.01, 0.05, 0.25, 1, 5, 30, 300),
)
RECEIVED = Counter("ikon_image_bytes_received", "Bytes of image data taken in")
SENT = Counter("ikon_image_bytes_sent", "Bytes of image data sent")
UPLOADS_UNDONE = Counter("ikon_uploads_undone", "Uploads that did not end well, and were undone")
REFUSED = Counter("ikon_images_refused", "Uploads refused for what is in their bytes", ["why"])
SUSPECT = Counter("ikon_copies_suspect", "Copies found to give wrong or missing bytes")
PERIODIC_MENDED = Counter("ikon_periodic_mended", "Things that a process which runs by itself mended", ["process", "kind"])
PERIODIC_FAILED = Counter("ikon_periodic_failed", "Runs of such a process that failed", ["process"])
PERIODIC_RAN = Gauge("ikon_periodic_ran_timestamp_seconds", "When such a process last ended a run here, in seconds since 1970", ["process"])
USAGE_DRIFT = Counter("ikon_usage_drift_bytes", "Bytes by which the usage of projects was not what their copies add up to")
REAPED = Counter("ikon_copies_reaped", "Copies whose bytes the reaper removed", ["why"])
PASSWORDS_REFUSED = Counter("ikon_passwords_refused", "Passwords that proved nobody, or were not looked at after too many tries", ["why"])
TOKENS = Counter("ikon_tokens", "Tokens of Keystone that were looked at, by who knew the answer, and those that nobody could tell", ["by"])
BUFFERED = Gauge("ikon_buffered_bytes", "Bytes of image data in memory on their way in")


@functools.lru_cache(1024)
def answered(route: str, method: str, status: int) -> Counter:
    """The counter of answers of one kind; looking it up by labels costs a lock each time."""
    return REQUESTS.labels(route, method, status)


@functools.lru_cache(256)
def took(route: str) -> Histogram:
    """The histogram of the time that answers of one route take."""
    return SECONDS.labels(route)


def render() -> bytes:
    """All metrics of this process."""
    return generate_latest()
