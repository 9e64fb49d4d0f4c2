"""An HTTP request of ClickHouse's interface, understood: query, settings, parameters, session.

Pure. Follows the HTTP interface: the query stands in ``?query=`` or in the body or in both (then
the body is the data of an INSERT). This file refuses to run anything and to check credentials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from embedded.store.refusal import StoreRefusal

# URL parameters that steer the HTTP interface and are not settings of the query.
_INTERFACE = """
query database default_format session_id session_timeout session_check close_session user
password query_id quota_key compress decompress enable_http_compression
http_zlib_compression_level network_compression_method wait_end_of_query buffer_size
client_protocol_version role stacktrace add_http_cors_header send_progress_in_http_headers
http_headers_progress_interval_ms cancel_http_readonly_queries_on_client_close
http_write_exception_in_output_format http_wait_end_of_query readonly
"""
_INTERFACE_PARAMETERS = frozenset(_INTERFACE.split())
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_SESSION_TIMEOUT_S, _SESSION_TIMEOUT_MAX_S = 60, 3600  # ClickHouse's defaults
_NO_DATABASE = ("", "default", "__default__")


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """The session that a request belongs to. ``must_exist`` is ``session_check=1``."""

    id: str
    timeout_s: int
    must_exist: bool
    close_after: bool


@dataclass(frozen=True, slots=True)
class Request:
    """``sql`` is the statement with the data of an INSERT behind it, decompressed.

    ``database`` is empty when the client named none or only ``default``. ``parameters`` are the
    ``param_*`` values in ClickHouse's escaped form. ``client_revision`` is clickhouse-go's
    ``client_protocol_version``, 0 for other clients.
    """

    sql: bytes
    database: str = ""
    default_format: str = "TabSeparated"
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    session: SessionRequest | None = None
    query_id: str = ""
    readonly: bool = False
    client_revision: int = 0
    accept_encoding: str = ""


def read_request(
    method: str, query_string: str, headers: Mapping[str, str], body: bytes
) -> Request:
    """Read a request. ``headers`` have lower-case names; ``body`` is already decompressed.

    Raises:
        StoreRefusal: something asks for what the interface here does not do, or is malformed.
    """
    parameters = dict(parse_qsl(query_string, keep_blank_values=True))
    content_type = headers.get("content-type", "")
    if content_type.startswith("multipart/form-data"):
        parameters |= _read_form(content_type, body)
        body = b""
    for name in ("compress", "decompress"):
        if parameters.get(name, "0") not in ("0", "false"):
            raise StoreRefusal(
                48, "NOT_IMPLEMENTED", f"{name}=1 is not served; use Content-Encoding instead"
            )
    settings = {
        name: value
        for name, value in parameters.items()
        if name not in _INTERFACE_PARAMETERS and not name.startswith("param_")
    }
    for name in settings:
        if not _SETTING_NAME.fullmatch(name):
            raise StoreRefusal(115, "UNKNOWN_SETTING", f"Unknown setting {name!r}")
    database = headers.get("x-clickhouse-database") or parameters.get("database", "")
    return Request(
        sql=_join_query(parameters.get("query", "").encode(), body),
        database="" if database in _NO_DATABASE else database,
        default_format=(
            headers.get("x-clickhouse-format") or parameters.get("default_format") or "TabSeparated"
        ),
        settings=settings,
        parameters={
            name.removeprefix("param_"): value
            for name, value in parameters.items()
            if name.startswith("param_")
        },
        session=_read_session(parameters),
        query_id=parameters.get("query_id", ""),
        readonly=method != "POST" or parameters.get("readonly", "0") not in ("", "0"),
        client_revision=_read_whole(parameters, "client_protocol_version", 0),
        accept_encoding=(
            headers.get("accept-encoding", "")
            if parameters.get("enable_http_compression", "0") in ("1", "true")
            else ""
        ),
    )


def _join_query(query: bytes, body: bytes) -> bytes:
    if not query or not body:
        return query or body
    return query + body if query.endswith(b"\n") else query + b"\n" + body


def _read_session(parameters: Mapping[str, str]) -> SessionRequest | None:
    session_id = parameters.get("session_id", "")
    if not session_id:
        return None
    timeout_s = _read_whole(parameters, "session_timeout", _SESSION_TIMEOUT_S)
    return SessionRequest(
        id=session_id,
        timeout_s=min(max(timeout_s, 1), _SESSION_TIMEOUT_MAX_S),
        must_exist=parameters.get("session_check", "0") == "1",
        close_after=parameters.get("close_session", "0") == "1",
    )


def _read_whole(parameters: Mapping[str, str], name: str, default: int) -> int:
    text = parameters.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise StoreRefusal(
            27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", f"{name}={text!r} is no number"
        )
    return int(text)


def _read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The text fields of a multipart form; the query itself may be one of them."""
    boundary = re.search(r'boundary="?([^";]+)"?', content_type)
    if boundary is None:
        raise StoreRefusal(27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED", "multipart without boundary")
    fields: dict[str, str] = {}
    for part in body.split(b"--" + boundary.group(1).encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        if name is None:
            continue
        if b"filename=" in head:
            raise StoreRefusal(
                48, "NOT_IMPLEMENTED", "External data is not served; use a temporary table"
            )
        fields[name.group(1).decode()] = value.removesuffix(b"\r\n").decode()
    return fields
