from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.simulator.blocks import BlockPool, PrefixSegment

# The same id with another length is another segment: ids come from clients.
SEGMENTS = [PrefixSegment(number, tokens) for number in (1, 2, 3) for tokens in (16, 48)]


class Pool(RuleBasedStateMachine):
    """A pool against the plainest possible account of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(21, 16)
        self.owners: list[tuple[tuple[PrefixSegment, ...], int]] = []

    def in_use(self) -> int:
        shared = {segment for prefix, _ in self.owners for segment in prefix}
        return sum(private for _, private in self.owners) + sum(s.tokens // 16 for s in shared)

    @rule(
        prefix=st.lists(st.sampled_from(SEGMENTS), max_size=3, unique=True),
        private=st.integers(0, 12),
    )
    def hold(self, prefix: list[PrefixSegment], private: int) -> None:
        before = self.in_use()
        self.owners.append((tuple(prefix), private))
        fits = self.in_use() <= 20
        assert self.pool.hold(tuple(prefix), private) == fits
        if not fits:
            self.owners.pop()
            assert self.in_use() == before
        else:
            assert self.pool.cached_tokens(tuple(prefix)) == sum(s.tokens for s in prefix)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.owners) - 1))
        self.pool.release(*self.owners.pop(index))

    @rule()
    def forget(self) -> None:
        self.pool.forget_cache()
        assert self.pool.cached == 0

    @invariant()
    def the_pool_agrees(self) -> None:
        assert self.pool.used == self.in_use()
        assert self.pool.used + self.pool.cached <= self.pool.usable == 20
        assert self.pool.free == 20 - self.in_use()
        assert self.pool.usage == pytest.approx(self.in_use() / 20)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_the_longest_unused_segment_is_evicted_first() -> None:
    pool = BlockPool(11, 16)
    old, new = PrefixSegment(1, 64), PrefixSegment(2, 64)
    for segment in (old, new):
        assert pool.hold((segment,), 0)
        pool.release((segment,), 0)
    assert pool.take(4)
    assert pool.cached_tokens((old,)) == 0
    assert pool.cached_tokens((new,)) == 64


def test_only_a_run_from_the_start_is_cached() -> None:
    pool = BlockPool(11, 16)
    first, second = PrefixSegment(1, 16), PrefixSegment(2, 16)
    assert pool.hold((second,), 0)
    assert pool.cached_tokens((first, second)) == 0
    assert pool.cached_tokens((second,)) == 16


def test_giving_back_what_was_not_taken_is_an_error() -> None:
    pool = BlockPool(11, 16)
    with pytest.raises(ValueError, match="3 blocks"):
        pool.give(3)
