"""Grafana's plug-in (clickhouse-go over HTTP) reads the greeting and everything after it.

The decoder below follows clickhouse-go's ``lib/proto/block.go``.
"""

from __future__ import annotations

import gzip
import http.client
import urllib.parse

from embedded.store.native import GREETING, asks_greeting
from redline.clickhouse_lexer import read_tokens
from tests.embedded.store.process import StoreProcess

CLIENT_REVISION = 54483
Column = tuple[str, str, list[object]]


def read_varuint(block: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (block[at] & 0x7F) << shift
        shift += 7
        at += 1
        if block[at - 1] < 0x80:
            return value, at


def read_text(block: bytes, at: int) -> tuple[str, int]:
    size, at = read_varuint(block, at)
    return block[at : at + size].decode(), at + size


def decode(block: bytes, revision: int) -> list[Column]:
    at = 0
    if revision > 0:
        assert block[:8] == b"\x01\x00\x02\xff\xff\xff\xff\x00"
        at = 8
    columns, at = read_varuint(block, at)
    rows, at = read_varuint(block, at)
    found: list[Column] = []
    for _ in range(columns):
        name, at = read_text(block, at)
        kind, at = read_text(block, at)
        if revision >= 54454:
            assert block[at] == 0
            at += 1
        values: list[object] = []
        width = {"UInt8": 1, "UInt32": 4, "UInt64": 8}.get(kind)
        for _ in range(rows):
            if width is None:
                text, at = read_text(block, at)
                values.append(text)
            else:
                values.append(int.from_bytes(block[at : at + width], "little"))
                at += width
        found.append((name, kind, values))
    assert at == len(block)
    return found


def ask(store: StoreProcess, sql: str) -> bytes:
    query = {
        "database": "default",
        "default_format": "Native",
        "client_protocol_version": CLIENT_REVISION,
        "enable_http_compression": 1,
    }
    connection = http.client.HTTPConnection(store.host, store.port, timeout=20)
    path = "/?" + urllib.parse.urlencode(query)
    connection.request("POST", path, sql.encode(), {"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, body
    return gzip.decompress(body) if answer.getheader("content-encoding") == "gzip" else body


def test_after_the_greeting_every_block_is_read(store: StoreProcess) -> None:
    greeting = decode(ask(store, GREETING), CLIENT_REVISION)
    assert [name for name, _, _ in greeting] == GREETING.removeprefix("SELECT ").split(", ")
    revision = greeting[2][2][0]
    assert revision == 0
    assert decode(ask(store, "SELECT 1"), 0) == [("1", "UInt8", [1])]
    rows = decode(ask(store, "SELECT number, toString(number) AS s FROM numbers(3000)"), 0)
    assert rows[0][2] == list(range(3000))
    assert rows[1][2][-1] == "2999"


def test_only_that_question_in_that_form_is_answered_so() -> None:
    words = [token.text.decode() for token in read_tokens(GREETING.encode())]
    assert asks_greeting(words, "Native", CLIENT_REVISION)
    assert not asks_greeting(words, "Native", 0)
    assert not asks_greeting(words, "JSON", CLIENT_REVISION)
    assert not asks_greeting([*words, ",", "1"], "Native", CLIENT_REVISION)
