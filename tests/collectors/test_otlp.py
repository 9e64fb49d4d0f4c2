"""vLLM's spans: both encodings, the golden file, the spool's promises, the answers."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from collectors.otlp.http import create_receiver
from collectors.otlp.protobuf import read_protobuf
from collectors.otlp.requests import to_record
from collectors.otlp.span import Span, read_json
from collectors.otlp.spool import Spool
from redline.codec import decode_json, encode_json
from redline.errors import Backpressure, RecordInvalid
from redline.records import RequestRecord

DATA = Path(__file__).parent / "data" / "otlp"
GOLDEN = (DATA / "llm_request.json").read_bytes()


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def field(number: int, value: int | float | bytes | str, *, fixed: bool = False) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    if isinstance(value, int):
        head = varint(number << 3 | (1 if fixed else 0))
        return head + (struct.pack("<Q", value) if fixed else varint(value))
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def pairs(number: int, values: dict[str, str | int | float | bool]) -> bytes:
    kinds = {str: 1, bool: 2, int: 3, float: 4}
    return b"".join(
        field(number, field(1, key) + field(2, field(kinds[type(value)], value)))
        for key, value in values.items()
    )


def to_protobuf(span: Span) -> bytes:
    inner = (
        field(1, bytes.fromhex(span.trace_id))
        + field(2, bytes.fromhex(span.span_id))
        + field(5, span.name)
        + field(6, 2)
        + field(7, span.start_ns, fixed=True)
        + field(8, span.end_ns, fixed=True)
        + pairs(9, span.attributes)
        + field(15, field(3, 1))
        + varint(16 << 3 | 5)
        + struct.pack("<I", 256)
    )
    return field(1, field(1, pairs(1, span.resource)) + field(2, field(1, b"") + field(2, inner)))


def spans(count: int, first: int = 0, instance: str = "e1") -> list[Span]:
    (golden,) = [span for span in read_json(GOLDEN) if span.name == "llm_request"]
    return [
        golden._replace(
            span_id=f"{number:016x}", resource=golden.resource | {"service.instance.id": instance}
        )
        for number in range(first, first + count)
    ]


def lines(folder: Path) -> list[RequestRecord]:
    return [
        decode_json(line, RequestRecord)
        for path in sorted(folder.glob("*/requests.ndjson*"), reverse=True)
        for line in path.read_bytes().splitlines()
    ]


def test_a_span_of_vllm_gives_its_golden_record() -> None:
    (span,) = [span for span in read_json(GOLDEN) if span.name == "llm_request"]
    expected = (DATA / "llm_request.expected.ndjson").read_bytes()
    assert encode_json(to_record(span, 1)) + b"\n" == expected
    assert read_protobuf(to_protobuf(span)) == [span]


values = st.text(max_size=9) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
attributes = st.dictionaries(st.text(max_size=9), values, max_size=4)
any_span = st.builds(
    Span,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.text(max_size=9),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    attributes,
    attributes,
)


@given(any_span)
def test_protobuf_is_read_as_it_was_written(span: Span) -> None:
    (found,) = read_protobuf(to_protobuf(span))
    assert repr(found) == repr(span)  # NaN is not equal to itself


@given(st.binary(max_size=300) | st.integers(0, 600).map(lambda n: to_protobuf(spans(1)[0])[:n]))
def test_any_bytes_are_spans_or_record_invalid(data: bytes) -> None:
    for read in (read_protobuf, read_json):
        try:
            found = read(data)
        except RecordInvalid:
            continue
        assert all(isinstance(span, Span) for span in found)


@given(st.data())
def test_flipped_bytes_are_spans_or_record_invalid(data: st.DataObject) -> None:
    body = bytearray(to_protobuf(spans(1)[0]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        for span in read_protobuf(bytes(body)):
            to_record(span, 1)
    except RecordInvalid:
        return


def test_what_is_written_is_counted_on_and_never_twice_even_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30, lambda inode, size: False)
    assert spool.write([*spans(3), *spans(2, instance="e/../2")]) == (5, [])
    assert spool.write(spans(4)) == (1, [])
    spool.close()
    with (tmp_path / "e1" / "requests.ndjson").open("ab") as file:
        file.write(b'{"type":"request","half')  # a crash in the middle of a write
    spool = Spool(tmp_path, 1 << 30, lambda inode, size: False)
    assert spool.write(spans(6)) == (2, [])
    spool.close()
    found = lines(tmp_path)
    assert sorted(one.seq for one in found if one.instance == "e1") == [1, 2, 3, 4, 5, 6]
    assert [one.seq for one in found if one.instance == "e/../2"] == [1, 2]
    assert {path.parent.parent for path in tmp_path.rglob("requests.ndjson")} == {tmp_path}


def test_files_that_kafka_has_go_and_those_it_has_not_fill_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collectors.otlp.spool.ROTATE_BYTES", 1)
    published: set[int] = set()
    spool = Spool(tmp_path, 3_000, lambda inode, size: inode in published)
    written = 0
    while sum(path.stat().st_size for path in tmp_path.glob("*/*")) < 3_000:
        written += spool.write(spans(1, first=written))[0]
    with pytest.raises(Backpressure, match="wait for Kafka"):
        spool.write(spans(1, first=written))
    rotated = list(tmp_path.glob("*/requests.ndjson.*"))
    assert len(rotated) == written - 1
    published |= {path.stat().st_ino for path in rotated}
    assert spool.write(spans(1, first=written)) == (1, [])
    spool.close()
    assert [one.seq for one in lines(tmp_path)] == [written, written + 1]


def test_a_full_disk_leaves_nothing_that_was_not_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, 1 << 30, lambda inode, size: False)
    spool.write(spans(1))
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:50], at))
        with pytest.raises(Backpressure, match="cannot be written"):
            spool.write(spans(2, first=1))
    assert [one.seq for one in lines(tmp_path)] == [1]
    assert spool.write(spans(2, first=1)) == (2, [])
    assert [one.seq for one in lines(tmp_path)] == [1, 2, 3]
    spool.close()


def client(spool: Spool, token: str | None = None, bytes_max: int = 100_000) -> httpx.AsyncClient:
    app = create_receiver(spool, bytes_max, token, CollectorRegistry())
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://redline")


PROTOBUF = {"content-type": "application/x-protobuf"}


async def test_answers_are_what_exporters_expect(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 5_000, lambda inode, size: False)
    body = to_protobuf(spans(1)[0])
    async with client(spool) as http:
        packed = PROTOBUF | {"content-encoding": "gzip"}
        answer = await http.post("/v1/traces", content=gzip.compress(body), headers=packed)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"] == PROTOBUF["content-type"]
        kind = {"content-type": "application/json; charset=utf-8"}
        answer = await http.post("/v1/traces", content=GOLDEN, headers=kind)
        assert (answer.status_code, answer.json()) == (200, {})
        assert len(lines(tmp_path)) == 2
        lacking = json.loads(GOLDEN.replace(b"gen_ai.request.id", b"other"))
        answer = await http.post("/v1/traces", json=lacking)
        assert answer.json()["partialSuccess"]["rejectedSpans"] == "1"
        for content, headers, status in (
            (b"\xff", PROTOBUF, 400),
            (body, packed, 400),
            (gzip.compress(body)[:-9], packed, 400),
            (gzip.compress(bytes(10_000_000)), packed, 413),
            (body, {"content-type": "text/plain"}, 415),
            (body, PROTOBUF | {"content-encoding": "br"}, 415),
        ):
            answer = await http.post("/v1/traces", content=content, headers=headers)
            assert answer.status_code == status
        many = b"".join(to_protobuf(span) for span in spans(20, first=100))
        assert (await http.post("/v1/traces", content=many, headers=PROTOBUF)).status_code == 200
        answer = await http.post("/v1/traces", content=body, headers=PROTOBUF)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    spool.close()


@pytest.mark.parametrize(("given", "status"), [("", 401), ("Bearer no", 401), ("Bearer t", 200)])
async def test_beyond_loopback_a_token_is_needed(tmp_path: Path, given: str, status: int) -> None:
    spool = Spool(tmp_path, 5_000, lambda inode, size: False)
    async with client(spool, token="t") as http:
        headers = PROTOBUF | {"authorization": given}
        answer = await http.post("/v1/traces", content=b"", headers=headers)
    assert answer.status_code == status
    spool.close()
