"""What a consumer group is made of: members, requests, results. Values only.

The file refuses to decide anything; ``groups`` holds the state machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from embedded.broker.codes import ErrorCode


class Phase(StrEnum):
    """Where a group stands; the names are the protocol's, shown by DescribeGroups."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Bounds of every group; sessions outside them are refused."""

    initial_delay_ms: int = 300
    min_session_timeout_ms: int = 1_000
    max_session_timeout_ms: int = 1_800_000
    max_members: int = 500


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A JoinGroup request. ``protocols`` maps assignor to metadata, in order of preference."""

    member_id: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: dict[str, bytes]
    instance_id: str | None = None
    id_required: bool = False  # from version 4 on a new member first learns its id
    client_id: str = ""
    client_host: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a member says it is, in every request after the join."""

    member_id: str
    generation: int
    instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class JoinResult:
    """The answer to a join; ``members`` (id, instance, metadata) is for the leader only."""

    error: ErrorCode
    member_id: str = ""
    generation: int = -1
    protocol: str = ""
    leader: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SyncResult:
    """The answer to a sync: the member's own assignment."""

    error: ErrorCode
    assignment: bytes = b""


# A parked request and what it is answered with.
Answer = tuple[int, JoinResult | SyncResult]


@dataclass(slots=True)
class Member:
    """A member of a group. A ticket names a request that waits for its answer."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocols: dict[str, bytes]
    expires_ms: int
    assignment: bytes = b""
    synced: bool = False
    join_ticket: int | None = None
    sync_ticket: int | None = None
    metadata: bytes = field(default=b"")  # of the protocol that the group chose

    @property
    def parked(self) -> bool:
        """Whether the member waits for the group, and so need not send heartbeats."""
        return self.join_ticket is not None or self.sync_ticket is not None
