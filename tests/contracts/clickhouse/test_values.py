"""Values go in and come out as they were, in every compression and format that Redline uses."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import pytest
from clickhouse_connect.driver.client import Client

from tests.contracts.clickhouse.conftest import Server

COLUMNS = {
    "i64": "Int64",
    "u64": "UInt64",
    "f64": "Float64",
    "b": "Bool",
    "s": "String",
    "lc": "LowCardinality(String)",
    "n": "Nullable(UInt32)",
    "ts": "DateTime64(6, 'UTC')",
    "d": "Date",
    "dec": "Decimal(18, 9)",
    "id": "UUID",
    "a": "Array(String)",
    "m": "Map(String, UInt64)",
    "t": "Tuple(Int8, String)",
}
NOW = dt.datetime(2026, 11, 24, 5, 6, 7, 123456, tzinfo=dt.UTC)
ROWS = [
    (
        -(2**63), 2**64 - 1, 1e-300, True, "tab\tquote'\\ \0 é 🚦", "m", None, NOW,
        dt.date(2026, 11, 24), Decimal("-123456789.123456789"), uuid.UUID(int=2**127 + 5),
        ["", "x"], {"k": 2**63}, (-128, "t"),
    ),
    (
        2**63 - 1, 0, -0.0, False, "", "", 2**32 - 1, NOW + dt.timedelta(microseconds=1),
        dt.date(1970, 1, 2), Decimal("0.000000001"), uuid.UUID(int=0), [], {}, (127, ""),
    ),
]  # fmt: skip


def make_table(client: Client, name: str = "t") -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    client.command(f"CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY ts")


@pytest.mark.parametrize("compress", [False, "lz4", "zstd", "gzip"])
def test_every_type_comes_back_as_it_went_in(server: Server, compress: bool | str) -> None:
    client = server.client(compress=compress)
    make_table(client)
    client.insert("t", ROWS, column_names=list(COLUMNS))
    result = client.query("SELECT * FROM t ORDER BY ts")
    assert list(result.result_rows) == ROWS
    assert list(result.column_names) == list(COLUMNS)
    client.close()


def test_columns_and_rows_insert_the_same(client: Client) -> None:
    make_table(client)
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    client.insert("t", columns, column_names=list(COLUMNS), column_oriented=True)
    assert list(client.query("SELECT * FROM t ORDER BY ts").result_rows) == ROWS


def test_a_large_result_is_whole_in_one_piece_and_as_a_stream(client: Client) -> None:
    sql = "SELECT number AS n, toString(number) AS s FROM numbers(300000)"
    assert client.query(sql).result_columns[0] == list(range(300_000))
    with client.query_row_block_stream(sql) as blocks:
        seen = [row for block in blocks for row in block]
    assert len(seen) == 300_000
    assert seen[-1] == (299_999, "299999")


def test_no_rows_is_no_error(client: Client) -> None:
    make_table(client)
    assert client.query("SELECT * FROM t").result_rows == []
    client.insert("t", [], column_names=list(COLUMNS))
    assert client.query("SELECT count() FROM t").result_rows == [(0,)]


def test_raw_formats(client: Client) -> None:
    client.command("CREATE TABLE r (a UInt32, s String) ENGINE = MergeTree ORDER BY a")
    client.raw_insert("r", ["a", "s"], b'1,"x, y"\n2,z\n', fmt="CSV")
    client.raw_insert("r", ["a", "s"], '{"a": 3, "s": "é"}\n', fmt="JSONEachRow")
    client.command("INSERT INTO r VALUES (4, 'v;'), (5, lower('W'))")
    raw = client.raw_query("SELECT * FROM r ORDER BY a", fmt="TabSeparated")
    assert raw.decode() == "1\tx, y\n2\tz\n3\té\n4\tv;\n5\tw\n"
    assert client.raw_query("SELECT max(a) AS m FROM r FORMAT JSONEachRow") == b'{"m":5}\n'


def test_the_written_rows_are_told(client: Client) -> None:
    make_table(client)
    summary = client.insert("t", ROWS, column_names=list(COLUMNS))
    assert summary.written_rows == len(ROWS)


def test_parameters_are_bound_by_the_server(client: Client) -> None:
    hostile = "x' OR 1 = 1 --\\ \t\n{a:String}"
    values = {"s": hostile, "n": 7, "a": [hostile, "b"], "t": NOW, "none": None}
    row = client.query(
        "SELECT {s:String}, {n:UInt8}, {a:Array(String)}, {t:DateTime64(6, 'UTC')}, "
        "{none:Nullable(String)}",
        parameters=values,
    ).first_row
    assert row == (hostile, 7, [hostile, "b"], NOW, None)


def test_parameters_name_tables_in_reads_and_inserts(client: Client) -> None:
    client.command("CREATE TABLE p (a String) ENGINE = MergeTree ORDER BY a")
    client.command("INSERT INTO {t:Identifier} VALUES ({v:String})", {"t": "p", "v": "q'\\"})
    rows = client.query("SELECT a FROM {t:Identifier}", parameters={"t": "p"}).result_rows
    assert rows == [("q'\\",)]
