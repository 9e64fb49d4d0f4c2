"""Standard Webhooks: the published vector, rotation, replay and tampering."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import ConfigFault, SignatureInvalid
from redline.webhooks import headers, read_secrets, sign, verify

# From the test suites of github.com/standard-webhooks/standard-webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP_S = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

(KEY,) = read_secrets(SECRET)
OTHER = "whsec_" + base64.b64encode(b"another key of thirty-two bytes!").decode()


def test_the_published_vector() -> None:
    assert sign(KEY, MESSAGE_ID, TIMESTAMP_S, BODY) == SIGNATURE
    given_headers = headers(KEY, MESSAGE_ID, TIMESTAMP_S, BODY)
    assert given_headers["webhook-signature"] == SIGNATURE
    assert verify([KEY], given_headers, BODY, TIMESTAMP_S) == MESSAGE_ID


def test_a_secret_is_rotated_without_a_gap() -> None:
    old_and_new = read_secrets(f"{SECRET} {OTHER}")
    for key in old_and_new:  # the receiver holds both, whichever the sender uses
        signed = headers(key, MESSAGE_ID, TIMESTAMP_S, BODY)
        assert verify(old_and_new, signed, BODY, TIMESTAMP_S) == MESSAGE_ID
    both = " ".join(sign(key, MESSAGE_ID, TIMESTAMP_S, BODY) for key in old_and_new)
    signed = headers(KEY, MESSAGE_ID, TIMESTAMP_S, BODY) | {
        "webhook-signature": f"v1a,notours {both}"
    }
    for key in old_and_new:  # the sender uses both, whichever the receiver holds
        assert verify([key], signed, BODY, TIMESTAMP_S) == MESSAGE_ID


@pytest.mark.parametrize(
    ("age_s", "holds"), [(300, True), (301, False), (-300, True), (-301, False)]
)
def test_a_timestamp_is_taken_within_five_minutes(age_s: int, holds: bool) -> None:
    signed = headers(KEY, MESSAGE_ID, TIMESTAMP_S, BODY)
    if holds:
        assert verify([KEY], signed, BODY, TIMESTAMP_S + age_s) == MESSAGE_ID
    else:
        with pytest.raises(SignatureInvalid, match="clock or replay"):
            verify([KEY], signed, BODY, TIMESTAMP_S + age_s)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"webhook-id": ""}, "missing"),
        ({"webhook-signature": ""}, "missing"),
        ({"webhook-timestamp": "-5"}, "not a number"),
        ({"webhook-timestamp": "٣"}, "not a number"),
        ({"webhook-timestamp": str(TIMESTAMP_S + 1)}, "no webhook-signature fits"),
        ({"webhook-id": "msg_other"}, "no webhook-signature fits"),
        ({"webhook-id": "msg.x"}, "dot"),
        ({"webhook-signature": "v1,é"}, "no webhook-signature fits"),
        ({"webhook-signature": SIGNATURE.removeprefix("v1,")}, "no webhook-signature fits"),
    ],
)
def test_what_does_not_hold_is_named(change: dict[str, str], says: str) -> None:
    signed = headers(KEY, MESSAGE_ID, TIMESTAMP_S, BODY) | change
    with pytest.raises(SignatureInvalid, match=says):
        verify([KEY], signed, BODY, TIMESTAMP_S)


def test_without_a_secret_nothing_holds() -> None:
    with pytest.raises(SignatureInvalid):
        verify([], headers(KEY, MESSAGE_ID, TIMESTAMP_S, BODY), BODY, TIMESTAMP_S)


@pytest.mark.parametrize("text", ["", "  ", "whsec_not base64!", "whsec_c2hvcnQ="])
def test_a_bad_secret_is_a_config_fault_that_does_not_show_it(text: str) -> None:
    with pytest.raises(ConfigFault) as fault:
        read_secrets(text)
    assert "c2hvcnQ" not in str(fault.value)


@given(body=st.binary(max_size=200), at=st.integers(0, 2_000_000_000), flip=st.integers(0, 10**6))
def test_any_changed_bit_of_the_body_is_noticed(body: bytes, at: int, flip: int) -> None:
    signed = headers(KEY, MESSAGE_ID, at, body)
    assert verify([KEY], signed, body, at) == MESSAGE_ID
    changed = bytearray(body or b"x")
    changed[flip % len(changed)] ^= 1 << (flip % 8)
    if bytes(changed) != body:
        with pytest.raises(SignatureInvalid):
            verify([KEY], signed, bytes(changed), at)
