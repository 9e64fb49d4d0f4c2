"""Messages are taken in order and once, whatever the consumer drops or repeats."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.continuity import PAUSE_US, TRIES_MAX, Continuity, Verdict


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_consumer_that_drops_and_repeats_still_gives_each_message_once(seed: int) -> None:
    rng = random.Random(seed)
    order, now_us, position = Continuity(0), 0, 0
    taken: list[int] = []
    while len(taken) < 30:
        now_us += rng.randrange(PAUSE_US)
        if rng.random() < 0.2:  # some are dropped, or read again
            position = max(0, position + rng.randrange(-4, 4))
        verdict = order.judge(position, now_us)
        if verdict is Verdict.TAKE:
            taken.append(position)
        elif verdict is Verdict.SEEK and rng.random() < 0.9:  # a seek may be undone by a race
            position = order.expected
            continue
        # past the end nothing comes until somebody goes back
        position = position + 1 if position < 40 else order.expected
    if not order.holes:
        assert taken == list(range(len(taken)))
    assert taken == sorted(set(taken))


def test_what_was_applied_is_seen() -> None:
    order = Continuity(5)
    assert order.judge(4, 0) is Verdict.SEEN
    assert order.judge(5, 0) is Verdict.TAKE
    assert order.judge(5, 0) is Verdict.SEEN


def test_it_goes_back_once_and_lets_the_rest_pass_by() -> None:
    order = Continuity(0)
    assert order.judge(3, 0) is Verdict.SEEK
    assert order.judge(4, 1) is Verdict.SKIP
    assert order.judge(5, PAUSE_US) is Verdict.SEEK
    assert order.judge(0, PAUSE_US + 1) is Verdict.TAKE
    assert order.holes == 0


def test_a_hole_of_the_log_is_accepted_at_last_and_counted() -> None:
    order = Continuity(0)
    for number in range(TRIES_MAX):
        assert order.judge(2, number * PAUSE_US) is Verdict.SEEK
    assert order.judge(3, TRIES_MAX * PAUSE_US) is not Verdict.TAKE
    assert order.judge(2, (TRIES_MAX + 1) * PAUSE_US) is Verdict.TAKE
    assert order.holes == 2
    assert order.judge(3, 0) is Verdict.TAKE
