"""Stores as administrators see them."""

from collections.abc import Mapping

from ikon import policy
from ikon.context import Context
from ikon.kit import Kit
from ikon.stores.base import Store


def details(kit: Kit, ctx: Context) -> Mapping[str, Store]:
    """The stores by name, for who may know their kinds, weights and places. Raises Forbidden."""
    policy.require(ctx, "stores_info_detail")
    return kit.stores.all
