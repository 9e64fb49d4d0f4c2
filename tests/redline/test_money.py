from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import ConfigFault, PriceMissing
from redline.money import (
    PriceBook,
    PriceRow,
    format_usd,
    largest_remainder,
    usd_per_million_tokens,
)

MARCH_US = 1_772_323_200_000_000  # 2026-03-01T00:00Z
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

H100 = [
    PriceRow(sku="H100-SXM", price=Decimal("2.10"), valid_to_us=MARCH_US),
    PriceRow(sku="H100-SXM", price=Decimal("1.95"), valid_from_us=MARCH_US),
]


# --- splitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (8_000_000, [1100, 400], [5_866_667, 2_133_333]),
        (8_000_000, [280, 150], [5_209_302, 2_790_698]),
        (10, [1, 1, 1], [4, 3, 3]),
        (7, [0, 0, 5], [0, 0, 7]),
        (100, [1] * 7, [15, 15, 14, 14, 14, 14, 14]),
        (0, [3, 4], [0, 0]),
        (9, [0, 0], [0, 0]),
        (9, [], []),
        (-10, [1, 1, 1], [-4, -3, -3]),
    ],
)
def test_known_splits(total: int, weights: list[int], parts: list[int]) -> None:
    assert largest_remainder(total, weights) == parts


weight = st.one_of(st.integers(0, 5), st.integers(0, 10**9), st.integers(0, 2**70))
splits = st.tuples(
    st.one_of(st.integers(0, 10**13), st.integers(0, 2**70)),
    st.one_of(st.lists(weight, max_size=20), st.lists(weight, min_size=60, max_size=120)),
)


@given(splits)
def test_parts_sum_to_the_total_and_stay_within_one_unit(split: tuple[int, list[int]]) -> None:
    total, weights = split
    parts = largest_remainder(total, weights)
    weight_sum = sum(weights)
    assert sum(parts) == (total if weight_sum else 0)
    for part, share in zip(parts, weights, strict=True):
        assert part >= 0
        if weight_sum:
            assert abs(part - Fraction(total * share, weight_sum)) < 1


@given(splits, st.randoms())
def test_order_changes_only_who_wins_a_tie(split: tuple[int, list[int]], random: object) -> None:
    total, weights = split
    before = largest_remainder(total, weights)
    order = list(range(len(weights)))
    random.shuffle(order)  # type: ignore[attr-defined]
    after = largest_remainder(total, [weights[i] for i in order])
    assert sorted(zip(weights, before, strict=True)) == sorted(
        zip((weights[i] for i in order), after, strict=True)
    )


@given(st.integers(0, 2**62), st.lists(st.integers(0, 10**6), min_size=48, max_size=80))
def test_the_array_path_and_the_exact_path_agree(total: int, weights: list[int]) -> None:
    # the same weights, once small enough for int64 and once pushed out of its range
    assert largest_remainder(total, [w * 2**64 for w in weights]) == largest_remainder(
        total, weights
    )
    assert largest_remainder(total, np.array(weights)) == largest_remainder(total, weights)


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("scale", [1, 2**70])
def test_a_negative_weight_is_refused(size: int, scale: int) -> None:
    with pytest.raises(ValueError, match="weight -"):
        largest_remainder(10, [scale] * (size - 1) + [-scale])


# --- the price book ----------------------------------------------------------------------------


def test_a_window_across_a_price_change() -> None:
    book = PriceBook(H100)
    bill = book.bill_nusd("H100-SXM", "", "", 1, MARCH_US - HOUR_US // 2, MARCH_US + HOUR_US // 2)
    assert bill == 2_025_000_000
    assert book.price_at("H100-SXM", "", "", MARCH_US - 1) == Decimal("2.10")
    assert book.price_at("H100-SXM", "", "", MARCH_US) == Decimal("1.95")


@given(
    start=st.integers(MARCH_US - DAY_US, MARCH_US + DAY_US),
    length=st.integers(0, 2 * DAY_US),
    gpu_count=st.integers(0, 4096),
    cuts=st.lists(st.integers(0, 2 * DAY_US), max_size=8),
    price=st.decimals(min_value=0, max_value=100, places=11),
)
def test_splitting_a_window_anywhere_leaves_the_bill_unchanged(
    start: int, length: int, gpu_count: int, cuts: list[int], price: Decimal
) -> None:
    changed = PriceRow(sku="H100-SXM", price=price, valid_from_us=MARCH_US)
    book = PriceBook([H100[0], changed])
    edges = sorted({start, start + length, *(start + cut for cut in cuts if cut < length)})
    parts = [book.bill_nusd("H100-SXM", "gcp", "eu", gpu_count, a, b) for a, b in pairwise(edges)]
    whole = book.bill_nusd("H100-SXM", "gcp", "eu", gpu_count, start, start + length)
    assert sum(parts) == whole
    before = max(0, min(start + length, MARCH_US) - start)
    nusd_us = (Fraction("2.10") * before + Fraction(price) * (length - before)) * 10**9
    assert abs(whole - nusd_us * gpu_count / HOUR_US) < 2


@given(gpu_count=st.integers(1, 64), hours=st.integers(0, 1000))
def test_whole_hours_cost_the_list_price(gpu_count: int, hours: int) -> None:
    bill = PriceBook(H100).bill_nusd(
        "H100-SXM", "", "", gpu_count, MARCH_US, MARCH_US + hours * HOUR_US
    )
    assert bill == 1_950_000_000 * gpu_count * hours


def test_a_missing_price_is_an_error_that_names_what_to_add() -> None:
    gap = [
        PriceRow(sku="H100", price=Decimal(2), valid_to_us=MARCH_US),
        PriceRow(sku="H100", price=Decimal(3), valid_from_us=MARCH_US + 1),
    ]
    with pytest.raises(PriceMissing, match=r"'H100'.*at 2026-03-01T00:00:00\.000000Z.*Fix: add"):
        PriceBook(gap).bill_nusd("H100", "", "", 1, MARCH_US - 5, MARCH_US + 5)
    with pytest.raises(PriceMissing, match="'H200'"):
        PriceBook(gap).price_at("H200", "", "", MARCH_US)
    with pytest.raises(PriceMissing, match="reserved"):
        PriceBook(gap).price_at("H100", "", "", 0, commitment="reserved")
    with pytest.raises(PriceMissing, match="gb_egress"):
        PriceBook(gap).egress_nusd("H100", "", "", 1, 0)


def test_an_empty_window_needs_no_price() -> None:
    assert PriceBook([]).bill_nusd("H100", "", "", 8, 5, 5) == 0


def test_the_named_place_wins_over_the_wildcard_while_it_lasts() -> None:
    book = PriceBook(
        [
            PriceRow(sku="H100", price=Decimal(2)),
            PriceRow(sku="H100", price=Decimal(3), provider="aws"),
            PriceRow(
                sku="H100", price=Decimal(4), provider="aws", region="eu", valid_to_us=HOUR_US
            ),
        ]
    )
    assert book.price_at("H100", "gcp", "eu", 0) == 2
    assert book.price_at("H100", "aws", "us", 0) == 3
    assert book.price_at("H100", "aws", "eu", 0) == 4
    assert book.price_at("H100", "aws", "eu", HOUR_US) == 3
    assert book.bill_nusd("H100", "aws", "eu", 1, 0, 2 * HOUR_US) == 7_000_000_000


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({}, {}),
        ({"valid_to_us": 10}, {"valid_from_us": 9}),
        ({"provider": "aws"}, {"provider": "aws"}),
        ({"provider": "aws"}, {"region": "eu"}),
        ({"valid_from_us": 3, "valid_to_us": 6}, {"valid_from_us": 4, "valid_to_us": 5}),
    ],
)
def test_overlaps_are_refused_and_both_rows_named(
    a: dict[str, object], b: dict[str, object]
) -> None:
    rows = [
        PriceRow(sku="H100", price=Decimal("2.10"), **a),  # type: ignore[arg-type]
        PriceRow(sku="H100", price=Decimal("1.95"), **b),  # type: ignore[arg-type]
    ]
    for pair in (rows, rows[::-1]):
        with pytest.raises(ConfigFault) as caught:
            PriceBook(pair)
        assert "$2.10" in str(caught.value)
        assert "$1.95" in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"valid_to_us": 10}, {"valid_from_us": 10}),
        ({"provider": "aws"}, {"provider": "gcp"}),
        ({"provider": "aws"}, {"provider": "gcp", "region": "eu"}),
        ({"commitment": "reserved"}, {}),
        ({"unit": "gb_egress"}, {}),
        ({"sku": "H200"}, {}),
    ],
)
def test_rows_that_never_meet_are_accepted(a: dict[str, object], b: dict[str, object]) -> None:
    rows = [PriceRow(**{"sku": "H100", "price": Decimal(1), **x}) for x in (a, b)]  # type: ignore[arg-type]
    assert PriceBook(rows).rows == tuple(rows)


@pytest.mark.parametrize(
    "wrong",
    [
        {"currency": "EUR"},
        {"unit": "gpu_second"},
        {"sku": ""},
        {"price": Decimal("-1")},
        {"price": Decimal("NaN")},
        {"valid_from_us": 5, "valid_to_us": 5},
    ],
)
def test_malformed_rows_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigFault, match="prices"):
        PriceBook([PriceRow(**{"sku": "H100", "price": Decimal(1), **wrong})])  # type: ignore[arg-type]


def test_backward_windows_and_negative_counts_are_refused() -> None:
    book = PriceBook(H100)
    with pytest.raises(ValueError, match="end_us"):
        book.bill_nusd("H100-SXM", "", "", 1, 5, 4)
    with pytest.raises(ValueError, match="gpu_count"):
        book.bill_nusd("H100-SXM", "", "", -1, 4, 5)
    with pytest.raises(ValueError, match="egress_bytes"):
        book.egress_nusd("H100-SXM", "", "", -1, 5)


def test_egress_is_billed_per_decimal_gigabyte() -> None:
    book = PriceBook([PriceRow(sku="egress", price=Decimal("0.09"), unit="gb_egress")])
    assert book.egress_nusd("egress", "aws", "eu", 10**9, 0) == 90_000_000
    assert book.egress_nusd("egress", "aws", "eu", 246, 0) == 22


# --- shown to people ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nusd", "text"),
    [
        (0, "$0.00"),
        (123_456_789_000_000, "$123,456.79"),
        (2_025_000_000, "$2.02"),
        (583_333, "$0.0005833"),
        (70_000_000, "$0.07"),
        (1, "$0.000000001"),
        (999_999_999, "$1.00"),
        (-1_500_000_000, "-$1.50"),
        (-583_333, "-$0.0005833"),
    ],
)
def test_format_usd(nusd: int, text: str) -> None:
    assert format_usd(nusd) == text


def test_usd_per_million_tokens() -> None:
    assert usd_per_million_tokens(70_000_000, 1_000_000) == pytest.approx(0.07)
    assert usd_per_million_tokens(8_400_000_000, 3_241 * 3600) == pytest.approx(0.72, rel=1e-3)
    assert usd_per_million_tokens(0, 5) == 0.0
    assert usd_per_million_tokens(5, 0) is None
    with pytest.raises(ValueError, match="tokens"):
        usd_per_million_tokens(5, -1)
