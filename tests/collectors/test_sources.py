"""Mappings: each shipped one against its golden file, and what is wrong with the user's own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.lines import LINE_BYTES_MAX, Position, split
from collectors.request_log import WriterSequence, read_lines
from collectors.sources.mapping import load_mapping
from collectors.sources.translate import translation
from redline.codec import encode_json
from redline.errors import ConfigFault
from redline.records import DeadLetter, RequestRecord

DATA = Path(__file__).parent / "data" / "sources"
SHIPPED = ("litellm", "nginx", "envoy")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_mapping_gives_its_golden_records(name: str) -> None:
    translate = translation(load_mapping(name), {"region": "eu"})
    _, lines = split(Position(), (DATA / f"{name}.log").read_bytes(), LINE_BYTES_MAX, ended=True)
    _, reading = read_lines(WriterSequence(), lines, "f", 7, translate=translate)
    written = b"".join(
        encode_json(record) + b"\n" for entry in reading.entries for record in entry.records
    )
    assert written == (DATA / f"{name}.expected.ndjson").read_bytes()
    assert reading.lost_lines == reading.restarts == 0


MINIMAL = """version: 1
name: mine
fields:
  request_id: {path: id}
  ts_end_us: {path: at, unit: s}
  e2e_us: {path: took, unit: ms}
  instance: {constant: e1}
  model: {path: m, default: llama}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("e2e_us: {path: took, unit: ms}", "e2e_us: {path: took, units: ms}", ":6 fields.e2e_us"),
        ("model: {path: m, default: llama}", "modell: {path: m}", ":8 fields.modell"),
        ("unit: s}", "unit: rfc3339, pick: worst}", ":5 fields.ts_end_us.pick"),
        ("e2e_us: {path: took, unit: ms}", "e2e_us: {path: took}", ":6 fields.e2e_us"),
        ("unit: ms}", "unit: rfc3339}", ":6 fields.e2e_us"),
        ("{constant: e1}", "{constant: e1, path: x}", ":7 fields.instance"),
        ("version: 1", "version: 2", ":1 version"),
        ("name: mine", "name: mine\nextra: 1", ":3 extra"),
        ("  e2e_us: {path: took, unit: ms}\n", "", "give two of"),
        ("version: 1", "version: [", "not YAML"),
    ],
)
def test_a_wrong_mapping_names_the_field_and_the_line(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    assert old in MINIMAL
    with pytest.raises(ConfigFault) as caught:
        load_mapping(write(tmp_path, MINIMAL.replace(old, new)))
    assert says in str(caught.value)


def test_a_mapping_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="envoy, litellm, nginx"):
        load_mapping(str(tmp_path / "none.yaml"))


def read(folder: Path, **line: object) -> RequestRecord | str | None:
    translate = translation(load_mapping(write(folder, MINIMAL)), {})
    return translate(msgspec.json.encode({"id": "r", "at": 100, "took": 50, **line}), 3)


def test_what_a_line_does_not_say_is_absent_and_not_zero(tmp_path: Path) -> None:
    record = read(tmp_path)
    assert isinstance(record, RequestRecord)
    assert (record.ts_arrival_us, record.ts_end_us, record.seq) == (99_950_000, 100_000_000, 3)
    assert record.tokens_known is False
    assert record.ttft_us is None
    assert record.model == "llama"


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ({"at": "soon"}, "ts_end_us"),
        ({"at": "NaN"}, "ts_end_us"),
        ({"at": -1}, "ts_end_us"),
        ({"at": 1e300}, "ts_end_us"),
        ({"took": True}, "e2e_us"),
        ({"took": None}, "two of"),
        ({"id": ""}, "request_id"),
        ({"id": {"a": 1}}, "request_id"),
    ],
)
def test_a_line_that_does_not_fit_names_its_field(
    tmp_path: Path, line: dict[str, object], names: str
) -> None:
    reason = read(tmp_path, **line)
    assert isinstance(reason, str)
    assert names in reason


def test_settings_win_over_the_line(tmp_path: Path) -> None:
    translate = translation(load_mapping(write(tmp_path, MINIMAL)), {"model": "set", "tenant": ""})
    record = translate(b'{"id":"r","at":1,"took":1,"m":"line"}', 1)
    assert isinstance(record, RequestRecord)
    assert (record.model, record.tenant) == ("set", "")


@given(st.sampled_from(SHIPPED), st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_reason(name: str, payload: bytes) -> None:
    found = translation(load_mapping(name), {})(payload, 1)
    assert found is None or isinstance(found, (str, RequestRecord))


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.sampled_from(SHIPPED), st.data())
def test_any_json_in_any_field_is_a_record_or_a_reason(name: str, data: st.DataObject) -> None:
    lines = (DATA / f"{name}.log").read_bytes().splitlines()
    line = msgspec.json.decode(data.draw(st.sampled_from(lines)))
    line[data.draw(st.sampled_from(sorted(line)))] = data.draw(json)
    try:
        payload = msgspec.json.encode(line)
    except (ValueError, OverflowError, msgspec.EncodeError):
        return
    found = translation(load_mapping(name), {})(payload, 1)
    assert found is None or isinstance(found, (str, RequestRecord))


def test_dead_lines_take_numbers_and_lines_about_other_things_do_not() -> None:
    translate = translation(load_mapping("nginx"), {})
    _, lines = split(Position(), (DATA / "nginx.log").read_bytes() * 2, LINE_BYTES_MAX, ended=True)
    sequence, reading = read_lines(WriterSequence(), lines, "f", 7, translate=translate)
    found = [record for entry in reading.entries for record in entry.records]
    assert [one.seq for one in found if isinstance(one, RequestRecord)] == [1, 2, 4, 5]
    assert sum(isinstance(one, DeadLetter) for one in found) == reading.dead_letters == 2
    assert sequence == WriterSequence(5, 1)
