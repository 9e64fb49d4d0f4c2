"""Core: a line of a JSON access log, by a mapping, to a RequestRecord.

What a line does not say is absent, never zero: a duration is None, and without both token counts
``tokens_known`` is false. This file refuses to read files and to guess: a value that does not fit
makes the line a dead letter, whose reason names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Table
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, get_type_hints

import msgspec

from collectors.request_log import Translate
from collectors.sources.mapping import FieldRule, Mapping
from redline.errors import RecordInvalid
from redline.records import RequestRecord

_PER_UNIT_US = {"s": Decimal(1_000_000), "ms": Decimal(1_000), "us": Decimal(1)}
_PER_UNIT_US["ns"] = Decimal("0.001")
_TYPES = get_type_hints(RequestRecord) | {"ts_first_token_us": int}
_SEVERAL = re.compile(r"\s*,\s*|\s+:\s+")
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no"})
_TIMES_MAX_US = 2**53


def translation(mapping: Mapping, fixed: Table[str, str]) -> Translate:
    """What reads the lines of a source. ``fixed`` are fields that the settings give, empty ones
    excepted; they win over what a line says.
    """
    chosen = {field: value for field, value in fixed.items() if value}

    def translate(payload: bytes, number: int) -> RequestRecord | str | None:
        try:
            return _record(mapping, chosen, payload, number)
        except RecordInvalid as error:
            return f"{mapping.name}: {error}"

    return translate


def _record(
    mapping: Mapping, fixed: Table[str, str], payload: bytes, number: int
) -> RequestRecord | None:
    try:
        line = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordInvalid(str(error)) from error
    if not isinstance(line, dict):
        raise RecordInvalid("a line must be a JSON object")
    if not all(_holds(_find(line, c.path), c.one_of, c.not_in) for c in mapping.only):
        return None
    values: dict[str, Any] = {}
    for field, rule in mapping.fields.items():
        if field not in fixed:
            value = _value(mapping, field, rule, line)
            if value is not None:
                values[field] = value
    values |= fixed
    _derive_times(values)
    known = "prompt_tokens" in values and "completion_tokens" in values
    values |= {"seq": number, "tokens_known": known, "type": "request"}
    for field in ("request_id", "instance", "model"):
        if not values.get(field):
            raise RecordInvalid(f"field {field} is absent or empty")
    try:
        return msgspec.convert(values, RequestRecord)
    except msgspec.ValidationError as error:
        raise RecordInvalid(str(error)) from error


def _value(mapping: Mapping, field: str, rule: FieldRule, line: dict[str, Any]) -> Any:
    found: Any = rule.constant
    for path in rule.paths:
        found = _find(line, path)
        if found is not None and found not in mapping.absent:
            break
        found = None
    if found is None:
        return rule.default
    if isinstance(found, (dict, list)):
        raise RecordInvalid(f"field {field}: an object or a list where one value is expected")
    if rule.values:
        found = rule.values.get(found, found)
    try:
        if rule.unit == "rfc3339":
            return _instant_us(str(found))
        picked = _picked(rule, found, mapping.absent)
        if rule.unit is not None and picked is not None:
            return _span_us(picked, rule.unit)
        return _typed(_TYPES[field], picked)
    except InvalidOperation as error:
        raise RecordInvalid(f"field {field}: {found!r} is not a number") from error
    except (ValueError, OverflowError) as error:
        raise RecordInvalid(f"field {field}: {found!r} cannot be read: {error}") from error


def _picked(rule: FieldRule, found: Any, absent: list[str]) -> Any:
    if rule.part == "host" and isinstance(found, str):
        found = found.split("://", 1)[-1].split("/", 1)[0].rsplit("@", 1)[-1]
    if rule.pick is None or not isinstance(found, str):
        return found
    several = [one for one in _SEVERAL.split(found) if one not in absent]
    if not several:
        return None
    if rule.pick == "sum":
        return sum((Decimal(one) for one in several), Decimal(0))
    return several[0 if rule.pick == "first" else -1]


def _typed(kind: Any, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if kind is str:
        return str(value)
    if kind is bool:
        text = str(value).lower()
        if text not in _TRUE | _FALSE:
            raise ValueError("neither true nor false")
        return text in _TRUE
    if kind is int:
        number = Decimal(str(value))
        if number != int(number) or not 0 <= number <= _TIMES_MAX_US:
            raise ValueError("not a whole number from 0 up")
        return int(number)
    return value


def _span_us(value: Any, unit: str) -> int:
    if isinstance(value, bool):
        raise ValueError("not a number")
    micros = Decimal(str(value)) * _PER_UNIT_US[unit]
    if not 0 <= micros <= _TIMES_MAX_US:
        raise ValueError("not a time from 0 up")
    return int(micros.to_integral_value())


def _instant_us(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset from UTC")
    since = moment - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _derive_times(values: dict[str, Any]) -> None:
    """The third of arrival, end and duration, and the first token's time from its instant."""
    arrival, end, e2e = (values.get(name) for name in ("ts_arrival_us", "ts_end_us", "e2e_us"))
    if end is None and arrival is not None and e2e is not None:
        end = values["ts_end_us"] = arrival + e2e
    if arrival is None and end is not None and e2e is not None:
        arrival = values["ts_arrival_us"] = end - e2e
    if arrival is None or end is None:
        raise RecordInvalid("two of ts_arrival_us, ts_end_us and e2e_us must be in a line")
    if end < arrival:
        raise RecordInvalid(f"ts_end_us {end} is before ts_arrival_us {arrival}")
    values.setdefault("e2e_us", end - arrival)
    first = values.pop("ts_first_token_us", None)
    if first is not None and arrival <= first < end:  # at the end: it was not streamed
        values.setdefault("ttft_us", first - arrival)


def _find(line: Any, path: str) -> Any:
    if isinstance(line, dict) and path in line:
        return line[path]
    for part in path.split("."):
        if isinstance(line, dict):
            line = line.get(part)
        elif isinstance(line, list) and part.isdigit() and int(part) < len(line):
            line = line[int(part)]
        else:
            return None
    return line


def _holds(value: Any, one_of: list[Any], not_in: list[Any]) -> bool:
    return (not one_of or _among(value, one_of)) and not _among(value, not_in)


def _among(value: Any, options: list[Any]) -> bool:
    return any(
        value.startswith(one) if isinstance(value, str) and isinstance(one, str) else value == one
        for one in options
    )
