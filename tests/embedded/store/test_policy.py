"""What the store refuses to run, whoever asks."""

from __future__ import annotations

import pytest

from embedded.store.policy import OUTSIDE_NAMES, SAFE_NAMES, check_request, check_statement
from embedded.store.refusal import StoreRefusal
from embedded.store.request import Request
from embedded.store.statement import read_statement
from tests.embedded.store.process import StoreProcess


def code_of(sql: str, *, readonly: bool = False) -> int:
    """The refusal's number; 0 when the statement may run."""
    try:
        check_statement(read_statement(sql.encode()), readonly=readonly)
    except StoreRefusal as refusal:
        return refusal.code
    return 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/hostname', LineAsString)",
        "SELECT file('/etc/hostname')",
        "SELECT * FROM `file`('x')",
        "SELECT * FROM \"FILE\" /* ( */ ('x')",
        "SELECT 1 WHERE 1 IN (SELECT a FROM url ('http://x/', CSV, 'a Int'))",
        "INSERT INTO FUNCTION file('/tmp/x', CSV, 'a Int') VALUES (1)",
        "INSERT INTO t SELECT * FROM executable('sh', CSV, 'a Int')",
        "CREATE TABLE t (a Int) ENGINE = File(CSV)",
        "CREATE TABLE t (a Int) ENGINE File(CSV)",
        "CREATE DATABASE d ENGINE = Filesystem",
        "CREATE DICTIONARY d (a Int) PRIMARY KEY a SOURCE(HTTP(URL 'http://x/' FORMAT CSV))",
        "CREATE TABLE t (a Int) ENGINE = MergeTree ORDER BY a "
        "SETTINGS disk = disk(type = local, path = '/tmp/x/')",
        "BACKUP TABLE t TO File('/tmp/x')",
        "SELECT * FROM eval('SELECT 1')",
        "INSERT INTO t FROM INFILE '/etc/hostname' FORMAT CSV",
        "SYSTEM SHUTDOWN",
        "SELECT 1 // '\n, file('/etc/hostname') // '",
        "SELECT 1 /* /* */ ' */, file('/etc/hostname') /* ' */",
        "SELECT 1 # '\n, file('/etc/hostname') # '",
        "SELECT 1 SETTINGS additional_result_filter = '1'",
        "SET `dialect` = 'kusto'",
    ],
)
def test_nothing_leaves_the_own_directory(sql: str) -> None:
    assert code_of(sql) == 497


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT url, file, s3 FROM t WHERE url = file",
        "SELECT 'file(1)' -- file(2)",
        "INSERT INTO t (url, file) VALUES ('file(1)', 2)",
        "CREATE TABLE url (file String) ENGINE = MergeTree ORDER BY file",
        "SELECT * FROM numbers(3) WHERE 1 = 1",
        "SYSTEM FLUSH LOGS",
    ],
)
def test_names_that_only_look_like_it_pass(sql: str) -> None:
    assert code_of(sql) == 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count() FROM file\u00a0('/etc/hostname')",
        "SELECT count() FROM file\u200b('/etc/hostname')",
        "SELECT \u2018'\u2019, file(\u2018/etc/hostname\u2019), \u2018'\u2019",
        "SELECT 1 $t$, file('/etc/hostname')",
        "SELECT 1 AS `a",
        "SELECT 1\\G DROP TABLE t",
    ],
)
def test_what_the_engine_reads_in_another_way_does_not_get_there(sql: str) -> None:
    assert code_of(sql) == 62
    assert code_of(f"SELECT '{'é ’ $t$'}', `naïve`") == 0


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT INTO t VALUES (file('/etc/hostname'))", 497),
        ("INSERT INTO t FORMAT Values (1), (`file` ('/etc/hostname'))", 497),
        ("INSERT INTO t VALUES ('file(1)'), ('url (2)')", 0),
        ("INSERT INTO t FORMAT CSV file('/etc/hostname')", 0),
    ],
)
def test_values_are_expressions_and_checked_as_such(sql: str, code: int) -> None:
    request = Request(sql=sql.encode())
    try:
        check_request(request, read_statement(request.sql))
    except StoreRefusal as refusal:
        found = refusal.code
    else:
        found = 0
    assert found == code


def test_settings_that_carry_sql_are_refused() -> None:
    request = Request(sql=b"SELECT 1", settings={"additional_table_filters": "{}"})
    with pytest.raises(StoreRefusal, match="additional_table_filters"):
        check_request(request, read_statement(request.sql))


def test_into_outfile_is_refused_with_the_servers_number() -> None:
    assert code_of("SELECT 1 INTO OUTFILE '/tmp/x'", readonly=True) == 358
    assert code_of("SELECT 1 into /* */ outfile '/tmp/x'") == 358


@pytest.mark.parametrize(
    "sql", ["INSERT INTO t VALUES (1)", "KILL QUERY WHERE 1", "DROP TABLE t", "SET max_threads=1"]
)
def test_a_read_only_request_cannot_change_anything(sql: str) -> None:
    assert code_of(sql, readonly=True) == 164
    assert code_of(sql) == 0


def test_every_name_that_the_engine_has_is_judged(store: StoreProcess) -> None:
    """An engine upgrade that brings a new door must fail here."""
    client = store.client()
    names: set[str] = set()
    for table in ("table_functions", "table_engines", "database_engines", "dictionary_sources"):
        rows = client.query(f"SELECT lower(name) FROM system.{table}").result_rows
        names |= {row[0] for row in rows}
    assert len(names) > 100
    assert names - OUTSIDE_NAMES - SAFE_NAMES == set()
    assert set() == OUTSIDE_NAMES & SAFE_NAMES
