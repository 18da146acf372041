"""Stores that failed to delete something, and are left alone for a while."""

import time

#: Seconds that a store is left alone: doubled with each failure, up to the second number. A probe costs little, and bytes should go soon.
REST_S = (5.0, 60.0)


class Rests:
    """What this process knows of each store by its own failures."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def resting(self, store: str) -> bool:
        """Whether the store is to be left alone now."""
        return time.monotonic() < self._until.get(store, 0.0)

    def failed(self, store: str) -> float:
        """Leave the store alone for a while. Returns for how many seconds. Calls that failed together count once."""
        if not self.resting(store):
            self._failures[store] = self._failures.get(store, 0) + 1
            first, longest = REST_S
            self._until[store] = time.monotonic() + min(first * 2.0 ** min(self._failures[store] - 1, 30), longest)
        return round(self._until[store] - time.monotonic(), 1)

    def worked(self, store: str) -> None:
        """The store works."""
        self._failures.pop(store, None)
        self._until.pop(store, None)
