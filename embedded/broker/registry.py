"""What the broker must not forget besides records: topics, committed offsets, marks, ids.

Entries are facts in the order they happened; folding them gives the registry, and ``snapshot``
gives the shortest list that folds to the same. Pure; ``journal`` keeps it on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

FIRST_PRODUCER_ID = 1_000


class TopicSet(msgspec.Struct, frozen=True, tag="topic_set"):
    """A topic exists with these partitions and overrides; replaces what was known of it."""

    name: str
    partitions: int
    config: dict[str, str]


class TopicDeleted(msgspec.Struct, frozen=True, tag="topic_deleted"):
    """A topic is gone, with its marks and everything committed for it."""

    name: str


class StartMoved(msgspec.Struct, frozen=True, tag="start_moved"):
    """Records before ``offset`` were deleted on request."""

    topic: str
    partition: int
    offset: int


class CleanMoved(msgspec.Struct, frozen=True, tag="clean_moved"):
    """The partition is compacted up to ``offset``."""

    topic: str
    partition: int
    offset: int


class Committed(msgspec.Struct, frozen=True, array_like=True):
    """A group's position in one partition."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str


class OffsetsCommitted(msgspec.Struct, frozen=True, tag="offsets_committed"):
    """A group committed these positions."""

    group: str
    offsets: list[Committed]


class OffsetsDeleted(msgspec.Struct, frozen=True, tag="offsets_deleted"):
    """A group's positions in these (topic, partition) were removed."""

    group: str
    partitions: list[tuple[str, int]]


class GroupDeleted(msgspec.Struct, frozen=True, tag="group_deleted"):
    """All positions of a group were removed."""

    group: str


class ProducerIdsUsed(msgspec.Struct, frozen=True, tag="producer_ids_used"):
    """Producer ids below ``next_id`` were handed out."""

    next_id: int


class ClusterNamed(msgspec.Struct, frozen=True, tag="cluster_named"):
    """The data directory belongs to this cluster id."""

    cluster_id: str


Entry = (
    TopicSet
    | TopicDeleted
    | StartMoved
    | CleanMoved
    | OffsetsCommitted
    | OffsetsDeleted
    | GroupDeleted
    | ProducerIdsUsed
    | ClusterNamed
)
Partition = tuple[str, int]


class Registry:
    """The fold of all entries."""

    def __init__(self) -> None:
        self.cluster_id = ""
        self.next_producer_id = FIRST_PRODUCER_ID
        self.topics: dict[str, TopicSet] = {}
        self.starts: dict[Partition, int] = {}
        self.clean_until: dict[Partition, int] = {}
        self.offsets: dict[str, dict[Partition, Committed]] = {}

    def apply(self, entry: Entry) -> None:
        """Fold one entry in. Applying an entry twice changes nothing more."""
        match entry:
            case TopicSet(name):
                self.topics[name] = entry
            case TopicDeleted(name):
                self._forget_topic(name)
            case StartMoved(topic, partition, offset):
                self.starts[topic, partition] = offset
            case CleanMoved(topic, partition, offset):
                self.clean_until[topic, partition] = offset
            case OffsetsCommitted(group, offsets):
                positions = self.offsets.setdefault(group, {})
                positions.update({(c.topic, c.partition): c for c in offsets})
            case OffsetsDeleted(group, partitions):
                for partition_key in partitions:
                    self.offsets.get(group, {}).pop(partition_key, None)
            case GroupDeleted(group):
                self.offsets.pop(group, None)
            case ProducerIdsUsed(next_id):
                self.next_producer_id = max(self.next_producer_id, next_id)
            case ClusterNamed(cluster_id):
                self.cluster_id = cluster_id

    def _forget_topic(self, name: str) -> None:
        self.topics.pop(name, None)
        _forget(self.starts, name)
        _forget(self.clean_until, name)
        for positions in self.offsets.values():
            _forget(positions, name)

    def snapshot(self) -> Iterator[Entry]:
        """The entries that fold to this registry."""
        yield ClusterNamed(self.cluster_id)
        yield ProducerIdsUsed(self.next_producer_id)
        yield from self.topics.values()
        for (topic, partition), offset in self.starts.items():
            yield StartMoved(topic, partition, offset)
        for (topic, partition), offset in self.clean_until.items():
            yield CleanMoved(topic, partition, offset)
        for group, positions in self.offsets.items():
            if positions:
                yield OffsetsCommitted(group, list(positions.values()))


def _forget(marks: dict[Partition, Any], topic: str) -> None:
    for key in [key for key in marks if key[0] == topic]:
        del marks[key]
