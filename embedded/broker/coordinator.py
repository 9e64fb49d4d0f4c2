"""The shell around the groups: clocks, tickets, timers, and the offsets that they commit.

It refuses to decide: ``groups`` does. A group is kept while it has members or committed offsets.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterable

from embedded.broker.codes import ErrorCode
from embedded.broker.config import BrokerConfig
from embedded.broker.groups import Group
from embedded.broker.journal import Journal
from embedded.broker.membership import (
    Answer,
    Identity,
    JoinRequest,
    JoinResult,
    Phase,
    SyncResult,
)
from embedded.broker.registry import Committed, GroupDeleted, OffsetsCommitted, OffsetsDeleted


class Coordinator:
    """All consumer groups of the broker. ``clock`` gives monotonic milliseconds."""

    def __init__(self, config: BrokerConfig, journal: Journal, clock: Callable[[], int]) -> None:
        self._config = config
        self._journal = journal
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._tickets = itertools.count(1)
        self._parked: dict[int, asyncio.Future[JoinResult | SyncResult]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._empty_since_ms: dict[str, int] = dict.fromkeys(journal.registry.offsets, clock())

    # -- membership ------------------------------------------------------------------------

    async def join(self, group_id: str, request: JoinRequest) -> JoinResult:
        """Wait until the rebalance is through."""
        group = self._for_join(group_id)
        if group is None:
            error = ErrorCode.INVALID_GROUP_ID if not group_id else ErrorCode.POLICY_VIOLATION
            return JoinResult(error, request.member_id)
        member_id = f"{request.instance_id or request.client_id}-{uuid.uuid4()}"
        result = await self._park(
            group_id,
            group,
            lambda ticket, now_ms: group.join(request, member_id, ticket, now_ms),
        )
        assert isinstance(result, JoinResult)
        return result

    async def sync(self, group_id: str, who: Identity, assignments: dict[str, bytes]) -> SyncResult:
        """Wait until the leader has sent the assignment."""
        group = self._groups.get(group_id)
        if group is None:
            return SyncResult(ErrorCode.UNKNOWN_MEMBER_ID)
        result = await self._park(
            group_id,
            group,
            lambda ticket, now_ms: group.sync(who, assignments, ticket, now_ms),
        )
        assert isinstance(result, SyncResult)
        return result

    def heartbeat(self, group_id: str, who: Identity) -> ErrorCode:
        """A sign of life."""
        group = self._groups.get(group_id)
        return group.heartbeat(who, self._clock()) if group else ErrorCode.UNKNOWN_MEMBER_ID

    def leave(self, group_id: str, member_id: str, instance_id: str | None) -> ErrorCode:
        """A member goes."""
        group = self._groups.get(group_id)
        if group is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        error, answers = group.leave(member_id, instance_id, self._clock())
        self._settle(group_id, group, answers)
        return error

    def _for_join(self, group_id: str) -> Group | None:
        group = self._groups.get(group_id)
        if group is None and group_id and len(self._groups) < self._config.max_groups:
            group = self._groups[group_id] = Group(self._config.group)
        return group

    async def _park(
        self, group_id: str, group: Group, step: Callable[[int, int], list[Answer]]
    ) -> JoinResult | SyncResult:
        ticket = next(self._tickets)
        future: asyncio.Future[JoinResult | SyncResult]
        future = self._parked[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._settle(group_id, group, step(ticket, self._clock()))
            return await future
        finally:
            del self._parked[ticket]
            if future.cancelled():  # the connection is gone
                group.abandon(ticket, self._clock())
                self._settle(group_id, group, [])

    def _settle(self, group_id: str, group: Group, answers: Iterable[Answer]) -> None:
        for ticket, result in answers:
            future = self._parked.get(ticket)
            if future is not None and not future.done():
                future.set_result(result)
        self._arm(group_id, group)
        if group.phase is not Phase.EMPTY:
            self._empty_since_ms.pop(group_id, None)
            return
        self._empty_since_ms.setdefault(group_id, self._clock())
        idle = group.next_deadline_ms() is None
        if idle and not self._journal.registry.offsets.get(group_id):
            self._groups.pop(group_id, None)
            self._empty_since_ms.pop(group_id, None)

    def _arm(self, group_id: str, group: Group) -> None:
        """Set the group's timer. One that fires too early is left: it will look again."""
        due_ms = group.next_deadline_ms()
        timer = self._timers.get(group_id)
        loop = asyncio.get_running_loop()
        if due_ms is None:
            if timer is not None:
                timer.cancel()
                del self._timers[group_id]
            return
        when = loop.time() + max(due_ms - self._clock(), 0) / 1000
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[group_id] = loop.call_at(when, self._tick, group_id, group)

    def _tick(self, group_id: str, group: Group) -> None:
        self._timers.pop(group_id, None)
        self._settle(group_id, group, group.tick(self._clock()))

    # -- offsets ---------------------------------------------------------------------------

    def commit(self, group_id: str, who: Identity, offsets: list[Committed]) -> ErrorCode:
        """Store positions of a group; on disk when this returns."""
        group = self._groups.get(group_id)
        if group is not None:
            error = group.check_commit(who, self._clock())
        elif who.generation >= 0:
            error = ErrorCode.ILLEGAL_GENERATION
        else:
            error = ErrorCode.NONE
        if not error and group is None and self._is_full(group_id):
            error = ErrorCode.POLICY_VIOLATION
        if not error and offsets:
            try:
                self._journal.record(OffsetsCommitted(group_id, offsets))
            except OSError:
                return ErrorCode.KAFKA_STORAGE_ERROR
            if group is None:
                self._empty_since_ms[group_id] = self._clock()
        return error

    def _is_full(self, group_id: str) -> bool:
        known = self._journal.registry.offsets
        return group_id not in known and len(known) >= self._config.max_groups

    def committed(self, group_id: str) -> dict[tuple[str, int], Committed]:
        """The group's positions by (topic, partition)."""
        return self._journal.registry.offsets.get(group_id, {})

    def delete_offsets(self, group_id: str, partitions: list[tuple[str, int]]) -> None:
        """Forget positions of a group."""
        self._journal.record(OffsetsDeleted(group_id, partitions))

    def expire(self) -> None:
        """Forget groups that have been empty for longer than offsets are retained."""
        horizon_ms = self._clock() - self._config.offsets_retention_ms
        for group_id in [g for g, since in self._empty_since_ms.items() if since < horizon_ms]:
            self.delete(group_id)

    # -- the admin's view ------------------------------------------------------------------

    def group_ids(self) -> list[str]:
        """Groups with members or with committed offsets."""
        return sorted(self._groups.keys() | self._journal.registry.offsets.keys())

    def group(self, group_id: str) -> Group | None:
        """The group if it had members since the broker started."""
        return self._groups.get(group_id)

    def delete(self, group_id: str) -> ErrorCode:
        """Delete an empty group and its offsets."""
        group = self._groups.get(group_id)
        if group is not None and group.members:
            return ErrorCode.NON_EMPTY_GROUP
        if group is None and group_id not in self._journal.registry.offsets:
            return ErrorCode.GROUP_ID_NOT_FOUND
        self._journal.record(GroupDeleted(group_id))
        self._groups.pop(group_id, None)
        self._empty_since_ms.pop(group_id, None)
        timer = self._timers.pop(group_id, None)
        if timer is not None:
            timer.cancel()
        return ErrorCode.NONE

    def close(self) -> None:
        """Stop the timers; parked requests end with their connections."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
