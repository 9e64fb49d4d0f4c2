"""Topics and partitions of the broker: created, widened, configured, cleaned and deleted.

Every change is in the journal before it is answered. The file refuses the protocol's messages;
``handle_admin`` translates them.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping

from embedded.broker import compaction, retention
from embedded.broker.codes import ErrorCode
from embedded.broker.config import BrokerConfig
from embedded.broker.journal import Journal
from embedded.broker.log import Appended, PartitionLog
from embedded.broker.registry import CleanMoved, StartMoved, TopicDeleted, TopicSet
from embedded.broker.topic_config import TopicConfig, check_overrides
from redline.log import get_logger

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
# "~" cannot be in a topic's name: a directory marked so is a deletion that was cut short.
_DELETED_MARK = "~deleted~"


class Refused(Exception):
    """An admin request that cannot be done; ``code`` and the text are the client's answer."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Partition:
    """A log, and the fetches that wait for it to grow."""

    def __init__(self, index: int, log: PartitionLog) -> None:
        self.index = index
        self.log = log
        self.waiting: set[asyncio.Future[None]] = set()

    def wake(self) -> None:
        """Let waiting fetches look again."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()


class Topic:
    """A named list of partitions with one configuration."""

    def __init__(self, name: str, config: TopicConfig) -> None:
        self.name = name
        self.config = config
        self.partitions: list[Partition] = []


def refuse_name(name: str) -> str | None:
    """Why ``name`` cannot be a topic's, or None."""
    if name in {".", ".."} or not _NAME.fullmatch(name):
        return f"Topic name {name!r} is illegal: 1 to 249 of A-Z a-z 0-9 . _ - are allowed"
    return None


class Topics:
    """All topics of a data directory."""

    def __init__(
        self, config: BrokerConfig, journal: Journal, *, clean_shutdown: bool, now_ms: int
    ) -> None:
        self._config = config
        self._journal = journal
        self._root = config.data_dir / "topics"
        self._root.mkdir(parents=True, exist_ok=True)
        self._topics: dict[str, Topic] = {}
        self._closing = False
        self._data_bytes = 0
        for leftover in self._root.glob(f"*{_DELETED_MARK}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for name, entry in journal.registry.topics.items():
            topic = Topic(name, TopicConfig(entry.config))
            self._open_partitions(topic, entry.partitions, now_ms, clean_shutdown)
            self._topics[name] = topic
        self._count_bytes()

    # -- looking up ------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Topic]:
        return iter(list(self._topics.values()))

    def get(self, name: str) -> Topic | None:
        """The topic, or None."""
        return self._topics.get(name)

    def partition(self, name: str, index: int) -> Partition | None:
        """The partition, or None."""
        topic = self._topics.get(name)
        if topic is None or not 0 <= index < len(topic.partitions):
            return None
        return topic.partitions[index]

    @property
    def partition_count(self) -> int:
        """Partitions of all topics together."""
        return sum(len(topic.partitions) for topic in self._topics.values())

    # -- records ---------------------------------------------------------------------------

    def append(self, partition: Partition, batch: bytes | memoryview, now_ms: int) -> Appended:
        """Append and wake the consumers; refuses when the disk budget is spent."""
        if self._data_bytes + len(batch) > self._config.max_data_bytes:
            get_logger().error("data_limit_reached", max_data_bytes=self._config.max_data_bytes)
            return Appended(ErrorCode.KAFKA_STORAGE_ERROR)
        appended = partition.log.append(batch, now_ms)
        if not appended.error:
            self._data_bytes += len(batch)
            partition.wake()
        return appended

    def delete_before(self, name: str, partition: Partition, offset: int) -> None:
        """Records before ``offset`` are deleted for good."""
        self._journal.record(StartMoved(name, partition.index, offset))
        partition.log.delete_before(offset)
        partition.wake()

    # -- topics ----------------------------------------------------------------------------

    def check_new(self, name: str, partitions: int, overrides: Mapping[str, str | None]) -> None:
        """Raises ``Refused`` when such a topic cannot be created."""
        if (reason := refuse_name(name)) is not None:
            raise Refused(ErrorCode.INVALID_TOPIC_EXCEPTION, reason)
        if name in self._topics:
            raise Refused(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        if partitions < 1:
            raise Refused(
                ErrorCode.INVALID_PARTITIONS, "Number of partitions must be larger than 0."
            )
        self._check_room(partitions, partitions)
        if (reason := check_overrides(overrides)) is not None:
            raise Refused(ErrorCode.INVALID_CONFIG, reason)

    def _check_room(self, added: int, total: int) -> None:
        limits = self._config
        if total > limits.max_partitions_a_topic:
            raise Refused(
                ErrorCode.POLICY_VIOLATION,
                f"{total} partitions exceed this broker's {limits.max_partitions_a_topic} a topic",
            )
        if self.partition_count + added > limits.max_partitions:
            raise Refused(
                ErrorCode.POLICY_VIOLATION,
                f"this broker holds {limits.max_partitions} partitions at most",
            )

    def create(
        self, name: str, partitions: int, overrides: Mapping[str, str | None], now_ms: int
    ) -> Topic:
        """Create a topic. Raises ``Refused``."""
        self.check_new(name, partitions, overrides)
        settings = {key: value for key, value in overrides.items() if value is not None}
        self._journal.record(TopicSet(name, partitions, settings))
        topic = Topic(name, TopicConfig(settings))
        self._open_partitions(topic, partitions, now_ms, clean_shutdown=True)
        self._topics[name] = topic
        return topic

    def widen(self, topic: Topic, count: int, now_ms: int, *, validate_only: bool) -> None:
        """Give the topic ``count`` partitions in all. Raises ``Refused``."""
        present = len(topic.partitions)
        if count <= present:
            raise Refused(
                ErrorCode.INVALID_PARTITIONS,
                f"Topic '{topic.name}' has {present} partitions; {count} would not be an increase.",
            )
        self._check_room(count - present, count)
        if not validate_only:
            self._journal.record(TopicSet(topic.name, count, topic.config.overrides))
            self._open_partitions(topic, count, now_ms, clean_shutdown=True)

    def configure(
        self, topic: Topic, overrides: Mapping[str, str | None], *, validate_only: bool
    ) -> None:
        """Replace the topic's overrides. Raises ``Refused``."""
        if (reason := check_overrides(overrides)) is not None:
            raise Refused(ErrorCode.INVALID_CONFIG, reason)
        if validate_only:
            return
        settings = {key: value for key, value in overrides.items() if value is not None}
        self._journal.record(TopicSet(topic.name, len(topic.partitions), settings))
        topic.config = TopicConfig(settings)
        for partition in topic.partitions:
            partition.log.config = topic.config

    def delete(self, name: str) -> bool:
        """Delete a topic and its records; False when there is none."""
        topic = self._topics.pop(name, None)
        if topic is None:
            return False
        # The rename decides: a crash after it leaves only rubbish, never old records.
        directory = self._root / name
        rubbish = directory.with_name(f"{name}{_DELETED_MARK}{uuid.uuid4().hex}")
        directory.rename(rubbish)
        self._journal.record(TopicDeleted(name))
        for partition in topic.partitions:
            partition.log.close()
            partition.wake()
        shutil.rmtree(rubbish, ignore_errors=True)
        self._count_bytes()
        return True

    def _open_partitions(self, topic: Topic, count: int, now_ms: int, clean_shutdown: bool) -> None:
        for index in range(len(topic.partitions), count):
            log = PartitionLog(
                self._root / topic.name / str(index),
                topic.config,
                start_offset=self._journal.registry.starts.get((topic.name, index), 0),
                clean_shutdown=clean_shutdown,
                fsync=self._config.fsync,
                now_ms=now_ms,
            )
            topic.partitions.append(Partition(index, log))

    # -- housekeeping ----------------------------------------------------------------------

    async def clean(self, now_ms: int) -> None:
        """Roll, expire and compact what is due; a failure in one log does not stop the rest."""
        for topic in self:
            for partition in topic.partitions:
                try:
                    await self._clean(topic, partition, now_ms)
                except Exception as failure:  # housekeeping must go on, whatever one log has
                    if self._topics.get(topic.name) is not topic:
                        break  # deleted meanwhile, and its files with it
                    get_logger().error(
                        "cleaning_failed",
                        topic=topic.name,
                        partition=partition.index,
                        reason=repr(failure),
                    )
        self._count_bytes()

    async def _clean(self, topic: Topic, partition: Partition, now_ms: int) -> None:
        log = partition.log
        if self._topics.get(topic.name) is not topic:
            return
        log.roll_if_aged(now_ms)
        expired = retention.expired_count(log.segments, topic.config, now_ms)
        if expired:
            log.drop_segments(expired, now_ms)
            get_logger().info("segments_expired", topic=topic.name, count=expired)
        clean_until = self._journal.registry.clean_until.get((topic.name, partition.index), 0)
        work = compaction.plan(log, clean_until, topic.config, now_ms)
        if work is None:
            return
        # Closed segments never change, so a thread may read them while the log goes on.
        cleaned = await asyncio.to_thread(compaction.clean, work, lambda: self._closing)
        if self._topics.get(topic.name) is topic and log.replace(cleaned.outputs):
            self._journal.record(CleanMoved(topic.name, partition.index, cleaned.clean_until))

    def _count_bytes(self) -> None:
        self._data_bytes = sum(p.log.size_bytes for t in self for p in t.partitions)

    def close(self) -> None:
        """Stop cleaning, let waiting fetches go and give the file handles back."""
        self._closing = True
        for topic in self:
            for partition in topic.partitions:
                partition.wake()
                partition.log.close()
