"""Nothing twice: resends are recognised, gaps and old epochs refused; and no transactions."""

from __future__ import annotations

import time
from collections.abc import Iterator

import confluent_kafka as ck
import pytest
from aiokafka.errors import KafkaError

from embedded.broker import batches
from tests.contracts.kafka.clients import Aio, Confluent, Target, unique
from tests.contracts.kafka.raw import RawClient, fetch, new_producer_id, produce

OUT_OF_ORDER_SEQUENCE_NUMBER = 45
INVALID_PRODUCER_EPOCH = 47
CORRUPT_MESSAGE = 2
INVALID_RECORD = 87


@pytest.fixture
def raw(target: Target) -> Iterator[RawClient]:
    with RawClient(target.bootstrap) as client:
        yield client


def batch(producer_id: int, sequence: int, count: int = 1, epoch: int = 0) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    return batches.build(
        [(b"k", b"%d" % (sequence + i), now_ms) for i in range(count)],
        producer_id=producer_id,
        producer_epoch=epoch,
        base_sequence=sequence,
    )


def stored(raw: RawClient, topic: str) -> list[bytes]:
    answer = fetch(raw, topic, 0)
    return [
        record.value or b""
        for _, piece in batches.walk(answer["records"])
        for record in batches.records(piece)
    ]


def test_a_batch_sent_twice_is_stored_once(raw: RawClient, confluent: Confluent) -> None:
    topic = confluent.create(1)
    producer_id = new_producer_id(raw)
    first, second = batch(producer_id, 0, 3), batch(producer_id, 3, 2)
    assert produce(raw, topic, first)["base_offset"] == 0
    assert produce(raw, topic, second)["base_offset"] == 3
    for resent, offset in ((first, 0), (second, 3), (first, 0)):
        answer = produce(raw, topic, resent)
        assert (answer["error_code"], answer["base_offset"]) == (0, offset)
    assert stored(raw, topic) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_gap_is_refused(raw: RawClient, confluent: Confluent) -> None:
    topic = confluent.create(1)
    producer_id = new_producer_id(raw)
    assert produce(raw, topic, batch(producer_id, 0))["error_code"] == 0
    answer = produce(raw, topic, batch(producer_id, 2))
    assert answer["error_code"] == OUT_OF_ORDER_SEQUENCE_NUMBER
    assert produce(raw, topic, batch(producer_id, 1))["error_code"] == 0
    assert stored(raw, topic) == [b"0", b"1"]


def test_an_old_epoch_is_fenced(raw: RawClient, confluent: Confluent) -> None:
    topic = confluent.create(1)
    producer_id = new_producer_id(raw)
    assert produce(raw, topic, batch(producer_id, 0))["error_code"] == 0
    assert produce(raw, topic, batch(producer_id, 0, epoch=1))["error_code"] == 0
    answer = produce(raw, topic, batch(producer_id, 1, epoch=0))
    assert answer["error_code"] == INVALID_PRODUCER_EPOCH


def test_producer_ids_differ(raw: RawClient) -> None:
    assert len({new_producer_id(raw) for _ in range(5)}) == 5


def test_a_damaged_batch_is_refused(raw: RawClient, confluent: Confluent) -> None:
    topic = confluent.create(1)
    good = batch(-1, -1)
    damaged = bytearray(good)
    damaged[-1] ^= 0xFF
    assert produce(raw, topic, bytes(damaged))["error_code"] == CORRUPT_MESSAGE
    assert produce(raw, topic, good)["base_offset"] == 0


def test_fetches_honour_the_byte_limit_and_the_wait(raw: RawClient, confluent: Confluent) -> None:
    topic = confluent.create(1)
    one = batches.build([(None, b"x" * 1_000, time.time_ns() // 1_000_000)])
    for _ in range(10):
        assert produce(raw, topic, one)["error_code"] == 0
    # The first batch always comes, however small the limit.
    assert len(fetch(raw, topic, 0, partition_max_bytes=1)["records"]) >= len(one)
    three = fetch(raw, topic, 0, partition_max_bytes=3 * len(one))
    assert len(three["records"]) == 3 * len(one)
    assert three["high_watermark"] == 10
    capped = fetch(raw, topic, 0, max_bytes=2 * len(one))
    assert len(capped["records"]) == 2 * len(one)
    started = time.monotonic()
    empty = fetch(raw, topic, 10, max_wait_ms=400)
    assert not empty["records"]
    assert 0.3 <= time.monotonic() - started < 5
    started = time.monotonic()
    assert fetch(raw, topic, 0, min_bytes=1 << 20, max_wait_ms=400)["records"]
    assert 0.3 <= time.monotonic() - started < 5


async def test_idempotent_producers_of_both_clients(aio: Aio, confluent: Confluent) -> None:
    topic = confluent.create(2)
    messages = [{"key": b"%d" % (i % 7), "value": b"%d" % i} for i in range(300)]
    await aio.send(topic, messages, enable_idempotence=True)
    confluent.send(topic, messages, **{"enable.idempotence": True})
    values = [int(m.value()) for m in confluent.read(topic, 600)]
    assert sorted(values) == sorted([*range(300), *range(300)])


def only_embedded(target: Target) -> None:
    if not target.is_embedded:
        pytest.skip("Apache Kafka has transactions; the embedded broker refuses them")


def test_librdkafka_learns_at_once_that_there_are_no_transactions(
    target: Target, confluent: Confluent
) -> None:
    only_embedded(target)
    producer = confluent.producer(**{"transactional.id": unique("txn")})
    started = time.monotonic()
    with pytest.raises(ck.KafkaException, match="TRANSACTIONAL_ID_AUTHORIZATION_FAILED"):
        producer.init_transactions(20)
    assert time.monotonic() - started < 5


async def test_aiokafka_learns_at_once_that_there_are_no_transactions(
    target: Target, aio: Aio
) -> None:
    only_embedded(target)
    producer = aio.producer(transactional_id=unique("txn"))
    started = time.monotonic()
    with pytest.raises(KafkaError, match=r"(?i)transactional"):
        await producer.start()
    assert time.monotonic() - started < 5
    await producer.stop()
