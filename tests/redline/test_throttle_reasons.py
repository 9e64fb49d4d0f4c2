from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from redline.throttle_reasons import ALARMING, REASONS, is_alarming, reasons


@given(st.integers(0, 2**64 - 1))
def test_every_bit_is_in_the_words_and_nothing_else(mask: int) -> None:
    bits = {word: bit for bit, word in REASONS.items()}
    assert sum(bits[word] if word in bits else int(word, 16) for word in reasons(mask)) == mask
    assert is_alarming(mask) == bool(mask & ALARMING)


def test_not_measured_is_no_reason() -> None:
    assert reasons(None) == []
    assert not is_alarming(None)
    assert reasons(0x4 | 0x40) == ["power cap", "hardware thermal"]
