from __future__ import annotations

import importlib.util
import json
import math
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.errors import RecordInvalid
from redline.sketch import KEY_MAX, RELATIVE_ACCURACY, VALUE_MAX, DDSketch

# ClickHouse 26.9.2.1: hex(quantilesDDState(0.01, 0.5)(x)) of 1.5, 20, 20.1, 300, and of nothing
VECTOR = bytes.fromhex(
    "02fd4a815abf52f03f0000000000000000"
    "01040428000000000000f03f8202000000000000f03f02000000000000f03f8e02000000000000f03f"
    "030c00feffffff0f02"
    "040000000000000000"
)
EMPTY = bytes.fromhex(
    "02fd4a815abf52f03f0000000000000000010c00feffffff0f02030c00feffffff0f02040000000000000000"
)
LEVELS = [0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0]
GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)

value = st.one_of(
    st.just(0),
    st.integers(1, 100),
    st.integers(1_000, 60_000_000),
    st.integers(1, 2**62),
    st.floats(1, 1e12),
)
values = st.lists(value, max_size=200)


def sketch_of(items: list[float]) -> DDSketch:
    sketch = DDSketch()
    sketch.add_many(items)
    return sketch


# --- the promise -------------------------------------------------------------------------------


@given(st.lists(value, min_size=1, max_size=200), st.floats(0, 1))
def test_every_quantile_is_within_the_stated_error(items: list[float], q: float) -> None:
    answer = sketch_of(items).quantile(q)
    exact = sorted(items)[int(q * (len(items) - 1))]
    assert answer is not None
    # the last bits are the rounding of log and exp
    assert abs(answer - exact) <= exact * (RELATIVE_ACCURACY + 1e-12)


@given(values, values, values)
def test_merging_is_exact_in_any_order_and_grouping(
    a: list[float], b: list[float], c: list[float]
) -> None:
    whole = sketch_of(a + b + c)
    left, right = sketch_of(a), sketch_of(b)
    left.merge(sketch_of(b))
    left.merge(sketch_of(c))
    right.merge(sketch_of(c))
    right.merge(sketch_of(a))
    assert left.to_bytes() == right.to_bytes() == whole.to_bytes()
    assert left.count == right.count == whole.count == len(a + b + c)


@given(values, st.randoms())
def test_one_by_one_and_in_bulk_and_in_any_order_are_the_same_bytes(
    items: list[float], random: Any
) -> None:
    shuffled = items[:]
    random.shuffle(shuffled)
    single, counted = DDSketch(), DDSketch()
    for item in shuffled:
        single.add(item)
    for item in dict.fromkeys(items):
        counted.add(item, items.count(item))
    bulk = sketch_of(items)
    array = DDSketch()
    array.add_many(np.array(shuffled, dtype=np.float64))
    assert single.to_bytes() == counted.to_bytes() == bulk.to_bytes() == array.to_bytes()


@given(values)
def test_bytes_round_trip(items: list[float]) -> None:
    sketch = sketch_of(items)
    again = DDSketch.from_bytes(sketch.to_bytes())
    assert again == sketch
    assert again.to_bytes() == sketch.to_bytes()
    assert again.count == sketch.count
    assert [again.quantile(q) for q in LEVELS] == [sketch.quantile(q) for q in LEVELS]
    again.merge(sketch)
    assert again == sketch_of(items * 2)


def test_the_recorded_state_of_clickhouse() -> None:
    assert sketch_of([1.5, 20.0, 20.1, 300.0]).to_bytes() == VECTOR
    assert DDSketch.from_bytes(VECTOR) == sketch_of([300.0, 20.1, 20.0, 1.5])
    assert DDSketch().to_bytes() == EMPTY
    assert DDSketch.from_bytes(EMPTY) == DDSketch.from_bytes(b"") == DDSketch()


@pytest.mark.parametrize(("gaps", "encoding"), [(0, 0x0C), (1, 0x0C), (2, 0x04)])
def test_the_shorter_store_is_written_by_the_estimate_of_clickhouse(
    gaps: int, encoding: int
) -> None:
    # a gap costs 8 bytes in the dense store, a used bucket costs 2 in the sparse one
    keys = [0, 1, 2, 3 + gaps]
    assert sketch_of([GAMMA ** (key + 0.5) for key in keys]).to_bytes()[18] == encoding


def test_both_store_encodings_are_written_and_read() -> None:
    dense = sketch_of([1.0 + i for i in range(40)] * 3)
    dense.add_many(np.geomspace(1, 40, 2_000))
    sparse = sketch_of([10.0**i for i in range(18)])
    assert dense.to_bytes()[18] == 0x0C
    assert sparse.to_bytes()[18] == 0x04
    for sketch in (dense, sparse):
        assert DDSketch.from_bytes(sketch.to_bytes()) == sketch


def test_no_data_is_not_zero() -> None:
    sketch = DDSketch()
    assert sketch.quantile(0.99) is None
    sketch.add(0)
    assert sketch.quantile(0.99) == 0.0


def test_fractions_count_as_zero_and_one_does_not() -> None:
    sketch = sketch_of([0.0, 0.3, math.nextafter(1, 0), 1.0])
    assert sketch.count == 4
    assert sketch.quantile(0.7) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(1.01)


def test_a_copy_is_independent() -> None:
    sketch = sketch_of([5.0])
    twin = sketch.copy()
    twin.add(5.0)
    assert (sketch.count, twin.count) == (1, 2)
    assert sketch != twin
    assert sketch != "not a sketch"


def test_merging_leaves_the_other_sketch_alone() -> None:
    target, other = DDSketch(), sketch_of([7.0, 9.0])
    before = other.to_bytes()
    target.merge(other)
    target.add(7.0)
    assert other.to_bytes() == before


def test_the_state_is_bounded() -> None:
    sketch = DDSketch()
    sketch.add_many(np.geomspace(1, VALUE_MAX, 100_000))
    assert len(sketch.to_bytes()) <= (KEY_MAX + 1) * 8 + 60
    assert sketch.quantile(1.0) == pytest.approx(VALUE_MAX, rel=0.01)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, -1e-9, math.nan, math.inf, -math.inf, 1e19])
@pytest.mark.parametrize("size", [1, 100])
def test_impossible_values_are_refused_before_anything_is_added(wrong: float, size: int) -> None:
    sketch = DDSketch()
    with pytest.raises(ValueError, match="value"):
        sketch.add(wrong)
    with pytest.raises(ValueError, match="value"):
        sketch.add_many([5.0] * size + [wrong])
    assert sketch == DDSketch()
    assert sketch.count == 0


def test_impossible_counts_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="count"):
        DDSketch().add(5, 0)
    for q in (-0.01, 1.01, 99, math.nan):
        with pytest.raises(ValueError, match="quantile"):
            sketch_of([5.0]).quantile(q)


def state(positive: bytes, *, zero: float = 0.0) -> bytes:
    return EMPTY[:18] + positive + EMPTY[26:-8] + struct.pack("<d", zero)


def f64(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}d", *numbers)


@pytest.mark.parametrize(
    "corrupt",
    [
        b"\x00",
        EMPTY[:-1],
        EMPTY + b"\x00",
        VECTOR[:30],
        b"\x03" + EMPTY[1:],
        EMPTY[:1] + f64(1.05) + EMPTY[9:],  # another accuracy
        EMPTY[:1] + f64(math.nan) + EMPTY[9:],
        EMPTY[:9] + f64(0.5) + EMPTY[17:],  # another key offset
        state(b"\x05" + EMPTY[19:26]),  # unknown encoding
        state(b"\x0c\x01\x00\x02"),  # bins announced, none there
        state(b"\x0c\x01\x00\x04" + f64(1)),  # key step 2
        state(b"\x0c\x01\x01\x02" + f64(1)),  # key -1: a value below 1
        state(b"\x0c\x02\x8e\x22\x02" + f64(1, 1)),  # past KEY_MAX
        state(b"\x0c\xff\xff\xff\xff\x0f\x00\x02"),  # four billion bins
        state(b"\x0c\xff\xff\xff\xff\xff\xff\x01\x00\x02"),
        state(b"\x0c\x01\x00\x02" + f64(1, 1)),  # more than announced
        state(b"\x0c\x01\x00\x02" + f64(-1)),
        state(b"\x0c\x01\x00\x02" + f64(math.nan)),
        state(b"\x0c\x01\x00\x02" + f64(math.inf)),
        state(b"\x0c\x01\x00\x02" + f64(0.5)),
        state(b"\x0c\x01\x00\x02" + f64(2.0**54)),
        state(b"\x04\x02\x28" + f64(1) + b"\x00" + f64(1)),  # the same key twice
        state(b"\x04\x01\x01" + f64(1)),
        state(b"\x04\x01\x90\x22" + f64(1)),
        state(b"\x04\x02\x28" + f64(1)),
        state(b"\x04\x01\x28" + f64(1, 1)),
        state(b"\x04\x20" + b"\x02" * 60),  # long enough for the bulk path, and cut
        state(b"\x04\x10\x28" + f64(1) + (b"\x03" + f64(1)) * 15),  # keys that fall
        state(EMPTY[18:26], zero=-1),
        state(EMPTY[18:26], zero=0.5),
        state(EMPTY[18:26], zero=math.nan),
        state(EMPTY[18:26], zero=math.inf),
        # a negative value, as ClickHouse writes it: hex(quantilesDDState(0.01, 0.5)(-1))
        EMPTY[:26] + bytes.fromhex("030c010002000000000000f03f") + EMPTY[-9:],
    ],
)
def test_corrupt_states_are_refused(corrupt: bytes) -> None:
    with pytest.raises(RecordInvalid, match="sketch state"):
        DDSketch.from_bytes(corrupt)


@given(values, st.data())
def test_a_damaged_state_is_refused_or_read_as_some_valid_sketch(
    items: list[float], data: st.DataObject
) -> None:
    damaged = bytearray(sketch_of(items).to_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        sketch = DDSketch.from_bytes(bytes(damaged))
    except RecordInvalid:
        return
    assert DDSketch.from_bytes(sketch.to_bytes()) == sketch
    assert (sketch.quantile(0.5) is None) == (sketch.count == 0)


# --- the real engine ---------------------------------------------------------------------------

Ask = Callable[[str], list[Any]]


def ask_chdb(sql: str) -> str:
    import chdb

    query: Any = chdb.query  # it has no type information
    return str(query(sql, "JSONCompactEachRow"))


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """The first row of a query. The engine has its own process, as it does not survive fork."""
    if importlib.util.find_spec("chdb") is None:
        pytest.skip("chdb is not installed: the embedded extra brings it")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda sql: json.loads(pool.submit(ask_chdb, sql).result(120).splitlines()[0])


def rows_of(items: list[float]) -> str:
    """The values as a table, bit for bit: parsing decimals could round."""
    packed = np.array(items, dtype="<f8").tobytes().hex()
    return (
        "(SELECT reinterpretAsFloat64(substring(all, 1 + 8 * number, 8)) AS x FROM (SELECT "
        f"unhex('{packed}') AS all, arrayJoin(range({len(items)})) AS number))"
    )


whole = st.one_of(st.just(0), st.integers(1, 500), st.integers(1, 2**62), st.floats(1, 1e12))
spread = st.builds(
    lambda seed, size, sigma: np.maximum(
        1, np.random.default_rng(seed).lognormal(12, sigma, size)
    ).tolist(),
    st.integers(0, 2**32),
    st.integers(1, 800),
    st.sampled_from([0.02, 0.3, 1.0, 3.0]),
)


# bucket by bucket: the steps around one byte, and the gaps around dense against sparse
stepped = st.one_of(
    st.lists(st.sampled_from([1, 1, 1, 2]), min_size=1, max_size=60),
    st.lists(st.sampled_from([1, 2, 62, 63, 64, 65]), min_size=1, max_size=32),
).map(lambda steps: [GAMMA ** (key + 0.5) for key in np.cumsum(steps).tolist()])


@settings(max_examples=120, deadline=None)
@given(items=st.one_of(st.lists(whole, min_size=1, max_size=100), spread, stepped))
def test_states_and_quantiles_equal_clickhouse(ask: Ask, items: list[float]) -> None:
    levels = ", ".join(map(str, LEVELS))
    state_hex, quantiles = ask(
        f"SELECT lower(hex(quantilesDDState(0.01, 0.5)(x))), quantilesDD(0.01, {levels})(x) "
        f"FROM {rows_of(items)}"
    )
    sketch = sketch_of(items)
    assert sketch.to_bytes().hex() == state_hex
    assert [sketch.quantile(q) for q in LEVELS] == pytest.approx(quantiles, rel=1e-13)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.one_of(st.lists(whole, max_size=60), spread), min_size=1, max_size=8))
def test_merges_equal_clickhouse(ask: Ask, parts: list[list[float]]) -> None:
    levels = ", ".join(map(str, LEVELS))
    sketches = [sketch_of(part) for part in parts]
    table = " UNION ALL ".join(
        f"SELECT CAST(unhex('{sketch.to_bytes().hex()}'), 'AggregateFunction(quantilesDD(0.01, "
        f"{levels}), Float64)') AS s"
        for sketch in sketches
    )
    state_hex, quantiles = ask(
        f"SELECT lower(hex(quantilesDDMergeState(0.01, {levels})(s))), "
        f"quantilesDDMerge(0.01, {levels})(s) FROM ({table})"
    )
    merged = DDSketch()
    for sketch in sketches:
        merged.merge(DDSketch.from_bytes(sketch.to_bytes()))
    assert DDSketch.from_bytes(bytes.fromhex(state_hex)) == merged
    if merged.count:
        assert [merged.quantile(q) for q in LEVELS] == pytest.approx(quantiles, rel=1e-13)


def test_the_edges_of_every_bucket_fall_where_clickhouse_puts_them(ask: Ask) -> None:
    edges = [math.exp(key * math.log(GAMMA)) for key in range(1, KEY_MAX + 1)]
    items = [1.0]
    for edge in edges:
        items += [math.floor(edge), math.ceil(edge), math.nextafter(edge, 0), edge]
        items.append(math.nextafter(edge, math.inf))
    items = [item for item in items if item >= 1]
    (state_hex,) = ask(f"SELECT lower(hex(quantilesDDState(0.01, 0.5)(x))) FROM {rows_of(items)}")
    bulk, single = sketch_of(items), DDSketch()
    for item in items:
        single.add(item)
    assert bulk.to_bytes().hex() == single.to_bytes().hex() == state_hex
