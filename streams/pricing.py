"""What an engine instance costs in a window: its GPU group, then the price book.

An instance that no group claims, or whose SKU has no price at that time, has no bill. That is an
answer of its own (``Unpriced``), shown as a signal and counted; it is never $0.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from redline.errors import PriceMissing
from redline.money import PriceBook, PriceRow
from redline.settings import GpuGroup, Price


class Bill(NamedTuple):
    """The price of one instance's window."""

    gpu_group: str
    bill_nusd: int


class Unpriced(NamedTuple):
    """Why there is no price. ``gpu_group`` is empty when no group claims the instance."""

    gpu_group: str
    reason: str


class Pricer:
    """Bills windows of instances. Answers are kept: a window is asked for again and again."""

    def __init__(self, groups: Sequence[GpuGroup], prices: Sequence[Price]) -> None:
        """Index the groups and check the prices.

        Raises:
            ConfigFault: two price rows contradict each other.
        """
        self._groups = tuple(groups)
        self._book = PriceBook(_row(price) for price in prices)
        self._group_of: dict[str, GpuGroup | None] = {}

    def bill(self, instance: str, start_us: int, end_us: int) -> Bill | Unpriced:
        """The bill of ``[start_us, end_us)``. The first group whose pattern matches counts."""
        if instance not in self._group_of:
            self._group_of[instance] = next(
                (g for g in self._groups if any(fnmatchcase(instance, p) for p in g.instances)),
                None,
            )
        group = self._group_of[instance]
        if group is None:
            return Unpriced("", f"no gpu_groups entry claims instance {instance!r}")
        try:
            nusd = self._book.bill_nusd(
                group.sku, group.provider, group.region, group.gpus_per_instance, start_us, end_us
            )
        except PriceMissing as error:
            return Unpriced(group.name, str(error))
        return Bill(group.name, nusd)


def _row(price: Price) -> PriceRow:
    return PriceRow(
        sku=price.sku,
        price=price.price,
        unit=price.unit,
        currency=price.currency,
        provider=price.provider,
        region=price.region,
        commitment=price.commitment,
        valid_from_us=int(price.valid_from.timestamp()) * 1_000_000,
        valid_to_us=None if price.valid_to is None else int(price.valid_to.timestamp()) * 1_000_000,
    )
