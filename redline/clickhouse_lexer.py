"""Cuts ClickHouse SQL into tokens and statements, by the lexical rules of the server.

Quotes, doubled quotes, backslash escapes, heredocs and comments are known, so a ``;`` or a
keyword inside of them is never taken for one. Works on bytes, because an INSERT may carry
binary data behind its text. This file refuses to judge what a statement means: it has no grammar.

Source of the rules: ``src/Parsers/Lexer.cpp`` of ClickHouse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple


class TokenKind(Enum):
    """What a token is. Whitespace and comments are not tokens."""

    WORD = "word"  # a keyword or a bare identifier
    QUOTED_NAME = "quoted_name"  # `name` or "name"
    STRING = "string"  # 'text' or $tag$text$tag$
    NUMBER = "number"
    MARK = "mark"  # one byte of punctuation
    BROKEN = "broken"  # a quote, comment or heredoc that never ends: reaches to the end
    # What is not ASCII is a MARK byte by byte outside of quotes: the server takes some of it for
    # blanks or quotes, so whoever relies on these tokens for safety must refuse such marks.


class Token(NamedTuple):
    """One token and the half-open byte range that it covers."""

    kind: TokenKind
    start: int
    end: int
    text: bytes

    @property
    def upper(self) -> bytes:
        """The text of a word in upper case; of anything else, as it stands."""
        return self.text.upper() if self.kind is TokenKind.WORD else self.text


_BLANK = re.compile(rb"\s+|--[^\n]*|//[^\n]*|#[ !][^\n]*")
_COMMENT_MARK = re.compile(rb"/\*|\*/")
_TOKEN = re.compile(
    rb"""
      (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
    | (?P<number>[0-9][A-Za-z0-9_.]*)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted_name>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<heredoc>\$(?P<tag>[A-Za-z0-9_]*)\$)
    | (?P<broken>['"`])
    | (?P<mark>.)
    """,
    re.DOTALL | re.VERBOSE,
)
_KINDS = {
    "word": TokenKind.WORD,
    "number": TokenKind.NUMBER,
    "string": TokenKind.STRING,
    "quoted_name": TokenKind.QUOTED_NAME,
    "mark": TokenKind.MARK,
}


def read_tokens(sql: bytes, position: int = 0) -> Iterator[Token]:
    """Yield the tokens of ``sql`` from ``position`` on, lazily, so that data behind it is not read.

    Never raises: what never ends becomes one ``BROKEN`` token up to the end of the text.
    """
    size = len(sql)
    while position < size:
        blank = _BLANK.match(sql, position)
        if blank is not None:
            position = blank.end()
            continue
        if sql.startswith(b"/*", position):
            end = _comment_end(sql, position)
            if end < 0:
                yield Token(TokenKind.BROKEN, position, size, sql[position:])
                return
            position = end
            continue
        found = _TOKEN.match(sql, position)
        if found is None:  # cannot happen, every byte is a mark; kept so that the loop must end
            return
        name = found.lastgroup or "mark"
        end, kind = found.end(), _KINDS.get(name, TokenKind.BROKEN)
        if found.group("heredoc") is not None:
            close = sql.find(found.group("heredoc"), end)
            kind = TokenKind.STRING if close >= 0 else TokenKind.BROKEN
            end = close + (found.end() - found.start()) if close >= 0 else size
        elif kind is TokenKind.BROKEN:
            end = size
        yield Token(kind, position, end, sql[position:end])
        position = end


def _comment_end(sql: bytes, position: int) -> int:
    """Where a comment ends that begins here; comments nest. -1 if it never ends."""
    depth = 0
    for found in _COMMENT_MARK.finditer(sql, position):
        depth += 1 if found.group() == b"/*" else -1
        if depth == 0:
            return found.end()
    return -1


def split_statements(sql: str) -> list[str]:
    """Cut a script at its ``;`` marks. Statements keep their inner comments; empty ones vanish.

    Text before the first token and after the last token of a statement (blanks, comments) is
    dropped, so editing a heading comment does not change the statement.
    """
    raw = sql.encode()
    statements: list[str] = []
    first = last = -1
    for token in read_tokens(raw):
        if token.kind is TokenKind.MARK and token.text == b";":
            if first >= 0:
                statements.append(raw[first:last].decode())
            first = last = -1
            continue
        first, last = (token.start if first < 0 else first), token.end
    if first >= 0:
        statements.append(raw[first:last].decode())
    return statements


def unquote_name(token: Token) -> str:
    """The identifier that a word or quoted name stands for, in its own case."""
    text = token.text.decode("utf-8", "replace")
    if token.kind is not TokenKind.QUOTED_NAME:
        return text
    quote, inner = text[0], text[1:-1]
    return re.sub(r"\\(.)", r"\1", inner.replace(quote * 2, quote), flags=re.DOTALL)
