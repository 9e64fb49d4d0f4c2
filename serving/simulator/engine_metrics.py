"""An engine's /metrics, under vLLM's own names and labels.

Names and buckets are those of vLLM 0.32. As there, client aborts are in the token counters but in
no histogram and no success count. This file refuses to read clocks or to keep a global registry.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.simulator.engine import Engine
from serving.simulator.requests import Finished, Identity
from serving.sizing import max_concurrency

_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKENS = (
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0,
)  # fmt: skip
_PER_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
LABELS = ("engine", "model_name")


class Histogram:
    """Counts per bucket and the sum of what was observed."""

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.text = text
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a value equal to a bound is in that bound's bucket."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, labels: Sequence[str]) -> HistogramMetricFamily:
        """As Prometheus wants it: cumulative, up to +Inf."""
        total = 0
        buckets: list[tuple[str, float]] = []
        names = [str(bound) for bound in self._bounds] + ["+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            total += count
            buckets.append((name, total))
        family = HistogramMetricFamily(self.name, self.text, labels=LABELS)
        family.add_metric(labels, buckets, self._sum)
        return family


class EngineMetrics(Collector):
    """The metrics of one engine, read from its state when asked for."""

    def __init__(self, engine: Engine, identity: Identity) -> None:
        self._engine = engine
        self._identity = identity
        self._labels = ("0", identity.model)
        self._registry = CollectorRegistry(auto_describe=False)
        self._ttft = Histogram(
            "vllm:time_to_first_token_seconds", "Time to first token in seconds.", _FIRST_TOKEN_S
        )
        self._e2e = Histogram(
            "vllm:e2e_request_latency_seconds", "End to end request latency.", _REQUEST_S
        )
        self._queue = Histogram(
            "vllm:request_queue_time_seconds", "Time in the waiting phase.", _REQUEST_S
        )
        self._prefill = Histogram(
            "vllm:request_prefill_time_seconds", "Time in the prefill phase.", _REQUEST_S
        )
        self._decode = Histogram(
            "vllm:request_decode_time_seconds", "Time in the decode phase.", _REQUEST_S
        )
        self._prompt = Histogram(
            "vllm:request_prompt_tokens", "Number of prefill tokens processed.", _TOKENS
        )
        self._generation = Histogram(
            "vllm:request_generation_tokens", "Number of generation tokens processed.", _TOKENS
        )
        self._per_token = Histogram(
            "vllm:request_time_per_output_token_seconds", "Time per output token.", _PER_TOKEN_S
        )
        self._registry.register(self)

    def observe(self, finished: Finished) -> None:
        """Count one finished request in the histograms."""
        if finished.reason == "abort":
            return
        arrival_us = finished.request.arrival_us
        self._e2e.observe((finished.end_us - arrival_us) / 1e6)
        self._prompt.observe(finished.request.prompt_tokens)
        self._generation.observe(finished.generated)
        first_us, scheduled_us = finished.first_token_us, finished.scheduled_us
        if first_us is None or scheduled_us is None:
            return
        self._ttft.observe((first_us - arrival_us) / 1e6)
        self._queue.observe((scheduled_us - arrival_us) / 1e6)
        self._prefill.observe((first_us - scheduled_us) / 1e6)
        decode_s = (finished.end_us - first_us) / 1e6
        self._decode.observe(decode_s)
        if finished.generated > 1:
            self._per_token.observe(decode_s / (finished.generated - 1))

    def render(self) -> bytes:
        """The page, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        yield from self._gauges()
        yield from self._counters()
        for histogram in (
            self._ttft,
            self._e2e,
            self._queue,
            self._prefill,
            self._decode,
            self._prompt,
            self._generation,
            self._per_token,
        ):
            yield histogram.family(self._labels)

    def _gauges(self) -> Iterator[Metric]:
        engine, profile = self._engine, self._engine.profile
        for name, text, value in (
            ("num_requests_running", "Number of requests in execution.", engine.running),
            ("num_requests_waiting", "Number of requests waiting.", engine.waiting),
            ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent.", engine.blocks.usage),
        ):
            gauge = GaugeMetricFamily(f"vllm:{name}", text, labels=LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge
        facts = {
            "block_size": str(profile.block_size),
            "cache_dtype": "fp8" if self._identity.precision == "fp8" else "auto",
            "enable_prefix_caching": "True",
            "engine": "0",
            "gpu_memory_utilization": "0.9",
            "kv_cache_max_concurrency": str(
                max_concurrency(profile.num_gpu_blocks, profile.max_model_len, profile.block_size)
            ),
            "kv_cache_size_tokens": str(profile.num_gpu_blocks * profile.block_size),
            "num_gpu_blocks": str(profile.num_gpu_blocks),
        }
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig", labels=list(facts)
        )
        info.add_metric(list(facts.values()), 1.0)
        yield info

    def _counters(self) -> Iterator[Metric]:
        counters = self._engine.counters
        for name, text, value in (
            ("prompt_tokens", "Number of prefill tokens processed.", counters.prompt_tokens),
            ("generation_tokens", "Number of generated tokens.", counters.generation_tokens),
            ("num_preemptions", "Cumulative number of preemptions.", counters.preemptions),
            ("prefix_cache_queries", "Queried tokens.", counters.prefix_cache_queries),
            ("prefix_cache_hits", "Cached tokens.", counters.prefix_cache_hits),
        ):
            family = CounterMetricFamily(f"vllm:{name}", text, labels=LABELS)
            family.add_metric(self._labels, value)
            yield family
        success = CounterMetricFamily(
            "vllm:request_success",
            "Count of successfully processed requests.",
            labels=(*LABELS, "finished_reason"),
        )
        for reason, count in counters.finished.items():
            success.add_metric((*self._labels, reason), count)
        yield success
