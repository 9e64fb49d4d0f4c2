"""The fleet without sockets: a trace or a workload in virtual time, as fast as the machine can.

What comes out is what the live fleet would have written: request records and engine samples, in
the order of their event time. This file refuses the clock: all times follow from the arrivals.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from redline.records import EngineSample, RequestRecord
from serving.simulator.engine import Conditions, Engine, EngineProfile
from serving.simulator.requests import (
    Event,
    Finished,
    Identity,
    Refused,
    record_of,
    refused_record,
)
from serving.simulator.samples import engine_sample
from serving.simulator.traces import read_trace
from serving.simulator.workload import Arrival, generation_request


class FleetMember(msgspec.Struct, frozen=True, kw_only=True):
    """One engine of an offline fleet, and how much of the traffic it is for."""

    identity: Identity
    profile: EngineProfile
    weight: float = 1.0
    conditions: Conditions = Conditions()


def simulate(
    arrivals: Iterable[Arrival], fleet: Sequence[FleetMember], *, sample_every_us: int = 10_000_000
) -> Iterator[RequestRecord | EngineSample]:
    """Run ``arrivals``, in order of time, through ``fleet``.

    A request goes to an engine by the hash of its id and the engines' weights, within its client's
    region where an engine is there. ``sample_every_us`` of 0 gives no engine samples.

    Raises:
        ValueError: an empty fleet, or arrivals out of order.
    """
    if not fleet:
        raise ValueError("a fleet needs at least one engine")
    run = _Run(fleet, sample_every_us)
    last_us = 0
    for arrival in arrivals:
        if arrival.at_us < last_us:
            raise ValueError(f"arrival {arrival.request_id} is earlier than the one before it")
        last_us = arrival.at_us
        yield from run.advance(arrival.at_us)
        refused = run.submit(arrival)
        if refused is not None:
            yield refused
    yield from run.drain()


def records_from_trace(
    path: Path,
    *,
    end_us: int,
    instances: Sequence[FleetMember] | None = None,
    sample_every_us: int = 10_000_000,
    requests_max: int | None = None,
) -> Iterator[RequestRecord | EngineSample]:
    """A trace file as the records that the fleet would have written, the last one at ``end_us``.

    The fleet runs twice: once to learn when the trace's last request ends. Request ids depend on
    the file's name and the line only, so a replay of the same trace has the same ids.

    Raises:
        TraceInvalid: the file is none of the known formats, or a line of it is wrong.
    """
    fleet = tuple(instances) if instances is not None else default_fleet()
    last_us = 0
    for record in simulate(_trace(path, 0, requests_max), fleet, sample_every_us=0):
        if isinstance(record, RequestRecord):
            last_us = max(last_us, record.ts_end_us)
    shifted = _trace(path, end_us - last_us, requests_max)
    yield from simulate(shifted, fleet, sample_every_us=sample_every_us)


def default_fleet(model: str = "llama-3.1-8b-fp8") -> tuple[FleetMember, ...]:
    """Three engines in two regions, the third a canary with a tenth of the traffic."""
    profile = EngineProfile(num_gpu_blocks=4096, max_model_len=16384, speed=4.0)
    rows = (
        ("vllm-0", "v1", "us-east", 0.45),
        ("vllm-1", "v1", "eu-west", 0.45),
        ("vllm-2", "v2", "us-east", 0.1),
    )
    return tuple(
        FleetMember(
            identity=Identity(
                instance=instance,
                model=model,
                version=version,
                region=region,
                canary=version != "v1",
            ),
            profile=profile,
            weight=weight,
        )
        for instance, version, region, weight in rows
    )


def _trace(path: Path, offset_us: int, requests_max: int | None) -> Iterator[Arrival]:
    for arrival in islice(read_trace(path), requests_max):
        yield msgspec.structs.replace(arrival, at_us=arrival.at_us + offset_us)


class _Slot:
    __slots__ = ("due_us", "engine", "member", "seq")

    def __init__(self, member: FleetMember) -> None:
        self.member = member
        self.engine = Engine(member.profile)
        self.engine.conditions = member.conditions
        self.due_us: int | None = None
        self.seq = 0


class _Run:
    """The engines, and what is due when."""

    def __init__(self, fleet: Sequence[FleetMember], sample_every_us: int) -> None:
        self._slots = [_Slot(member) for member in fleet]
        self._due: list[tuple[int, int]] = []  # a heap of (step end, slot)
        self._sample_every_us = sample_every_us
        self._sample_us: int | None = None

    def submit(self, arrival: Arrival) -> RequestRecord | None:
        """Queue a request; its record if it is refused."""
        index = self._route(arrival)
        slot = self._slots[index]
        now_us = arrival.at_us
        if self._sample_us is None and self._sample_every_us:
            self._sample_us = now_us - now_us % self._sample_every_us + self._sample_every_us
        request = generation_request(arrival)
        try:
            slot.engine.submit(request, now_us)
        except Refused as refused:
            slot.seq += 1
            return refused_record(request, refused, slot.member.identity, slot.seq)
        if slot.due_us is None:
            self._step(index, now_us)
        return None

    def advance(self, until_us: int) -> Iterator[RequestRecord | EngineSample]:
        """Everything that happens up to ``until_us``, in order."""
        while self._due and self._due[0][0] <= until_us:
            at_us, index = heapq.heappop(self._due)
            yield from self._samples(at_us)
            slot = self._slots[index]
            for event in self._step(index, at_us):
                if isinstance(event, Finished):
                    slot.seq += 1
                    yield record_of(event, slot.member.identity, slot.seq)
        yield from self._samples(until_us)

    def drain(self) -> Iterator[RequestRecord | EngineSample]:
        """Everything until the last request is over."""
        while self._due:
            yield from self.advance(self._due[0][0])

    def _step(self, index: int, now_us: int) -> list[Event]:
        slot = self._slots[index]
        events, slot.due_us = slot.engine.step(now_us)
        if slot.due_us is not None:
            heapq.heappush(self._due, (slot.due_us, index))
        return events

    def _samples(self, until_us: int) -> Iterator[EngineSample]:
        while self._sample_us is not None and self._sample_us <= until_us:
            for slot in self._slots:
                yield engine_sample(slot.engine, slot.member.identity, self._sample_us)
            self._sample_us += self._sample_every_us

    def _route(self, arrival: Arrival) -> int:
        near = [
            index
            for index, slot in enumerate(self._slots)
            if not arrival.region or slot.member.identity.region == arrival.region
        ]
        candidates = near or list(range(len(self._slots)))
        weights = [self._slots[index].member.weight for index in candidates]
        point = zlib.crc32(arrival.request_id.encode()) / 2**32 * sum(weights)
        for index, weight in zip(candidates, weights, strict=True):
            point -= weight
            if point < 0:
                return index
        return candidates[-1]
