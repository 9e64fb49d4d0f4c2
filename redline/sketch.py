"""DDSketch: percentiles with a stated error bound that merge exactly, in ClickHouse's own bytes.

Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019, with the key, rank, value and state layout of ClickHouse's
``quantilesDD(0.01, …)`` (``src/AggregateFunctions/DDSketch*``), so a state that is written here can
be inserted into an ``AggregateFunction(quantilesDD(0.01, …), Float64)`` column as it is.

Bucket ``k`` holds ``[γ^k, γ^(k+1))`` with γ = 1.01 / 0.99 and answers ``1.01 · γ^k``, which is
within 1 % of everything in it. Values are µs, n$ or other whole numbers: 1 to 2^63 fall into at
most 2,184 buckets (17.5 kB); 10 ms to 100 s take 461. Anything in ``[0, 1)`` is counted as zero.
(ClickHouse does so with 0 only: its keys of fractions truncate upwards and err by up to 3 %, so
store µs, not seconds.)

This file refuses negative values, NaN, other accuracies, averages of percentiles and states that
ClickHouse would not write.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redline.errors import RecordInvalid

RELATIVE_ACCURACY = 0.01
VALUE_MAX = float(2**63)  # the counters and the columns are int64
KEY_MAX = 2183  # the key of VALUE_MAX
COUNT_MAX = 2**53  # counts are float64 in the state; above this they stop being exact

_GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
_MULTIPLIER = 1 / math.log(_GAMMA)
_MARGIN = 32  # empty buckets kept at each side, so that a slow drift does not reallocate each time
_LOOP_BELOW = 12  # fewer values than this are added faster one by one than by numpy

# flag, γ, offset 0.0, flag of the positive store | … | flag and empty negative store, flag of zeros
_PREFIX = struct.pack("<BddB", 2, _GAMMA, 0.0, 1)
_DENSE, _SPARSE = 0x0C, 0x04
_EMPTY_STORE = bytes.fromhex("0c00feffffff0f02")  # dense, no bins, min key 2^31 - 1, key step 1
_SUFFIX = b"\x03" + _EMPTY_STORE + b"\x04"
_F64 = struct.Struct("<d")
_STATE_BYTES_MIN = len(_PREFIX) + 2 + len(_SUFFIX) + 8
_SPARSE_ROW = np.dtype([("delta", "u1"), ("count", "<f8")])  # 9 bytes, unaligned


class DDSketch:
    """A mutable sketch of non-negative numbers, α = 0.01."""

    __slots__ = ("_bins", "_count", "_low", "_zero")

    def __init__(self) -> None:
        self._bins: NDArray[np.float64] = np.empty(0)
        self._low = 0  # the key of the first bin
        self._zero = 0
        self._count = 0

    @property
    def count(self) -> int:
        """How many values were added, zeros included."""
        return self._count

    def add(self, value: float, count: int = 1) -> None:
        """Add one value ``count`` times.

        Raises:
            ValueError: the value is negative, NaN or above 2^63, or the count is below 1.
        """
        if not 0 <= value <= VALUE_MAX:
            raise _refused(value)
        if count < 1:
            raise ValueError(f"count {count} is below 1. Fix: do not add what did not happen")
        self._count += count
        if value < 1:
            self._zero += count
            return
        index = int(math.log(value) * _MULTIPLIER) - self._low
        if not 0 <= index < len(self._bins):
            key = index + self._low
            self._reach(key, key)
            index = key - self._low
        self._bins[index] += count

    def add_many(self, values: Sequence[float] | NDArray[Any]) -> None:
        """Add a list or a one-dimensional array; the same state as adding one by one.

        Raises:
            ValueError: a value is negative, NaN or above 2^63; then none was added.
        """
        if len(values) < _LOOP_BELOW:
            self._add_few(values)
            return
        array = np.asarray(values, dtype=np.float64)
        smallest, largest = float(array.min()), float(array.max())  # NaN wins both
        if not (smallest >= 0 and largest <= VALUE_MAX):
            raise _refused(float(array[~((array >= 0) & (array <= VALUE_MAX))][0]))
        self._count += len(array)
        if smallest < 1:
            positive = array[array >= 1]
            self._zero += len(array) - len(positive)
            array = positive
            if not len(array):
                return
            smallest = float(array.min())
        keys = (np.log(array) * _MULTIPLIER).astype(np.int64)
        low, high = int(math.log(smallest) * _MULTIPLIER), int(math.log(largest) * _MULTIPLIER)
        self._reach(low, high)
        at = low - self._low
        self._bins[at : at + high - low + 1] += np.bincount(keys - low, minlength=high - low + 1)

    def merge(self, other: DDSketch) -> None:
        """Add everything that ``other`` holds; exact, in any order and grouping."""
        self._count += other._count
        self._zero += other._zero
        size = len(other._bins)
        if not size:
            return
        at = other._low - self._low
        if at < 0 or at + size > len(self._bins):
            if not len(self._bins):
                self._bins, self._low = other._bins.copy(), other._low
                return
            low, high = other._span()
            self._reach(low, high)
            at = low - self._low
            start = low - other._low
            size = high - low + 1
            self._bins[at : at + size] += other._bins[start : start + size]
            return
        self._bins[at : at + size] += other._bins

    def quantile(self, q: float) -> float | None:
        """The value at rank ``q · (count - 1)``, as ClickHouse answers it; None when empty.

        Within 1 % of the exact ``sorted(values)[int(q * (count - 1))]`` for values of 1 and more.

        Raises:
            ValueError: ``q`` is outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q} is outside [0, 1]. Fix: pass 0.99 for p99")
        if not self._count:
            return None
        rank = q * (self._count - 1)
        if rank < self._zero:
            return 0.0
        below = np.cumsum(self._bins)
        index = int(np.searchsorted(below, rank - self._zero, side="right"))
        return math.exp((self._low + index) / _MULTIPLIER) * (1 + RELATIVE_ACCURACY)

    def copy(self) -> DDSketch:
        """An independent sketch with the same content."""
        twin = DDSketch()
        twin._bins, twin._low = self._bins.copy(), self._low
        twin._zero, twin._count = self._zero, self._count
        return twin

    def to_bytes(self) -> bytes:
        """The state as ClickHouse writes it; equal content gives equal bytes."""
        return _PREFIX + self._store_bytes() + _SUFFIX + _F64.pack(self._zero)

    @classmethod
    def from_bytes(cls, state: bytes) -> DDSketch:
        """Read a state that this class or ClickHouse wrote. ``b""`` is an empty sketch.

        Raises:
            RecordInvalid: not such a state, or one of another accuracy, with negative values,
                with values below 1, or with counts that are not whole.
        """
        sketch = cls()
        if not state:
            return sketch
        if len(state) < _STATE_BYTES_MIN:
            raise RecordInvalid(f"sketch state of {len(state)} bytes: {state.hex()} is too short")
        if not state.startswith(_PREFIX):
            raise RecordInvalid(
                f"sketch state starts with {state[: len(_PREFIX)].hex()}, not {_PREFIX.hex()}. "
                "Fix: write it with quantilesDDState(0.01, …)"
            )
        store_end = len(state) - len(_SUFFIX) - 8
        if state[store_end:-8] != _SUFFIX:
            raise RecordInvalid("sketch state holds negative values, is cut, or has bytes after it")
        (zero,) = _F64.unpack_from(state, len(state) - 8)
        sketch._low, sketch._bins = _read_store(state[len(_PREFIX) : store_end])
        if not (0 <= zero <= COUNT_MAX and zero == int(zero)):
            raise RecordInvalid(f"sketch state: zero count {zero} is not a whole number up to 2^53")
        sketch._zero = int(zero)
        sketch._count = _whole_total(sketch._bins) + sketch._zero
        return sketch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DDSketch) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"DDSketch(count={self._count}, p50={self.quantile(0.5)}, p99={self.quantile(0.99)})"

    def _add_few(self, values: Sequence[float] | NDArray[Any]) -> None:
        few: Sequence[float] = values.tolist() if isinstance(values, np.ndarray) else values
        for value in few:
            if not 0 <= value <= VALUE_MAX:
                raise _refused(value)
        for value in few:
            self.add(value)

    def _reach(self, low: int, high: int) -> None:
        """Make the bins span the keys ``low`` to ``high``."""
        size = len(self._bins)
        if size and self._low <= low and high < self._low + size:
            return
        if size:
            low, high = min(low, self._low), max(high, self._low + size - 1)
        first, last = max(0, low - _MARGIN), min(KEY_MAX, high + _MARGIN)
        bins = np.zeros(last - first + 1)
        at = self._low - first
        if size:
            bins[at : at + size] = self._bins
        self._bins, self._low = bins, first

    def _span(self) -> tuple[int, int]:
        """The lowest and the highest key in use; there must be one."""
        used = np.flatnonzero(self._bins)
        return self._low + int(used[0]), self._low + int(used[-1])

    def _store_bytes(self) -> bytes:
        used = np.flatnonzero(self._bins)
        size = len(used)
        if not size:
            return _EMPTY_STORE
        first, last = int(used[0]), int(used[-1])
        width = last - first + 1
        if (width - size) * 8 <= size * 2:  # ClickHouse's own estimate of the two lengths
            bins = self._bins[first : last + 1].astype("<f8", copy=False)
            head = bytes([_DENSE]) + _varuint(width) + _zigzag(self._low + first) + b"\x02"
            return head + bins.tobytes()
        return bytes([_SPARSE]) + _varuint(size) + _sparse_rows(used + self._low, self._bins[used])


def _refused(value: float) -> ValueError:
    return ValueError(
        f"value {value} is not in [0, 2^63]. Fix: add whole µs or n$, and leave out what is unknown"
    )


def _whole_total(counts: NDArray[np.float64]) -> int:
    """The sum of counts read from a state.

    Raises:
        RecordInvalid: a count is NaN, negative or not whole, or the sum is above COUNT_MAX.
    """
    if not len(counts):
        return 0
    total = float(counts.sum())
    # NaN fails every comparison, so this refuses it as well
    if not (counts.min() >= 0 and total <= COUNT_MAX and (counts == np.floor(counts)).all()):
        raise RecordInvalid("sketch state: a count is NaN, negative, not whole, or above 2^53")
    return int(total)


def _sparse_rows(keys: NDArray[np.int64], counts: NDArray[np.float64]) -> bytes:
    """Pairs of (zigzag key step, count); steps below 64 take one byte and are written in bulk."""
    steps = keys.copy()
    steps[1:] -= keys[:-1]
    rows = np.empty(len(keys), dtype=_SPARSE_ROW)
    rows["delta"] = np.minimum(steps, 63) << 1
    rows["count"] = counts
    packed = rows.tobytes()
    wide = np.flatnonzero(steps > 63)
    if not len(wide):
        return packed
    parts: list[bytes] = []
    done = 0
    for row in wide.tolist():
        at = row * _SPARSE_ROW.itemsize
        parts += (packed[done:at], _zigzag(int(steps[row])))
        done = at + 1
    parts.append(packed[done:])
    return b"".join(parts)


def _read_store(store: bytes) -> tuple[int, NDArray[np.float64]]:
    """The first key and the bins of one store.

    Raises:
        RecordInvalid: it is cut, has bytes after it, or its keys are not 0 to KEY_MAX in order.
    """
    if store == _EMPTY_STORE:
        return 0, np.empty(0)
    size, at = _read_varuint(store, 1)
    if not 1 <= size <= KEY_MAX + 1:
        raise RecordInvalid(f"sketch state: {size} bins, not 1 to {KEY_MAX + 1}")
    if store[0] == _DENSE:
        low, at = _read_zigzag(store, at)
        step, at = _read_zigzag(store, at)
        if step != 1 or not 0 <= low <= KEY_MAX + 1 - size or len(store) - at != size * 8:
            raise RecordInvalid(
                f"sketch state: {size} dense bins from key {low} in {len(store) - at} bytes; keys "
                f"must be 0 to {KEY_MAX} (values of 1 and more)"
            )
        return low, np.frombuffer(store, "<f8", offset=at).astype(np.float64)
    if store[0] != _SPARSE:
        raise RecordInvalid(f"sketch state: store encoding {store[0]:#04x} is not 0x04 or 0x0c")
    steps, counts = _read_sparse_rows(store, at, size)
    keys = np.cumsum(steps)
    if not (steps[0] >= 0 and (steps[1:] > 0).all() and keys[-1] <= KEY_MAX):
        raise RecordInvalid(f"sketch state: keys are not rising within 0 to {KEY_MAX}")
    low = int(keys[0])
    bins = np.zeros(int(keys[-1]) - low + 1)
    bins[keys - low] = counts
    return low, bins


def _read_sparse_rows(
    store: bytes, at: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The key steps and counts of ``size`` rows, which must end where the store ends."""
    steps = np.empty(size, dtype=np.int64)
    counts = np.empty(size, dtype=np.float64)
    row = 0
    while row < size:
        narrow = 0
        if row and size >= _LOOP_BELOW:  # after the first key: a run of one-byte steps
            fit = min(size - row, (len(store) - at) // _SPARSE_ROW.itemsize)
            rows: NDArray[Any] = np.frombuffer(store, _SPARSE_ROW, count=fit, offset=at)
            wide = np.flatnonzero(rows["delta"] & 0x80)
            narrow = int(wide[0]) if len(wide) else fit
        if narrow:
            zigzag = rows["delta"][:narrow].astype(np.int64)
            steps[row : row + narrow] = (zigzag >> 1) ^ -(zigzag & 1)
            counts[row : row + narrow] = rows["count"][:narrow]
            row += narrow
            at += narrow * _SPARSE_ROW.itemsize
        else:
            steps[row], at = _read_zigzag(store, at)
            if at + 8 > len(store):
                raise RecordInvalid("sketch state: the store is cut")
            (counts[row],) = _F64.unpack_from(store, at)
            row += 1
            at += 8
    if at != len(store):
        raise RecordInvalid(f"sketch state: {len(store) - at} bytes after the store")
    return steps, counts


def _varuint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _zigzag(number: int) -> bytes:
    return _varuint(number << 1)  # keys and their steps are never negative here


def _read_varuint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 35, 7):  # five bytes hold every 32-bit number
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise RecordInvalid("sketch state: a number is cut or too long")


def _read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    number, at = _read_varuint(data, at)
    return (number >> 1) ^ -(number & 1), at
