"""Records go in and come out: order, codecs, headers, timestamps, sizes, fetch limits."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from typing import Any

import confluent_kafka as ck
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from tests.contracts.kafka.clients import Aio, Confluent, unique

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def keyed(count: int, keys: int = 20) -> list[dict[str, Any]]:
    return [{"key": b"k%d" % (i % keys), "value": b"%d" % i} for i in range(count)]


def order_of(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(int(value))
    return found


async def test_a_key_keeps_its_order_in_one_partition_with_aiokafka(
    aio: Aio, confluent: Confluent
) -> None:
    topic = confluent.create(4)
    sent = await aio.send(topic, keyed(600))
    partitions: dict[int, set[int]] = defaultdict(set)
    for i, metadata in enumerate(sent):
        partitions[i % 20].add(metadata.partition)
    assert all(len(used) == 1 for used in partitions.values())
    assert len({metadata.partition for metadata in sent}) > 1
    read = await aio.read(topic, 600)
    for numbers in order_of([(r.key, r.value) for r in read]).values():
        assert numbers == sorted(numbers)
        assert len(numbers) == 30


def test_a_key_keeps_its_order_in_one_partition_with_librdkafka(confluent: Confluent) -> None:
    topic = confluent.create(4)
    confluent.send(topic, keyed(600))
    read = confluent.read(topic, 600)
    for numbers in order_of([(m.key(), m.value()) for m in read]).values():
        assert numbers == sorted(numbers)
        assert len(numbers) == 30


async def test_both_clients_choose_the_same_partition(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(8)
    messages = [{"key": b"key-%d" % i, "value": b"x"} for i in range(40)]
    sent = await aio.send(topic, messages)
    reports = confluent.send(topic, messages, partitioner="murmur2_random")
    by_librdkafka = {report.key(): report.partition() for report in reports}
    assert by_librdkafka == {
        message["key"]: metadata.partition for message, metadata in zip(messages, sent, strict=True)
    }


@pytest.mark.parametrize("codec", CODECS)
async def test_what_one_client_compresses_the_other_reads(
    aio: Aio, confluent: Confluent, codec: str
) -> None:
    values = [b"redline " * 30 + b"%d" % i for i in range(200)]
    topic = confluent.create(1)
    confluent.send(topic, [{"value": v} for v in values], **{"compression.type": codec})
    assert [r.value for r in await aio.read(topic, 200)] == values
    topic = confluent.create(1)
    codec_of_aio = None if codec == "none" else codec
    await aio.send(topic, [{"value": v} for v in values], compression_type=codec_of_aio)
    assert [m.value() for m in confluent.read(topic, 200)] == values


async def test_headers_timestamps_and_nulls_survive(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(1)
    stamp = now_ms() - 1_000
    await aio.send(
        topic,
        [
            {"key": b"k", "value": b"v", "timestamp_ms": stamp, "headers": [("h", b"1")]},
            {"key": b"k", "value": None, "timestamp_ms": stamp + 1},
            {"key": None, "value": b"v", "timestamp_ms": stamp + 2},
        ],
    )
    first, second, third = confluent.read(topic, 3)
    assert first.headers() == [("h", b"1")]
    assert (first.key(), first.value(), first.timestamp()) == (b"k", b"v", (1, stamp))
    assert (second.key(), second.value()) == (b"k", None)
    assert (third.key(), third.value()) == (None, b"v")
    assert [m.offset() for m in (first, second, third)] == [0, 1, 2]


@pytest.mark.parametrize("acks", [0, 1, "all"])
async def test_acks(aio: Aio, confluent: Confluent, acks: int | str) -> None:
    topic = confluent.create(1)
    producer = aio.producer(acks=acks)
    await producer.start()
    for i in range(20):
        await producer.send(topic, b"%d" % i)
    await producer.stop()
    assert [int(r.value) for r in await aio.read(topic, 20)] == list(range(20))


def test_log_append_time_replaces_the_producers(confluent: Confluent) -> None:
    topic = confluent.create(1, {"message.timestamp.type": "LogAppendTime"})
    before = now_ms()
    old = before - 3_600_000
    confluent.send(topic, [{"value": b"x", "timestamp": old} for _ in range(10)])
    for message in confluent.read(topic, 10):
        kind, stamp = message.timestamp()
        assert kind == ck.TIMESTAMP_LOG_APPEND_TIME
        assert before <= stamp <= now_ms()


def test_offsets_for_times(confluent: Confluent) -> None:
    topic = confluent.create(1)
    base = now_ms() - 100_000
    confluent.send(topic, [{"value": b"x", "timestamp": base + i * 10} for i in range(1000)])
    consumer = confluent.consumer()
    try:

        def at(timestamp_ms: int) -> int:
            wanted = [ck.TopicPartition(topic, 0, timestamp_ms)]
            return int(consumer.offsets_for_times(wanted, 10)[0].offset)

        assert at(base + 5_000) == 500
        assert at(base + 5_001) == 501
        assert at(base - 1) == 0
        assert at(base + 10_000_000) == ck.OFFSET_END
    finally:
        consumer.close()


async def test_offsets_for_times_with_aiokafka(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(1)
    base = now_ms() - 10_000
    await aio.send(topic, [{"value": b"x", "timestamp_ms": base + i} for i in range(100)])
    consumer = aio.consumer(topic)
    await consumer.start()
    tp = TopicPartition(topic, 0)
    found = await consumer.offsets_for_times({tp: base + 42})
    assert (found[tp].offset, found[tp].timestamp) == (42, base + 42)
    assert (await consumer.offsets_for_times({tp: base + 100}))[tp] is None
    assert await consumer.beginning_offsets([tp]) == {tp: 0}
    assert await consumer.end_offsets([tp]) == {tp: 100}
    await consumer.stop()


@pytest.mark.parametrize("size_bytes", [900_000, 5_000_000])
def test_large_messages(confluent: Confluent, size_bytes: int) -> None:
    topic = confluent.create(1, {"max.message.bytes": "10485760"})
    value = os.urandom(size_bytes)
    confluent.send(topic, [{"value": value}], **{"message.max.bytes": 10_485_760})
    assert confluent.read(topic, 1)[0].value() == value


def test_a_backlog_larger_than_a_fetch_is_read_to_the_end(confluent: Confluent) -> None:
    topic = confluent.create(1)
    value = os.urandom(990_000)
    confluent.send(topic, [{"value": value} for _ in range(30)])
    read = confluent.read(topic, 30)
    assert len(read) == 30
    assert all(message.value() == value for message in read)


async def test_a_message_above_the_topics_limit_is_refused(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(1, {"max.message.bytes": "2000"})
    producer = aio.producer()
    await producer.start()
    with pytest.raises(MessageSizeTooLargeError):
        await producer.send_and_wait(topic, os.urandom(5_000))
    await producer.send_and_wait(topic, b"small enough")
    await producer.stop()
    assert [r.value for r in await aio.read(topic, 1)] == [b"small enough"]


async def test_a_topic_is_created_when_it_is_first_written_to(
    aio: Aio, confluent: Confluent
) -> None:
    topic = unique("auto")
    await aio.send(topic, [{"value": b"x"}])
    assert confluent.partitions(topic) == 4
    assert (await aio.read(topic, 1))[0].value == b"x"


async def test_reading_past_the_end_goes_back_to_what_the_policy_says(
    aio: Aio, confluent: Confluent
) -> None:
    topic = confluent.create(1)
    await aio.send(topic, [{"value": b"%d" % i} for i in range(5)])
    consumer = aio.consumer(auto_offset_reset="earliest")
    await consumer.start()
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek(tp, 1_000)
    assert [r.offset for r in await aio.drain(consumer, 5)] == [0, 1, 2, 3, 4]
    await consumer.stop()


async def test_a_waiting_consumer_gets_a_record_at_once(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(1)
    consumer = aio.consumer(topic, fetch_max_wait_ms=20_000)
    producer = aio.producer()
    await consumer.start()
    await producer.start()
    await consumer.getmany(timeout_ms=300)  # the long poll is under way
    started = time.monotonic()
    await producer.send_and_wait(topic, b"now")
    assert (await consumer.getone()).value == b"now"
    assert time.monotonic() - started < 5
    await consumer.stop()
    await producer.stop()
