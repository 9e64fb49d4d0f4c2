"""How every room reaches Kafka: client options from settings, and the topics made beforehand.

This file refuses to consume or to publish; rooms do that with aiokafka or Faust.
"""

from __future__ import annotations

import ssl
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from redline.errors import ConfigFault
from redline.settings import KafkaSettings, Secrets
from redline.topics import ALERT_STATE_TOPIC, TOPICS, topic_config


def client_options(kafka: KafkaSettings, secrets: Secrets) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "security_protocol": kafka.security_protocol,
    }
    if "SSL" in kafka.security_protocol:
        options["ssl_context"] = ssl.create_default_context()
    if kafka.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = kafka.sasl_mechanism
        options["sasl_plain_username"] = kafka.sasl_username
        options["sasl_plain_password"] = secrets.kafka_password.get_secret_value()
    return options


async def ensure_topics(kafka: KafkaSettings, secrets: Secrets) -> list[str]:
    """Create the topics that are missing; return the names created.

    Raises:
        ConfigFault: a topic exists with another number of partitions than is configured.
    """
    admin = AIOKafkaAdminClient(**client_options(kafka, secrets))
    await admin.start()
    try:
        wanted = {
            topic.name: NewTopic(
                topic.name,
                kafka.partitions if topic.partitioned else 1,
                kafka.replication_factor,
                topic_configs=topic_config(topic),
            )
            for topic in TOPICS
        }
        wanted[ALERT_STATE_TOPIC] = NewTopic(
            ALERT_STATE_TOPIC,
            1,
            kafka.replication_factor,
            topic_configs={"cleanup.policy": "compact", "segment.ms": "3600000"},
        )
        present = set(await admin.list_topics())
        missing = [topic for name, topic in wanted.items() if name not in present]
        if missing:
            response = await admin.create_topics(missing)
            for name, code, *_ in response.topic_errors:
                if code and code != TopicAlreadyExistsError.errno:
                    raise for_code(code)(name)
        kept = [name for name in wanted if name in present]
        for description in await admin.describe_topics(kept) if kept else []:
            name, count = description["topic"], len(description["partitions"])
            if count != wanted[name].num_partitions:
                raise ConfigFault(
                    "kafka.partitions",
                    wanted[name].num_partitions,
                    f"topic {name} has {count} partitions",
                    f"set it to {count}, or recreate the topic",
                )
        return [topic.name for topic in missing]
    finally:
        await admin.close()
