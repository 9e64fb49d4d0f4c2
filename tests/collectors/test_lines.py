from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectors.lines import Line, Position, split

LIMIT = 8
contents = st.lists(
    st.one_of(
        st.binary(max_size=LIMIT * 3).map(lambda data: data.replace(b"\n", b"x")),
        st.sampled_from([b"", b" ", b"\t"]),
    ),
    max_size=12,
)


def read(data: bytes, growth: list[int], windows: list[int], *, ended: bool) -> list[Line]:
    """Read a file that grows by ``growth``, through windows of more than LIMIT bytes."""
    position, lines, size = Position(), [], 0
    sizes = [*growth, len(data)]
    for number, step in enumerate(sizes):
        size = min(len(data), size + step)
        while True:
            width = LIMIT + 1 + windows[number % len(windows)]
            window = data[position.offset : min(size, position.offset + width)]
            last = ended and position.offset + len(window) == len(data)
            moved, found = split(position, window, LIMIT, ended=last)
            lines += found
            if moved == position:
                break
            position = moved
    assert not ended or position.offset == len(data)
    return lines


@given(
    contents,
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    st.lists(st.integers(0, 30), max_size=10),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
def test_any_growth_and_any_windows_give_each_line_once(
    lines: list[bytes], rest: bytes, growth: list[int], windows: list[int]
) -> None:
    data = b"".join(line + b"\n" for line in lines) + rest
    found = read(data, growth, windows, ended=False)
    whole = [line.payload for line in found if not line.fault]
    assert whole == [line for line in lines if line.strip() and len(line) <= LIMIT]
    for line in found:
        assert data[line.start : line.start + len(line.payload)] == line.payload
    starts = [line.start for line in found]
    assert starts == sorted(set(starts))
    # nothing of an overlong line is dropped: its parts, put together, are the line
    parts = b"".join(line.payload for line in found if line.fault)
    assert parts.startswith(b"".join(line for line in lines if len(line) > LIMIT))


@given(contents, st.binary(min_size=1, max_size=20).map(lambda data: data.replace(b"\n", b"x")))
def test_an_ended_file_leaves_nothing_behind(lines: list[bytes], rest: bytes) -> None:
    data = b"".join(line + b"\n" for line in lines) + rest
    found = read(data, [], [100], ended=True)
    assert found[-1].payload in rest
    assert found[-1].fault
    assert found[-1].after.offset == len(data)


@given(contents, st.integers(0, 200))
def test_reading_resumes_at_any_position_that_a_line_names(lines: list[bytes], pick: int) -> None:
    data = b"".join(line + b"\n" for line in lines)
    found = read(data, [], [100], ended=False)
    if not found:
        return
    resumed_at = found[pick % len(found)].after
    position, rest = resumed_at, []
    while True:
        moved, more = split(position, data[position.offset :], LIMIT, ended=False)
        rest += more
        if moved == position:
            break
        position = moved
    assert rest == found[pick % len(found) + 1 :]


def test_a_partial_line_waits_and_an_overlong_one_does_not() -> None:
    assert split(Position(), b"abc", LIMIT, ended=False) == (Position(), [])
    position, lines = split(Position(), b"0123456789", LIMIT, ended=False)
    assert position == Position(8, inside=True)
    assert [line.payload for line in lines] == [b"01234567"]
    assert "longer than 8 bytes" in lines[0].fault
    position, lines = split(position, b"89\nab\n", LIMIT, ended=False)
    assert [(line.payload, bool(line.fault)) for line in lines] == [(b"89", True), (b"ab", False)]
