"""What a SQL text asks for, seen from its tokens: verb, output format, where insert data begins.

Pure. The text of an INSERT may be followed by data in any bytes; nothing behind the point where
data begins is read. This file refuses to validate SQL: the engine does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from embedded.store.refusal import StoreRefusal
from redline.clickhouse_lexer import Token, TokenKind, read_tokens

STATEMENT_BYTES_MAX = 256 * 1024  # ClickHouse's max_query_size: the text, without insert data

# Verbs that only read and that answer with a result set.
READ_VERBS = frozenset(
    ["SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "FROM", "VALUES", "CHECK"]
)
_ROW_SOURCES = frozenset([b"SELECT", b"WITH", b"FROM", b"WATCH"])
_BEFORE_A_NAME = frozenset([b"INTO", b"TABLE", b"."])
_OPENING, _CLOSING = (b"(", b"[", b"{"), (b")", b"]", b"}")


@dataclass(frozen=True, slots=True)
class InsertData:
    """An INSERT with data: ``{target}{settings}FORMAT {format}`` and where the data begins.

    ``target`` is ``INSERT INTO t (columns) ``; ``settings`` is ``SETTINGS … `` or empty.
    """

    target: str
    settings: str
    format: str
    data_offset: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. ``verb`` is upper case, empty for an empty text.

    ``reads`` means that it answers with rows and changes nothing. ``insert`` is None unless data
    follows in the request. ``output_format`` is what a FORMAT clause names, or None.
    """

    verb: str
    reads: bool
    tokens: tuple[Token, ...]
    insert: InsertData | None = None
    output_format: str | None = None


def read_statement(sql: bytes) -> Statement:
    """Find out what ``sql`` is.

    Raises:
        StoreRefusal: more than one statement, or a text beyond ``STATEMENT_BYTES_MAX``.
    """
    tokens: list[Token] = []
    depth = 0
    may_carry_data = True  # an INSERT, until its rows are known to come from a query or a file
    stream = read_tokens(sql)
    for token in stream:
        if token.start > STATEMENT_BYTES_MAX:
            raise StoreRefusal(
                62, "SYNTAX_ERROR", f"Max query size exceeded ({STATEMENT_BYTES_MAX} bytes)"
            )
        if token.kind is TokenKind.MARK:
            depth += (token.text in _OPENING) - (token.text in _CLOSING)
            if token.text == b";":
                if tokens and next(stream, None) is not None:
                    raise StoreRefusal(62, "SYNTAX_ERROR", "Multi-statements are not allowed")
                break
        tokens.append(token)
        if may_carry_data and depth == 0 and token.kind is TokenKind.WORD:
            may_carry_data = tokens[0].upper == b"INSERT" and token.upper not in _ROW_SOURCES
            if may_carry_data and _opens_data(tokens):
                insert = _insert_data(sql, tokens)
                if insert is not None:
                    return Statement("INSERT", False, tuple(tokens), insert)
    verb = _verb_of(tokens)
    return Statement(
        verb=verb,
        reads=verb in READ_VERBS and not _inserts(tokens),
        tokens=tuple(tokens),
        output_format=_output_format(tokens),
    )


def _opens_data(tokens: list[Token]) -> bool:
    """The newest token is FORMAT or VALUES as a keyword, not as the name of the table."""
    before = tokens[-2].upper if len(tokens) > 1 else b""
    return (
        tokens[-1].upper in (b"FORMAT", b"VALUES")
        and len(tokens) > 2
        and before not in _BEFORE_A_NAME
    )


def _insert_data(sql: bytes, tokens: list[Token]) -> InsertData | None:
    keyword = tokens[-1]
    split = _settings_start(tokens)
    target = sql[tokens[0].start : split].decode("utf-8", "replace")
    settings = sql[split : keyword.start].decode("utf-8", "replace")
    if keyword.upper == b"VALUES":
        return InsertData(target, settings, "Values", keyword.end)
    name = next(read_tokens(sql, keyword.end), None)
    if name is None or name.kind is not TokenKind.WORD:
        return None
    return InsertData(target, settings, name.text.decode(), _data_offset(sql, name.end))


def _settings_start(tokens: list[Token]) -> int:
    """Where SETTINGS begins, as a keyword outside of brackets; else where FORMAT or VALUES does."""
    depth = 0
    for before, here in pairwise(tokens):
        if here.kind is TokenKind.MARK:
            depth += (here.text in _OPENING) - (here.text in _CLOSING)
        elif here.upper == b"SETTINGS" and depth == 0 and before.upper not in _BEFORE_A_NAME:
            return here.start
    return tokens[-1].start


def _data_offset(sql: bytes, position: int) -> int:
    """Skip the blanks and the one line feed that part ``FORMAT x`` from its data."""
    while sql[position : position + 1] in (b" ", b"\t", b"\r"):
        position += 1
    return position + 1 if sql[position : position + 1] == b"\n" else position


def _verb_of(tokens: list[Token]) -> str:
    for token in tokens:
        if token.kind is TokenKind.WORD:
            return token.upper.decode("ascii", "replace")
        if token.text != b"(":
            break
    return ""


def _inserts(tokens: list[Token]) -> bool:
    """``WITH … INSERT`` and ``EXPLAIN INSERT`` start like reads."""
    return any(token.kind is TokenKind.WORD and token.upper == b"INSERT" for token in tokens)


def _output_format(tokens: list[Token]) -> str | None:
    """The name behind the last FORMAT that stands outside of brackets and is followed by a word."""
    depth = 0
    found: str | None = None
    for here, after in pairwise(tokens):
        if here.kind is TokenKind.MARK:
            depth += (here.text in _OPENING) - (here.text in _CLOSING)
        elif depth == 0 and here.upper == b"FORMAT" and after.kind is TokenKind.WORD:
            found = after.text.decode()
    return found
