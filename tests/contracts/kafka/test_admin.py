"""Topics, partitions, configurations and records under administration."""

from __future__ import annotations

from typing import Any

import confluent_kafka as ck
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin import NewTopic as AioNewTopic
from aiokafka.admin.config_resource import ConfigResource as AioConfigResource
from aiokafka.admin.config_resource import ConfigResourceType
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from tests.contracts.kafka.clients import Aio, Confluent, unique, wait_until


def config_of(confluent: Confluent, topic: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (future,) = confluent.admin.describe_configs([resource]).values()
    return {name: entry.value for name, entry in future.result(10).items()}


def alter(confluent: Confluent, topic: str, *changes: ConfigEntry) -> None:
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=list(changes))
    (future,) = confluent.admin.incremental_alter_configs([resource]).values()
    future.result(10)


def setting(name: str, value: str | None, operation: AlterConfigOpType) -> ConfigEntry:
    return ConfigEntry(name, value, incremental_operation=operation)


def test_a_topic_is_created_described_deleted_and_created_anew(confluent: Confluent) -> None:
    topic = confluent.create(6, {"retention.ms": "3600000"})
    config = config_of(confluent, topic)
    assert config["retention.ms"] == "3600000"
    assert config["cleanup.policy"] == "delete"
    confluent.send(topic, [{"value": b"old"}])
    confluent.admin.delete_topics([topic])[topic].result(10)
    wait_until(lambda: confluent.partitions(topic) == 0, "the topic is gone")
    confluent.create(2, name=topic)
    assert confluent.partitions(topic) == 2
    assert confluent.watermarks(topic, 0) == (0, 0)
    assert config_of(confluent, topic)["retention.ms"] == "604800000"


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"num_partitions": 0}, "INVALID_PARTITIONS"),
        ({"replication_factor": 3}, "INVALID_REPLICATION_FACTOR"),
        ({"config": {"no.such.key": "1"}}, "INVALID_CONFIG"),
        ({"config": {"retention.ms": "soon"}}, "INVALID_CONFIG"),
        ({"config": {"cleanup.policy": "burn"}}, "INVALID_CONFIG"),
        ({"topic": "no spaces allowed"}, "TOPIC_EXCEPTION"),
    ],
)
def test_what_makes_no_sense_is_refused(
    confluent: Confluent, wanted: dict[str, Any], error: str
) -> None:
    options = {"topic": unique(), "num_partitions": 1, "replication_factor": 1, **wanted}
    new = NewTopic(**options)
    with pytest.raises(ck.KafkaException) as refused:
        confluent.admin.create_topics([new])[new.topic].result(10)
    assert refused.value.args[0].name() == error
    assert confluent.partitions(new.topic) == 0


def test_a_topic_that_exists_is_not_created_again(confluent: Confluent) -> None:
    topic = confluent.create(1)
    with pytest.raises(ck.KafkaException, match="TOPIC_ALREADY_EXISTS"):
        confluent.create(1, name=topic)


def test_validate_only_creates_nothing(confluent: Confluent) -> None:
    topic = unique()
    new = NewTopic(topic, 1, 1)
    confluent.admin.create_topics([new], validate_only=True)[topic].result(10)
    assert confluent.partitions(topic) == 0


def test_deleting_an_unknown_topic_says_so(confluent: Confluent) -> None:
    with pytest.raises(ck.KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        confluent.admin.delete_topics(["never-was"])["never-was"].result(10)


def test_partitions_can_be_added_and_not_removed(confluent: Confluent) -> None:
    topic = confluent.create(2)
    confluent.send(topic, [{"value": b"x"} for _ in range(10)])
    confluent.admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
    wait_until(lambda: confluent.partitions(topic) == 5, "five partitions")
    assert len(confluent.read(topic, 10)) == 10
    with pytest.raises(ck.KafkaException, match="INVALID_PARTITIONS"):
        confluent.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(10)


def test_configurations_are_altered_one_by_one(confluent: Confluent) -> None:
    topic = confluent.create(1, {"retention.ms": "1000000"})
    alter(confluent, topic, setting("segment.ms", "500000", AlterConfigOpType.SET))
    wait_until(lambda: config_of(confluent, topic)["segment.ms"] == "500000", "set")
    assert config_of(confluent, topic)["retention.ms"] == "1000000"
    alter(confluent, topic, setting("retention.ms", None, AlterConfigOpType.DELETE))
    wait_until(lambda: config_of(confluent, topic)["retention.ms"] == "604800000", "default")
    alter(confluent, topic, setting("cleanup.policy", "compact", AlterConfigOpType.APPEND))
    wait_until(
        lambda: (
            set(config_of(confluent, topic)["cleanup.policy"].split(",")) == {"delete", "compact"}
        ),
        "appended",
    )
    with pytest.raises(ck.KafkaException, match="INVALID_CONFIG"):
        alter(confluent, topic, setting("retention.ms", "never", AlterConfigOpType.SET))


def test_records_are_deleted_from_the_front(confluent: Confluent) -> None:
    topic = confluent.create(1)
    confluent.send(topic, [{"value": b"%d" % i} for i in range(100)])
    wanted = ck.TopicPartition(topic, 0, 50)
    (future,) = confluent.admin.delete_records([wanted], request_timeout=10).values()
    assert future.result(10).low_watermark == 50
    assert confluent.watermarks(topic) == (50, 100)
    assert [m.offset() for m in confluent.read(topic, 50)][:1] == [50]
    beyond = ck.TopicPartition(topic, 0, 1_000)
    (future,) = confluent.admin.delete_records([beyond], request_timeout=10).values()
    with pytest.raises(ck.KafkaException, match="OFFSET_OUT_OF_RANGE"):
        future.result(10)


def test_the_cluster_describes_itself(confluent: Confluent) -> None:
    metadata: Any = confluent.admin.list_topics(timeout=10)
    assert metadata.cluster_id
    assert len(metadata.brokers) == 1
    (broker,) = metadata.brokers.values()
    assert f"{broker.host}:{broker.port}" == confluent.bootstrap
    resource = ConfigResource(ResourceType.BROKER, str(broker.id))
    (future,) = confluent.admin.describe_configs([resource]).values()
    assert future.result(10)["num.partitions"].value == "4"


async def test_the_admin_client_of_aiokafka(aio: Aio) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=aio.bootstrap)
    await admin.start()
    topic = unique()
    new = AioNewTopic(topic, 5, 1, topic_configs={"cleanup.policy": "compact"})
    response = await admin.create_topics([new])
    assert [code for _, code, *_ in response.topic_errors] == [0]
    (description,) = await admin.describe_topics([topic])
    assert len(description["partitions"]) == 5
    assert topic in await admin.list_topics()
    (answer,) = await admin.describe_configs([AioConfigResource(ConfigResourceType.TOPIC, topic)])
    values = {entry[0]: entry[1] for entry in answer.resources[0][4]}
    assert values["cleanup.policy"] == "compact"
    assert isinstance(await admin.list_consumer_groups(), list)
    await admin.delete_topics([topic])
    await admin.close()
