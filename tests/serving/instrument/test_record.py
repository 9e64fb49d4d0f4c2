# mypy: disable-error-code="import-not-found"
"""The plug-in repeats Redline's record: both must be one, in fields, order, types and JSON."""

from __future__ import annotations

from typing import get_type_hints

import msgspec
from redline_vllm.record import RequestRecord as Line

from redline.codec import decode_json, encode_json
from redline.records import RequestRecord


def test_fields_order_types_and_defaults_are_equal() -> None:
    assert Line.__struct_fields__ == RequestRecord.__struct_fields__
    assert Line.__struct_defaults__ == RequestRecord.__struct_defaults__
    assert get_type_hints(Line) == get_type_hints(RequestRecord)


def test_a_line_of_the_plug_in_is_the_json_of_the_record() -> None:
    line = Line(
        request_id="r", seq=3, ts_arrival_us=1, ts_end_us=2, instance="i", model="m",
        queue_us=5, precision="fp8", finish_reason="abort", dropped_before=2,
    )  # fmt: skip
    data = msgspec.json.encode(line)
    record = decode_json(data, RequestRecord)
    assert encode_json(record) == data
    assert record.dropped_before == 2
