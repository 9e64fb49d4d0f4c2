"""What is old or superseded goes: compaction, tombstones, retention by time and by size.

On Apache Kafka this needs a broker that looks often: ``apache`` starts one so.
"""

from __future__ import annotations

import os
import time

import confluent_kafka as ck

from tests.contracts.kafka.clients import Confluent, wait_until

PATIENCE_S = 60.0


def readable(confluent: Confluent, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Everything that can be read up to the end as it is now."""
    low, high = confluent.watermarks(topic)
    consumer = confluent.consumer("", **{"enable.partition.eof": True})
    consumer.assign([ck.TopicPartition(topic, 0, low)])
    found: list[tuple[bytes | None, bytes | None]] = []

    def at_the_end() -> bool:
        for message in consumer.consume(500, 0.1):
            if message.error() is not None:
                assert message.error().code() == ck.KafkaError._PARTITION_EOF
                return True
            found.append((message.key(), message.value()))
        return low == high

    wait_until(at_the_end, "the end of the partition")
    consumer.close()
    return found


def test_compaction_keeps_the_latest_of_each_key(confluent: Confluent) -> None:
    topic = confluent.create(
        1,
        {
            "cleanup.policy": "compact",
            "segment.ms": "500",
            "min.cleanable.dirty.ratio": "0.01",
            "delete.retention.ms": "100",
        },
    )
    for codec in ("none", "zstd"):
        confluent.send(
            topic,
            [
                {"key": b"k%d" % (i % 20), "value": b"%s-%d" % (codec.encode(), i)}
                for i in range(400)
            ],
            **{"compression.type": codec},
        )
    _, end = confluent.watermarks(topic)
    confluent.send(topic, [{"key": b"k0", "value": None}])

    def compacted() -> bool:
        # Only closed segments are compacted: a new record lets the broker close one.
        confluent.send(topic, [{"key": b"tick", "value": b"%d" % time.monotonic_ns()}])
        found = [pair for pair in readable(confluent, topic) if pair[0] != b"tick"]
        return found == [(b"k%d" % i, b"zstd-%d" % (380 + i)) for i in range(1, 20)]

    wait_until(compacted, "one record a key, and no tombstone", PATIENCE_S)
    assert confluent.watermarks(topic)[1] > end  # offsets went on


def test_retention_by_time(confluent: Confluent) -> None:
    topic = confluent.create(1, {"retention.ms": "1000", "segment.ms": "500"})
    confluent.send(topic, [{"value": b"x" * 100} for _ in range(100)])
    wait_until(
        lambda: confluent.watermarks(topic)[0] >= 100, "the old records are gone", PATIENCE_S
    )
    assert confluent.watermarks(topic) == (100, 100)
    (report,) = confluent.send(topic, [{"value": b"new"}])
    assert report.offset() == 100


def test_retention_by_size(confluent: Confluent) -> None:
    # The least that Apache Kafka takes for a segment is one MiB.
    topic = confluent.create(
        1, {"retention.bytes": "2000000", "segment.bytes": "1048576", "retention.ms": "-1"}
    )
    for _ in range(8):
        confluent.send(topic, [{"value": os.urandom(100_000)} for _ in range(8)])
    wait_until(lambda: confluent.watermarks(topic)[0] > 0, "the first are gone", PATIENCE_S)
    low, high = confluent.watermarks(topic)
    assert high == 64
    assert (high - low) * 100_000 >= 1_900_000
    assert len(readable(confluent, topic)) == high - low
