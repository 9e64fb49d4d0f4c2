"""Errors arrive typed with ClickHouse's number; sessions keep state; settings hold one request."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.contracts.clickhouse.conftest import Server


def post(server: Server, body: bytes, **parameters: str) -> tuple[int, dict[str, str], bytes]:
    """Raw HTTP: status, headers in lower case, body."""
    query = urllib.parse.urlencode({"database": server.database} | parameters)
    request = urllib.request.Request(
        f"http://{server.host}:{server.port}/?{query}",
        data=body,
        headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": server.password},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return int(answer.status), headers, answer.read()
    except urllib.error.HTTPError as error:
        headers = {name.lower(): value for name, value in error.headers.items()}
        return error.code, headers, error.read()


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM no_such_table", 60),
        ("SELECT no_such_column FROM system.one", 47),
        ("SELEKT 1", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT * FROM no_such_database.t", 81),
        ("SELECT {x:UInt8}", 456),
        ("SELECT throwIf(1)", 395),
        ("SELECT 1 SETTINGS no_such_setting = 1", 115),
        ("SELECT 1 INTO OUTFILE '/tmp/redline-must-not-exist'", 358),
    ],
)
def test_errors_carry_the_servers_number(server: Server, sql: str, code: int) -> None:
    status, headers, body = post(server, sql.encode())
    assert status >= 400
    assert headers["x-clickhouse-exception-code"] == str(code)
    assert body.startswith(f"Code: {code}. DB::Exception".encode())


def test_the_client_raises_its_own_error(client: Client) -> None:
    with pytest.raises(DatabaseError, match="60"):
        client.query("SELECT * FROM no_such_table")
    with pytest.raises(DatabaseError, match="no_such_table"):
        client.command("INSERT INTO no_such_table VALUES (1)")


def test_a_bad_row_inserts_nothing(server: Server, client: Client) -> None:
    client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    status, headers, _ = post(server, b"1\n2\nx\n", query="INSERT INTO t FORMAT CSV")
    assert status >= 400
    assert headers["x-clickhouse-exception-code"] in ("27", "117")
    assert client.query("SELECT count() FROM t").result_rows == [(0,)]


@pytest.mark.parametrize(
    ("row", "code"), [("13,good,1", 469), ("1,bad,1", 469), ("1,throw,1", 395)], ids=str
)
def test_an_insert_that_did_not_go_through_is_not_acknowledged(
    server: Server, client: Client, row: str, code: int
) -> None:
    """A constraint of the table, one of a view's target, an exception in the view."""
    client.command(
        "CREATE TABLE t (a UInt32, k String, v UInt32, CONSTRAINT c CHECK a != 13) "
        "ENGINE = MergeTree ORDER BY a"
    )
    client.command(
        "CREATE TABLE agg (k String, n UInt64, CONSTRAINT c CHECK k != 'bad') "
        "ENGINE = MergeTree ORDER BY k"
    )
    client.command(
        "CREATE MATERIALIZED VIEW to_agg TO agg AS "
        "SELECT k, count() + throwIf(k = 'throw') AS n FROM t GROUP BY k"
    )
    for data_format in ("CSV", "Values"):
        a, k, v = row.split(",")
        body = f"{a},{k},{v}\n" if data_format == "CSV" else f"({a},'{k}',{v})"
        headers = post(server, f"INSERT INTO t FORMAT {data_format} {body}".encode())[1]
        assert headers.get("x-clickhouse-exception-code") == str(code)


def test_too_many_partitions_are_not_acknowledged(server: Server, client: Client) -> None:
    client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree PARTITION BY a ORDER BY a")
    body = b"".join(b"%d\n" % number for number in range(300))
    headers = post(server, body, query="INSERT INTO t FORMAT CSV")[1]
    assert headers.get("x-clickhouse-exception-code") == "252"


def test_answers_say_what_they_are(server: Server) -> None:
    status, headers, body = post(server, b"SELECT 1 AS a FORMAT JSONEachRow", query_id="q-1")
    assert (status, body) == (200, b'{"a":1}\n')
    assert headers["x-clickhouse-format"] == "JSONEachRow"
    assert headers["x-clickhouse-query-id"] == "q-1"
    assert headers["x-clickhouse-timezone"]
    assert int(json.loads(headers["x-clickhouse-summary"])["read_rows"]) == 1


def test_ping(server: Server) -> None:
    url = f"http://{server.host}:{server.port}/ping"
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.read() == b"Ok.\n"


def test_get_reads_and_does_not_write(server: Server, client: Client) -> None:
    client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")

    def get(sql: str) -> int:
        query = urllib.parse.urlencode({"database": server.database, "query": sql})
        request = urllib.request.Request(
            f"http://{server.host}:{server.port}/?{query}",
            headers={"X-ClickHouse-User": "default", "X-ClickHouse-Key": server.password},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert get("SELECT count() FROM t") == 200
    for sql in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "TRUNCATE TABLE t"):
        assert get(sql) >= 400
    assert client.query("SELECT count() FROM t").result_rows == [(0,)]


def test_a_setting_holds_for_its_request_only(client: Client) -> None:
    sql = "SELECT getSetting('max_threads')"
    before = client.query(sql).first_row
    assert client.query(sql, settings={"max_threads": 3}).first_row == (3,)
    assert client.query(sql).first_row == before


def test_a_session_keeps_temporary_tables_and_settings(server: Server) -> None:
    client = server.client(session_id="contract-1")
    client.command("CREATE TEMPORARY TABLE tmp (a UInt8)")
    client.insert("tmp", [[1], [2]], column_names=["a"], database="")
    assert client.query("SELECT sum(a) FROM tmp").first_row == (3,)
    client.command("SET max_block_size = 1234")
    assert client.query("SELECT getSetting('max_block_size')").first_row == (1234,)
    assert client.query(
        "SELECT getSetting('max_block_size')", settings={"max_block_size": 99}
    ).first_row == (99,)
    assert client.query("SELECT getSetting('max_block_size')").first_row == (1234,)
    with pytest.raises(DatabaseError):
        client.query("SELECT * FROM no_such_table")
    assert client.query("SELECT sum(a) FROM tmp").first_row == (3,)
    other = server.client(session_id="contract-2")
    with pytest.raises(DatabaseError, match="60"):
        other.query("SELECT * FROM tmp")
    client.close()
    other.close()


def test_a_session_serves_one_request_at_a_time(server: Server) -> None:
    def sleep(_: int) -> str:
        headers = post(server, b"SELECT sleep(0.5)", session_id="contract-3")[1]
        return headers.get("x-clickhouse-exception-code", "0")

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(sleep, range(2))) == ["0", "373"]


def test_time_and_memory_limits(server: Server) -> None:
    started_s = time.monotonic()
    slow = b"SELECT count() FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number))"
    headers = post(server, slow, max_execution_time="1")[1]
    assert headers["x-clickhouse-exception-code"] == "159"
    assert time.monotonic() - started_s < 5
    big = b"SELECT length(groupArray(number)) FROM numbers(50000000)"
    headers = post(server, big, max_memory_usage="50000000")[1]
    assert headers["x-clickhouse-exception-code"] == "241"
    headers = post(server, b"SELECT number FROM numbers(100)", max_result_rows="10")[1]
    assert headers["x-clickhouse-exception-code"] == "396"


async def test_the_async_client_works_in_parallel(server: Server) -> None:
    client = await server.async_client()
    await client.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
    started_s = time.monotonic()
    await asyncio.gather(
        *(client.insert("t", [[n]], column_names=["a"]) for n in range(8)),
        *(client.query("SELECT sleep(0.3)") for _ in range(4)),
    )
    assert time.monotonic() - started_s < 1.2
    assert (await client.query("SELECT count(), sum(a) FROM t")).first_row == (8, 28)
    with pytest.raises(DatabaseError, match="60"):
        await client.query("SELECT * FROM no_such_table")
    await client.close()
