"""One consumer group as a state machine: join, sync, heartbeat, leave, and the clock.

    Empty ──join──> PreparingRebalance ──all joined, or deadline──> CompletingRebalance
      ^                   ^    |                                          |
      └──last one gone────┼────┘      <──join, leave, expiry──   Stable <─┘ leader's sync

Requests that must wait are named by a ticket; every step returns the answers that became due.
``next_deadline_ms`` says when ``tick`` has to be called. The rules are Apache Kafka's classic
protocol, static members (KIP-345) included. The file refuses sockets, timers, randomness and
committed offsets.
"""

from __future__ import annotations

from collections import Counter

from embedded.broker.codes import ErrorCode
from embedded.broker.membership import (
    Answer,
    GroupLimits,
    Identity,
    JoinRequest,
    JoinResult,
    Member,
    Phase,
    SyncResult,
)


class Group:
    """The members of one group id and the phase of their rebalance."""

    def __init__(self, limits: GroupLimits) -> None:
        self.limits = limits
        self.phase = Phase.EMPTY
        self.generation = 0
        self.protocol_type = ""
        self.protocol = ""
        self.leader: str | None = None
        self.members: dict[str, Member] = {}
        self._instances: dict[str, str] = {}  # instance id -> member id
        self._promised: dict[str, int] = {}  # member ids given out, and when they lapse
        self._not_before_ms = 0
        self._deadline_ms = 0
        self._sync_deadline_ms: int | None = None
        self._answers: list[Answer] = []

    # -- requests --------------------------------------------------------------------------

    def join(
        self, request: JoinRequest, new_member_id: str, ticket: int, now_ms: int
    ) -> list[Answer]:
        """A member asks to be in the next generation. ``new_member_id`` is used if it is new."""
        error = self._refuse_join(request)
        if error:
            self._answers.append((ticket, JoinResult(error, request.member_id)))
        elif request.member_id:
            self._join_again(request, ticket, now_ms)
        elif request.instance_id in self._instances:
            self._replace_static(request, new_member_id, ticket, now_ms)
        elif request.id_required and request.instance_id is None:
            self._promised[new_member_id] = now_ms + request.session_timeout_ms
            self._answers.append((ticket, JoinResult(ErrorCode.MEMBER_ID_REQUIRED, new_member_id)))
        else:
            self._add(request, new_member_id, ticket, now_ms)
        return self._due()

    def sync(
        self, who: Identity, assignments: dict[str, bytes], ticket: int, now_ms: int
    ) -> list[Answer]:
        """A member asks for its assignment; the leader's request brings everyone's."""
        error = self._refuse(who)
        if not error and self.phase is Phase.PREPARING:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        if error:
            self._answers.append((ticket, SyncResult(error)))
            return self._due()
        member = self.members[who.member_id]
        member.synced = True
        self._touch(member, now_ms)
        if self.phase is Phase.STABLE:
            self._answers.append((ticket, SyncResult(ErrorCode.NONE, member.assignment)))
        else:
            self._answer_sync(member, SyncResult(ErrorCode.REBALANCE_IN_PROGRESS))
            member.sync_ticket = ticket
            if member.member_id == self.leader:
                self._stabilise(assignments, now_ms)
        return self._due()

    def heartbeat(self, who: Identity, now_ms: int) -> ErrorCode:
        """A member is alive; the answer tells it to rejoin when a rebalance is on."""
        error = self._refuse(who)
        if error:
            return error
        self._touch(self.members[who.member_id], now_ms)
        if self.phase is Phase.PREPARING:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def leave(
        self, member_id: str, instance_id: str | None, now_ms: int
    ) -> tuple[ErrorCode, list[Answer]]:
        """A member goes; a static one may be named by its instance id alone."""
        if self._promised.pop(member_id, None) is not None:
            self._complete_if_ready(now_ms)
            return ErrorCode.NONE, self._due()
        if instance_id is not None and not member_id:
            member_id = self._instances.get(instance_id, "")
        error = self._refuse_identity(member_id, instance_id)
        if not error:
            self._remove(self.members[member_id], now_ms)
        return error, self._due()

    def check_commit(self, who: Identity, now_ms: int) -> ErrorCode:
        """Whether ``who`` may commit offsets now; outside clients may while the group is empty."""
        if who.generation < 0 and not self.members:
            return ErrorCode.NONE
        error = self._refuse(who)
        if error:
            return error
        self._touch(self.members[who.member_id], now_ms)
        if self.phase is Phase.COMPLETING:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def abandon(self, ticket: int, now_ms: int) -> None:
        """The client of a parked request is gone: its session clock starts again."""
        for member in self.members.values():
            if member.join_ticket == ticket:
                member.join_ticket = None
                self._touch(member, now_ms)
            elif member.sync_ticket == ticket:
                member.sync_ticket = None
                self._touch(member, now_ms)

    # -- the clock -------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When ``tick`` has something to do, if no request comes before; None for never."""
        deadlines = [m.expires_ms for m in self.members.values() if not m.parked]
        deadlines += self._promised.values()
        if self.phase is Phase.PREPARING:
            deadlines.append(self._not_before_ms if self._all_joined else self._deadline_ms)
        if self._sync_deadline_ms is not None:
            deadlines.append(self._sync_deadline_ms)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> list[Answer]:
        """Evict the silent, end a rebalance that is due."""
        for member_id in [k for k, lapses_ms in self._promised.items() if lapses_ms <= now_ms]:
            del self._promised[member_id]
        for member in list(self.members.values()):
            if not member.parked and member.expires_ms <= now_ms:
                self._remove(member, now_ms)
        if self._sync_deadline_ms is not None and self._sync_deadline_ms <= now_ms:
            self._sync_deadline_ms = None
            for member in [m for m in self.members.values() if not m.synced]:
                self._remove(member, now_ms)
        self._complete_if_ready(now_ms)
        return self._due()

    # -- joining ---------------------------------------------------------------------------

    def _refuse_join(self, request: JoinRequest) -> ErrorCode:
        limits = self.limits
        if not (
            limits.min_session_timeout_ms
            <= request.session_timeout_ms
            <= limits.max_session_timeout_ms
        ):
            return ErrorCode.INVALID_SESSION_TIMEOUT
        if not request.protocols or not request.protocol_type:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        mine = {request.member_id, self._instances.get(request.instance_id or "", "")}
        others = [m for m in self.members.values() if m.member_id not in mine]
        if others and request.protocol_type != self.protocol_type:
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        if not set(request.protocols).intersection(*(m.protocols for m in others)):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        full = len(self.members) + len(self._promised) >= limits.max_members
        known = mine & (self.members.keys() | self._promised.keys())
        if full and not known:
            return ErrorCode.GROUP_MAX_SIZE_REACHED
        return ErrorCode.NONE

    def _join_again(self, request: JoinRequest, ticket: int, now_ms: int) -> None:
        if self._promised.pop(request.member_id, None) is not None:
            self._add(request, request.member_id, ticket, now_ms)
            return
        error = self._refuse_identity(request.member_id, request.instance_id)
        if error:
            self._answers.append((ticket, JoinResult(error, request.member_id)))
            return
        member = self.members[request.member_id]
        changed = member.protocols != request.protocols
        self._refresh(member, request, now_ms)
        leads = member.member_id == self.leader
        settled = self.phase is Phase.COMPLETING or (self.phase is Phase.STABLE and not leads)
        if settled and not changed:
            self._answers.append((ticket, self._join_result(member)))
            return
        self._park(member, request, ticket, now_ms)

    def _add(self, request: JoinRequest, member_id: str, ticket: int, now_ms: int) -> None:
        member = Member(
            member_id=member_id,
            instance_id=request.instance_id,
            client_id=request.client_id,
            client_host=request.client_host,
            session_timeout_ms=request.session_timeout_ms,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            protocols=request.protocols,
            expires_ms=now_ms + request.session_timeout_ms,
        )
        gathering = self.phase is Phase.PREPARING and now_ms < self._not_before_ms
        self.members[member_id] = member
        if request.instance_id is not None:
            self._instances[request.instance_id] = member_id
        if gathering:  # a group that forms waits a little longer for each that comes
            self._not_before_ms = min(now_ms + self.limits.initial_delay_ms, self._deadline_ms)
        self._park(member, request, ticket, now_ms)

    def _replace_static(
        self, request: JoinRequest, member_id: str, ticket: int, now_ms: int
    ) -> None:
        """A static member restarted: the new process takes the old one's place and assignment."""
        assert request.instance_id is not None
        old = self.members[self._instances[request.instance_id]]
        led = self.leader == old.member_id
        self._answer_join(old, JoinResult(ErrorCode.FENCED_INSTANCE_ID, old.member_id))
        self._answer_sync(old, SyncResult(ErrorCode.FENCED_INSTANCE_ID))
        unchanged = old.protocols == request.protocols
        old_id, old.member_id = old.member_id, member_id
        self.members = {m.member_id: m for m in self.members.values()}
        self._instances[request.instance_id] = member_id
        self._refresh(old, request, now_ms)
        if led:
            self.leader = member_id
        if self.phase is Phase.STABLE and unchanged:
            # The old leader's name makes a restarted leader act as a follower: no rebalance.
            leader = old_id if led else (self.leader or "")
            self._answers.append((ticket, self._join_result(old, leader=leader)))
            return
        self._park(old, request, ticket, now_ms)

    def _refresh(self, member: Member, request: JoinRequest, now_ms: int) -> None:
        member.protocols = request.protocols
        member.session_timeout_ms = request.session_timeout_ms
        member.rebalance_timeout_ms = request.rebalance_timeout_ms
        member.client_id, member.client_host = request.client_id, request.client_host
        self._touch(member, now_ms)

    def _park(self, member: Member, request: JoinRequest, ticket: int, now_ms: int) -> None:
        self.protocol_type = request.protocol_type
        self._answer_join(member, JoinResult(ErrorCode.REBALANCE_IN_PROGRESS, member.member_id))
        member.join_ticket = ticket
        self._prepare(now_ms)
        self._complete_if_ready(now_ms)

    # -- rebalancing -----------------------------------------------------------------------

    @property
    def _all_joined(self) -> bool:
        return not self._promised and all(m.join_ticket is not None for m in self.members.values())

    def _longest_rebalance_ms(self) -> int:
        return max((m.rebalance_timeout_ms for m in self.members.values()), default=0)

    def _prepare(self, now_ms: int) -> None:
        if self.phase is Phase.PREPARING:
            return
        for member in self.members.values():
            self._answer_sync(member, SyncResult(ErrorCode.REBALANCE_IN_PROGRESS))
        forming = self.phase is Phase.EMPTY
        self.phase = Phase.PREPARING
        self._sync_deadline_ms = None
        self._deadline_ms = now_ms + self._longest_rebalance_ms()
        delay_ms = self.limits.initial_delay_ms if forming else 0
        self._not_before_ms = min(now_ms + delay_ms, self._deadline_ms)

    def _complete_if_ready(self, now_ms: int) -> None:
        if self.phase is not Phase.PREPARING:
            return
        if not self.members:
            self._disband()
            return
        if now_ms < self._not_before_ms:
            return
        if not self._all_joined and now_ms < self._deadline_ms:
            return
        for member in [m for m in self.members.values() if m.join_ticket is None]:
            if member.instance_id is None:
                self._drop(member)
        if not self.members:
            self._disband()
            return
        joined = [m for m in self.members.values() if m.join_ticket is not None]
        if not joined:  # only static members that are away: they have until their sessions end
            self._deadline_ms = now_ms + max(self._longest_rebalance_ms(), 1)
            return
        if self.leader not in {m.member_id for m in joined}:
            self.leader = joined[0].member_id
        self._complete(now_ms)

    def _disband(self) -> None:
        self.generation += 1
        self.phase, self.leader, self.protocol = Phase.EMPTY, None, ""

    def _complete(self, now_ms: int) -> None:
        self.generation += 1
        self.phase = Phase.COMPLETING
        self.protocol = self._elect_protocol()
        self._sync_deadline_ms = now_ms + self._longest_rebalance_ms()
        for member in self.members.values():
            member.metadata = member.protocols[self.protocol]
            member.assignment, member.synced = b"", False
            if member.join_ticket is not None:
                self._touch(member, now_ms)
        for member in self.members.values():
            self._answer_join(member, self._join_result(member))

    def _elect_protocol(self) -> str:
        everyone = list(self.members.values())
        common = set(everyone[0].protocols).intersection(*(m.protocols for m in everyone))
        votes = Counter(next(p for p in m.protocols if p in common) for m in everyone)
        return votes.most_common(1)[0][0]

    def _stabilise(self, assignments: dict[str, bytes], now_ms: int) -> None:
        self.phase = Phase.STABLE
        for member in self.members.values():
            member.assignment = assignments.get(member.member_id, b"")
            if member.sync_ticket is not None:
                self._touch(member, now_ms)
                self._answer_sync(member, SyncResult(ErrorCode.NONE, member.assignment))
        if all(m.synced for m in self.members.values()):
            self._sync_deadline_ms = None

    def _remove(self, member: Member, now_ms: int) -> None:
        if self.members.get(member.member_id) is not member:
            return
        self._drop(member)
        self._prepare(now_ms)
        self._complete_if_ready(now_ms)

    def _drop(self, member: Member) -> None:
        del self.members[member.member_id]
        if member.instance_id is not None:
            self._instances.pop(member.instance_id, None)
        self._answer_join(member, JoinResult(ErrorCode.UNKNOWN_MEMBER_ID, member.member_id))
        self._answer_sync(member, SyncResult(ErrorCode.UNKNOWN_MEMBER_ID))

    # -- identity and answers --------------------------------------------------------------

    def _refuse_identity(self, member_id: str, instance_id: str | None) -> ErrorCode:
        if instance_id is not None:
            owner = self._instances.get(instance_id)
            if owner is not None and owner != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def _refuse(self, who: Identity) -> ErrorCode:
        error = self._refuse_identity(who.member_id, who.instance_id)
        if not error and who.generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        return error

    def _touch(self, member: Member, now_ms: int) -> None:
        member.expires_ms = now_ms + member.session_timeout_ms

    def _join_result(self, member: Member, leader: str | None = None) -> JoinResult:
        leads = leader is None and member.member_id == self.leader
        everyone = tuple((m.member_id, m.instance_id, m.metadata) for m in self.members.values())
        return JoinResult(
            ErrorCode.NONE,
            member_id=member.member_id,
            generation=self.generation,
            protocol=self.protocol,
            leader=leader if leader is not None else (self.leader or ""),
            members=everyone if leads else (),
        )

    def _answer_join(self, member: Member, result: JoinResult) -> None:
        if member.join_ticket is not None:
            self._answers.append((member.join_ticket, result))
            member.join_ticket = None

    def _answer_sync(self, member: Member, result: SyncResult) -> None:
        if member.sync_ticket is not None:
            self._answers.append((member.sync_ticket, result))
            member.sync_ticket = None

    def _due(self) -> list[Answer]:
        answers, self._answers = self._answers, []
        return answers
