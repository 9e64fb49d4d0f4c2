"""A golden JSON per record: what is on the wire today must be readable for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from redline import codec, records
from redline.records import RECORD_TYPES, Record

GOLDEN = Path(__file__).parent / "golden"


def example(kind: type[Record]) -> Record:
    """A record with every field set to a value that is not its default."""
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], name) for name in kind.__struct_fields__})


def _value(hint: Any, name: str) -> Any:
    if get_origin(hint) is dict:
        return {"model": "llama"}
    options = [option for option in get_args(hint) if option is not type(None)]
    if options:
        return _value(options[0], name) if isinstance(options[0], type) else options[0]
    return {str: name, int: 7, float: 0.5, bool: True, bytes: b"\x02\x00"}[hint]


@pytest.mark.parametrize("kind", RECORD_TYPES, ids=lambda kind: kind.__name__)
def test_record_matches_its_golden_json(kind: type[Record]) -> None:
    path = GOLDEN / f"{codec.tag_of(kind)}.json"
    written = msgspec.json.format(codec.encode_json(example(kind)), indent=2)
    assert path.read_bytes().strip() == written, f"{path} differs: additive changes only"
    assert codec.decode_json(path.read_bytes(), kind) == example(kind)


@pytest.mark.parametrize("kind", RECORD_TYPES, ids=lambda kind: kind.__name__)
def test_unknown_fields_pass(kind: type[Record]) -> None:
    data = msgspec.json.decode(codec.encode_json(example(kind)))
    assert codec.decode_json(msgspec.json.encode(data | {"new": 1}), kind) == example(kind)


def test_every_record_of_the_module_is_listed() -> None:
    defined = {
        value
        for value in vars(records).values()
        if isinstance(value, type) and issubclass(value, Record) and value is not Record
    }
    assert defined == set(RECORD_TYPES)


def test_only_server_failures_count_as_failed() -> None:
    request: dict[str, Any] = {"request_id": "a", "seq": 1, "ts_arrival_us": 1, "ts_end_us": 2}
    made = [
        records.RequestRecord(**request, instance="i", model="m", status_code=code)
        for code in (200, 404, 499, 500, 503)
    ]
    assert [record.failed for record in made] == [False, False, False, True, True]
