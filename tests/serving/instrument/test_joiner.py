# mypy: disable-error-code="import-not-found"
"""Whatever the order of halves: each request once, no engine half twice, none of another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from redline_vllm.halves import BodyFacts, EngineHalf, HttpHalf
from redline_vllm.joiner import GRACE_S, UNCLAIMED_S, Joiner


def http_half(name: str, path: str, choices: int = 1, prompts: int = 1, status: int = 200) -> Any:
    http = HttpHalf(path, name, 1, 0.0)
    prefix = "cmpl" if path == "/v1/completions" else "chatcmpl"
    http.metadata = SimpleNamespace(request_id=f"{prefix}-{name}")
    http.facts = BodyFacts(choices=choices, prompts=prompts)
    http.status_code = status
    return http


def engine_half(name: str, tokens: int = 1) -> Any:
    return EngineHalf(name, "stop", 3, tokens, 0, 0.0, 0.1, 0.2, 0)


@st.composite
def traffic(draw: st.DrawFn) -> list[Any]:
    """HTTP halves and their engine halves, shuffled. Ids look alike, and some are used twice."""
    names = draw(st.lists(st.sampled_from(["a", "a-0", "a-1", "a-0-1", "b"]), max_size=8))
    events: list[Any] = []
    for name in names:
        path = draw(st.sampled_from(["/v1/completions", "/v1/chat/completions"]))
        choices = draw(st.integers(1, 3))
        prompts = draw(st.integers(1, 3)) if path == "/v1/completions" else 1
        http = http_half(name, path, choices, prompts)
        events.append(http)
        ids = [http.metadata.request_id]
        if path == "/v1/completions":
            ids = [f"{ids[0]}-{number}" for number in range(prompts)]
        events += [engine_half(name) for name in ids for _ in range(choices)]
    return list(draw(st.permutations(events)))


@given(traffic())
def test_every_request_comes_out_once_with_all_its_sequences(events: list[Any]) -> None:
    joiner = Joiner()
    out = []
    for now, event in enumerate(events):
        add = joiner.add_http if isinstance(event, HttpHalf) else joiner.add_engine
        out.append(add(event, now * 1e-6))
    joined = [item for item in out if item is not None] + joiner.expire(UNCLAIMED_S + 1)
    asked = [event for event in events if isinstance(event, HttpHalf)]
    assert sorted(map(id, asked)) == sorted(id(item.http) for item in joined)
    used = [id(half) for item in joined for half in item.engine]
    assert len(used) == len(set(used)) == len(events) - len(asked)
    for item in joined:
        facts = item.http.facts
        assert len(item.engine) <= facts.choices * facts.prompts
        base = item.http.metadata.request_id
        assert all(half.engine_request_id.startswith(base) for half in item.engine)


def test_a_refused_request_does_not_wait() -> None:
    assert Joiner().add_http(http_half("r", "/v1/completions", status=404), 0.0) is not None


def test_a_request_without_engine_half_waits_no_longer_than_the_grace() -> None:
    joiner = Joiner()
    assert joiner.add_http(http_half("r", "/v1/completions"), 0.0) is None
    assert joiner.expire(GRACE_S - 0.01) == []
    (joined,) = joiner.expire(GRACE_S)
    assert not joined.complete
    assert joiner.expire(GRACE_S + 100) == []
    # what comes later is nobody's
    assert joiner.add_engine(engine_half("cmpl-r-0"), GRACE_S + 1) is None
    joiner.expire(GRACE_S + 2 + UNCLAIMED_S)
    assert joiner.unclaimed_dropped == 1
