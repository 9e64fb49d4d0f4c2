"""Core: cuts a growing file into lines, at byte offsets that survive a restart.

``split`` looks at a window of the file that starts at the reader's position. It keeps no bytes: a
line that is not finished stays in the file and is looked at again. A line over the limit comes out
as parts, none of it is dropped. The result does not depend on how the windows are cut.

This file refuses to read files and to judge what a line says.
"""

from __future__ import annotations

from typing import NamedTuple

from redline.codec import BATCH_BYTES_MAX

# A longer line could not be a batch of one, and as a dead letter (base64) not a Kafka message.
LINE_BYTES_MAX = BATCH_BYTES_MAX


class Position(NamedTuple):
    """How far a file is read. ``inside`` says that ``offset`` is within an overlong line."""

    offset: int = 0
    inside: bool = False


class Line(NamedTuple):
    """One line, or one part of an overlong line, and the position after it.

    ``start`` is its byte offset. ``fault`` is empty for a whole line, else it says why the payload
    is not one.
    """

    start: int
    after: Position
    payload: bytes
    fault: str = ""


def split(
    position: Position, window: bytes, line_bytes_max: int, *, ended: bool
) -> tuple[Position, list[Line]]:
    """Cut ``window``, the file's bytes from ``position`` on, into lines without their newline.

    A window of more than ``line_bytes_max`` bytes always makes progress. ``ended`` says that
    nothing will follow the window: then an unfinished last line comes out as well, with a fault.
    Blank lines are passed over.

    Returns:
        The position up to which ``window`` was used, and the lines.
    """
    base, inside = position
    lines: list[Line] = []
    at, size = 0, len(window)
    while at < size:
        newline = window.find(b"\n", at)
        stop = newline if newline >= 0 else size
        if inside or stop - at > line_bytes_max:
            piece = min(stop - at, line_bytes_max)
            if newline < 0 and piece < line_bytes_max and not ended:
                break
            start, whole = at, newline >= 0 and at + piece == newline
            inside = not whole
            at += piece + whole
            if piece:
                after = Position(base + at, inside)
                fault = f"part of a line longer than {line_bytes_max} bytes"
                lines.append(Line(base + start, after, window[start : start + piece], fault))
        elif newline >= 0:
            payload, start, at = window[at:newline], at, newline + 1
            if payload and not payload.isspace():
                lines.append(Line(base + start, Position(base + at), payload))
        elif ended:
            fault = "the file was rotated away in the middle of this line"
            lines.append(Line(base + at, Position(base + size), window[at:], fault))
            at = size
        else:
            break
    return Position(base + at, inside), lines
