"""Who was running when: the arithmetic of time shares, on arrays and without money or state.

A request's share of a window is the integral of ``dt / running`` over its residence, clipped to
the window (domain notes, "time share": within 1 to 17 % of the engine-step share, and the only
rule that needs no calibration). Shares are counted in 1/64 µs, so that they split money exactly.

For a window that is closed, only a profile is kept: how long requests resided in each of its
slots. What a late request would have got is estimated from it. This file refuses to decide what
happens to that estimate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]

SHARE_UNITS_PER_US = 64
PROFILE_SLOTS = 50


class Shares(NamedTuple):
    """Shares in 1/64 µs: one per request, and the time in which nobody ran."""

    requests: Times
    idle: int


def time_shares(start_us: Times, end_us: Times, window_start_us: int, window_end_us: int) -> Shares:
    """Split the window's time over the requests; independent of their order."""
    start = np.clip(start_us, window_start_us, window_end_us)
    end = np.clip(end_us, window_start_us, window_end_us)
    edges, position = np.unique(
        np.concatenate((np.array([window_start_us, window_end_us]), start, end)),
        return_inverse=True,
    )
    size = len(start_us)
    first, last = position[2 : 2 + size], position[2 + size :]
    change = np.bincount(first, minlength=len(edges)) - np.bincount(last, minlength=len(edges))
    running = np.cumsum(change)[:-1]
    length = np.diff(edges)
    elapsed = np.zeros(len(edges))
    np.cumsum(np.where(running > 0, length / np.maximum(running, 1), 0.0), out=elapsed[1:])
    shares = np.rint((elapsed[last] - elapsed[first]) * SHARE_UNITS_PER_US).astype(np.int64)
    return Shares(shares, int(length[running == 0].sum()) * SHARE_UNITS_PER_US)


def residence_profile(
    start_us: Times, end_us: Times, window_start_us: int, window_end_us: int
) -> NDArray[np.float32]:
    """Per slot of the window: the mean number of requests that were running in it."""
    slots = np.zeros(PROFILE_SLOTS)
    edges = np.linspace(window_start_us, window_end_us, PROFILE_SLOTS + 1)
    # ∫ running dt up to each edge, from the sums of clipped starts and ends
    for low in range(0, len(start_us), 4096):
        start = start_us[low : low + 4096, None]
        end = end_us[low : low + 4096, None]
        upto = np.clip(np.minimum(end, edges) - start, 0, None).sum(axis=0)
        slots += np.diff(upto)
    mean: NDArray[np.float32] = (slots / (edges[1] - edges[0])).astype(np.float32)
    return mean


def late_share(
    profile: NDArray[np.float32],
    start_us: int,
    end_us: int,
    window_start_us: int,
    window_end_us: int,
) -> tuple[float, NDArray[np.float32]]:
    """The part of the window (0 to 1) that a late request would have got, and the new profile."""
    edges = np.linspace(window_start_us, window_end_us, PROFILE_SLOTS + 1)
    overlap = np.clip(np.minimum(end_us, edges[1:]) - np.maximum(start_us, edges[:-1]), 0, None)
    own = overlap / (edges[1] - edges[0])
    part = float((own / (profile + 1)).sum()) / PROFILE_SLOTS
    return part, (profile + own).astype(np.float32)
