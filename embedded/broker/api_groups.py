"""The messages of consumer groups: membership, offsets, and the admin's view of both.

Field by field as in the protocol guide (https://kafka.apache.org/protocol), pre-flexible
versions only. The file refuses to hold behaviour.
"""

from __future__ import annotations

from embedded.broker.api import (
    ERROR_CODE,
    GENERATION_ID,
    GROUP_ID,
    INDEX,
    MEMBER_ID,
    NAME,
    Api,
    throttle_since,
    topics_of,
)
from embedded.broker.wire import (
    BOOL,
    BYTES,
    INT8,
    INT16,
    INT32,
    INT64,
    NULLABLE_STRING,
    STRING,
    Array,
    Field,
)


def _instance_since(version: int) -> Field:
    return Field("group_instance_id", NULLABLE_STRING, since=version)


OFFSET_COMMIT = Api(
    8,
    "OffsetCommit",
    (2, 7),
    request=(
        GROUP_ID,
        GENERATION_ID,
        MEMBER_ID,
        _instance_since(7),
        Field("retention_time_ms", INT64, until=4),
        topics_of(
            INDEX,
            Field("offset", INT64),
            Field("leader_epoch", INT32, since=6),
            Field("metadata", NULLABLE_STRING),
        ),
    ),
    response=(throttle_since(3), topics_of(INDEX, ERROR_CODE)),
)

OFFSET_FETCH = Api(
    9,
    "OffsetFetch",
    (1, 5),
    request=(
        GROUP_ID,
        Field("topics", Array((NAME, Field("partitions", Array(INT32))), nullable=True)),
    ),
    response=(
        throttle_since(3),
        topics_of(
            INDEX,
            Field("offset", INT64),
            Field("leader_epoch", INT32, since=5),
            Field("metadata", NULLABLE_STRING),
            ERROR_CODE,
        ),
        Field("error_code", INT16, since=2),
    ),
)

FIND_COORDINATOR = Api(
    10,
    "FindCoordinator",
    (0, 2),
    request=(Field("key", STRING), Field("key_type", INT8, since=1)),
    response=(
        throttle_since(1),
        ERROR_CODE,
        Field("error_message", NULLABLE_STRING, since=1),
        Field("node_id", INT32),
        Field("host", STRING),
        Field("port", INT32),
    ),
)

JOIN_GROUP = Api(
    11,
    "JoinGroup",
    (0, 5),
    request=(
        GROUP_ID,
        Field("session_timeout_ms", INT32),
        Field("rebalance_timeout_ms", INT32, since=1),
        MEMBER_ID,
        _instance_since(5),
        Field("protocol_type", STRING),
        Field("protocols", Array((NAME, Field("metadata", BYTES)))),
    ),
    response=(
        throttle_since(2),
        ERROR_CODE,
        GENERATION_ID,
        Field("protocol_name", STRING),
        Field("leader", STRING),
        MEMBER_ID,
        Field("members", Array((MEMBER_ID, _instance_since(5), Field("metadata", BYTES)))),
    ),
)

HEARTBEAT = Api(
    12,
    "Heartbeat",
    (0, 3),
    request=(GROUP_ID, GENERATION_ID, MEMBER_ID, _instance_since(3)),
    response=(throttle_since(1), ERROR_CODE),
)

LEAVE_GROUP = Api(
    13,
    "LeaveGroup",
    (0, 3),
    request=(
        GROUP_ID,
        Field("member_id", STRING, until=2),
        Field("members", Array((MEMBER_ID, _instance_since(3))), since=3),
    ),
    response=(
        throttle_since(1),
        ERROR_CODE,
        Field("members", Array((MEMBER_ID, _instance_since(3), ERROR_CODE)), since=3),
    ),
)

SYNC_GROUP = Api(
    14,
    "SyncGroup",
    (0, 3),
    request=(
        GROUP_ID,
        GENERATION_ID,
        MEMBER_ID,
        _instance_since(3),
        Field("assignments", Array((MEMBER_ID, Field("assignment", BYTES)))),
    ),
    response=(throttle_since(1), ERROR_CODE, Field("assignment", BYTES)),
)

DESCRIBE_GROUPS = Api(
    15,
    "DescribeGroups",
    (0, 4),
    request=(
        Field("groups", Array(STRING)),
        Field("include_authorized_operations", BOOL, since=3),
    ),
    response=(
        throttle_since(1),
        Field(
            "groups",
            Array(
                (
                    ERROR_CODE,
                    GROUP_ID,
                    Field("group_state", STRING),
                    Field("protocol_type", STRING),
                    Field("protocol_data", STRING),
                    Field(
                        "members",
                        Array(
                            (
                                MEMBER_ID,
                                _instance_since(4),
                                Field("client_id", STRING),
                                Field("client_host", STRING),
                                Field("member_metadata", BYTES),
                                Field("member_assignment", BYTES),
                            )
                        ),
                    ),
                    Field("authorized_operations", INT32, since=3),
                )
            ),
        ),
    ),
)

LIST_GROUPS = Api(
    16,
    "ListGroups",
    (0, 2),
    request=(),
    response=(
        throttle_since(1),
        ERROR_CODE,
        Field("groups", Array((GROUP_ID, Field("protocol_type", STRING)))),
    ),
)

DELETE_GROUPS = Api(
    42,
    "DeleteGroups",
    (0, 1),
    request=(Field("groups", Array(STRING)),),
    response=(throttle_since(0), Field("results", Array((GROUP_ID, ERROR_CODE)))),
)

OFFSET_DELETE = Api(
    47,
    "OffsetDelete",
    (0, 0),
    request=(GROUP_ID, topics_of(INDEX)),
    response=(ERROR_CODE, throttle_since(0), topics_of(INDEX, ERROR_CODE)),
)

GROUP_APIS = (
    OFFSET_COMMIT,
    OFFSET_FETCH,
    FIND_COORDINATOR,
    JOIN_GROUP,
    HEARTBEAT,
    LEAVE_GROUP,
    SYNC_GROUP,
    DESCRIBE_GROUPS,
    LIST_GROUPS,
    DELETE_GROUPS,
    OFFSET_DELETE,
)
