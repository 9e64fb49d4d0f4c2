"""The lexer: nothing inside quotes, heredocs and comments is ever taken for SQL."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.clickhouse_lexer import TokenKind, read_tokens, split_statements, unquote_name

TEXT = st.text(alphabet="ab;'\"`\\-/*#$ \n\té", max_size=12)


def quote(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


PIECE = st.one_of(
    TEXT.map(lambda text: quote(text, "'")),
    TEXT.map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"),
    TEXT.map(lambda text: quote(text, "`")),
    TEXT.map(lambda text: quote(text, '"')),
    TEXT.map(lambda text: "$tag$" + text.replace("$", "") + "$tag$"),
    TEXT.map(lambda text: "/*" + re.sub(r"[*/]", "", text) + "*/"),
    TEXT.map(lambda text: "/* /*" + re.sub(r"[*/]", "", text) + "*/ ; ' */"),
    TEXT.map(lambda text: "//" + text.replace("\n", "") + "\n"),
    TEXT.map(lambda text: "--" + text.replace("\n", "") + "\n"),
    st.sampled_from(["SELECT", "x1", "12.5e3", "(", ")", ",", "=", "-1"]),
)
STATEMENT = st.lists(PIECE, min_size=1, max_size=6).map(lambda pieces: "x " + " ".join(pieces))


@given(st.binary(max_size=80))
def test_any_bytes_are_read_to_their_end_without_overlap(raw: bytes) -> None:
    position = 0
    for token in read_tokens(raw):
        assert token.start >= position
        assert token.end > token.start
        assert token.text == raw[token.start : token.end]
        position = token.end
    assert position <= len(raw)


@given(st.lists(STATEMENT, max_size=4))
def test_a_script_is_cut_only_between_its_statements(statements: list[str]) -> None:
    cut = split_statements(" ;\n".join(statements))
    assert len(cut) == len(statements)
    for found, given_text in zip(cut, statements, strict=True):
        assert given_text.startswith(found)


@given(STATEMENT)
def test_a_cut_statement_is_cut_no_further(statement: str) -> None:
    once = split_statements(statement)
    assert split_statements(once[0]) == once


@given(TEXT, st.sampled_from('`"'))
def test_a_quoted_name_reads_back(name: str, mark: str) -> None:
    (token,) = read_tokens(quote(name, mark).encode())
    assert token.kind is TokenKind.QUOTED_NAME
    assert unquote_name(token) == name


@pytest.mark.parametrize("text", ["'no end", "`no end", '"no end', "/* no end", "$t$ no end"])
def test_what_never_ends_reaches_to_the_end(text: str) -> None:
    tokens = list(read_tokens(f"SELECT {text} ; DROP".encode()))
    assert [token.kind for token in tokens] == [TokenKind.WORD, TokenKind.BROKEN]


def test_comments_around_statements_vanish_and_inside_them_stay() -> None:
    script = "-- head; not a statement\nSELECT /* one; */ 1 -- tail\n;\n;; SELECT 2 -- end;"
    assert split_statements(script) == ["SELECT /* one; */ 1", "SELECT 2"]


def test_a_long_open_quote_is_not_slow() -> None:
    assert len(list(read_tokens(b"'" + b"a\\" * 100_000))) == 1
