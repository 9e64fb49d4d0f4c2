"""Consumer groups: shared partitions, takeover, resumed offsets, static members."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import confluent_kafka as ck
import pytest
from aiokafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.contracts.kafka.clients import (
    SESSION_MS,
    Aio,
    Confluent,
    Target,
    await_until,
    unique,
    wait_until,
)


def assigned(*consumers: Any) -> list[int]:
    """Let every consumer take part, and say how many partitions each holds."""
    for consumer in consumers:
        message = consumer.poll(0.05)
        assert message is None or message.error() is None
    return sorted(len(consumer.assignment()) for consumer in consumers)


def test_two_consumers_share_and_the_last_takes_all(confluent: Confluent) -> None:
    topic, group = confluent.create(6), unique("g")
    first, second = confluent.consumer(group), confluent.consumer(group)
    first.subscribe([topic])
    wait_until(lambda: assigned(first) == [6], "the only member has every partition")
    second.subscribe([topic])
    wait_until(lambda: assigned(first, second) == [3, 3], "both share")
    held = [{tp.partition for tp in c.assignment()} for c in (first, second)]
    assert held[0] | held[1] == set(range(6))
    assert not held[0] & held[1]
    second.close()
    wait_until(lambda: assigned(first) == [6], "the one that stayed takes over")
    first.close()


def test_what_is_read_during_a_rebalance_is_read_once(confluent: Confluent) -> None:
    topic, group = confluent.create(4), unique("g")
    confluent.send(topic, [{"key": b"%d" % i, "value": b"%d" % i} for i in range(200)])
    first = confluent.consumer(group)
    first.subscribe([topic])
    seen = [m.value() for m in confluent.drain(first, 200)]
    first.commit(asynchronous=False)
    second = confluent.consumer(group)
    second.subscribe([topic])
    wait_until(lambda: assigned(first, second) == [2, 2], "both share")
    confluent.send(topic, [{"key": b"%d" % i, "value": b"n%d" % i} for i in range(200)])

    def all_read() -> bool:
        for consumer in (first, second):
            seen.extend(m.value() for m in consumer.consume(100, 0.05))
        return len(seen) >= 400

    wait_until(all_read, "400 messages")
    assert len(seen) == len(set(seen)) == 400
    first.close()
    second.close()


def test_cooperative_sticky(confluent: Confluent) -> None:
    topic, group = confluent.create(6), unique("g")
    options = {"partition.assignment.strategy": "cooperative-sticky"}
    first, second = confluent.consumer(group, **options), confluent.consumer(group, **options)
    first.subscribe([topic])
    wait_until(lambda: assigned(first) == [6], "the only member has every partition")
    kept = {tp.partition for tp in first.assignment()}
    second.subscribe([topic])
    wait_until(lambda: assigned(first, second) == [3, 3], "both share")
    assert {tp.partition for tp in first.assignment()} < kept
    first.close()
    second.close()


async def test_two_aiokafka_consumers_share_and_the_last_takes_all(
    aio: Aio, confluent: Confluent
) -> None:
    topic, group = confluent.create(6), unique("g")
    first, second = (aio.consumer(topic, group_id=group) for _ in range(2))
    await first.start()

    async def pump(consumer: Any) -> None:
        while True:
            await consumer.getmany(timeout_ms=200)

    async def held(*expected: int) -> bool:
        return sorted(len(c.assignment()) for c in (first, second)) == sorted(expected)

    pumps = [asyncio.create_task(pump(first))]
    await second.start()
    pumps.append(asyncio.create_task(pump(second)))
    await await_until(lambda: held(3, 3), "both share")
    assert not first.assignment() & second.assignment()
    pumps.pop().cancel()
    await second.stop()

    async def alone() -> bool:
        return len(first.assignment()) == 6

    await await_until(alone, "the one that stayed takes over")
    pumps.pop().cancel()
    await first.stop()


MEMBER = """
import json, sys
from confluent_kafka import Consumer
options, topic = json.loads(sys.argv[1]), sys.argv[2]
consumer = Consumer(options)
consumer.subscribe([topic])
while not consumer.assignment():
    consumer.poll(0.1)
print("assigned", flush=True)
while True:
    consumer.poll(0.1)
"""


def test_a_killed_member_is_evicted(target: Target, confluent: Confluent) -> None:
    topic, group = confluent.create(4), unique("g")
    options = {
        "bootstrap.servers": target.bootstrap,
        "group.id": group,
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": 300,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", MEMBER, json.dumps(options), topic], stdout=subprocess.PIPE
    )
    survivor = confluent.consumer(group)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"assigned\n"
        survivor.subscribe([topic])
        wait_until(lambda: assigned(survivor) == [2], "both share")
        child.kill()
        killed = time.monotonic()
        wait_until(lambda: assigned(survivor) == [4], "the survivor takes over", 30)
        assert time.monotonic() - killed > SESSION_MS / 1000 - 1.5
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        survivor.close()


def test_a_group_resumes_where_it_committed(confluent: Confluent) -> None:
    topic, group = confluent.create(2), unique("g")
    confluent.send(topic, [{"key": b"%d" % i, "value": b"%d" % i} for i in range(100)])
    consumer = confluent.consumer(group)
    consumer.subscribe([topic])
    first: list[bytes] = []

    def half() -> bool:
        message = consumer.poll(0.1)
        if message is not None:
            first.append(message.value())
            consumer.commit(message=message, asynchronous=False)
        return len(first) >= 50

    wait_until(half, "50 messages")
    consumer.close()
    rest = [m.value() for m in confluent.read(topic, 50, group=group)]
    assert sorted(first + rest, key=int) == [b"%d" % i for i in range(100)]


async def test_committed_offsets_and_metadata_with_aiokafka(aio: Aio, confluent: Confluent) -> None:
    topic, group = confluent.create(2), unique("g")
    await aio.send(topic, [{"key": b"%d" % i, "value": b"%d" % i} for i in range(100)])
    consumer = aio.consumer(topic, group_id=group)
    await consumer.start()
    assert len(await aio.drain(consumer, 100)) == 100
    await consumer.commit()
    assert sum([await consumer.committed(tp) for tp in consumer.assignment()]) == 100
    await consumer.stop()
    other = aio.consumer(group_id=group)
    await other.start()
    tp = TopicPartition(topic, 0)
    other.assign([tp])
    await other.commit({tp: 3})  # a member of no generation, while the group is empty
    assert await other.committed(tp) == 3
    await other.stop()


def test_a_restarted_static_member_keeps_its_partitions(confluent: Confluent) -> None:
    topic, group = confluent.create(4), unique("g")
    revoked: list[int] = []
    other = confluent.consumer(group, **{"group.instance.id": "other"})
    other.subscribe([topic], on_revoke=lambda _, partitions: revoked.append(len(partitions)))
    member = confluent.consumer(group, **{"group.instance.id": "one"})
    member.subscribe([topic])
    wait_until(lambda: assigned(other, member) == [2, 2], "both share")
    held = {tp.partition for tp in member.assignment()}
    revoked.clear()
    member.close()  # a static member does not leave when it is closed
    member = confluent.consumer(group, **{"group.instance.id": "one"})
    member.subscribe([topic])
    wait_until(lambda: assigned(other, member) == [2, 2], "it is back")
    assert {tp.partition for tp in member.assignment()} == held
    assert not revoked
    member.close()
    other.close()


def test_groups_are_listed_described_and_deleted(
    confluent: Confluent,
) -> None:
    topic, group = confluent.create(2), unique("g")
    admin: AdminClient = confluent.admin
    consumer = confluent.consumer(group, **{"client.id": "the-client"})
    consumer.subscribe([topic])
    wait_until(lambda: assigned(consumer) == [2], "the member has every partition")
    description = admin.describe_consumer_groups([group], request_timeout=10)[group].result(10)
    assert description.state == ck.ConsumerGroupState.STABLE
    (member,) = description.members
    assert member.client_id == "the-client"
    assert len(member.assignment.topic_partitions) == 2
    listed = admin.list_consumer_groups(request_timeout=10).result(10).valid
    assert group in {found.group_id for found in listed}
    with pytest.raises(ck.KafkaException, match="NON_EMPTY_GROUP"):
        admin.delete_consumer_groups([group], request_timeout=10)[group].result(10)
    consumer.commit(offsets=[ck.TopicPartition(topic, 0, 7)], asynchronous=False)
    consumer.close()

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([group], request_timeout=10)[group].result(10)
        except ck.KafkaException as error:
            if error.args[0].name() != "NON_EMPTY_GROUP":
                raise
            return False
        return True

    wait_until(deleted, "the group is empty and can be deleted")
    fresh = confluent.consumer(group)
    (position,) = fresh.committed([ck.TopicPartition(topic, 0)], 10)
    assert position.offset == ck.OFFSET_INVALID
    fresh.close()


def test_a_session_timeout_out_of_bounds_is_refused(confluent: Confluent) -> None:
    topic = confluent.create(1)
    options = {"session.timeout.ms": 10, "heartbeat.interval.ms": 5}
    consumer = confluent.consumer(unique("g"), **options)
    consumer.subscribe([topic])
    errors: list[str] = []

    def refused() -> bool:
        message = consumer.poll(0.1)
        if message is not None and message.error() is not None:
            errors.append(message.error().name())
        return bool(errors)

    try:
        wait_until(refused, "an error")
        assert errors[0] == "INVALID_SESSION_TIMEOUT"
    finally:
        consumer.close()
