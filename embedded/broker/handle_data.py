"""Produce, fetch, offsets and metadata: the requests that move records.

The file refuses to touch files; ``topics`` and ``log`` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from embedded.broker import api_data
from embedded.broker.codes import ErrorCode
from embedded.broker.node import (
    LEADER_EPOCH,
    NO_AUTHORIZED_OPERATIONS,
    NODE_ID,
    Caller,
    Handlers,
    Node,
    Reply,
)
from embedded.broker.registry import ProducerIdsUsed
from embedded.broker.topics import Partition, Refused, Topic, refuse_name
from embedded.broker.wire import Message
from redline.log import get_logger

_LATEST, _EARLIEST = -1, -2
NO_TRANSACTIONS = "this broker has no transactions: use at-least-once with idempotent sinks"


class DataHandlers:
    """The data path of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> Handlers:
        """Which API is answered by which method."""
        return {
            api_data.PRODUCE: self.produce,
            api_data.FETCH: self.fetch,
            api_data.LIST_OFFSETS: self.list_offsets,
            api_data.METADATA: self.metadata,
            api_data.INIT_PRODUCER_ID: self.init_producer_id,
            api_data.OFFSET_FOR_LEADER_EPOCH: self.offset_for_leader_epoch,
        }

    # -- produce ---------------------------------------------------------------------------

    def produce(self, version: int, request: Message, caller: Caller) -> Reply:
        """Append each partition's batch. With ``acks=0`` there is no answer."""
        now_ms = self._node.wall_ms()
        acks = request["acks"]
        error = ErrorCode.NONE
        if acks not in {-1, 0, 1}:
            error = ErrorCode.INVALID_REQUIRED_ACKS
        elif request["transactional_id"] is not None:
            error = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        topics = [
            {
                "name": topic["name"],
                "partitions": [
                    self._produce_one(topic["name"], wanted, error, now_ms)
                    for wanted in topic["partitions"]
                ],
            }
            for topic in request["topics"]
        ]
        return {"topics": topics, "throttle_time_ms": 0} if acks else None

    def _produce_one(self, name: str, wanted: Message, error: ErrorCode, now_ms: int) -> Message:
        answer = {
            "index": wanted["index"],
            "error_code": error,
            "base_offset": -1,
            "log_append_time_ms": -1,
            "log_start_offset": -1,
        }
        partition = self._node.topics.partition(name, wanted["index"])
        if error:
            return answer
        if partition is None:
            return answer | {"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        appended = self._node.topics.append(partition, wanted["records"] or b"", now_ms)
        return answer | {
            "error_code": appended.error,
            "base_offset": appended.base_offset,
            "log_append_time_ms": appended.append_time_ms,
            "log_start_offset": partition.log.start_offset,
        }

    def init_producer_id(self, version: int, request: Message, caller: Caller) -> Reply:
        """Hand out a producer id for idempotence; transactions are refused."""
        answer = {"throttle_time_ms": 0, "producer_id": -1, "producer_epoch": -1}
        if request["transactional_id"] is not None:
            get_logger().warning(
                "transaction_refused", client_id=caller.client_id, reason=NO_TRANSACTIONS
            )
            return answer | {"error_code": ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}
        producer_id = self._node.journal.registry.next_producer_id
        self._node.journal.record(ProducerIdsUsed(producer_id + 1))
        return answer | {
            "error_code": ErrorCode.NONE,
            "producer_id": producer_id,
            "producer_epoch": 0,
        }

    # -- fetch -----------------------------------------------------------------------------

    def fetch(self, version: int, request: Message, caller: Caller) -> Reply:
        """Read; when there is too little, wait until there is more or time is up."""
        if request.get("session_id", 0):  # sessions are never given out
            return {
                "throttle_time_ms": 0,
                "error_code": ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
                "session_id": 0,
                "topics": [],
            }
        answer, settled = self._read(request)
        if settled or request["max_wait_ms"] <= 0:
            return answer
        return self._wait_and_read(request)

    async def _wait_and_read(self, request: Message) -> Message:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request["max_wait_ms"] / 1000
        partitions = [
            partition
            for topic in request["topics"]
            for wanted in topic["partitions"]
            if (partition := self._node.topics.partition(topic["name"], wanted["index"]))
        ]
        while True:
            grown: asyncio.Future[None] = loop.create_future()
            for partition in partitions:
                partition.waiting.add(grown)
            timer = loop.call_at(deadline, _resolve, grown)
            try:
                await grown
            finally:
                timer.cancel()
                for partition in partitions:
                    partition.waiting.discard(grown)
            answer, settled = self._read(request)
            if settled or loop.time() >= deadline:
                return answer

    def _read(self, request: Message) -> tuple[Message, bool]:
        """The answer as of now, and whether it is worth sending before the wait is over."""
        budget_bytes = min(max(request["max_bytes"], 0), self._node.config.max_fetch_bytes)
        read_bytes, failed = 0, False
        topics = []
        for topic in request["topics"]:
            partitions = []
            for wanted in topic["partitions"]:
                partition = self._node.topics.partition(topic["name"], wanted["index"])
                answer = _fetched(wanted["index"], partition, wanted["fetch_offset"])
                partitions.append(answer)
                if answer["error_code"]:
                    failed = True
                elif partition is not None and (read_bytes < budget_bytes or not read_bytes):
                    records = partition.log.read(
                        wanted["fetch_offset"],
                        min(wanted["partition_max_bytes"], budget_bytes - read_bytes),
                        at_least_one=not read_bytes,
                    )
                    answer["records"] = records
                    read_bytes += len(records)
            topics.append({"name": topic["name"], "partitions": partitions})
        answer = {"throttle_time_ms": 0, "error_code": 0, "session_id": 0, "topics": topics}
        return answer, failed or read_bytes >= request["min_bytes"]

    # -- offsets ---------------------------------------------------------------------------

    def list_offsets(self, version: int, request: Message, caller: Caller) -> Reply:
        """First and last offsets, and offsets by time."""

        def one(partition: Partition | None, wanted: Message) -> Message:
            answer = {"timestamp_ms": -1, "offset": -1, "leader_epoch": LEADER_EPOCH}
            if partition is None:
                return answer | {"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
            timestamp_ms, offset = -1, -1
            if wanted["timestamp_ms"] == _LATEST:
                offset = partition.log.next_offset
            elif wanted["timestamp_ms"] == _EARLIEST:
                offset = partition.log.start_offset
            else:
                timestamp_ms, offset = partition.log.offset_for_time(wanted["timestamp_ms"])
            return answer | {
                "error_code": ErrorCode.NONE,
                "timestamp_ms": timestamp_ms,
                "offset": offset,
            }

        return {"throttle_time_ms": 0, "topics": self._per_partition(request, one)}

    def offset_for_leader_epoch(self, version: int, request: Message, caller: Caller) -> Reply:
        """Where an epoch ended: there is only one, and it ends where the log does."""

        def one(partition: Partition | None, wanted: Message) -> Message:
            answer = {"leader_epoch": -1, "end_offset": -1}
            if partition is None:
                return answer | {"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
            if wanted["leader_epoch"] == LEADER_EPOCH:
                answer = {"leader_epoch": LEADER_EPOCH, "end_offset": partition.log.next_offset}
            return answer | {"error_code": ErrorCode.NONE}

        return {"throttle_time_ms": 0, "topics": self._per_partition(request, one)}

    def _per_partition(
        self, request: Message, one: Callable[[Partition | None, Message], Message]
    ) -> list[Message]:
        find = self._node.topics.partition
        return [
            {
                "name": topic["name"],
                "partitions": [
                    {
                        "index": wanted["index"],
                        **one(find(topic["name"], wanted["index"]), wanted),
                    }
                    for wanted in topic["partitions"]
                ],
            }
            for topic in request["topics"]
        ]

    # -- metadata --------------------------------------------------------------------------

    def metadata(self, version: int, request: Message, caller: Caller) -> Reply:
        """The one broker and its topics; unknown topics are created where that is allowed."""
        names = request["topics"]
        if names is None or (version == 0 and not names):
            names = [topic.name for topic in self._node.topics]
        may_create = request.get("allow_auto_topic_creation", True)
        host, port = caller.local
        return {
            "throttle_time_ms": 0,
            "brokers": [{"node_id": NODE_ID, "host": host, "port": port, "rack": None}],
            "cluster_id": self._node.journal.registry.cluster_id,
            "controller_id": NODE_ID,
            "topics": [self._describe(name, may_create) for name in names],
            "cluster_authorized_operations": NO_AUTHORIZED_OPERATIONS,
        }

    def _describe(self, name: str, may_create: bool) -> Message:
        error = ErrorCode.NONE
        topic = self._node.topics.get(name)
        if topic is None:
            topic, error = self._auto_create(name, may_create)
        return {
            "error_code": error,
            "name": name,
            "is_internal": False,
            "partitions": [_led_here(p.index) for p in topic.partitions] if topic else [],
            "topic_authorized_operations": NO_AUTHORIZED_OPERATIONS,
        }

    def _auto_create(self, name: str, may_create: bool) -> tuple[Topic | None, ErrorCode]:
        if refuse_name(name) is not None:
            return None, ErrorCode.INVALID_TOPIC_EXCEPTION
        config = self._node.config
        if not (may_create and config.auto_create_topics):
            return None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        try:
            topic = self._node.topics.create(name, config.partitions, {}, self._node.wall_ms())
        except Refused as refused:
            return None, refused.code
        return topic, ErrorCode.NONE


def _led_here(index: int) -> Message:
    return {
        "error_code": ErrorCode.NONE,
        "index": index,
        "leader_id": NODE_ID,
        "leader_epoch": LEADER_EPOCH,
        "replica_nodes": [NODE_ID],
        "isr_nodes": [NODE_ID],
        "offline_replicas": [],
    }


def _fetched(index: int, partition: Partition | None, offset: int) -> Message:
    error, end, start = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1, -1
    if partition is not None:
        end, start = partition.log.next_offset, partition.log.start_offset
        error = ErrorCode.NONE if start <= offset <= end else ErrorCode.OFFSET_OUT_OF_RANGE
    return {
        "index": index,
        "error_code": error,
        "high_watermark": end,
        "last_stable_offset": end,
        "log_start_offset": start,
        "aborted_transactions": None,
        "preferred_read_replica": -1,
        "records": b"",
    }


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
