"""The messages of administration: topics, partitions, configurations, and the handshakes.

Field by field as in the protocol guide (https://kafka.apache.org/protocol), pre-flexible
versions only. The file refuses to hold behaviour.
"""

from __future__ import annotations

from embedded.broker.api import (
    ERROR_CODE,
    ERROR_MESSAGE,
    INDEX,
    NAME,
    RESOURCE_NAME,
    RESOURCE_TYPE,
    TIMEOUT_MS,
    Api,
    throttle_since,
    topics_of,
)
from embedded.broker.wire import (
    BOOL,
    INT8,
    INT16,
    INT32,
    INT64,
    NULLABLE_STRING,
    STRING,
    Array,
    Field,
)

_VALUE = Field("value", NULLABLE_STRING)
_VALIDATE_ONLY = Field("validate_only", BOOL)
_ALTERED = Field("responses", Array((ERROR_CODE, ERROR_MESSAGE, RESOURCE_TYPE, RESOURCE_NAME)))

SASL_HANDSHAKE = Api(
    17,
    "SaslHandshake",
    (0, 1),
    request=(Field("mechanism", STRING),),
    response=(ERROR_CODE, Field("mechanisms", Array(STRING))),
)

# v3 is the only flexible message here: ``handshakes`` writes it by hand.
API_VERSIONS = Api(
    18,
    "ApiVersions",
    (0, 2),
    request=(),
    response=(
        ERROR_CODE,
        Field(
            "api_keys",
            Array(
                (Field("api_key", INT16), Field("min_version", INT16), Field("max_version", INT16))
            ),
        ),
        throttle_since(1),
    ),
)

CREATE_TOPICS = Api(
    19,
    "CreateTopics",
    (0, 4),
    request=(
        Field(
            "topics",
            Array(
                (
                    NAME,
                    Field("num_partitions", INT32),
                    Field("replication_factor", INT16),
                    Field("assignments", Array((INDEX, Field("broker_ids", Array(INT32))))),
                    Field("configs", Array((NAME, _VALUE))),
                )
            ),
        ),
        TIMEOUT_MS,
        Field("validate_only", BOOL, since=1),
    ),
    response=(
        throttle_since(2),
        Field(
            "topics",
            Array((NAME, ERROR_CODE, Field("error_message", NULLABLE_STRING, since=1))),
        ),
    ),
)

DELETE_TOPICS = Api(
    20,
    "DeleteTopics",
    (0, 3),
    request=(Field("topic_names", Array(STRING)), TIMEOUT_MS),
    response=(throttle_since(1), Field("responses", Array((NAME, ERROR_CODE)))),
)

DELETE_RECORDS = Api(
    21,
    "DeleteRecords",
    (0, 1),
    request=(topics_of(INDEX, Field("offset", INT64)), TIMEOUT_MS),
    response=(throttle_since(0), topics_of(INDEX, Field("low_watermark", INT64), ERROR_CODE)),
)

DESCRIBE_CONFIGS = Api(
    32,
    "DescribeConfigs",
    (0, 3),
    request=(
        Field(
            "resources",
            Array(
                (RESOURCE_TYPE, RESOURCE_NAME, Field("config_names", Array(STRING, nullable=True)))
            ),
        ),
        Field("include_synonyms", BOOL, since=1),
        Field("include_documentation", BOOL, since=3),
    ),
    response=(
        throttle_since(0),
        Field(
            "results",
            Array(
                (
                    ERROR_CODE,
                    ERROR_MESSAGE,
                    RESOURCE_TYPE,
                    RESOURCE_NAME,
                    Field(
                        "configs",
                        Array(
                            (
                                NAME,
                                _VALUE,
                                Field("read_only", BOOL),
                                Field("is_default", BOOL, until=0),
                                Field("config_source", INT8, since=1),
                                Field("is_sensitive", BOOL),
                                Field(
                                    "synonyms",
                                    Array((NAME, _VALUE, Field("source", INT8))),
                                    since=1,
                                ),
                                Field("config_type", INT8, since=3),
                                Field("documentation", NULLABLE_STRING, since=3),
                            )
                        ),
                    ),
                )
            ),
        ),
    ),
)

ALTER_CONFIGS = Api(
    33,
    "AlterConfigs",
    (0, 1),
    request=(
        Field(
            "resources",
            Array((RESOURCE_TYPE, RESOURCE_NAME, Field("configs", Array((NAME, _VALUE))))),
        ),
        _VALIDATE_ONLY,
    ),
    response=(throttle_since(0), _ALTERED),
)

CREATE_PARTITIONS = Api(
    37,
    "CreatePartitions",
    (0, 1),
    request=(
        Field(
            "topics",
            Array(
                (
                    NAME,
                    Field("count", INT32),
                    Field(
                        "assignments",
                        Array((Field("broker_ids", Array(INT32)),), nullable=True),
                    ),
                )
            ),
        ),
        TIMEOUT_MS,
        _VALIDATE_ONLY,
    ),
    response=(
        throttle_since(0),
        Field("results", Array((NAME, ERROR_CODE, ERROR_MESSAGE))),
    ),
)

INCREMENTAL_ALTER_CONFIGS = Api(
    44,
    "IncrementalAlterConfigs",
    (0, 0),
    request=(
        Field(
            "resources",
            Array(
                (
                    RESOURCE_TYPE,
                    RESOURCE_NAME,
                    Field("configs", Array((NAME, Field("operation", INT8), _VALUE))),
                )
            ),
        ),
        _VALIDATE_ONLY,
    ),
    response=(throttle_since(0), _ALTERED),
)

ADMIN_APIS = (
    SASL_HANDSHAKE,
    API_VERSIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    DELETE_RECORDS,
    DESCRIBE_CONFIGS,
    ALTER_CONFIGS,
    CREATE_PARTITIONS,
    INCREMENTAL_ALTER_CONFIGS,
)
