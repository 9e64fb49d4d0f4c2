"""Stage 2: the latest panes, merged per model and version into the signals that alerting reads.

A pane replaces the one before it (same source partition, series and start) when its revision is not
lower, so the result depends on the latest revisions only, in whatever order they came. Percentiles
come from merged sketches, never from percentiles. Every signal says its samples, its data age and
how much of its window was watched; a window without data has the value None, which is not 0.

While panes are fresh the window ends now. When history is replayed, it ends where the panes end:
event time, so that a replay evaluates as the day itself did.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from redline.money import usd_per_million_tokens
from redline.records import EngineSample, Pane, Signal
from redline.sketch import DDSketch
from streams.panes import PANE_US

LIVE_LAG_MAX_US = 120_000_000
FORGET_WINDOWS = 10  # a silent model says None for this many windows, then nothing
ENGINE_WINDOW_US = 10_000_000
ENGINE_FORGET_US = 600_000_000
MODELS_MAX = 2_000


class _Total:
    """Panes of one start, added up; rebuilt when one of them changes."""

    __slots__ = ("e2e", "panes", "stale", "sums", "ttft")

    def __init__(self) -> None:
        self.panes: dict[tuple[int, str, str], Pane] = {}
        self.stale = True
        self.sums = (0, 0, 0, 0)  # requests, errors, completion tokens, n$
        self.e2e = DDSketch()
        self.ttft = DDSketch()

    def put(self, pane: Pane) -> None:
        key = (pane.source_partition, pane.region, pane.tenant)
        known = self.panes.get(key)
        if known is None or pane.revision >= known.revision:
            self.panes[key] = pane
            self.stale = True

    def refresh(self) -> _Total:
        if self.stale:
            panes = self.panes.values()
            self.sums = (
                sum(p.requests for p in panes),
                sum(p.errors for p in panes),
                sum(p.completion_tokens for p in panes),
                sum(p.cost_nusd for p in panes),
            )
            self.e2e = _merge(p.e2e_sketch for p in panes)
            self.ttft = _merge(p.ttft_sketch for p in panes)
            self.stale = False
        return self


class _Window(NamedTuple):
    end_us: int
    starts: range
    span_us: int  # of it that has passed


class SignalBook:
    """Panes of one partition of the panes topic; all of a model's version are in one partition."""

    def __init__(self, window_s: int) -> None:
        self._window_us = window_s * 1_000_000
        self._models: dict[tuple[str, str], dict[int, _Total]] = {}
        self._first_us: int | None = None
        self._frontier_us = 0  # the latest pane start
        self._live = False
        self.dropped_models = 0

    @property
    def is_empty(self) -> bool:
        """Whether no model is known any more."""
        return not self._models

    @property
    def horizon_us(self) -> int:
        """Panes that start before this are out of every window to come."""
        return self._frontier_us - self._window_us

    def add(self, panes: Iterable[Pane], now_us: int) -> None:
        """Take panes in; those out of the window already are left out."""
        for pane in panes:
            if pane.start_us > now_us + LIVE_LAG_MAX_US:
                continue  # a pane of the future would hide everybody else's present
            if self._first_us is None or pane.start_us < self._first_us:
                self._first_us = max(pane.start_us, self.horizon_us)
            if pane.start_us >= self._frontier_us:
                self._frontier_us = pane.start_us
                self._live = now_us - pane.start_us - PANE_US < LIVE_LAG_MAX_US
            if pane.start_us < self.horizon_us:
                continue
            model = (pane.model, pane.version)
            if model not in self._models and len(self._models) >= MODELS_MAX:
                self.dropped_models += 1
                continue
            self._models.setdefault(model, {}).setdefault(pane.start_us, _Total()).put(pane)

    def evaluate(self, now_us: int) -> list[Signal]:
        """The signals of every known model and version, and forget what is past."""
        if self.is_empty:
            return []
        window = self._window(now_us)
        signals: list[Signal] = []
        forget_us = window.starts.start - FORGET_WINDOWS * self._window_us
        for model, totals in list(self._models.items()):
            old = [start for start in totals if start < window.starts.start]
            for start in sorted(old)[: len(old) - (len(old) == len(totals))]:
                del totals[start]  # the newest stays, as the memory that there was a model
            if max(totals) < forget_us:
                del self._models[model]
                continue
            signals += self._model_signals(model, totals, window)
        return signals

    def _window(self, now_us: int) -> _Window:
        end_us = max(now_us, self._frontier_us) if self._live else self._frontier_us + PANE_US
        newest = (end_us - 1) // PANE_US * PANE_US
        first = newest + PANE_US - self._window_us
        return _Window(end_us, range(first, newest + 1, PANE_US), end_us - first)

    def _model_signals(
        self, model: tuple[str, str], totals: dict[int, _Total], window: _Window
    ) -> list[Signal]:
        inside = [totals[start].refresh() for start in window.starts if start in totals]
        requests, errors, tokens, nusd = (sum(total.sums[i] for total in inside) for i in range(4))
        e2e, ttft = DDSketch(), DDSketch()
        for total in inside:
            e2e.merge(total.e2e)
            ttft.merge(total.ttft)
        newest = max((s for s in totals if totals[s].refresh().sums[0]), default=max(totals))
        covered = sum(
            1 for s in window.starts if self._first_us is not None and s >= self._first_us
        )

        def signal(name: str, value: float | None, samples: int) -> Signal:
            return Signal(
                ts_us=window.end_us,
                name=name,
                value=value,
                window_s=self._window_us // 1_000_000,
                labels={"model": model[0], "version": model[1]},
                samples=samples,
                data_age_ms=max(0, window.end_us - newest - PANE_US) // 1_000,
                coverage=covered / len(window.starts),
            )

        return [
            signal("requests_per_s", _ratio(requests * 1e6, window.span_us, requests), requests),
            signal("error_ratio", _ratio(errors, requests, requests), requests),
            signal("p99_latency_ms", _ms(e2e.quantile(0.99)), e2e.count),
            signal("p95_ttft_ms", _ms(ttft.quantile(0.95)), ttft.count),
            signal("usd_per_million_output_tokens", usd_per_million_tokens(nusd, tokens), requests),
        ]


class EngineBook:
    """The last seconds of every engine of one partition: KV cache and queue, by instance."""

    def __init__(self) -> None:
        self._samples: dict[str, list[EngineSample]] = {}

    def add(self, samples: Iterable[EngineSample]) -> None:
        """Take samples in, in any order."""
        for sample in samples:
            self._samples.setdefault(sample.instance, []).append(sample)

    def evaluate(self, now_us: int) -> list[Signal]:
        """Maxima of the last 10 s per instance; None for an engine that is down or silent."""
        signals: list[Signal] = []
        for instance, samples in list(self._samples.items()):
            latest = max(samples, key=lambda s: s.ts_us)
            live = now_us - latest.ts_us < LIVE_LAG_MAX_US
            end_us = max(now_us, latest.ts_us) if live else latest.ts_us
            if now_us - latest.ts_us > ENGINE_FORGET_US:
                del self._samples[instance]
                continue
            recent = [s for s in samples if s.ts_us > end_us - ENGINE_WINDOW_US]
            self._samples[instance] = recent or [latest]
            up = [s for s in recent if s.up]
            for name, values in (
                ("kv_cache_usage", [s.kv_cache_usage for s in up]),
                ("waiting_requests", [s.waiting for s in up]),
            ):
                known = [value for value in values if value is not None]
                signals.append(
                    Signal(
                        ts_us=end_us,
                        name=name,
                        value=max(known, default=None),
                        window_s=ENGINE_WINDOW_US // 1_000_000,
                        labels={
                            "instance": instance,
                            "model": latest.model,
                            "version": latest.version,
                            "region": latest.region,
                        },
                        samples=len(known),
                        data_age_ms=max(0, end_us - latest.ts_us) // 1_000,
                    )
                )
        return signals


def _merge(states: Iterable[bytes]) -> DDSketch:
    merged = DDSketch()
    for state in states:
        if state:
            merged.merge(DDSketch.from_bytes(state))
    return merged


def _ratio(part: float, whole: int, samples: int) -> float | None:
    return part / whole if whole and samples else None


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else value_us / 1_000
