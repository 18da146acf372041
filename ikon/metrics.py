"""What is counted, in Prometheus's terms. Logs tell stories; these do not."""

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
SUSPECT = Counter("ikon_copies_suspect", "Copies found to give wrong or missing bytes")
REAPED = Counter("ikon_copies_reaped", "Copies whose bytes the reaper removed", ["why"])
BUFFERED = Gauge("ikon_buffered_bytes", "Bytes of image data in memory on their way in")


def render() -> bytes:
    """All metrics of this process."""
    return generate_latest()
