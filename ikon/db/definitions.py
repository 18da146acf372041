"""The definitions that apply to images, as last read: read anew once one has changed."""

import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from ikon.db import metadefs
from ikon.model.definition_file import form
from ikon.model.lint import Definitions
from ikon.model.metadef import Namespace

#: Sets of namespaces that are kept ready: callers who see the same share one, and most see just the public ones.
KEPT = 8


class Known:
    """Definitions for each set of namespaces that somebody sees. May be asked from any thread."""

    def __init__(self) -> None:
        """Nothing is known before somebody asks."""
        self._lock = threading.Lock()
        self._as_of: tuple[Any, ...] | None = None
        self._namespaces: list[tuple[Namespace, dict[str, Any]]] = []
        self._ready: dict[tuple[int, ...], Definitions] = {}

    def of(self, conn: Connection, seen: Callable[[Namespace], bool]) -> Definitions:
        """The definitions in those namespaces about images that are seen, as they are now: one query where none has changed."""
        with self._lock:
            as_of = metadefs.as_of(conn)
            if as_of != self._as_of:
                self._namespaces = [(namespace, form(namespace, entries)) for namespace, entries in metadefs.about_images(conn)]
                self._ready, self._as_of = {}, as_of
            key = tuple(namespace.n for namespace, _ in self._namespaces if seen(namespace))
            found = self._ready.pop(key, None) or Definitions(content for namespace, content in self._namespaces if namespace.n in key)
            self._ready[key] = found  # the one used last is the last to go
            if len(self._ready) > KEPT:
                del self._ready[next(iter(self._ready))]
            return found
