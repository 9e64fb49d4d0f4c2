"""Reproducible draws: SplitMix64, and the distributions that workloads are made of.

Own code, because a seed must give the same workload on every Python version.
This file refuses the operating system's randomness.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

_MASK = 2**64 - 1


class Draws:
    """A stream of draws from one seed."""

    def __init__(self, seed: int, name: str = "") -> None:
        self._state = (seed ^ (zlib.crc32(name.encode()) << 32)) & _MASK

    def integer(self) -> int:
        """Uniform in 0 to 2^64 - 1. Steele, Lea and Flood: SplitMix64."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """Uniform in (0, 1), never an end."""
        return ((self.integer() >> 11) + 0.5) / 2**53

    def exponential(self, rate: float) -> float:
        """The gap to the next event of a Poisson process of ``rate`` events per unit."""
        return -math.log(self.uniform()) / rate

    def normal(self) -> float:
        """Standard normal, by Box and Muller."""
        radius = math.sqrt(-2.0 * math.log(self.uniform()))
        return radius * math.cos(2.0 * math.pi * self.uniform())

    def lognormal_tokens(self, median: float, sigma: float, low: int, high: int) -> int:
        """A heavy-tailed length, clipped to ``low`` to ``high``."""
        return max(low, min(high, round(median * math.exp(sigma * self.normal()))))

    def gamma(self, shape: float) -> float:
        """Gamma with scale 1. Marsaglia and Tsang; boosted below shape 1."""
        if shape < 1.0:
            return float(self.gamma(shape + 1.0) * self.uniform() ** (1.0 / shape))
        d = shape - 1.0 / 3.0
        c = 1.0 / math.sqrt(9.0 * d)
        while True:
            x = self.normal()
            v = (1.0 + c * x) ** 3
            if v > 0 and math.log(self.uniform()) < 0.5 * x * x + d - d * v + d * math.log(v):
                return float(d * v)

    def pick(self, weights: Sequence[float]) -> int:
        """An index, in proportion to its weight; at least one weight is above 0."""
        point = self.uniform() * math.fsum(weights)
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0 < weight:
                return index
        return max(range(len(weights)), key=lambda index: weights[index])
