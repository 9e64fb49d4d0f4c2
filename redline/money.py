"""Money as integers: nano-USD, exact splits and the effective-dated price book.

One nano-USD (n$) is 1e-9 USD, so an int64 holds 9.2 billion dollars. Sums of ints do not drift.
A GPU-second of $2.10 an hour is 583,333.33… n$, so windows are priced, never single seconds.
This file refuses floats as money, default prices and prices that contradict each other: an
instant without a price is an error that is seen, never $0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Literal, NamedTuple, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from redline.errors import ConfigFault, PriceMissing

NUSD_PER_USD = 1_000_000_000
US_PER_HOUR = 3_600_000_000
BYTES_PER_GB = 1_000_000_000  # clouds bill decimal gigabytes

Unit = Literal["gpu_hour", "gb_egress"]
ON_DEMAND = "on_demand"

_INT64_MAX = 2**63 - 1
_NUMPY_PAYS_FROM = 48  # below this many weights the list loop is faster than numpy's call overhead


def largest_remainder(total: int, weights: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """Split ``total`` over ``weights`` in whole units; the parts sum to ``total`` exactly.

    Hamilton's method: everyone gets ``floor(total * w / sum(w))``, the units left over go to the
    largest remainders. Ties go to the lower position, so sort by request id first and the split
    does not depend on arrival order. A negative total (a correction) is the mirror image.

    When all weights are zero (or there are none), every part is 0 and the caller must book the
    whole total as idle: this is the one case in which the parts do not sum to the total.

    Raises:
        ValueError: a weight is negative.
    """
    if total < 0:
        return [-part for part in largest_remainder(-total, weights)]
    ints = [int(w) for w in weights] if len(weights) < _NUMPY_PAYS_FROM else None
    if ints is None:
        array = _int64_array(weights)
        if array is not None and total * int(array.max()) <= _INT64_MAX:
            return _split_int64(total, array)
        ints = [int(w) for w in weights]
    return _split_ints(total, ints)


def _int64_array(weights: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The weights as int64, or None when they or their sum do not fit."""
    try:
        array = np.asarray(weights, dtype=np.int64)
    except OverflowError:
        return None
    return array if int(array.max()) * len(array) <= _INT64_MAX else None


def _split_int64(total: int, weights: NDArray[np.int64]) -> list[int]:
    if int(weights.min()) < 0:
        raise _negative_weight(int(weights.min()))
    weight_sum = int(weights.sum())
    if weight_sum == 0:
        return [0] * len(weights)
    parts, remainders = np.divmod(weights * total, weight_sum)
    left = total - int(parts.sum())
    parts[np.argsort(-remainders, kind="stable")[:left]] += 1
    return cast("list[int]", parts.tolist())


def _split_ints(total: int, weights: list[int]) -> list[int]:
    if weights and min(weights) < 0:
        raise _negative_weight(min(weights))
    weight_sum = sum(weights)
    if weight_sum == 0:
        return [0] * len(weights)
    parts = [total * w // weight_sum for w in weights]
    left = total - sum(parts)
    if left:
        remainders = [total * w % weight_sum for w in weights]
        order = sorted(range(len(weights)), key=lambda i: -remainders[i])
        for i in order[:left]:
            parts[i] += 1
    return parts


def _negative_weight(weight: int) -> ValueError:
    return ValueError(f"weight {weight} is negative. Fix: clip residence to the window first")


class PriceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One price that holds from ``valid_from_us`` until just before ``valid_to_us`` (µs UTC).

    ``None`` leaves that end open. An empty ``provider`` or ``region`` matches every one.
    ``price`` is USD per ``unit``: an hour of one GPU, or 10^9 bytes that leave.
    """

    sku: str
    price: Decimal
    provider: str = ""
    region: str = ""
    commitment: str = ON_DEMAND
    unit: Unit = "gpu_hour"
    currency: str = "USD"
    valid_from_us: int | None = None
    valid_to_us: int | None = None

    def matches(self, provider: str, region: str) -> bool:
        """Whether this row prices that provider and region."""
        return self.provider in ("", provider) and self.region in ("", region)

    def covers(self, at_us: int) -> bool:
        """Whether this row is in effect at that instant."""
        return (self.valid_from_us is None or self.valid_from_us <= at_us) and (
            self.valid_to_us is None or at_us < self.valid_to_us
        )

    def __str__(self) -> str:
        place = f"{self.provider or '*'}/{self.region or '*'}"
        span = f"[{_iso(self.valid_from_us, '-inf')}, {_iso(self.valid_to_us, '+inf')})"
        return f"{self.sku} {place} {self.commitment} ${self.price}/{self.unit} {span}"


class _Asked(NamedTuple):
    """What a price is asked for."""

    sku: str
    provider: str
    region: str
    commitment: str
    unit: Unit


class PriceBook:
    """Every price by SKU, place and time; at most one answer for each instant.

    Where a row with a named provider or region and a row with a wildcard both match, the named one
    wins. Two rows that match the same instant and of which neither is more specific are refused.
    """

    def __init__(self, rows: Iterable[PriceRow]) -> None:
        """Check and index the rows.

        Raises:
            ConfigFault: a row is malformed, or two rows overlap; the message names both.
        """
        self.rows = tuple(rows)
        self._by_sku: dict[tuple[str, Unit, str], list[PriceRow]] = {}
        for row in self.rows:
            _check_row(row)
            peers = self._by_sku.setdefault((row.sku, row.unit, row.commitment), [])
            for peer in peers:
                _check_overlap(peer, row)
            peers.append(row)
        for peers in self._by_sku.values():
            peers.sort(key=lambda r: (r.provider == "", r.region == ""))

    def price_at(
        self,
        sku: str,
        provider: str,
        region: str,
        at_us: int,
        *,
        commitment: str = ON_DEMAND,
        unit: Unit = "gpu_hour",
    ) -> Decimal:
        """USD per unit at one instant (µs UTC).

        Raises:
            PriceMissing: no row is in effect; says which SKU, when, and what to add.
        """
        asked = _Asked(sku, provider, region, commitment, unit)
        return _row_at(self._matching(asked), asked, at_us).price

    def bill_nusd(
        self,
        sku: str,
        provider: str,
        region: str,
        gpu_count: int,
        start_us: int,
        end_us: int,
        *,
        commitment: str = ON_DEMAND,
    ) -> int:
        """What ``gpu_count`` GPUs cost in ``[start_us, end_us)``, in n$.

        With F(t) = floor(rate * gpu_count * t / hour) counted from the Unix epoch, a stretch under
        one row costs F(end) - F(start). The sum telescopes, so windows that are split anywhere add
        up to the unsplit window exactly; one window is off its real value by less than 1 n$.

        Raises:
            PriceMissing: some instant of the window has no price.
            ValueError: the window ends before it starts, or the count is negative.
        """
        if end_us < start_us:
            raise ValueError(f"end_us {end_us} is before start_us {start_us}. Fix: swap them")
        if gpu_count < 0:
            raise ValueError(f"gpu_count {gpu_count} is negative. Fix: count the GPUs of the group")
        asked = _Asked(sku, provider, region, commitment, "gpu_hour")
        rows = self._matching(asked)
        bill = 0
        at_us = start_us
        while at_us < end_us:
            row = _row_at(rows, asked, at_us)
            until_us = min([b for b in _boundaries(rows) if at_us < b < end_us], default=end_us)
            rate = _nusd_per_unit(row) * gpu_count
            over = rate.denominator * US_PER_HOUR
            bill += rate.numerator * until_us // over - rate.numerator * at_us // over
            at_us = until_us
        return bill

    def egress_nusd(
        self, sku: str, provider: str, region: str, egress_bytes: int, at_us: int
    ) -> int:
        """What the bytes that left cost at one instant's price, in n$, rounded down.

        Raises:
            PriceMissing: no ``gb_egress`` row is in effect.
            ValueError: the byte count is negative.
        """
        if egress_bytes < 0:
            raise ValueError(f"egress_bytes {egress_bytes} is negative. Fix: pass a counter delta")
        asked = _Asked(sku, provider, region, ON_DEMAND, "gb_egress")
        rate = _nusd_per_unit(_row_at(self._matching(asked), asked, at_us))
        return rate.numerator * egress_bytes // (rate.denominator * BYTES_PER_GB)

    def _matching(self, asked: _Asked) -> list[PriceRow]:
        peers = self._by_sku.get((asked.sku, asked.unit, asked.commitment), [])
        return [row for row in peers if row.matches(asked.provider, asked.region)]


def format_usd(nusd: int) -> str:
    """``$1,234.56``; below one dollar four significant digits: ``$0.0005833``. Rounds half even."""
    usd = Decimal(nusd).scaleb(-9)
    size = abs(usd)
    digits = 2
    if 0 < size < 1:
        digits = min(9, max(2, 3 - size.adjusted()))
    text = f"{size.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN):,f}"
    if digits > 2:
        whole, _, fraction = text.partition(".")
        text = f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
    return f"-${text}" if nusd < 0 else f"${text}"


def usd_per_million_tokens(cost_nusd: int, tokens: int) -> float | None:
    """USD per 1,000,000 tokens; None when no token was produced, because that is not $0.

    Raises:
        ValueError: the token count is negative.
    """
    if tokens < 0:
        raise ValueError(f"tokens {tokens} is negative. Fix: pass a count")
    return cost_nusd / (tokens * 1_000) if tokens else None


def _check_row(row: PriceRow) -> None:
    if row.unit not in get_args(Unit):
        raise ConfigFault("prices.unit", row.unit, "unknown unit", f"one of {get_args(Unit)}")
    if row.currency != "USD":
        raise ConfigFault("prices.currency", row.currency, "only USD is kept", "convert to USD")
    if not row.sku:
        raise ConfigFault("prices.sku", row.sku, "no SKU", "name the GPU model, such as H100-SXM")
    if not row.price.is_finite() or row.price < 0:
        raise ConfigFault("prices.price", str(row.price), "not a price", "a number of USD, 0 or up")
    if None not in (row.valid_from_us, row.valid_to_us) and not _before(
        row.valid_from_us, row.valid_to_us
    ):
        raise ConfigFault("prices.valid_to", str(row), "ends before it starts", "swap the dates")


def _check_overlap(a: PriceRow, b: PriceRow) -> None:
    """Refuse two rows that answer for the same instant with equal right."""
    apart = (
        (a.provider and b.provider and a.provider != b.provider)
        or (a.region and b.region and a.region != b.region)
        or not (_before(a.valid_from_us, b.valid_to_us) and _before(b.valid_from_us, a.valid_to_us))
    )
    named_a = (bool(a.provider), bool(a.region))
    named_b = (bool(b.provider), bool(b.region))
    crossed = named_a[0] != named_b[0] and named_a[1] != named_b[1] and sum(named_a) == 1
    if not apart and (named_a == named_b or crossed):
        raise ConfigFault(
            "prices",
            str(b),
            f"overlaps with {a}",
            "end the older row (valid_to) where the newer one starts, or name the provider and "
            "region in one of them",
        )


def _before(start_us: int | None, end_us: int | None) -> bool:
    return start_us is None or end_us is None or start_us < end_us


def _boundaries(rows: list[PriceRow]) -> Iterator[int]:
    for row in rows:
        if row.valid_from_us is not None:
            yield row.valid_from_us
        if row.valid_to_us is not None:
            yield row.valid_to_us


def _row_at(rows: list[PriceRow], asked: _Asked, at_us: int) -> PriceRow:
    for row in rows:  # the most specific first
        if row.covers(at_us):
            return row
    raise PriceMissing(
        f"no {asked.commitment} {asked.unit} price for sku {asked.sku!r} (provider "
        f"{asked.provider!r}, region {asked.region!r}) at {_iso(at_us, '')}. "
        "Fix: add a row to prices that covers this instant."
    )


def _nusd_per_unit(row: PriceRow) -> Fraction:
    return Fraction(row.price) * NUSD_PER_USD


def _iso(at_us: int | None, open_end: str) -> str:
    return open_end if at_us is None else f"{np.datetime64(at_us, 'us')}Z"
