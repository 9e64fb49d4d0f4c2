from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.simulator.blocks import PrefixSegment
from serving.simulator.engine import Conditions, Engine, EngineProfile
from serving.simulator.requests import Chunk, Event, Finished, GenerationRequest, Refused

PROFILE = EngineProfile(num_gpu_blocks=1000, speed=10.0)


def request(
    prompt: int = 100,
    output: int = 10,
    *,
    at: int = 0,
    name: str = "r",
    max_tokens: int = 10_000,
    prefix: tuple[PrefixSegment, ...] = (),
    chunk: int = 0,
) -> GenerationRequest:
    return GenerationRequest(
        request_id=name,
        arrival_us=at,
        prompt_tokens=prompt,
        output_tokens=output,
        max_tokens=max_tokens,
        prefix=prefix,
        chunk_tokens=chunk,
    )


@dataclass
class Run:
    """An engine driven by hand, with what it said."""

    engine: Engine
    now_us: int = 0
    due_us: int | None = None
    events: list[Event] = field(default_factory=list)
    steps: int = 0

    def check(self) -> None:
        blocks = self.engine.blocks
        assert 0 <= blocks.used <= blocks.usable
        assert blocks.cached >= 0
        assert blocks.used + blocks.cached <= blocks.usable
        assert 0.0 <= blocks.usage <= 1.0
        assert self.engine.running <= self.engine.profile.max_num_seqs

    def step(self, at_us: int) -> None:
        self.now_us = at_us
        events, self.due_us = self.engine.step(at_us)
        self.events += events
        self.steps += 1
        self.check()

    def submit(self, what: GenerationRequest) -> int:
        self.advance(what.arrival_us)
        self.now_us = max(self.now_us, what.arrival_us)
        handle = self.engine.submit(what, self.now_us)
        if self.due_us is None:
            self.step(self.now_us)
        return handle

    def advance(self, until_us: int) -> None:
        while self.due_us is not None and self.due_us <= until_us:
            self.step(self.due_us)

    def drain(self) -> None:
        while self.due_us is not None:
            assert self.steps < 500_000, "the engine makes no progress"
            self.step(self.due_us)

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]


def test_one_request_takes_one_prefill_step_and_one_step_per_further_token() -> None:
    run = Run(Engine(EngineProfile(num_gpu_blocks=100)))
    run.submit(request(prompt=100, output=3))
    run.drain()
    prefill_us = round((29 + 0.0913 * 100) * 1000)
    decode_us = round((29 + 0.365) * 1000)
    (over,) = run.finished
    assert over.first_token_us == prefill_us
    assert over.end_us == prefill_us + 2 * decode_us
    assert (over.reason, over.generated) == ("stop", 3)
    assert run.engine.idle
    assert run.engine.blocks.used == 0


def test_the_client_s_limit_ends_it_with_length() -> None:
    run = Run(Engine(PROFILE))
    run.submit(request(output=50, max_tokens=7))
    run.submit(request(prompt=4000, output=500))
    run.drain()
    by_prompt = {over.request.prompt_tokens: over for over in run.finished}
    assert (by_prompt[100].reason, by_prompt[100].generated) == ("length", 7)
    assert (by_prompt[4000].reason, by_prompt[4000].generated) == ("length", 96)


def test_a_long_prompt_is_cut_into_chunks_and_does_not_stop_the_others() -> None:
    profile = EngineProfile(num_gpu_blocks=2000, max_model_len=20_000, max_num_batched_tokens=512)
    run = Run(Engine(profile))
    run.submit(request(prompt=10, output=100, name="short", chunk=1))
    run.submit(request(prompt=5000, output=1, name="long", at=40_000))
    run.drain()
    long = next(over for over in run.finished if over.request.request_id == "long")
    assert long.first_token_us is not None
    during = [
        event.generated
        for event in run.events
        if isinstance(event, Chunk) and 40_000 < event.at_us <= long.first_token_us
    ]
    # 511 prompt tokens a step beside the other's one: ten steps, each with a token for the other.
    assert len(during) >= 10
    assert during == list(range(during[0], during[0] + len(during)))


def test_a_full_pool_preempts_the_newest_which_is_computed_again() -> None:
    profile = EngineProfile(num_gpu_blocks=11, block_size=16, max_model_len=160, speed=10.0)
    run = Run(Engine(profile))
    run.submit(request(prompt=64, output=64, name="old"))
    run.submit(request(prompt=64, output=64, name="new", at=1))
    run.drain()
    by_name = {over.request.request_id: over for over in run.finished}
    assert by_name["old"].preemptions == 0
    assert by_name["new"].preemptions >= 1
    assert by_name["new"].generated == by_name["old"].generated == 64
    assert by_name["new"].end_us > by_name["old"].end_us
    assert run.engine.counters.preemptions == by_name["new"].preemptions


def test_a_preempted_request_goes_before_those_that_wait() -> None:
    profile = EngineProfile(num_gpu_blocks=11, block_size=16, max_model_len=160, speed=10.0)
    run = Run(Engine(msgspec.structs.replace(profile, max_num_seqs=2)))
    for number, name in enumerate(("old", "new", "third")):
        run.submit(request(prompt=64, output=64, name=name, at=number))
    run.drain()
    by_name = {over.request.request_id: over for over in run.finished}
    assert by_name["new"].preemptions == 1
    assert (by_name["third"].scheduled_us or 0) >= by_name["old"].end_us
    assert [over.request.request_id for over in run.finished] == ["old", "new", "third"]


def test_the_first_step_of_a_prompt_is_never_priced_as_decoding() -> None:
    run = Run(Engine(EngineProfile(num_gpu_blocks=300)))
    run.submit(request(prompt=1, output=1))
    assert run.due_us == round((29 + 0.0913) * 1000)


def test_requests_that_start_alike_share_blocks_and_skip_the_computing() -> None:
    prefix = (PrefixSegment(7, 512),)
    run = Run(Engine(PROFILE))
    run.submit(request(prompt=520, output=30, prefix=prefix))
    alone = run.engine.blocks.used
    run.submit(request(prompt=520, output=30, prefix=prefix, at=1))
    run.advance(run.due_us or 0)
    assert run.engine.running == 2
    assert run.engine.blocks.used < 2 * alone
    run.drain()
    assert [over.cached_tokens for over in run.finished] == [0, 512]
    assert run.engine.counters.prefix_cache_queries == 1040
    assert run.engine.counters.prefix_cache_hits == 512
    assert run.engine.blocks.used == 0
    assert run.engine.blocks.cached == 32
    assert run.engine.blocks.usage == 0.0  # cached but held by nobody counts as free


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token() -> None:
    run = Run(Engine(PROFILE))
    prefix = (PrefixSegment(7, 512),)
    for at in (0, 10_000_000):
        run.submit(request(prompt=512, output=2, prefix=prefix, at=at))
    run.drain()
    assert [over.cached_tokens for over in run.finished] == [0, 511]


def test_clients_cannot_confuse_the_pool_with_strange_prefixes() -> None:
    run = Run(Engine(PROFILE))
    strange = [
        (PrefixSegment(7, 64), PrefixSegment(7, 64)),  # twice
        (PrefixSegment(7, 32),),  # the same id, another length
        (PrefixSegment(8, 5),),  # below one block
        (PrefixSegment(7, 64), PrefixSegment(7, 32)),
    ]
    for number, prefix in enumerate(strange):
        run.submit(request(prompt=200, output=20, prefix=prefix, at=number))
    run.drain()
    assert len(run.finished) == 4
    assert run.engine.blocks.used == 0


def test_an_abort_frees_the_blocks_and_is_no_success() -> None:
    run = Run(Engine(PROFILE))
    handle = run.submit(request(output=1000))
    for _ in range(5):
        run.step(run.due_us or 0)
    over = run.engine.abort(handle, run.now_us)
    assert over is not None
    assert (over.reason, over.generated) == ("abort", 5)
    assert run.engine.blocks.used == 0
    assert run.engine.abort(handle, run.now_us) is None
    run.drain()
    assert sum(run.engine.counters.finished.values()) == 0
    assert run.engine.counters.generation_tokens == 5


def test_what_can_never_run_is_refused_at_once() -> None:
    engine = Engine(msgspec.structs.replace(PROFILE, queue_requests_max=2, max_num_seqs=1))
    for bad in (request(prompt=0), request(prompt=4096), request(prefix=(PrefixSegment(1, 200),))):
        with pytest.raises(Refused) as refused:
            engine.submit(bad, 0)
        assert refused.value.status_code == 400
    engine.submit(request(), 0)
    engine.submit(request(), 0)
    with pytest.raises(Refused, match="limit") as full:
        engine.submit(request(), 0)
    assert full.value.status_code == 503


def test_a_bad_version_is_slower_and_fails_its_share() -> None:
    def run(conditions: Conditions) -> list[Finished]:
        driven = Run(Engine(PROFILE))
        driven.engine.conditions = conditions
        for number in range(400):
            driven.submit(request(output=5, name=f"id-{number}", at=number * 50_000))
        driven.drain()
        return driven.finished

    good = run(Conditions())
    bad = run(Conditions(slowdown=6.0, error_ratio=0.03))
    assert {over.reason for over in good} == {"stop"}
    errors = [over.request.request_id for over in bad if over.reason == "error"]
    assert 3 <= len(errors) <= 25
    assert errors == [over.request.request_id for over in bad if over.reason == "error"]
    slow = sum(over.end_us - over.request.arrival_us for over in bad)
    assert slow > 4 * sum(over.end_us - over.request.arrival_us for over in good)


def test_reserved_blocks_raise_the_usage_and_are_given_back() -> None:
    run = Run(Engine(PROFILE))
    run.engine.conditions = Conditions(reserved_ratio=0.6)
    run.submit(request(prompt=1000, output=20))
    assert 0.6 < run.engine.blocks.usage < 0.75
    run.engine.conditions = Conditions()
    run.drain()
    run.step(run.now_us)
    assert run.engine.blocks.used == 0


def test_a_loading_engine_takes_requests_and_starts_them_when_it_is_ready() -> None:
    run = Run(Engine(PROFILE))
    run.engine.conditions = Conditions(paused_until_us=5_000_000)
    run.submit(request(at=100))
    assert run.due_us == 5_000_000
    run.drain()
    assert run.finished[0].scheduled_us == 5_000_000


def test_a_lost_machine_ends_everything_with_an_error() -> None:
    run = Run(Engine(msgspec.structs.replace(PROFILE, max_num_seqs=2)))
    handles = [run.submit(request(name=f"r{n}")) for n in range(5)]
    over = run.engine.abort_all("error", 1_000)
    assert sorted(event.handle for event in over) == handles
    assert {event.reason for event in over} == {"error"}
    assert run.engine.idle
    assert run.engine.blocks.used == 0
    run.drain()
    assert run.finished == []


sizes = st.tuples(
    st.integers(1, 150),  # prompt
    st.integers(1, 60),  # output
    st.integers(0, 400_000),  # gap before it, µs
    st.sampled_from([0, 0, 0, 1, 2, 3]),  # shared prefix
    st.sampled_from([None, None, None, 1, 100_000, 2_000_000]),  # the client leaves after, µs
)


def play(
    load: list[tuple[int, int, int, int, int | None]],
    profile: EngineProfile,
    changes: list[tuple[int, float]],
) -> Run:
    """Submit, change and abort at random times, to the end."""
    run = Run(Engine(profile))
    at_us = 0
    leaving: list[tuple[int, int]] = []
    for number, (prompt, output, gap_us, segment, leaves_us) in enumerate(load):
        at_us += gap_us
        for due_us, handle in sorted(leaving):
            if due_us <= at_us:
                _leave(run, due_us, handle)
                leaving.remove((due_us, handle))
        for position, ratio in changes:
            if position == number:
                run.engine.conditions = Conditions(reserved_ratio=ratio)
        length = min(prompt, 16 * segment)
        prefix = (PrefixSegment(segment, length),) if segment and length == 16 * segment else ()
        handle = run.submit(request(prompt, output, at=at_us, name=f"r{number}", prefix=prefix))
        if leaves_us is not None:
            leaving.append((at_us + leaves_us, handle))
    for due_us, handle in sorted(leaving):
        _leave(run, due_us, handle)
    run.drain()
    return run


def _leave(run: Run, at_us: int, handle: int) -> None:
    run.advance(at_us)
    run.now_us = max(run.now_us, at_us)
    over = run.engine.abort(handle, run.now_us)
    if over is not None:
        run.events.append(over)
    run.check()


engines = st.builds(
    EngineProfile,
    num_gpu_blocks=st.sampled_from([15, 20, 40]),  # a request of full length needs 14
    max_model_len=st.just(211),
    max_num_seqs=st.sampled_from([1, 3, 64]),
    max_num_batched_tokens=st.sampled_from([16, 64, 8192]),
    speed=st.just(5.0),
)


@settings(max_examples=150, deadline=None)
@given(
    load=st.lists(sizes, min_size=1, max_size=25),
    profile=engines,
    changes=st.lists(st.tuples(st.integers(0, 25), st.floats(0, 1)), max_size=3),
)
def test_every_request_ends_once_and_nothing_is_lost(
    load: list[tuple[int, int, int, int, int | None]],
    profile: EngineProfile,
    changes: list[tuple[int, float]],
) -> None:
    run = play(load, profile, changes)
    over = run.finished
    counters = run.engine.counters
    assert sorted(event.handle for event in over) == list(range(1, len(load) + 1))
    assert run.engine.idle
    assert (run.engine.running, run.engine.waiting) == (0, 0)
    # tokens
    assert counters.generation_tokens == sum(event.generated for event in over)
    assert counters.prompt_tokens == sum(
        event.request.prompt_tokens for event in over if event.first_token_us is not None
    )
    for event in over:
        if event.reason != "abort":
            asked = min(event.request.output_tokens, 211 - event.request.prompt_tokens)
            assert event.generated == asked
    # blocks: what is still in use is reserved by an incident
    run.engine.conditions = Conditions()
    run.step(run.now_us)
    assert run.engine.blocks.used == 0
    # preemptions
    assert counters.preemptions == sum(event.preemptions for event in over)
    # first come, first served
    scheduled = [
        event.scheduled_us
        for event in sorted(over, key=lambda event: event.handle)
        if event.scheduled_us is not None
    ]
    assert scheduled == sorted(scheduled)
    # stages are in order
    for event in over:
        moments = [event.request.arrival_us, event.scheduled_us, event.first_token_us, event.end_us]
        known = [moment for moment in moments if moment is not None]
        assert known == sorted(known)


@settings(max_examples=30, deadline=None)
@given(load=st.lists(sizes, min_size=1, max_size=15), profile=engines)
def test_the_same_calls_give_the_same_events(
    load: list[tuple[int, int, int, int, int | None]], profile: EngineProfile
) -> None:
    assert play(load, profile, []).events == play(load, profile, []).events
