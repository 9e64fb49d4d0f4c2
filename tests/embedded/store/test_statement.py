"""Where the data of an INSERT begins, and what a statement is, from its tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded.store.refusal import StoreRefusal
from embedded.store.statement import STATEMENT_BYTES_MAX, read_statement

WORDS = ["FORMAT", "VALUES", "SELECT", "insert", "x"]
COLUMN = st.one_of(
    st.sampled_from(WORDS).map(lambda word: f"`{word}`"),
    st.sampled_from([f"/* {word} */ c" for word in WORDS]),
    st.sampled_from([f"'{word} ; '" for word in WORDS]),
)


@given(
    columns=st.lists(COLUMN, min_size=1, max_size=3),
    setting=st.sampled_from(["", " SETTINGS insert_deduplication_token='a FORMAT b VALUES c'"]),
    name=st.sampled_from(["t", "db.t", "`FORMAT`", "format", "db.values", "TABLE t", "settings"]),
    data=st.binary(max_size=40),
)
def test_binary_data_behind_format_is_found_exactly(
    columns: list[str], setting: str, name: str, data: bytes
) -> None:
    head = f"INSERT INTO {name} ({', '.join(columns)}){setting} "
    sql = head.encode() + b"FORMAT Native\n" + data
    insert = read_statement(sql).insert
    assert insert is not None
    assert insert.target + insert.settings == head
    assert insert.settings.strip() == setting.strip()
    assert insert.format == "Native"
    assert sql[insert.data_offset :] == data


@given(start=st.sampled_from(["", " ", "\n", "(", "/**/"]), text=st.text(max_size=30))
def test_values_are_data(start: str, text: str) -> None:
    data = start + (text if start else "")  # a letter right behind VALUES would be another word
    sql = f"insert into t (a) values{data}".encode()
    insert = read_statement(sql).insert
    assert insert is not None
    assert insert.format == "Values"
    assert sql[insert.data_offset :] == data.encode()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t SELECT 1 FORMAT Null",
        "INSERT INTO t WITH 1 AS a SELECT a",
        "INSERT INTO t SELECT * FROM VALUES('a Int', 1)",
        "INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        "INSERT INTO FORMAT",
    ],
)
def test_an_insert_from_a_query_carries_no_data(sql: str) -> None:
    statement = read_statement(sql.encode())
    assert statement.verb == "INSERT"
    assert statement.insert is None
    assert not statement.reads


@pytest.mark.parametrize(
    ("sql", "output_format"),
    [
        ("SELECT 1", None),
        ("SELECT 1 FORMAT JSON", "JSON"),
        ("SELECT 1 format JSON SETTINGS max_threads=1;", "JSON"),
        ("SELECT 'FORMAT JSON'", None),
        ("SELECT (SELECT 1 FORMAT CSV)", None),
        ("-- FORMAT CSV\nSHOW TABLES FORMAT TSV -- FORMAT X", "TSV"),
    ],
)
def test_the_output_format_is_the_outer_one(sql: str, output_format: str | None) -> None:
    statement = read_statement(sql.encode())
    assert statement.output_format == output_format
    assert statement.reads


@pytest.mark.parametrize(
    ("sql", "verb", "reads"),
    [
        ("(SELECT 1) UNION ALL (SELECT 2)", "SELECT", True),
        ("WITH x AS (SELECT 1) SELECT * FROM x", "WITH", True),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "WITH", False),
        ("explain select 1", "EXPLAIN", True),
        ("CREATE TABLE t AS SELECT 1", "CREATE", False),
        ("KILL QUERY WHERE 1", "KILL", False),
        ("SET max_threads = 1", "SET", False),
        ("", "", False),
    ],
)
def test_the_verb_says_whether_it_reads(sql: str, verb: str, reads: bool) -> None:
    statement = read_statement(sql.encode())
    assert (statement.verb, statement.reads) == (verb, reads)


def test_two_statements_are_refused_as_by_the_server() -> None:
    with pytest.raises(StoreRefusal, match="Multi-statements") as caught:
        read_statement(b"SELECT 1; DROP TABLE t")
    assert caught.value.code == 62
    assert read_statement(b"SELECT 1; -- end").verb == "SELECT"


def test_a_text_beyond_the_limit_is_refused_and_long_data_is_not() -> None:
    with pytest.raises(StoreRefusal, match="Max query size"):
        read_statement(b"SELECT " + b"1," * STATEMENT_BYTES_MAX)
    data = b"(1)," * STATEMENT_BYTES_MAX
    insert = read_statement(b"INSERT INTO t VALUES " + data).insert
    assert insert is not None
