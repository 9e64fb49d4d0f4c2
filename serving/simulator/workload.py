"""Who asks for what, and when: a seeded stream of arrivals.

Poisson arrivals whose rate follows the time of day, tenants with shares, log-normal lengths.
This file refuses clocks and sockets: ``next_arrival(now_us)`` says what comes after ``now_us``.
"""

from __future__ import annotations

import math
import zlib

import msgspec

from serving.simulator.blocks import PrefixSegment
from serving.simulator.draws import Draws
from serving.simulator.requests import GenerationRequest

DAY_US = 86_400_000_000


class TenantLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant: its share of the arrivals and how long its prompts and answers are."""

    name: str
    share: float
    prompt_median_tokens: float = 400.0
    prompt_sigma: float = 0.6
    output_median_tokens: float = 64.0
    output_sigma: float = 0.6
    prefix_tokens: int = 0  # a system prompt that all its requests start with


class LoadProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole load. ``regions`` are where the clients are, with their weights."""

    tenants: tuple[TenantLoad, ...]
    rate_rps: float
    regions: dict[str, float] = {}
    diurnal_amplitude: float = 0.0  # 0.3: 30 % above the mean at the peak, 30 % below at night
    peak_hour_utc: float = 15.0
    stream_share: float = 0.5
    abort_share: float = 0.0  # of the streams, whose client leaves half-way
    prompt_tokens_max: int = 3000
    output_tokens_max: int = 512


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One request that a client sends at ``at_us``."""

    at_us: int
    request_id: str
    tenant: str
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[PrefixSegment, ...] = ()
    region: str = ""
    stream: bool = False
    abort_after_tokens: int = 0  # 0: the client stays


def diurnal_factor(amplitude: float, peak_hour_utc: float, at_us: int) -> float:
    """The rate at a time of day, relative to the day's mean."""
    phase = (at_us % DAY_US) / DAY_US - peak_hour_utc / 24.0
    return 1.0 + amplitude * math.cos(2.0 * math.pi * phase)


class Workload:
    """The state of a load: its draws, and what incidents changed about it."""

    def __init__(self, profile: LoadProfile, seed: int, run: str = "") -> None:
        self.profile = profile
        self.rate_rps = profile.rate_rps
        self.tenant_factors: dict[str, float] = {}
        self._draws = Draws(seed, "arrivals")
        self._run = run or f"{seed:x}"
        self._count = 0
        self._segments = {
            tenant.name: zlib.crc32(tenant.name.encode()) for tenant in profile.tenants
        }

    def next_arrival(self, now_us: int) -> Arrival | None:
        """The first arrival after ``now_us`` at the current rate; None where nobody sends.

        Thinning (Lewis and Shedler): draw at the day's highest rate, keep by the rate then.
        """
        profile = self.profile
        weights = [
            tenant.share * self.tenant_factors.get(tenant.name, 1.0) for tenant in profile.tenants
        ]
        # Shares are of the normal load, so a tenant at ten times its share adds to the whole.
        scale = math.fsum(weights) / math.fsum(tenant.share for tenant in profile.tenants)
        rate_max = self.rate_rps * scale * (1.0 + abs(profile.diurnal_amplitude))
        if rate_max <= 0:
            return None
        at_us = float(now_us)
        while True:
            at_us += self._draws.exponential(rate_max) * 1e6
            factor = diurnal_factor(profile.diurnal_amplitude, profile.peak_hour_utc, int(at_us))
            if self._draws.uniform() * (1.0 + abs(profile.diurnal_amplitude)) <= factor:
                break
        return self._arrival(
            profile.tenants[self._draws.pick(weights)], max(int(at_us), now_us + 1)
        )

    def _arrival(self, tenant: TenantLoad, at_us: int) -> Arrival:
        profile, draws = self.profile, self._draws
        own = draws.lognormal_tokens(
            tenant.prompt_median_tokens, tenant.prompt_sigma, 1, profile.prompt_tokens_max
        )
        prompt_tokens = min(own + tenant.prefix_tokens, profile.prompt_tokens_max)
        output_tokens = draws.lognormal_tokens(
            tenant.output_median_tokens, tenant.output_sigma, 1, profile.output_tokens_max
        )
        stream = draws.uniform() < profile.stream_share
        leaves = stream and draws.uniform() < profile.abort_share
        region = ""
        if profile.regions:
            region = list(profile.regions)[draws.pick(list(profile.regions.values()))]
        prefix: tuple[PrefixSegment, ...] = ()
        if 0 < tenant.prefix_tokens < prompt_tokens:
            prefix = (PrefixSegment(self._segments[tenant.name], tenant.prefix_tokens),)
        self._count += 1
        return Arrival(
            at_us=at_us,
            request_id=f"sim-{self._run}-{self._count}",
            tenant=tenant.name,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            prefix=prefix,
            region=region,
            stream=stream,
            abort_after_tokens=max(1, output_tokens // 2) if leaves else 0,
        )


def generation_request(arrival: Arrival) -> GenerationRequest:
    """An arrival as its engine sees it, where nothing lies between the two."""
    return GenerationRequest(
        request_id=arrival.request_id,
        arrival_us=arrival.at_us,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=arrival.output_tokens,
        max_tokens=arrival.output_tokens,
        prefix=arrival.prefix,
        tenant=arrival.tenant,
        stream=arrival.stream,
    )
