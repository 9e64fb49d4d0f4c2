"""What an engine's gauges and counters say at an instant, as a record.

The live fleet says the same through /metrics, and a collector makes the record; offline there is
nobody in between. This file refuses to know HTTP.
"""

from __future__ import annotations

from redline.records import EngineSample
from serving.simulator.engine import Engine
from serving.simulator.requests import Identity


def engine_sample(engine: Engine, identity: Identity, now_us: int) -> EngineSample:
    """One scrape of ``engine`` at ``now_us``."""
    counters, profile = engine.counters, engine.profile
    return EngineSample(
        ts_us=now_us,
        instance=identity.instance,
        model=identity.model,
        version=identity.version,
        region=identity.region,
        running=float(engine.running),
        waiting=float(engine.waiting),
        kv_cache_usage=engine.blocks.usage,
        preemptions_total=float(counters.preemptions),
        prompt_tokens_total=float(counters.prompt_tokens),
        generation_tokens_total=float(counters.generation_tokens),
        requests_total=float(sum(counters.finished.values())),
        prefix_cache_queries_total=float(counters.prefix_cache_queries),
        prefix_cache_hits_total=float(counters.prefix_cache_hits),
        num_gpu_blocks=profile.num_gpu_blocks,
        block_size=profile.block_size,
        max_model_len=profile.max_model_len,
        kv_cache_dtype="fp8" if identity.precision == "fp8" else "auto",
    )
