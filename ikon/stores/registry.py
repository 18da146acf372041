"""Finds the kinds of stores that are installed and opens those that the settings name."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import msgspec

from ikon.config import Settings, explain
from ikon.model import quota
from ikon.problems import BadValue, StartError
from ikon.stores.base import Fetch, Store

#: Where staged data is kept. No caller can name it: the beginning of its name is reserved.
STAGING = quota.STAGING


class Stores:
    """The configured stores by name, in the order of the settings; and the one of staged data, which is not among `all`."""

    def __init__(self, stores: dict[str, Store], default: str, staging: Store) -> None:
        self.all, self.default, self._staging = stores, default, staging

    def find(self, name: str) -> Store | None:
        """The store of this name, that of staged data too; None when it is not configured any more."""
        return self._staging if name == STAGING else self.all.get(name)

    def choose(self, name: str | None) -> str:
        """The name of the store for an upload. Raises BadValue for one that is not configured; reserved names never are."""
        if name is None:
            return self.default
        if name not in self.all:
            raise BadValue(f"Store for identifier {name} not found. Stores here: {', '.join(self.all)}")
        if self.all[name].read_only:
            raise BadValue(f"Store {name} is read-only. Stores that take data: {', '.join(self.writable)}")
        return name

    @property
    def writable(self) -> list[str]:
        """Names of the stores that data can be written to."""
        return [name for name, store in self.all.items() if not store.read_only]

    def claiming(self, url: str) -> str | None:
        """The name of the first store in which a URL names a place of somebody else's; None when there is none."""
        return next((name for name, store in self.all.items() if store.claims(url)), None)

    def __getitem__(self, name: str) -> Store:
        return self._staging if name == STAGING else self.all[name]

    def weight(self, name: str) -> int:
        """How early a store is read; a store that is configured no more comes last."""
        return self.all[name].settings.weight if name in self.all else -(2**31)

    def close(self) -> None:
        """Close every store."""
        for store in (*self.all.values(), self._staging):
            store.close()


def open_stores(settings: Settings, fetch: Fetch) -> Stores:
    """Open every configured store. fetch: how those read that keep nothing themselves.

    Raises StartError, naming the key, for settings that a store does not take.
    """
    staging = _open(STAGING, {"type": "file", "path": settings.staging.path, "shared": settings.staging.shared}, fetch)
    stores = Stores({name: _open(name, raw, fetch) for name, raw in settings.stores.items()}, settings.default_store, staging)
    if stores[stores.default].read_only:
        allowed = ", ".join(stores.writable) or "a store that takes data, of which [stores] has none"
        raise StartError(f"config: default_store = {stores.default!r}: the store is read-only. Allowed: {allowed}")
    return stores


def kinds() -> dict[str, Any]:
    """The entry points of installed kinds of stores by type."""
    return {point.name: point for point in entry_points(group="ikon.stores")}


def _open(name: str, raw: Mapping[str, Any], fetch: Fetch) -> Store:
    known = kinds()
    kind = raw.get("type")
    if kind not in known:
        raise StartError(f"config: stores.{name}.type = {kind!r}: no such kind of store. Allowed: {', '.join(sorted(known))}")
    maker: Any = known[kind].load()
    try:
        settings = msgspec.convert(raw, maker.Settings)
    except msgspec.ValidationError as error:
        raise StartError(explain(error, raw, maker.Settings, {}, where=f"stores.{name}")) from None
    store: Store = maker(name, settings, fetch) if kind == "http" else maker(name, settings)
    return store
