from __future__ import annotations

import asyncio

import pytest

from collectors.batches import Limits
from collectors.metrics import Metrics
from collectors.samples import SampleBuffer, engine_entry, gpu_entry
from redline.codec import decode_batch
from redline.errors import DeliveryFailed
from redline.records import EngineSample, GpuSample
from redline.testing.publisher import MemoryPublisher
from redline.topics import ENGINES, GPUS


def engine(instance: str, ts_us: int) -> EngineSample:
    return EngineSample(ts_us=ts_us, instance=instance, model="m")


async def test_samples_go_out_in_batches_by_key() -> None:
    publisher = MemoryPublisher()
    buffer = SampleBuffer(publisher, Limits(100, 500_000), Metrics())
    for ts_us in range(3):
        buffer.add([engine_entry(engine("a", ts_us)), engine_entry(engine("b", ts_us))])
    buffer.add([gpu_entry(GpuSample(ts_us=1, host="h", gpu_uuid="g", gpu_index=0))])
    await buffer.flush()
    batches = {
        message.key: [found.ts_us for found in decode_batch(message.value, EngineSample)]
        for message in publisher.of_topic(ENGINES.name)
    }
    assert batches == {b"a": [0, 1, 2], b"b": [0, 1, 2]}
    assert [message.key for message in publisher.of_topic(GPUS.name)] == [b"h"]
    assert len(buffer) == 0


async def test_while_kafka_is_away_the_oldest_are_kept_and_drops_are_counted() -> None:
    publisher, metrics = MemoryPublisher(), Metrics()
    buffer = SampleBuffer(publisher, Limits(2, 500_000), metrics, samples_max=5)
    publisher.fail_next = 1
    buffer.add(engine_entry(engine("a", ts_us)) for ts_us in range(3))
    with pytest.raises(DeliveryFailed):
        await buffer.flush()
    buffer.add(engine_entry(engine("a", ts_us)) for ts_us in range(3, 9))
    await buffer.flush()
    found = [
        sample.ts_us
        for message in publisher.of_topic(ENGINES.name)
        for sample in decode_batch(message.value, EngineSample)
    ]
    assert found == [0, 1, 2, 3, 4]
    name = "redline_collectors_samples_dropped_total"
    assert metrics.registry.get_sample_value(name, {"topic": ENGINES.name}) == 4


async def test_stopping_publishes_what_is_held() -> None:
    publisher = MemoryPublisher()
    buffer = SampleBuffer(publisher, Limits(100, 60_000_000), Metrics())
    stop = asyncio.Event()
    running = asyncio.create_task(buffer.run(stop))
    buffer.add([engine_entry(engine("a", 1))])
    stop.set()
    await running
    assert len(publisher.of_topic(ENGINES.name)) == 1
