"""Sends a load to the fleet over HTTP, in real time, and keeps count of every request.

Each request that was sent is counted once as ok, failed or aborted, and is one line in the sent
file, so that what is lost on the way to the store can be told. Concurrency is bounded.
This file refuses to decide what is sent: that is ``workload`` and ``traces``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from redline.errors import ConfigFault, Fault
from redline.log import get_logger
from redline.sketch import DDSketch
from serving.simulator.sent_file import SentFile, SentLine
from serving.simulator.served_engine import Clock
from serving.simulator.spec import WorkloadSpec
from serving.simulator.traces import TraceInvalid, read_trace
from serving.simulator.workload import Arrival, Workload

Outcome = Literal["ok", "failed", "aborted"]
SLICE_S = 0.25  # a change of the rate takes effect within this
BYTES_PER_TOKEN_SENT = 8  # of an answer in flight, to tell when an aborting client has had enough


class LoadCounts(msgspec.Struct):
    """What became of the requests so far."""

    requests_sent: int = 0
    responses_ok: int = 0
    responses_failed: int = 0
    aborted: int = 0
    in_flight: int = 0
    unreachable: int = 0  # of the failed: no answer at all
    by_status: dict[str, int] = {}


class Driver:
    """One load, which can be started, changed and stopped.

    Raises:
        ConfigFault: the trace cannot be read.
    """

    def __init__(self, spec: WorkloadSpec, clock: Clock) -> None:
        self._spec = spec
        self._clock = clock
        self._urls = cycle([url.rstrip("/") for url in spec.targets])
        if spec.trace is not None:
            _check_trace(spec.trace)
        # Another run, other ids: a restarted fleet must not repeat those in the store.
        self.workload = Workload(spec.profile(), spec.seed, f"{clock() // 1000:x}")
        self.counts = LoadCounts()
        self.first_chunk_us = DDSketch()
        self._sent = SentFile(spec.sent_file)
        self._session: aiohttp.ClientSession | None = None
        self._sending: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(spec.concurrency_max)
        self._changes = 0

    @property
    def running(self) -> bool:
        """Whether requests are being sent."""
        return self._sending is not None and not self._sending.done()

    def start(self) -> None:
        """Begin to send, unless it is sending."""
        if not self.running:
            self._sending = asyncio.ensure_future(self._send_all())

    def set_rate(self, rate_rps: float) -> None:
        """Change the rate of the seeded load; a trace has its own."""
        self.workload.rate_rps = rate_rps
        self._changes += 1

    def set_tenant_factor(self, tenant: str, factor: float) -> None:
        """Multiply one tenant's share.

        Raises:
            KeyError: there is no such tenant.
        """
        if tenant not in [known.name for known in self.workload.profile.tenants]:
            raise KeyError(f"no tenant {tenant!r}")
        self.workload.tenant_factors[tenant] = factor
        self._changes += 1

    async def stop(self) -> None:
        """Stop sending; requests in flight go on. Safe to call twice."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
            self._sending = None

    async def close(self) -> None:
        """Stop sending and end what is in flight. Safe to call twice."""
        await self.stop()
        for task in self._requests:
            task.cancel()
        if self._requests:
            await asyncio.wait(self._requests)
        if self._session is not None:
            await self._session.close()
            self._session = None
        self._sent.close()

    async def _send_all(self) -> None:
        try:
            async for arrival in self._arrivals():
                await self._room.acquire()
                task = asyncio.ensure_future(self._request(arrival))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
        except Fault as error:
            get_logger().error("load_stopped", error=str(error))

    async def _arrivals(self) -> AsyncIterator[Arrival]:
        if self._spec.trace is not None:
            async for arrival in self._paced(read_trace(self._spec.trace, seed=self._spec.seed)):
                yield arrival
            return
        start_us = at_us = self._clock()
        while True:
            changes = self._changes
            drawn = self.workload.next_arrival(at_us)
            await self._wait(self._due(drawn, start_us) if drawn else None, changes)
            if drawn is None or changes != self._changes:
                # A Poisson process has no memory: draw again from here at the new rate.
                at_us = start_us + round((self._clock() - start_us) * self._spec.speed)
                continue
            at_us = drawn.at_us
            yield drawn

    async def _wait(self, due_us: int | None, changes: int) -> None:
        """Wait until ``due_us`` (None: for ever) or until the load was changed."""
        while changes == self._changes:
            wait_s = SLICE_S if due_us is None else (due_us - self._clock()) / 1e6
            if wait_s <= 0:
                return
            await asyncio.sleep(min(wait_s, SLICE_S))

    async def _paced(self, arrivals: Iterator[Arrival]) -> AsyncIterator[Arrival]:
        start_us = self._clock()
        run = f"{start_us // 1000:x}"
        for arrival in arrivals:
            wait_s = (start_us + arrival.at_us / self._spec.speed - self._clock()) / 1e6
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            yield msgspec.structs.replace(arrival, request_id=f"{run}-{arrival.request_id}")

    def _due(self, arrival: Arrival, start_us: int) -> int:
        return start_us + round((arrival.at_us - start_us) / self._spec.speed)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
                timeout=aiohttp.ClientTimeout(total=self._spec.timeout_s),
                auto_decompress=False,
            )
        return self._session

    async def _request(self, arrival: Arrival) -> None:
        counts = self.counts
        counts.requests_sent += 1
        counts.in_flight += 1
        sent_us = self._clock()
        outcome: Outcome = "failed"
        status = 0
        first_us: int | None = None
        try:
            async with self._open().post(
                f"{next(self._urls)}/v1/chat/completions",
                data=request_body(arrival, self._spec.model),
                headers=_headers(arrival),
            ) as response:
                status = response.status
                received = 0
                outcome = "ok" if status == 200 else "failed"
                async for data in response.content.iter_any():
                    first_us = first_us or self._clock()
                    received += len(data)
                    if arrival.abort_after_tokens and (
                        received >= arrival.abort_after_tokens * BYTES_PER_TOKEN_SENT
                    ):
                        outcome = "aborted"
                        response.close()
                        break
        except asyncio.CancelledError:
            outcome = "aborted"
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            outcome = "failed"
            counts.unreachable += not status
            get_logger().debug("request_failed", request_id=arrival.request_id, error=str(error))
        finally:
            self._room.release()
            counts.in_flight -= 1
            self._count(arrival, outcome, status, sent_us, first_us)

    def _count(
        self, arrival: Arrival, outcome: Outcome, status: int, sent_us: int, first_us: int | None
    ) -> None:
        counts = self.counts
        counts.responses_ok += outcome == "ok"
        counts.responses_failed += outcome == "failed"
        counts.aborted += outcome == "aborted"
        counts.by_status[str(status)] = counts.by_status.get(str(status), 0) + 1
        if first_us is not None and arrival.stream and outcome != "failed":
            self.first_chunk_us.add(float(max(1, first_us - sent_us)))
        self._sent.append(
            SentLine(
                request_id=arrival.request_id,
                tenant=arrival.tenant,
                sent_us=sent_us,
                end_us=self._clock(),
                outcome=outcome,
                status_code=status,
                first_chunk_us=None if first_us is None else first_us - sent_us,
            )
        )


def request_body(arrival: Arrival, model: str) -> bytes:
    """The completion request of an arrival. A real vLLM generates as many tokens, too."""
    lengths = {"prompt_tokens": arrival.prompt_tokens, "output_tokens": arrival.output_tokens}
    if arrival.prefix:
        lengths["prefix_id"] = arrival.prefix[0].segment_id
        lengths["prefix_tokens"] = sum(segment.tokens for segment in arrival.prefix)
    return msgspec.json.encode(
        {
            "model": model,
            "messages": [{"role": "user", "content": "How close is the redline?"}],
            "max_tokens": arrival.output_tokens,
            "ignore_eos": True,
            "stream": arrival.stream,
            "vllm_xargs": lengths,
        }
    )


def _headers(arrival: Arrival) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "X-Request-Id": arrival.request_id,
        "X-Tenant": arrival.tenant,
    }
    if arrival.region:
        headers["X-Region"] = arrival.region
    return headers


def _check_trace(path: Path) -> None:
    """Read the first line before anything is served; later lines are checked as they come."""
    try:
        next(read_trace(path), None)
    except TraceInvalid as error:
        raise ConfigFault(
            "workload.trace", str(path), str(error), "name a trace of a known format"
        ) from error
