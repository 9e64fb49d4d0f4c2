"""The topic table is the one place where topics are described."""

from __future__ import annotations

from redline.codec import BATCH_BYTES_MAX
from redline.records import RECORD_TYPES
from redline.topics import TOPICS, topic_config


def test_every_record_has_one_topic() -> None:
    assert sorted(topic.record.__name__ for topic in TOPICS) == sorted(
        kind.__name__ for kind in RECORD_TYPES
    )


def test_a_full_batch_fits_its_topic() -> None:
    assert all(topic.max_message_bytes >= BATCH_BYTES_MAX for topic in TOPICS)


def test_old_event_times_are_not_deleted_at_once() -> None:
    assert {topic_config(topic)["message.timestamp.type"] for topic in TOPICS} == {"LogAppendTime"}
