"""One password, in each of the four places where clients put it; nothing by accident."""

from __future__ import annotations

import base64

import pytest

from embedded.store.__main__ import check_exposure
from embedded.store.access import Access
from embedded.store.refusal import StoreRefusal
from redline.errors import ConfigFault


def basic(text: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    ("query_string", "headers"),
    [
        ("", basic("default:pass word:é")),
        ("", {"x-clickhouse-key": "pass word:é"}),
        ("", {"authorization": "Bearer pass word:é"}),
        ("user=a&password=pass%20word:%C3%A9", {}),
    ],
)
def test_the_password_opens(query_string: str, headers: dict[str, str]) -> None:
    Access("pass word:é").check(query_string, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("default:"),
        basic("secret"),
        {"authorization": "Basic %%"},
        {"x-clickhouse-key": ""},
    ],
)
def test_everything_else_does_not(headers: dict[str, str]) -> None:
    with pytest.raises(StoreRefusal) as caught:
        Access("secret").check("", headers)
    assert (caught.value.code, caught.value.http_status) == (516, 403)
    assert "secret" not in repr(Access("secret"))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"host": "evil.example:8124"},
    ],
)
def test_without_a_password_no_web_page_is_served(headers: dict[str, str]) -> None:
    with pytest.raises(StoreRefusal) as caught:
        Access().check("", headers)
    assert caught.value.code == 516
    Access("p").check("", headers | {"x-clickhouse-key": "p"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8124", "[::1]:8124", "localhost:1"])
def test_without_a_password_programs_on_this_machine_are_served(host: str) -> None:
    Access().check("", {"host": host, "user-agent": "clickhouse-connect"})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(host, allow_remote=False, password="")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_the_network_needs_both_the_flag_and_a_password(host: str) -> None:
    with pytest.raises(ConfigFault, match="loopback"):
        check_exposure(host, allow_remote=False, password="p")
    with pytest.raises(ConfigFault, match="REDLINE_STORE_PASSWORD"):
        check_exposure(host, allow_remote=True, password="")
    check_exposure(host, allow_remote=True, password="p")
