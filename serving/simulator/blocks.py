"""The KV-cache blocks of one engine: who holds them, which are shared, which may be evicted.

Blocks of a prefix segment are shared by all requests that start with it. A segment that nobody
holds stays cached and counts as free, as in vLLM: high usage is real pressure.
This file refuses to decide who gets blocks; it only says whether there are enough.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from serving.sizing import kv_cache_usage


class PrefixSegment(NamedTuple):
    """A run of prompt tokens that requests share. The id stands for all tokens before it too."""

    segment_id: int
    tokens: int


class BlockPool:
    """``num_gpu_blocks`` blocks, of which one is the null block."""

    def __init__(self, num_gpu_blocks: int, block_size: int) -> None:
        self.num_gpu_blocks = num_gpu_blocks
        self.block_size = block_size
        self.usable = num_gpu_blocks - 1
        self.used = 0  # private, shared by someone, or reserved
        self.cached = 0  # of segments that nobody holds: evictable
        self._holders: dict[PrefixSegment, int] = {}  # of segments that somebody holds
        self._idle: OrderedDict[PrefixSegment, int] = OrderedDict()  # blocks of the others

    @property
    def free(self) -> int:
        """Blocks that can be had, by eviction if need be."""
        return self.usable - self.used

    @property
    def usage(self) -> float:
        """``vllm:kv_cache_usage_perc``, 0 to 1."""
        return kv_cache_usage(self.num_gpu_blocks, self.free)

    def take(self, blocks: int) -> bool:
        """Take ``blocks`` for one owner; False, and nothing taken, where there are too few."""
        if blocks > self.free:
            return False
        self.used += blocks
        self._evict()
        return True

    def give(self, blocks: int) -> None:
        """Give back what was taken."""
        if blocks > self.used:
            raise ValueError(f"{blocks} blocks given back, but only {self.used} are in use")
        self.used -= blocks

    def cached_tokens(self, prefix: tuple[PrefixSegment, ...]) -> int:
        """Tokens of the longest cached run at the start of ``prefix``, in whole blocks."""
        tokens = 0
        for segment in prefix:
            if segment not in self._holders and segment not in self._idle:
                break
            tokens += self._blocks_of(segment) * self.block_size
        return tokens

    def shared_blocks(self, prefix: tuple[PrefixSegment, ...]) -> int:
        """Blocks of ``prefix``, which are shared rather than private to a request."""
        return sum(self._blocks_of(segment) for segment in prefix)

    def hold(self, prefix: tuple[PrefixSegment, ...], private_blocks: int) -> bool:
        """Hold ``prefix``, whose segments differ, and take ``private_blocks``, all or nothing."""
        needed = private_blocks + sum(
            self._blocks_of(segment) for segment in prefix if segment not in self._holders
        )
        if needed > self.free:
            return False
        for segment in prefix:
            self.cached -= self._idle.pop(segment, 0)
            self._holders[segment] = self._holders.get(segment, 0) + 1
        self.used += needed
        self._evict()
        return True

    def release(self, prefix: tuple[PrefixSegment, ...], private_blocks: int) -> None:
        """Give back ``private_blocks`` and stop holding ``prefix``, which stays cached."""
        self.give(private_blocks)
        for segment in prefix:
            self._holders[segment] -= 1
            if not self._holders[segment]:
                del self._holders[segment]
                blocks = self._blocks_of(segment)
                self.used -= blocks
                self.cached += blocks
                self._idle[segment] = blocks

    def forget_cache(self) -> None:
        """Drop every segment that nobody holds, as a restarted engine would."""
        self._idle.clear()
        self.cached = 0

    def _blocks_of(self, segment: PrefixSegment) -> int:
        return segment.tokens // self.block_size

    def _evict(self) -> None:
        while self.used + self.cached > self.usable:
            _, blocks = self._idle.popitem(last=False)
            self.cached -= blocks
