"""One vLLM-like engine under continuous batching, as a machine in virtual time.

``submit`` queues, ``step`` ends the step in flight and starts the next, ``abort`` takes a request
out. Scheduling follows vLLM v1: running sequences first, in order of arrival, then the queue, first
come first served; prompts are cut into chunks of the step's token budget; where blocks run out, the
newest running sequence gives its blocks back and is computed again later.
This file refuses clocks and randomness: the same calls give the same events.
"""

from __future__ import annotations

import zlib
from collections import deque

import msgspec

from redline.records import FinishReason
from serving.simulator.blocks import BlockPool, PrefixSegment
from serving.simulator.requests import Chunk, Event, Finished, GenerationRequest, Refused
from serving.sizing import blocks_for_tokens

FINISHED_REASONS: tuple[FinishReason, ...] = ("stop", "length", "abort", "error", "repetition")
_ERROR_SALT = b"simulated-error:"


class EngineProfile(msgspec.Struct, frozen=True, kw_only=True):
    """How large and how fast an engine is.

    The step times were fitted to splitwise-sim's measured llama2-70b on 4 H100s; ``speed`` divides
    them, for a smaller model or fewer bits.
    """

    num_gpu_blocks: int
    block_size: int = 16
    max_model_len: int = 4096
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    queue_requests_max: int = 1000
    step_base_ms: float = 29.0
    prefill_ms_per_token: float = 0.0913
    decode_ms_per_seq: float = 0.365
    speed: float = 1.0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What an incident changes while the engine runs."""

    slowdown: float = 1.0
    error_ratio: float = 0.0  # of requests, chosen by their id
    reserved_ratio: float = 0.0  # of the blocks, taken from the requests
    paused_until_us: int = 0  # loading its weights: no step starts before


class Counters(msgspec.Struct):
    """Totals since the engine's start, as vLLM counts them: client aborts are no success."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_cache_queries: int = 0  # tokens
    prefix_cache_hits: int = 0  # tokens
    refused: int = 0
    busy_us: int = 0  # time in steps
    finished: dict[FinishReason, int] = msgspec.field(
        default_factory=lambda: dict.fromkeys(FINISHED_REASONS, 0)
    )


class _Sequence:
    """A request inside the engine. ``known`` tokens exist, ``computed`` of them have KV."""

    __slots__ = (
        "cached",
        "capacity",
        "computed",
        "failed",
        "first_token_us",
        "handle",
        "known",
        "next_chunk",
        "over",
        "preemptions",
        "prefix",
        "private_blocks",
        "request",
        "scheduled_us",
        "stop_at",
    )

    def __init__(
        self,
        handle: int,
        request: GenerationRequest,
        prefix: tuple[PrefixSegment, ...],
        stop_at: int,
    ) -> None:
        self.handle = handle
        self.prefix = prefix
        self.request = request
        self.stop_at = stop_at  # known tokens at which it ends
        self.known = request.prompt_tokens
        self.computed = 0
        self.cached = 0
        self.capacity = 0  # tokens that its blocks hold
        self.private_blocks = 0
        self.next_chunk = request.prompt_tokens + 1 if request.chunk_tokens else stop_at
        self.scheduled_us: int | None = None
        self.first_token_us: int | None = None
        self.preemptions = 0
        self.failed = False
        self.over = False


class Engine:
    """The state of one engine. ``waiting`` and ``running`` are its gauges."""

    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self.conditions = Conditions()
        self.counters = Counters()
        self.blocks = BlockPool(profile.num_gpu_blocks, profile.block_size)
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._batch: list[tuple[_Sequence, int]] = []
        self._step_end_us: int | None = None
        self._sequences: dict[int, _Sequence] = {}
        self._handles = 0
        self._reserved = 0

    @property
    def running(self) -> int:
        """``vllm:num_requests_running``."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """``vllm:num_requests_waiting``."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Nothing to do until the next submit."""
        return not self._sequences

    def submit(self, request: GenerationRequest, now_us: int) -> int:
        """Queue a request; its handle is on every event of it.

        Raises:
            Refused: 400 if it can never fit, 503 if the queue is full.
        """
        profile = self.profile
        if request.prompt_tokens < 1 or request.prompt_tokens >= profile.max_model_len:
            self.counters.refused += 1
            raise Refused(
                f"the prompt has {request.prompt_tokens} tokens, this model takes 1 to "
                f"{profile.max_model_len - 1}",
                400,
            )
        if sum(segment.tokens for segment in request.prefix) > request.prompt_tokens:
            raise Refused("the shared prefix is longer than the prompt", 400)
        if len(self._waiting) >= profile.queue_requests_max:
            self.counters.refused += 1
            raise Refused(f"{len(self._waiting)} requests wait, which is the limit", 503)
        wanted = max(1, min(request.output_tokens, request.max_tokens))
        self._handles += 1
        sequence = _Sequence(
            self._handles,
            request,
            # A segment below one block cannot be shared, and each is held once.
            tuple(dict.fromkeys(s for s in request.prefix if s.tokens >= profile.block_size)),
            min(request.prompt_tokens + wanted, profile.max_model_len),
        )
        self._sequences[sequence.handle] = sequence
        self._waiting.append(sequence)
        return sequence.handle

    def abort(self, handle: int, now_us: int) -> Finished | None:
        """Take a request out because its client left; None where it is over already."""
        sequence = self._sequences.get(handle)
        if sequence is None:
            return None
        if sequence in self._running:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)
        return self._finish(sequence, "abort", now_us)

    def abort_all(self, reason: FinishReason, now_us: int) -> list[Finished]:
        """Take every request out, as when the machine is lost."""
        over: list[Finished] = []
        for sequence in list(self._running):
            self._release(sequence)
            over.append(self._finish(sequence, reason, now_us))
        over.extend(self._finish(sequence, reason, now_us) for sequence in self._waiting)
        self._running.clear()
        self._waiting.clear()
        return over

    def step(self, now_us: int) -> tuple[list[Event], int | None]:
        """End the step that is due and start the next.

        Returns:
            What happened, and when to call again: None if only a submit can change anything.
        """
        events: list[Event] = []
        if self._step_end_us is not None:
            if now_us < self._step_end_us:
                return events, self._step_end_us
            self._complete(self._step_end_us, events)
            self._step_end_us = None
        if now_us < self.conditions.paused_until_us:
            return events, self.conditions.paused_until_us if self._sequences else None
        self._schedule(now_us)
        if not self._batch:
            return events, None
        duration_us = self._duration_us()
        self.counters.busy_us += duration_us
        self._step_end_us = now_us + duration_us
        return events, self._step_end_us

    def _schedule(self, now_us: int) -> None:
        self._reserve()
        preemptions = self.counters.preemptions
        batch: list[tuple[_Sequence, int]] = []
        budget = self.profile.max_num_batched_tokens
        position = 0
        while position < len(self._running) and budget:
            sequence = self._running[position]
            if sequence.known > sequence.capacity and not self._grow(sequence):
                break  # it was the newest and gave its own blocks back
            tokens = min(sequence.known - sequence.computed, budget)
            batch.append((sequence, tokens))
            budget -= tokens
            position += 1
        if self.counters.preemptions == preemptions:  # else the queue would take what was freed
            while budget and self._waiting and len(self._running) < self.profile.max_num_seqs:
                sequence = self._waiting[0]
                if not self._admit(sequence, now_us):
                    break
                self._waiting.popleft()
                self._running.append(sequence)
                tokens = min(sequence.known - sequence.computed, budget)
                batch.append((sequence, tokens))
                budget -= tokens
        self._batch = batch

    def _grow(self, sequence: _Sequence) -> bool:
        """One more block, from the newest running sequence if need be."""
        while not self.blocks.take(1):
            victim = self._running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.private_blocks += 1
        sequence.capacity += self.profile.block_size
        return True

    def _preempt(self, sequence: _Sequence) -> None:
        self._release(sequence)
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)

    def _admit(self, sequence: _Sequence, now_us: int) -> bool:
        prefix = sequence.prefix
        cached = min(self.blocks.cached_tokens(prefix), sequence.known - 1)
        total = blocks_for_tokens(sequence.known, self.profile.block_size)
        private = total - self.blocks.shared_blocks(prefix)
        if not self.blocks.hold(prefix, private):
            return False
        sequence.private_blocks = private
        sequence.capacity = total * self.profile.block_size
        sequence.computed = cached
        if sequence.scheduled_us is None:
            sequence.scheduled_us = now_us
            sequence.cached = cached
            self.counters.prefix_cache_queries += sequence.known
            self.counters.prefix_cache_hits += cached
        return True

    def _reserve(self) -> None:
        # Never so much that one request of full length could not run: it would wait for ever.
        longest = blocks_for_tokens(self.profile.max_model_len, self.profile.block_size)
        room = max(0, self.blocks.usable - longest)
        target = min(int(self.blocks.usable * self.conditions.reserved_ratio), room)
        if self._reserved > target:
            self.blocks.give(self._reserved - target)
            self._reserved = target
        elif self._reserved < target:
            blocks = min(target - self._reserved, self.blocks.free)
            if self.blocks.take(blocks):
                self._reserved += blocks

    def _duration_us(self) -> int:
        prefill = 0
        decode = 0
        for sequence, tokens in self._batch:
            if tokens == 1 and sequence.first_token_us is not None:
                decode += 1
            else:
                prefill += tokens
        profile = self.profile
        duration_ms = (
            profile.step_base_ms
            + profile.prefill_ms_per_token * prefill
            + profile.decode_ms_per_seq * decode
        )
        return max(1, round(duration_ms * 1000 * self.conditions.slowdown / profile.speed))

    def _complete(self, end_us: int, events: list[Event]) -> None:
        done: list[_Sequence] = []
        generated = 0
        for sequence, tokens in self._batch:
            if sequence.over:
                continue
            sequence.computed += tokens
            if sequence.computed < sequence.known:
                continue
            sequence.known += 1
            generated += 1
            if sequence.first_token_us is None:
                sequence.first_token_us = end_us
                self.counters.prompt_tokens += sequence.request.prompt_tokens
                if self._fails(sequence.request):
                    sequence.failed = True
                    done.append(sequence)
                    continue
            if sequence.known >= sequence.stop_at:
                done.append(sequence)
            elif sequence.known >= sequence.next_chunk:
                sequence.next_chunk = sequence.known + sequence.request.chunk_tokens
                events.append(
                    Chunk(sequence.handle, sequence.known - sequence.request.prompt_tokens, end_us)
                )
        self.counters.generation_tokens += generated
        self._batch = []
        for sequence in done:
            self._release(sequence)
            events.append(self._finish(sequence, self._reason(sequence), end_us))
        if done:
            self._running = [sequence for sequence in self._running if not sequence.over]

    def _reason(self, sequence: _Sequence) -> FinishReason:
        if sequence.failed:
            return "error"
        request = sequence.request
        generated = sequence.known - request.prompt_tokens
        return "stop" if generated == request.output_tokens else "length"

    def _fails(self, request: GenerationRequest) -> bool:
        ratio = self.conditions.error_ratio
        if not ratio:
            return False
        return zlib.crc32(_ERROR_SALT + request.request_id.encode()) < ratio * 2**32

    def _release(self, sequence: _Sequence) -> None:
        self.blocks.release(sequence.prefix, sequence.private_blocks)
        sequence.private_blocks = 0
        sequence.capacity = 0

    def _finish(self, sequence: _Sequence, reason: FinishReason, end_us: int) -> Finished:
        sequence.over = True
        del self._sequences[sequence.handle]
        if reason != "abort":  # vLLM does not count clients that left
            self.counters.finished[reason] += 1
        request = sequence.request
        return Finished(
            handle=sequence.handle,
            request=request,
            reason=reason,
            end_us=max(end_us, request.arrival_us),
            scheduled_us=sequence.scheduled_us,
            first_token_us=sequence.first_token_us,
            generated=sequence.known - request.prompt_tokens,
            cached_tokens=sequence.cached,
            preemptions=sequence.preemptions,
        )
