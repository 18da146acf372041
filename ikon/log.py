"""Structured logging, set up once: one event, one line, as key=value or JSON on standard error."""

import logging
import sys
from typing import Any

# structlog imports Rich where it finds it, for traces in colour, which nobody here reads: 5 MB, and a third of its own import
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
import structlog  # noqa: E402

if sys.modules["rich"] is None:
    del sys.modules["rich"]


def configure(level: str = "info", form: str = "text") -> None:
    """Log from `level` on, as "text" or "json"."""
    rendered: Any = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.processors.KeyValueRenderer(key_order=["at", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get() -> Any:
    """The logger. Values of fields are printed as they are: never pass tokens, location URLs or user data."""
    return structlog.get_logger()
