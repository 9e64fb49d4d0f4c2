"""Administration: topics, partitions, configurations, deleted records, and the handshakes.

The file refuses to change state itself; ``topics`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from embedded.broker import api_admin
from embedded.broker.codes import ErrorCode
from embedded.broker.node import NODE_ID, Caller, Handlers, Node, Reply
from embedded.broker.topic_config import KEYS, ConfigType
from embedded.broker.topics import Refused, Topic
from embedded.broker.wire import Message
from redline.log import get_logger

_RESOURCE_TOPIC, _RESOURCE_BROKER = 2, 4
# How DescribeConfigs says where a value comes from.
_SOURCE_TOPIC, _SOURCE_STATIC_BROKER, _SOURCE_DEFAULT = 1, 4, 5
_SET, _DELETE, _APPEND, _SUBTRACT = 0, 1, 2, 3


class AdminHandlers:
    """The admin APIs of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._topics = node.topics

    def table(self) -> Handlers:
        """Which API is answered by which method."""
        return {
            api_admin.SASL_HANDSHAKE: self.refuse_sasl,
            api_admin.CREATE_TOPICS: self.create_topics,
            api_admin.DELETE_TOPICS: self.delete_topics,
            api_admin.DELETE_RECORDS: self.delete_records,
            api_admin.CREATE_PARTITIONS: self.create_partitions,
            api_admin.DESCRIBE_CONFIGS: self.describe_configs,
            api_admin.ALTER_CONFIGS: self.alter_configs,
            api_admin.INCREMENTAL_ALTER_CONFIGS: self.alter_incrementally,
        }

    def refuse_sasl(self, version: int, request: Message, caller: Caller) -> Reply:
        """There are no passwords here: say so instead of letting the client wait."""
        get_logger().warning(
            "sasl_refused",
            client_id=caller.client_id,
            mechanism=request["mechanism"],
            fix="set security_protocol to PLAINTEXT for the embedded broker",
        )
        return {"error_code": ErrorCode.UNSUPPORTED_SASL_MECHANISM, "mechanisms": []}

    # -- topics ----------------------------------------------------------------------------

    def create_topics(self, version: int, request: Message, caller: Caller) -> Reply:
        """Create topics, each with its own result."""
        validate_only = request.get("validate_only", False)
        names = [wanted["name"] for wanted in request["topics"]]

        def create(wanted: Message) -> None:
            if names.count(wanted["name"]) > 1:
                raise Refused(ErrorCode.INVALID_REQUEST, "the request names this topic twice")
            partitions = self._partitions_wanted(wanted)
            overrides = {setting["name"]: setting["value"] for setting in wanted["configs"]}
            if validate_only:
                self._topics.check_new(wanted["name"], partitions, overrides)
            else:
                self._topics.create(wanted["name"], partitions, overrides, self._node.wall_ms())

        topics = [
            {"name": wanted["name"]} | _outcome(create, wanted) for wanted in request["topics"]
        ]
        return {"throttle_time_ms": 0, "topics": topics}

    def _partitions_wanted(self, wanted: Message) -> int:
        if wanted["assignments"]:
            if any(set(a["broker_ids"]) != {NODE_ID} for a in wanted["assignments"]):
                raise Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"the only broker is {NODE_ID}")
            if sorted(a["index"] for a in wanted["assignments"]) != list(
                range(len(wanted["assignments"]))
            ):
                raise Refused(
                    ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions must be numbered from 0"
                )
            return len(wanted["assignments"])
        if wanted["replication_factor"] not in {-1, 1}:
            raise Refused(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"Replication factor: {wanted['replication_factor']} larger than available "
                "brokers: 1.",
            )
        count: int = wanted["num_partitions"]
        return self._node.config.partitions if count == -1 else count

    def delete_topics(self, version: int, request: Message, caller: Caller) -> Reply:
        """Delete topics with their records and committed offsets."""
        responses = []
        for name in request["topic_names"]:
            deleted = self._topics.delete(name)
            error = ErrorCode.NONE if deleted else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            responses.append({"name": name, "error_code": error})
        return {"throttle_time_ms": 0, "responses": responses}

    def create_partitions(self, version: int, request: Message, caller: Caller) -> Reply:
        """Add partitions to topics."""

        def widen(wanted: Message) -> None:
            topic = self._existing(wanted["name"])
            self._topics.widen(
                topic,
                wanted["count"],
                self._node.wall_ms(),
                validate_only=request["validate_only"],
            )

        results = [
            {"name": wanted["name"]} | _outcome(widen, wanted) for wanted in request["topics"]
        ]
        return {"throttle_time_ms": 0, "results": results}

    def delete_records(self, version: int, request: Message, caller: Caller) -> Reply:
        """Delete from the front of partitions; offset -1 means all there is."""
        topics = [
            {
                "name": topic["name"],
                "partitions": [
                    self._delete_records(topic["name"], wanted["index"], wanted["offset"])
                    for wanted in topic["partitions"]
                ],
            }
            for topic in request["topics"]
        ]
        return {"throttle_time_ms": 0, "topics": topics}

    def _delete_records(self, name: str, index: int, offset: int) -> Message:
        answer = {"index": index, "low_watermark": -1, "error_code": ErrorCode.NONE}
        partition = self._topics.partition(name, index)
        if partition is None:
            return answer | {"error_code": ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}
        log = partition.log
        offset = log.next_offset if offset == -1 else offset
        if not log.start_offset <= offset <= log.next_offset:
            if offset < log.start_offset and offset >= 0:
                return answer | {"low_watermark": log.start_offset}
            return answer | {"error_code": ErrorCode.OFFSET_OUT_OF_RANGE}
        self._topics.delete_before(name, partition, offset)
        return answer | {"low_watermark": log.start_offset}

    def _existing(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            raise Refused(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"Topic '{name}' does not exist.")
        return topic

    # -- configurations --------------------------------------------------------------------

    def describe_configs(self, version: int, request: Message, caller: Caller) -> Reply:
        """The configuration of topics, and of this broker."""
        return {
            "throttle_time_ms": 0,
            "results": [self._describe(resource) for resource in request["resources"]],
        }

    def _describe(self, resource: Message) -> Message:
        kind, name = resource["resource_type"], resource["resource_name"]
        configs: list[Message] = []

        def describe(_: Message) -> None:
            if kind == _RESOURCE_TOPIC:
                overrides = self._existing(name).config.overrides
                for key, known in KEYS.items():
                    source = _SOURCE_TOPIC if key in overrides else _SOURCE_DEFAULT
                    value = overrides.get(key, known.default)
                    configs.append(_config(key, value, source, known.kind, read_only=False))
            elif kind == _RESOURCE_BROKER:
                for key, (value, value_kind) in self._broker_settings().items():
                    configs.append(
                        _config(key, value, _SOURCE_STATIC_BROKER, value_kind, read_only=True)
                    )
            else:
                raise Refused(ErrorCode.INVALID_REQUEST, f"resource type {kind} is unknown")

        outcome = _outcome(describe, resource)
        wanted = resource["config_names"]
        return outcome | {
            "resource_type": kind,
            "resource_name": name,
            "configs": [c for c in configs if wanted is None or c["name"] in wanted],
        }

    def _broker_settings(self) -> Mapping[str, tuple[str, ConfigType]]:
        config = self._node.config
        return {
            "node.id": (str(NODE_ID), ConfigType.INT),
            "num.partitions": (str(config.partitions), ConfigType.INT),
            "auto.create.topics.enable": (
                str(config.auto_create_topics).lower(),
                ConfigType.BOOLEAN,
            ),
            "log.retention.ms": (KEYS["retention.ms"].default, ConfigType.LONG),
            "message.max.bytes": (KEYS["max.message.bytes"].default, ConfigType.INT),
            "socket.request.max.bytes": (str(config.max_request_bytes), ConfigType.INT),
            "max.connections": (str(config.max_connections), ConfigType.INT),
            "group.min.session.timeout.ms": (
                str(config.group.min_session_timeout_ms),
                ConfigType.INT,
            ),
        }

    def alter_configs(self, version: int, request: Message, caller: Caller) -> Reply:
        """Replace all overrides of topics."""

        def overrides(topic: Topic, settings: list[Message]) -> Mapping[str, str | None]:
            return {setting["name"]: setting["value"] for setting in settings}

        return self._alter(request, overrides)

    def alter_incrementally(self, version: int, request: Message, caller: Caller) -> Reply:
        """Set, delete, append to or subtract from single overrides of topics."""
        return self._alter(request, _merged)

    def _alter(
        self,
        request: Message,
        overrides_of: Callable[[Topic, list[Message]], Mapping[str, str | None]],
    ) -> Message:
        def alter(resource: Message) -> None:
            if resource["resource_type"] != _RESOURCE_TOPIC:
                raise Refused(
                    ErrorCode.INVALID_REQUEST, "only topics can be configured while it runs"
                )
            topic = self._existing(resource["resource_name"])
            self._topics.configure(
                topic,
                overrides_of(topic, resource["configs"]),
                validate_only=request["validate_only"],
            )

        responses = [
            _outcome(alter, resource)
            | {
                "resource_type": resource["resource_type"],
                "resource_name": resource["resource_name"],
            }
            for resource in request["resources"]
        ]
        return {"throttle_time_ms": 0, "responses": responses}


def _outcome(act: Callable[[Message], None], wanted: Message) -> Message:
    try:
        act(wanted)
    except Refused as refused:
        return {"error_code": refused.code, "error_message": refused.reason}
    except OSError as failure:
        get_logger().error("admin_request_failed", reason=str(failure))
        return {"error_code": ErrorCode.KAFKA_STORAGE_ERROR, "error_message": str(failure)}
    return {"error_code": ErrorCode.NONE, "error_message": None}


def _config(key: str, value: str, source: int, kind: ConfigType, *, read_only: bool) -> Message:
    return {
        "name": key,
        "value": value,
        "read_only": read_only,
        "is_default": source == _SOURCE_DEFAULT,
        "config_source": source,
        "is_sensitive": False,
        "synonyms": [],
        "config_type": kind,
        "documentation": None,
    }


def _merged(topic: Topic, settings: list[Message]) -> Mapping[str, str | None]:
    merged: dict[str, str | None] = dict(topic.config.overrides)
    for setting in settings:
        key, value, operation = setting["name"], setting["value"], setting["operation"]
        if operation == _SET:
            merged[key] = value
        elif operation == _DELETE:
            merged.pop(key, None)
        elif operation in {_APPEND, _SUBTRACT} and key in KEYS:
            if KEYS[key].kind is not ConfigType.LIST:
                raise Refused(ErrorCode.INVALID_CONFIG, f"{key} is not a list")
            present = [item for item in topic.config[key].split(",") if item]
            changed = [item for item in (value or "").split(",") if item]
            kept = [item for item in present if item not in changed]
            merged[key] = ",".join(kept + changed if operation == _APPEND else kept)
        else:
            raise Refused(ErrorCode.INVALID_CONFIG, f"{key}: operation {operation} is unknown")
    return merged
