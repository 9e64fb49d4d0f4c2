"""Consumer group requests: translated for the coordinator, and its results back.

The file refuses to decide about membership; ``groups`` does.
"""

from __future__ import annotations

from collections import defaultdict

from embedded.broker import api_groups
from embedded.broker.codes import ErrorCode
from embedded.broker.handle_data import NO_TRANSACTIONS
from embedded.broker.membership import Identity, JoinRequest, Phase
from embedded.broker.node import NO_AUTHORIZED_OPERATIONS, NODE_ID, Caller, Handlers, Node, Reply
from embedded.broker.registry import Committed
from embedded.broker.wire import Message
from redline.log import get_logger

_MAX_METADATA_CHARS = 4_096
_KEY_TYPE_TRANSACTION = 1


class GroupHandlers:
    """The group APIs of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._groups = node.coordinator

    def table(self) -> Handlers:
        """Which API is answered by which method."""
        return {
            api_groups.FIND_COORDINATOR: self.find_coordinator,
            api_groups.JOIN_GROUP: self.join,
            api_groups.SYNC_GROUP: self.sync,
            api_groups.HEARTBEAT: self.heartbeat,
            api_groups.LEAVE_GROUP: self.leave,
            api_groups.OFFSET_COMMIT: self.commit,
            api_groups.OFFSET_FETCH: self.fetch_offsets,
            api_groups.OFFSET_DELETE: self.delete_offsets,
            api_groups.DESCRIBE_GROUPS: self.describe,
            api_groups.LIST_GROUPS: self.list_groups,
            api_groups.DELETE_GROUPS: self.delete,
        }

    # -- membership ------------------------------------------------------------------------

    def find_coordinator(self, version: int, request: Message, caller: Caller) -> Reply:
        """This node coordinates every group, and no transaction."""
        answer: Message = {
            "throttle_time_ms": 0,
            "error_code": ErrorCode.NONE,
            "error_message": None,
            "node_id": NODE_ID,
            "host": caller.local[0],
            "port": caller.local[1],
        }
        key_type = request.get("key_type", 0)
        if key_type == 0:
            return answer
        answer |= {"node_id": -1, "host": "", "port": -1}
        if key_type != _KEY_TYPE_TRANSACTION:
            return answer | {"error_code": ErrorCode.INVALID_REQUEST}
        get_logger().warning(
            "transaction_refused", client_id=caller.client_id, reason=NO_TRANSACTIONS
        )
        return answer | {
            "error_code": ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            "error_message": NO_TRANSACTIONS,
        }

    async def join(self, version: int, request: Message, caller: Caller) -> Message:
        """Into the next generation."""
        session_ms: int = request["session_timeout_ms"]
        rebalance_ms: int = request.get("rebalance_timeout_ms", session_ms)
        result = await self._groups.join(
            request["group_id"],
            JoinRequest(
                member_id=request["member_id"],
                session_timeout_ms=session_ms,
                rebalance_timeout_ms=rebalance_ms,
                protocol_type=request["protocol_type"],
                protocols={p["name"]: bytes(p["metadata"]) for p in request["protocols"]},
                instance_id=request.get("group_instance_id"),
                id_required=version >= 4,
                client_id=caller.client_id,
                client_host=caller.client_host,
            ),
        )
        return {
            "throttle_time_ms": 0,
            "error_code": result.error,
            "generation_id": result.generation,
            "protocol_name": result.protocol,
            "leader": result.leader,
            "member_id": result.member_id,
            "members": [
                {"member_id": member_id, "group_instance_id": instance_id, "metadata": metadata}
                for member_id, instance_id, metadata in result.members
            ],
        }

    async def sync(self, version: int, request: Message, caller: Caller) -> Message:
        """The assignment."""
        assignments = {a["member_id"]: bytes(a["assignment"]) for a in request["assignments"]}
        result = await self._groups.sync(request["group_id"], _identity(request), assignments)
        return {
            "throttle_time_ms": 0,
            "error_code": result.error,
            "assignment": result.assignment,
        }

    def heartbeat(self, version: int, request: Message, caller: Caller) -> Reply:
        """Still here."""
        error = self._groups.heartbeat(request["group_id"], _identity(request))
        return {"throttle_time_ms": 0, "error_code": error}

    def leave(self, version: int, request: Message, caller: Caller) -> Reply:
        """Gone. From version 3 on several members may be named."""
        leaving = request.get(
            "members", [{"member_id": request.get("member_id"), "group_instance_id": None}]
        )
        members = [
            member
            | {
                "error_code": self._groups.leave(
                    request["group_id"], member["member_id"], member["group_instance_id"]
                )
            }
            for member in leaving
        ]
        error = members[0]["error_code"] if version < 3 else ErrorCode.NONE
        return {"throttle_time_ms": 0, "error_code": error, "members": members}

    # -- offsets ---------------------------------------------------------------------------

    def commit(self, version: int, request: Message, caller: Caller) -> Reply:
        """Store positions; those with too long metadata, or of unknown partitions, are refused."""
        errors: dict[tuple[str, int], ErrorCode] = {}
        accepted: list[Committed] = []
        for topic in request["topics"]:
            for wanted in topic["partitions"]:
                key = (topic["name"], wanted["index"])
                metadata = wanted["metadata"] or ""
                errors[key] = ErrorCode.NONE
                if self._node.topics.partition(*key) is None:
                    errors[key] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
                elif len(metadata) > _MAX_METADATA_CHARS:
                    errors[key] = ErrorCode.OFFSET_METADATA_TOO_LARGE
                else:
                    epoch = wanted.get("leader_epoch", -1)
                    accepted.append(Committed(*key, wanted["offset"], epoch, metadata))
        error = self._groups.commit(request["group_id"], _identity(request), accepted)
        topics = [
            {
                "name": topic["name"],
                "partitions": [
                    {
                        "index": wanted["index"],
                        "error_code": error or errors[topic["name"], wanted["index"]],
                    }
                    for wanted in topic["partitions"]
                ],
            }
            for topic in request["topics"]
        ]
        return {"throttle_time_ms": 0, "topics": topics}

    def fetch_offsets(self, version: int, request: Message, caller: Caller) -> Reply:
        """Positions of a group; without a list of topics, all that there are."""
        committed = self._groups.committed(request["group_id"])
        wanted: dict[str, list[int]] = defaultdict(list)
        if request["topics"] is None:
            for name, index in sorted(committed):
                wanted[name].append(index)
        else:
            for topic in request["topics"]:
                wanted[topic["name"]] += topic["partitions"]
        nothing = Committed("", 0, -1, -1, "")
        topics = []
        for name, indexes in wanted.items():
            found = [(index, committed.get((name, index), nothing)) for index in indexes]
            partitions = [
                {
                    "index": index,
                    "offset": position.offset,
                    "leader_epoch": position.leader_epoch,
                    "metadata": position.metadata,
                    "error_code": ErrorCode.NONE,
                }
                for index, position in found
            ]
            topics.append({"name": name, "partitions": partitions})
        return {"throttle_time_ms": 0, "topics": topics, "error_code": ErrorCode.NONE}

    def delete_offsets(self, version: int, request: Message, caller: Caller) -> Reply:
        """Forget positions, as long as nobody is in the group."""
        group_id = request["group_id"]
        group = self._groups.group(group_id)
        error, each = ErrorCode.NONE, ErrorCode.NONE
        if group is not None and group.members:
            each = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
        elif group is None and not self._groups.committed(group_id):
            error = ErrorCode.GROUP_ID_NOT_FOUND
        else:
            self._groups.delete_offsets(
                group_id,
                [(t["name"], p["index"]) for t in request["topics"] for p in t["partitions"]],
            )
        topics = [
            topic | {"partitions": [p | {"error_code": each} for p in topic["partitions"]]}
            for topic in request["topics"]
        ]
        return {"error_code": error, "throttle_time_ms": 0, "topics": topics}

    # -- the admin's view ------------------------------------------------------------------

    def describe(self, version: int, request: Message, caller: Caller) -> Reply:
        """Phase and members of each group; an unknown group is Dead."""
        groups = [self._describe(group_id) for group_id in request["groups"]]
        return {"throttle_time_ms": 0, "groups": groups}

    def _describe(self, group_id: str) -> Message:
        group = self._groups.group(group_id)
        known = group_id in self._groups.group_ids()
        return {
            "error_code": ErrorCode.NONE,
            "group_id": group_id,
            "group_state": group.phase if group else (Phase.EMPTY if known else "Dead"),
            "protocol_type": group.protocol_type if group else "",
            "protocol_data": group.protocol if group else "",
            "members": [
                {
                    "member_id": member.member_id,
                    "group_instance_id": member.instance_id,
                    "client_id": member.client_id,
                    "client_host": member.client_host,
                    "member_metadata": member.metadata,
                    "member_assignment": member.assignment,
                }
                for member in (group.members.values() if group else ())
            ],
            "authorized_operations": NO_AUTHORIZED_OPERATIONS,
        }

    def list_groups(self, version: int, request: Message, caller: Caller) -> Reply:
        """Every group with members or offsets."""
        groups = []
        for group_id in self._groups.group_ids():
            group = self._groups.group(group_id)
            protocol_type = group.protocol_type if group else ""
            groups.append({"group_id": group_id, "protocol_type": protocol_type})
        return {"throttle_time_ms": 0, "error_code": ErrorCode.NONE, "groups": groups}

    def delete(self, version: int, request: Message, caller: Caller) -> Reply:
        """Delete groups that are empty."""
        results = [
            {"group_id": group_id, "error_code": self._groups.delete(group_id)}
            for group_id in request["groups"]
        ]
        return {"throttle_time_ms": 0, "results": results}


def _identity(request: Message) -> Identity:
    return Identity(
        member_id=request["member_id"],
        generation=request["generation_id"],
        instance_id=request.get("group_instance_id"),
    )
