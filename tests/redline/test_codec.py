"""The wire formats: what goes in comes out, and what is wrong is refused with its reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import codec
from redline.errors import RecordInvalid
from redline.records import EngineSample, RequestRecord, Signal

_us = st.integers(0, 2**53)
requests = st.builds(
    RequestRecord,
    request_id=st.text(),
    seq=_us,
    ts_arrival_us=_us,
    ts_end_us=_us,
    instance=st.text(),
    model=st.text(),
    queue_us=st.none() | _us,
    completion_tokens=st.integers(0, 2**31),
    finish_reason=st.sampled_from(["stop", "length", "abort", "error", ""]),
    stream=st.booleans(),
)


def request(**changes: object) -> RequestRecord:
    fields: dict[str, object] = {"request_id": "r", "seq": 1, "ts_arrival_us": 1, "ts_end_us": 2}
    return msgspec.convert(fields | {"instance": "i", "model": "m"} | changes, RequestRecord)


@given(st.lists(requests, min_size=1, max_size=20))
def test_batch_round_trip(batch: list[RequestRecord]) -> None:
    data = codec.encode_batch(batch)
    assert codec.decode_batch(data, RequestRecord) == batch
    assert codec.decode_any_batch(data) == batch


@given(requests)
def test_json_round_trip(record: RequestRecord) -> None:
    assert codec.decode_json(codec.encode_json(record), RequestRecord) == record


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_record_invalid(data: bytes) -> None:
    try:
        codec.decode_any_batch(data)
    except RecordInvalid:
        return


def test_maps_survive_in_columns() -> None:
    signals = [Signal(ts_us=1, name="n", value=None, window_s=60, labels={"a": "b"})] * 2
    assert codec.decode_batch(codec.encode_batch(signals), Signal) == signals


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty message"),
        (b"\x07abc", "batch version 7, this build reads 1"),
        (codec.encode_batch([request()])[:-3], "batch:"),
    ],
)
def test_broken_batches_say_why(data: bytes, reason: str) -> None:
    with pytest.raises(RecordInvalid, match=reason):
        codec.decode_batch(data, RequestRecord)


def test_a_batch_of_another_type_is_refused() -> None:
    data = codec.encode_batch([EngineSample(ts_us=1, instance="i", model="m")])
    with pytest.raises(RecordInvalid, match="batch of 'engine_sample' where 'request'"):
        codec.decode_batch(data, RequestRecord)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "request: "),
        (b'{"type":"request","request_id":"a"}', "missing required field `seq`"),
        (codec.encode_json(request()).replace(b'"seq":1', b'"seq":"x"'), "Expected `int`"),
        (codec.encode_json(EngineSample(ts_us=1, instance="i", model="m")), "Invalid value"),
    ],
)
def test_broken_lines_name_the_field(line: bytes, reason: str) -> None:
    with pytest.raises(RecordInvalid, match=reason):
        codec.decode_json(line, RequestRecord)


@pytest.mark.parametrize("count", [0, codec.BATCH_RECORDS_MAX + 1])
def test_batch_size_is_limited(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 2000 records"):
        codec.encode_batch([request()] * count)
