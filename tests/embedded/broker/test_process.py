"""The broker as a process: killed, restarted, stopped, idle, and refusing what it must."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest

from embedded.broker import batches
from embedded.broker.api_admin import API_VERSIONS
from embedded.broker.api_data import FETCH
from embedded.broker.config import BrokerConfig
from embedded.broker.server import Broker
from redline.errors import AddressInUse, ConfigFault
from tests.contracts.kafka.clients import Confluent, Target, unique, wait_until
from tests.contracts.kafka.process import BrokerProcess
from tests.contracts.kafka.raw import RawClient, fetch_request, new_producer_id, produce


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path / "data") as running:
        yield running


def confluent_for(broker: BrokerProcess) -> Confluent:
    return Confluent(Target("embedded", broker.bootstrap))


def read_all(confluent: Confluent, topic: str, partitions: int) -> list[bytes]:
    """Every value of the topic, in the order of each partition."""
    ends = {p: confluent.watermarks(topic, p)[1] for p in range(partitions)}
    consumer = confluent.consumer()
    consumer.assign([ck.TopicPartition(topic, p, 0) for p in range(partitions)])
    found: list[bytes] = []

    def complete() -> bool:
        for message in consumer.consume(2_000, 0.2):
            assert message.error() is None, message.error()
            found.append(message.value())
        return len(found) >= sum(ends.values())

    wait_until(complete, "the end of the topic")
    consumer.close()
    return found


def test_sigkill_loses_no_acknowledged_record_and_doubles_none(broker: BrokerProcess) -> None:
    confluent = confluent_for(broker)
    topic = confluent.create(3)
    acknowledged: set[int] = set()
    failed: list[Any] = []
    stop = threading.Event()

    def report(error: Any, message: Any) -> None:
        if error is None:
            acknowledged.add(int(message.value().split(b":")[0]))
        else:
            failed.append(error)

    def write() -> None:
        producer = confluent.producer(
            **{
                "enable.idempotence": True,
                "message.timeout.ms": 60_000,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                "linger.ms": 1,
            }
        )
        number = 0
        while not stop.is_set():
            value = b"%d:" % number + b"x" * 200
            try:
                producer.produce(topic, value, key=b"%d" % (number % 50), on_delivery=report)
                number += 1
            except BufferError:
                producer.poll(0.05)
            producer.poll(0)
            if number - len(acknowledged) > 5_000:
                producer.poll(0.05)
        assert producer.flush(60) == 0

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            goal = len(acknowledged) + 3_000
            wait_until(partial(reached, acknowledged, goal), "records flow")
            broker.kill()
            broker.start()
    finally:
        stop.set()
        writer.join(90)
    assert not failed
    numbers = [int(value.split(b":")[0]) for value in read_all(confluent, topic, 3)]
    assert acknowledged <= set(numbers)
    assert len(numbers) == len(set(numbers)) == len(acknowledged)


def reached(numbers: set[int], count: int) -> bool:
    return pause(len(numbers) >= count)


def pause(condition: bool) -> bool:
    """A step of polling for conditions that do no waiting of their own."""
    if not condition:
        time.sleep(0.01)
    return condition


def test_a_kill_forgets_neither_topics_nor_configurations_nor_offsets_nor_ids(
    broker: BrokerProcess,
) -> None:
    confluent = confluent_for(broker)
    topic, group = confluent.create(2, {"retention.ms": "123456789"}), unique("g")
    confluent.send(topic, [{"value": b"%d" % i, "partition": 0} for i in range(10)])
    consumer = confluent.consumer(group)
    consumer.commit(offsets=[ck.TopicPartition(topic, 0, 7, "note")], asynchronous=False)
    consumer.close()
    (deletion,) = confluent.admin.delete_records([ck.TopicPartition(topic, 0, 3)]).values()
    deletion.result(10)
    with RawClient(broker.bootstrap) as raw:
        producer_id = new_producer_id(raw)
    cluster_id = confluent.admin.list_topics(timeout=10).cluster_id
    broker.kill()
    broker.start()
    confluent = confluent_for(broker)
    assert confluent.partitions(topic) == 2
    assert confluent.watermarks(topic, 0) == (3, 10)
    assert confluent.admin.list_topics(timeout=10).cluster_id == cluster_id
    consumer = confluent.consumer(group)
    (position,) = consumer.committed([ck.TopicPartition(topic, 0)], 10)
    assert (position.offset, position.metadata) == (7, "note")
    consumer.close()
    with RawClient(broker.bootstrap) as raw:
        assert new_producer_id(raw) > producer_id


def test_a_resend_after_a_kill_is_still_a_resend(broker: BrokerProcess) -> None:
    topic = confluent_for(broker).create(1)
    with RawClient(broker.bootstrap) as raw:
        batch = batches.build(
            [(b"k", b"v", time.time_ns() // 1_000_000)],
            producer_id=new_producer_id(raw),
            producer_epoch=0,
            base_sequence=0,
        )
        assert produce(raw, topic, batch)["base_offset"] == 0
    broker.kill()
    broker.start()
    with RawClient(broker.bootstrap) as raw:
        answer = produce(raw, topic, batch)
        assert (answer["error_code"], answer["base_offset"]) == (0, 0)


def test_a_torn_tail_is_cut_at_the_restart(broker: BrokerProcess) -> None:
    confluent = confluent_for(broker)
    topic = confluent.create(1)
    for i in range(3):  # one batch each
        confluent.send(topic, [{"value": b"%d" % i}])
    broker.kill()
    path = broker.data_dir / "topics" / topic / "0" / f"{0:020d}.log"
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    broker.start()
    confluent = confluent_for(broker)
    assert confluent.watermarks(topic) == (0, 2)
    (report,) = confluent.send(topic, [{"value": b"again"}])
    assert report.offset() == 2
    assert read_all(confluent, topic, 1) == [b"0", b"1", b"again"]


def test_sigterm_ends_it_at_once_though_consumers_wait(broker: BrokerProcess) -> None:
    confluent = confluent_for(broker)
    topic = confluent.create(1)
    consumer = confluent.consumer("", **{"fetch.wait.max.ms": 60_000, "fetch.min.bytes": 1_000_000})
    consumer.subscribe([topic])
    wait_until(lambda: consumer.poll(0.1) is None and bool(consumer.assignment()), "assigned")
    started = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - started < 2
    assert (broker.data_dir / "clean-shutdown").exists()
    broker.start()
    assert not (broker.data_dir / "clean-shutdown").exists()
    consumer.close()


def test_it_idles(broker: BrokerProcess) -> None:
    confluent = confluent_for(broker)
    topic = confluent.create(4)
    consumers = [confluent.consumer() for _ in range(3)]
    for consumer in consumers:
        consumer.subscribe([topic])

    def everyone_polls() -> bool:
        for consumer in consumers:
            consumer.poll(0.05)
        return all(len(consumer.assignment()) == 4 for consumer in consumers)

    wait_until(everyone_polls, "all are assigned")
    before_s, started = broker.cpu_s(), time.monotonic()
    wait_until(lambda: everyone_polls() and time.monotonic() - started > 4, "four idle seconds")
    busy = (broker.cpu_s() - before_s) / (time.monotonic() - started)
    assert busy < 0.10, f"{busy:.1%} of a core with three consumers that wait"
    for consumer in consumers:
        consumer.close()


# -- what it refuses -------------------------------------------------------------------------


def run_broker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedded.broker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_it_listens_beyond_loopback_only_when_told(tmp_path: Path, host: str) -> None:
    ended = run_broker("--data-dir", str(tmp_path / "data"), "--host", host, "--port", "0")
    assert ended.returncode == 2
    assert host in ended.stderr
    assert "--allow-remote" in ended.stderr
    assert not ended.stdout
    with pytest.raises(ConfigFault, match="loopback"):
        BrokerConfig(tmp_path, host=host)
    assert BrokerConfig(tmp_path, host=host, allow_remote=True).host == host


def test_told_to_it_listens_everywhere_and_says_the_address_it_was_reached_at(
    tmp_path: Path,
) -> None:
    with BrokerProcess(tmp_path / "data", "--host", "0.0.0.0", "--allow-remote") as broker:
        (node,) = confluent_for(broker).admin.list_topics(timeout=10).brokers.values()
        assert f"{node.host}:{node.port}" == f"127.0.0.1:{broker.port}"


async def test_a_taken_port_is_named_and_the_data_left_alone(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=str(port)):
            async with Broker(BrokerConfig(tmp_path / "data", port=port)):
                pass
        assert not (tmp_path / "data").exists()


async def test_a_data_directory_has_one_broker(tmp_path: Path) -> None:
    async with Broker(BrokerConfig(tmp_path)) as broker:
        assert broker.port > 0
        with pytest.raises(ConfigFault, match="another broker"):
            async with Broker(BrokerConfig(tmp_path)):
                pass
    async with Broker(BrokerConfig(tmp_path)):
        pass


def test_tls_and_sasl_are_refused_at_once_and_in_words(broker: BrokerProcess) -> None:
    log = broker.data_dir.parent / "broker.err"

    def error_of(**options: Any) -> str:
        errors: list[str] = []
        client = ck.Producer(
            {
                "bootstrap.servers": broker.bootstrap,
                "error_cb": lambda error: errors.append(error.str()),
                **options,
            }
        )
        wait_until(lambda: client.poll(0.1) >= 0 and bool(errors), "an error", 10)
        return errors[0]

    assert "SSL" in error_of(**{"security.protocol": "ssl"}).upper()
    wait_until(lambda: pause("speaks TLS" in log.read_text()), "the log says so")
    plain = {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "somebody",
        "sasl.password": "something",
    }
    assert "SASL" in error_of(**plain).upper()
    wait_until(lambda: pause("sasl_refused" in log.read_text()), "the log says so")
    assert "something" not in log.read_text()


def alive(broker: BrokerProcess) -> bool:
    with RawClient(broker.bootstrap) as client:
        answer = client.call(API_VERSIONS, 0, {})
    return bool(answer["error_code"] == 0 and answer["api_keys"])


def test_noise_closes_the_connection_and_never_the_broker(broker: BrokerProcess) -> None:
    topic = confluent_for(broker).create(1)
    offered = [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]
    offered += [32, 33, 37, 42, 44, 47, 24, 99, -1]
    random_bytes = iter(lambda: os.urandom(64), b"")
    for round_number in range(300):
        noise = next(random_bytes)
        key, version = offered[round_number % len(offered)], round_number % 12
        head = key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big") + noise[:4]
        body = head + b"\xff\xff" + noise[: round_number % 64]
        frames = [
            noise,
            len(body).to_bytes(4, "big") + body,
            b"\x7f\xff\xff\xff" + noise,
            b"\xff\xff\xff\xff",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
        with RawClient(broker.bootstrap, timeout_s=5) as client:
            client.send_bytes(frames[round_number % len(frames)])
    assert alive(broker)
    with RawClient(broker.bootstrap) as client:
        client.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.is_closed_by_the_broker()
    with RawClient(broker.bootstrap) as client:
        for _ in range(50):  # noise where a batch should be
            assert produce(client, topic, os.urandom(200))["error_code"] != 0
    assert confluent_for(broker).watermarks(topic) == (0, 0)


def test_a_client_that_asks_much_and_reads_nothing_cannot_fill_the_memory(
    broker: BrokerProcess,
) -> None:
    topic = confluent_for(broker).create(1)
    batch = batches.build([(None, os.urandom(900_000), time.time_ns() // 1_000_000)])
    with RawClient(broker.bootstrap) as client:
        for _ in range(10):
            assert produce(client, topic, batch)["error_code"] == 0
        before_bytes = broker.rss_bytes()
        wanted = fetch_request(topic, 0, partition_max_bytes=20 << 20)
        for _ in range(40):  # 360 MB of answers
            client.send(FETCH, 11, wanted)
        assert alive(broker)
        assert broker.rss_bytes() - before_bytes < 100 << 20
        client._correlation_id = 10
        for _ in range(40):
            client._correlation_id += 1
            answer = client.receive(FETCH, 11)["topics"][0]["partitions"][0]
            assert len(answer["records"]) == 10 * len(batch)


def test_a_request_that_is_not_offered_closes_the_connection(broker: BrokerProcess) -> None:
    add_partitions_to_txn = 24
    for key, version in ((add_partitions_to_txn, 0), (0, 9), (1, 12), (3, 9)):
        body = b"".join(
            [key.to_bytes(2, "big"), version.to_bytes(2, "big"), b"\x00\x00\x00\x01\xff\xff"]
        )
        with RawClient(broker.bootstrap) as client:
            client.send_bytes(len(body).to_bytes(4, "big") + body)
            assert client.is_closed_by_the_broker()


def test_clients_ahead_of_us_are_told_what_is_offered(broker: BrokerProcess) -> None:
    with RawClient(broker.bootstrap) as client:
        body = b"\x00\x12\x00\x09\x00\x00\x00\x01\xff\xff"  # ApiVersions v9
        client.send_bytes(len(body).to_bytes(4, "big") + body)
        client._correlation_id = 1
        answer = client.receive(API_VERSIONS, 0)
    assert answer["error_code"] == 35
    assert {"api_key": 0, "min_version": 3, "max_version": 7} in answer["api_keys"]


async def test_connections_have_a_limit(tmp_path: Path) -> None:
    async with Broker(BrokerConfig(tmp_path, max_connections=2)) as broker:
        streams = [await asyncio.open_connection("127.0.0.1", broker.port) for _ in range(3)]
        assert await asyncio.wait_for(streams[2][0].read(1), 10) == b""
        api_versions_v0 = b"\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"
        for reader, writer in streams[:2]:
            writer.write(len(api_versions_v0).to_bytes(4, "big") + api_versions_v0)
            assert await asyncio.wait_for(reader.readexactly(8), 10)
        for _, writer in streams:
            writer.close()


async def test_the_disk_has_a_limit(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path / "data", "--max-data-bytes", "10000") as broker:
        topic = confluent_for(broker).create(1)
        with RawClient(broker.bootstrap) as raw:
            small = batches.build([(None, b"x" * 3_000, time.time_ns() // 1_000_000)])
            errors = [produce(raw, topic, small)["error_code"] for _ in range(5)]
    assert errors == [0, 0, 0, 56, 56]


def test_topics_have_a_limit(broker: BrokerProcess) -> None:
    confluent = confluent_for(broker)
    with pytest.raises(ck.KafkaException, match="POLICY_VIOLATION"):
        confluent.create(1_001)
