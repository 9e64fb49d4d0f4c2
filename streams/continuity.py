"""Whether a message is the next one of its partition. Kafka's committed offsets are only a hint.

Faust can drop what was fetched while a rebalance was going on: a partition without a committed
offset is not sought back, and buffered events outlive the assignment that they came with. So the
state itself knows which offset comes next. What is ahead of it makes the consumer go back; what is
behind it was applied already. A hole that stays after several tries is a hole of the log (a
transaction marker, data that retention took), is counted and accepted.

This file refuses to seek by itself.
"""

from __future__ import annotations

from enum import Enum

TRIES_MAX = 4
PAUSE_US = 1_000_000


class Verdict(Enum):
    """What to do with a message."""

    TAKE = "take"  # it is the next one
    SEEN = "seen"  # it was applied before: acknowledge, nothing more
    SKIP = "skip"  # it is ahead, and the consumer is on its way back: it will come again
    SEEK = "seek"  # it is ahead: go back to ``expected``


class Continuity:
    """The order of one partition. ``holes`` counts the offsets that were given up."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.holes = 0
        self._tries = 0
        self._lowest = -1
        self._sought_us = -PAUSE_US

    def judge(self, offset: int, now_us: int) -> Verdict:
        """The verdict on the message at ``offset``; TAKE moves on to the next."""
        if offset < self.expected:
            return Verdict.SEEN
        if offset > self.expected:
            self._lowest = offset if self._lowest < 0 else min(self._lowest, offset)
            if self._tries < TRIES_MAX or offset != self._lowest:
                if now_us - self._sought_us < PAUSE_US:
                    return Verdict.SKIP
                self._sought_us = now_us
                self._tries += 1
                return Verdict.SEEK
            self.holes += offset - self.expected
        self.expected = offset + 1
        self._tries, self._lowest = 0, -1
        return Verdict.TAKE
