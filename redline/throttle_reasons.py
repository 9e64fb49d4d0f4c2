"""NVML's bit mask of why a GPU's clocks are held back, in words. Source: nvml.h 12.9.

This file refuses to judge: a capped clock is normal on a busy GPU, a thermal slowdown is not.
"""

from __future__ import annotations

REASONS: dict[int, str] = {
    0x1: "idle",
    0x2: "application clocks",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
    0x100: "display clocks",
}
ALARMING = 0x8 | 0x20 | 0x40 | 0x80  # the GPU is hot, or its power supply gives in


def reasons(mask: int | None) -> list[str]:
    """The words of ``mask``, lowest bit first; bits that are not known as hexadecimal numbers."""
    if mask is None:
        return []
    known = [word for bit, word in REASONS.items() if mask & bit]
    rest = mask & ~sum(REASONS)
    return [*known, *([hex(rest)] if rest else [])]


def is_alarming(mask: int | None) -> bool:
    """Whether one of the reasons is a fault of cooling or power."""
    return bool(mask) and bool((mask or 0) & ALARMING)
