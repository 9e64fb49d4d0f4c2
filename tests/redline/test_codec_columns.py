"""The columns of a batch: read by position when the fields agree, by name when they do not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline import codec
from redline.errors import RecordInvalid
from redline.records import RECORD_TYPES, Record, RequestRecord
from tests.redline.test_codec import requests
from tests.redline.test_records import example


def opened(data: bytes) -> dict[str, Any]:
    assert data[0] == codec.BATCH_VERSION
    found: dict[str, Any] = msgspec.msgpack.decode(data[1:])
    return found


def sealed(batch: dict[str, Any]) -> bytes:
    return bytes([codec.BATCH_VERSION]) + msgspec.msgpack.encode(batch)


@pytest.mark.parametrize("kind", RECORD_TYPES, ids=lambda kind: kind.__name__)
def test_every_type_of_record_survives_in_columns(kind: type[Record]) -> None:
    batch = [example(kind)] * 3
    data = codec.encode_batch(batch)
    assert opened(data)["fields"] == list(kind.__struct_fields__)
    assert codec.decode_batch(data, kind) == batch
    assert codec.decode_any_batch(data) == batch


@given(st.lists(requests, min_size=1, max_size=5), st.permutations(range(6)), st.integers(0, 22))
def test_other_versions_are_read_by_name(
    batch: list[RequestRecord], order: list[int], optional: int
) -> None:
    wire = opened(codec.encode_batch(batch))
    names = wire["fields"]
    # an older build leaves out a field that has a default and writes the others in another order
    left_out = names[6 + optional]
    kept = [*order, *(n for n in range(6, len(names)) if names[n] != left_out)]
    older = {
        "type": wire["type"],
        "fields": [names[n] for n in kept],
        "columns": [wire["columns"][n] for n in kept],
    }
    default = getattr(
        RequestRecord(request_id="", seq=0, ts_arrival_us=0, ts_end_us=0, instance="", model=""),
        left_out,
    )
    expected = [msgspec.structs.replace(record, **{left_out: default}) for record in batch]
    assert codec.decode_batch(sealed(older), RequestRecord) == expected
    newer = {
        **wire,
        "fields": ["of_tomorrow", *names],
        "columns": [[{"any": 1}] * len(batch), *wire["columns"]],
    }
    assert codec.decode_batch(sealed(newer), RequestRecord) == batch


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", "7"),
        ("seq", None),
        ("stream", 1),
        ("finish_reason", "because"),
        ("precision", ""),
        ("queue_us", 1.5),
        ("tenant", 3),
    ],
)
def test_a_wrong_value_names_its_field_and_its_record(field: str, value: object) -> None:
    wire = opened(codec.encode_batch([example(RequestRecord)] * 3))
    wire["columns"][wire["fields"].index(field)][1] = value
    with pytest.raises(RecordInvalid, match=rf"\[1\]\.{field}"):
        codec.decode_batch(sealed(wire), RequestRecord)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda wire: wire["columns"][2].pop(), "unequal length"),
        (lambda wire: wire["columns"].pop(), "fields but"),
        (lambda wire: wire["columns"].append([1, 1, 1]), "fields but"),
        (lambda wire: wire["fields"].pop(), "fields but"),
        (lambda wire: wire.update(columns=[], fields=[]), "none"),
        (lambda wire: wire.update(columns={"a": 1}), "batch: "),
        (lambda wire: wire.update(columns=[c * 700 for c in wire["columns"]]), "2100 records"),
    ],
)
def test_a_misshapen_batch_says_how(change: Any, reason: str) -> None:
    wire = opened(codec.encode_batch([example(RequestRecord)] * 3))
    change(wire)
    with pytest.raises(RecordInvalid, match=reason):
        codec.decode_batch(sealed(wire), RequestRecord)


def test_lines_are_read_all_or_none() -> None:
    lines = [codec.encode_json(example(RequestRecord))] * 3
    assert codec.decode_json_lines(lines, RequestRecord) == [example(RequestRecord)] * 3
    for bad in (b"", b"{", b"\xff", lines[0] + lines[0], b'{"type":"request"}'):
        with pytest.raises(RecordInvalid, match="request: "):
            codec.decode_json_lines([*lines, bad], RequestRecord)
