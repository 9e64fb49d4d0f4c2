"""Requests as ClickHouse's HTTP interface defines them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded.store.refusal import StoreRefusal, describe_failure
from embedded.store.request import read_request


def test_query_and_body_join_as_statement_and_data() -> None:
    request = read_request("POST", "query=INSERT+INTO+t+FORMAT+CSV", {}, b"1\n")
    assert request.sql == b"INSERT INTO t FORMAT CSV\n1\n"
    assert read_request("POST", "query=SELECT+1%0A", {}, b"x").sql == b"SELECT 1\nx"
    assert read_request("POST", "", {}, b"SELECT 1").sql == b"SELECT 1"


@pytest.mark.parametrize("database", ["", "default", "__default__"])
def test_no_database_of_its_own_means_the_stores(database: str) -> None:
    assert read_request("POST", f"database={database}", {}, b"").database == ""


def test_headers_win_over_parameters() -> None:
    headers = {"x-clickhouse-database": "a", "x-clickhouse-format": "JSON"}
    request = read_request("POST", "database=b&default_format=CSV", headers, b"")
    assert (request.database, request.default_format) == ("a", "JSON")


def test_parameters_fall_apart_into_settings_values_and_the_interfaces_own() -> None:
    request = read_request(
        "POST",
        "max_threads=2&param_x=a%5Ct&wait_end_of_query=1&query_id=q&enable_http_compression=1",
        {"accept-encoding": "lz4"},
        b"",
    )
    assert request.settings == {"max_threads": "2"}
    assert request.parameters == {"x": "a\\t"}
    assert request.query_id == "q"
    assert request.accept_encoding == "lz4"


@pytest.mark.parametrize(
    ("method", "query_string", "readonly"),
    [
        ("GET", "", True),
        ("HEAD", "readonly=0", True),
        ("POST", "", False),
        ("POST", "readonly=0", False),
        ("POST", "readonly=1", True),
        ("POST", "readonly=2", True),
    ],
)
def test_read_only(method: str, query_string: str, readonly: bool) -> None:
    assert read_request(method, query_string, {}, b"").readonly is readonly


@given(st.text(max_size=12))
def test_a_settings_name_is_never_sql(name: str) -> None:
    """Names go into a SET statement unquoted."""
    from urllib.parse import urlencode

    try:
        request = read_request("POST", urlencode({name: "1"}), {}, b"")
    except StoreRefusal:
        return
    for setting in request.settings:
        assert setting.replace("_", "a").replace(".", "a").isalnum()
        assert setting.isascii()


def test_session() -> None:
    request = read_request("POST", "session_id=s&session_timeout=99999&session_check=1", {}, b"")
    assert request.session is not None
    assert request.session.timeout_s == 3600
    assert request.session.must_exist
    assert read_request("POST", "", {}, b"").session is None


@pytest.mark.parametrize(
    ("query_string", "code"),
    [
        ("compress=1", 48),
        ("decompress=1", 48),
        ("a%20b=1", 115),
        ("session_timeout=x&session_id=s", 27),
    ],
)
def test_what_is_not_served_is_said(query_string: str, code: int) -> None:
    with pytest.raises(StoreRefusal) as caught:
        read_request("POST", query_string, {}, b"")
    assert caught.value.code == code


def test_a_form_carries_parameters_but_no_files() -> None:
    head = {"content-type": "multipart/form-data; boundary=xx"}
    part = b'--xx\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    form = (
        part % (b"query", b"", b"SELECT {a:Int8}") + part % (b"param_a", b"", b"5") + b"--xx--\r\n"
    )
    request = read_request("POST", "", head, form)
    assert request.sql == b"SELECT {a:Int8}"
    assert request.parameters == {"a": "5"}
    with pytest.raises(StoreRefusal, match="External data"):
        read_request("POST", "", head, part % (b"t", b'; filename="t"', b"1") + b"--xx--\r\n")


def test_an_engine_error_keeps_its_number_and_loses_its_wrapping() -> None:
    error = RuntimeError(
        "Streaming insert finish failed: Code: 60. DB::Exception: no. (UNKNOWN_TABLE)"
    )
    failure = describe_failure(error, "26.9")
    assert (failure.code, failure.http_status) == (60, 404)
    assert failure.text == (
        "Code: 60. DB::Exception: no. (UNKNOWN_TABLE) (version 26.9 (official build))\n"
    )
    assert describe_failure(ValueError("odd"), "26.9").code == 1002
