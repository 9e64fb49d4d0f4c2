"""The messages of the data path: produce, fetch, offsets by time, metadata, leader epochs.

Field by field as in the protocol guide (https://kafka.apache.org/protocol), pre-flexible
versions only. The file refuses to hold behaviour.
"""

from __future__ import annotations

from embedded.broker.api import ERROR_CODE, INDEX, NAME, TIMEOUT_MS, Api, throttle_since, topics_of
from embedded.broker.wire import (
    BOOL,
    INT8,
    INT16,
    INT32,
    INT64,
    NULLABLE_BYTES,
    NULLABLE_STRING,
    STRING,
    Array,
    Field,
)

PRODUCE = Api(
    0,
    "Produce",
    (3, 7),
    request=(
        Field("transactional_id", NULLABLE_STRING),
        Field("acks", INT16),
        TIMEOUT_MS,
        topics_of(INDEX, Field("records", NULLABLE_BYTES)),
    ),
    response=(
        topics_of(
            INDEX,
            ERROR_CODE,
            Field("base_offset", INT64),
            Field("log_append_time_ms", INT64),
            Field("log_start_offset", INT64, since=5),
        ),
        throttle_since(1),
    ),
)

FETCH = Api(
    1,
    "Fetch",
    (4, 11),
    request=(
        Field("replica_id", INT32),
        Field("max_wait_ms", INT32),
        Field("min_bytes", INT32),
        Field("max_bytes", INT32),
        Field("isolation_level", INT8),
        Field("session_id", INT32, since=7),
        Field("session_epoch", INT32, since=7),
        topics_of(
            INDEX,
            Field("current_leader_epoch", INT32, since=9),
            Field("fetch_offset", INT64),
            Field("log_start_offset", INT64, since=5),
            Field("partition_max_bytes", INT32),
        ),
        Field("forgotten_topics", Array((NAME, Field("partitions", Array(INT32)))), since=7),
        Field("rack_id", STRING, since=11),
    ),
    response=(
        throttle_since(1),
        Field("error_code", INT16, since=7),
        Field("session_id", INT32, since=7),
        topics_of(
            INDEX,
            ERROR_CODE,
            Field("high_watermark", INT64),
            Field("last_stable_offset", INT64),
            Field("log_start_offset", INT64, since=5),
            Field(
                "aborted_transactions",
                Array((Field("producer_id", INT64), Field("first_offset", INT64)), nullable=True),
            ),
            Field("preferred_read_replica", INT32, since=11),
            Field("records", NULLABLE_BYTES),
        ),
    ),
)

LIST_OFFSETS = Api(
    2,
    "ListOffsets",
    (1, 5),
    request=(
        Field("replica_id", INT32),
        Field("isolation_level", INT8, since=2),
        topics_of(
            INDEX, Field("current_leader_epoch", INT32, since=4), Field("timestamp_ms", INT64)
        ),
    ),
    response=(
        throttle_since(2),
        topics_of(
            INDEX,
            ERROR_CODE,
            Field("timestamp_ms", INT64),
            Field("offset", INT64),
            Field("leader_epoch", INT32, since=4),
        ),
    ),
)

METADATA = Api(
    3,
    "Metadata",
    (0, 8),
    request=(
        Field("topics", Array(STRING, nullable=True)),
        Field("allow_auto_topic_creation", BOOL, since=4),
        Field("include_cluster_authorized_operations", BOOL, since=8),
        Field("include_topic_authorized_operations", BOOL, since=8),
    ),
    response=(
        throttle_since(3),
        Field(
            "brokers",
            Array(
                (
                    Field("node_id", INT32),
                    Field("host", STRING),
                    Field("port", INT32),
                    Field("rack", NULLABLE_STRING, since=1),
                )
            ),
        ),
        Field("cluster_id", NULLABLE_STRING, since=2),
        Field("controller_id", INT32, since=1),
        Field(
            "topics",
            Array(
                (
                    ERROR_CODE,
                    NAME,
                    Field("is_internal", BOOL, since=1),
                    Field(
                        "partitions",
                        Array(
                            (
                                ERROR_CODE,
                                INDEX,
                                Field("leader_id", INT32),
                                Field("leader_epoch", INT32, since=7),
                                Field("replica_nodes", Array(INT32)),
                                Field("isr_nodes", Array(INT32)),
                                Field("offline_replicas", Array(INT32), since=5),
                            )
                        ),
                    ),
                    Field("topic_authorized_operations", INT32, since=8),
                )
            ),
        ),
        Field("cluster_authorized_operations", INT32, since=8),
    ),
)

INIT_PRODUCER_ID = Api(
    22,
    "InitProducerId",
    (0, 1),
    request=(Field("transactional_id", NULLABLE_STRING), Field("transaction_timeout_ms", INT32)),
    response=(
        throttle_since(0),
        ERROR_CODE,
        Field("producer_id", INT64),
        Field("producer_epoch", INT16),
    ),
)

OFFSET_FOR_LEADER_EPOCH = Api(
    23,
    "OffsetForLeaderEpoch",
    (0, 3),
    request=(
        Field("replica_id", INT32, since=3),
        topics_of(
            INDEX,
            Field("current_leader_epoch", INT32, since=2),
            Field("leader_epoch", INT32),
        ),
    ),
    response=(
        throttle_since(2),
        topics_of(
            ERROR_CODE,
            INDEX,
            Field("leader_epoch", INT32, since=1),
            Field("end_offset", INT64),
        ),
    ),
)

DATA_APIS = (
    PRODUCE,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    INIT_PRODUCER_ID,
    OFFSET_FOR_LEADER_EPOCH,
)
