"""The one block of the Native format that the store writes itself: the greeting of clickhouse-go.

Grafana's plug-in (clickhouse-go over HTTP) first asks for the server's revision and decodes the
answer by the rules of its *own* revision: block info in front, a serialization byte per column.
The engine writes Native of revision 0, which clickhouse-go then cannot read. Answering this one
question in the newer form, with ``revision() = 0`` in it, makes it read everything afterwards as
revision 0. This file refuses to write any other block.

Source: clickhouse-go ``conn_http.go`` (query of the handshake) and ``lib/proto/block.go``.
"""

from __future__ import annotations

GREETING = "SELECT displayName(), version(), revision(), timezone()"
_CUSTOM_SERIALIZATION_REVISION = 54454
# Field 1 is_overflows = 0, field 2 bucket_num = -1, end of fields.
_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"


def asks_greeting(words: list[str], output_format: str, client_revision: int) -> bool:
    """Whether these tokens are the greeting, from a client that reads it in the newer form."""
    return (
        output_format == "Native"
        and client_revision >= _CUSTOM_SERIALIZATION_REVISION
        and "".join(words) == GREETING.replace(" ", "")
    )


def greeting_block(name: str, version: str, timezone: str) -> bytes:
    """One row of (displayName, version, revision 0, timezone) as clickhouse-go reads it."""
    columns = (
        ("displayName()", "String", _text(name)),
        ("version()", "String", _text(version)),
        ("revision()", "UInt32", (0).to_bytes(4, "little")),
        ("timezone()", "String", _text(timezone)),
    )
    block = _BLOCK_INFO + bytes([len(columns), 1])
    for column, kind, data in columns:
        block += _text(column) + _text(kind) + b"\x00" + data
    return block


def _text(value: str) -> bytes:
    raw = value.encode()[:127]  # one length byte is enough for names and versions
    return bytes([len(raw)]) + raw
