"""The group state machine: driven at random, its invariants hold; and single rules one by one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedded.broker.codes import ErrorCode
from embedded.broker.groups import Group
from embedded.broker.membership import (
    Answer,
    GroupLimits,
    Identity,
    JoinRequest,
    JoinResult,
    Phase,
    SyncResult,
)

LIMITS = GroupLimits(initial_delay_ms=300, min_session_timeout_ms=1_000, max_members=6)
SESSION_MS = 5_000
REBALANCE_MS = 8_000
PARTITIONS = 5


def request(
    member_id: str = "",
    instance_id: str | None = None,
    *,
    id_required: bool = True,
    protocols: dict[str, bytes] | None = None,
) -> JoinRequest:
    return JoinRequest(
        member_id=member_id,
        session_timeout_ms=SESSION_MS,
        rebalance_timeout_ms=REBALANCE_MS,
        protocol_type="consumer",
        protocols=protocols or {"range": b"m", "sticky": b"m"},
        instance_id=instance_id,
        id_required=id_required,
    )


def assign(members: list[str]) -> dict[str, bytes]:
    """What a leader sends: every partition to exactly one member."""
    shares: dict[str, list[int]] = {member: [] for member in members}
    for partition, member in zip(range(PARTITIONS), itertools.cycle(members), strict=False):
        shares[member].append(partition)
    return {member: bytes(share) for member, share in shares.items()}


class Client:
    """What a consumer knows of itself."""

    def __init__(self, instance_id: str | None) -> None:
        self.instance_id = instance_id
        self.member_id = ""
        self.generation = -1
        self.roster: list[str] = []  # of the generation that this client leads
        self.assignment: bytes | None = None
        self.waits_for: str | None = None  # "join" or "sync"
        self.last_seen_ms = 0

    @property
    def who(self) -> Identity:
        return Identity(self.member_id, self.generation, self.instance_id)


class GroupMachine(RuleBasedStateMachine):
    """Clients join, sync, beat, leave, fall silent and lose connections in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.group = Group(LIMITS)
        self.now_ms = 0
        self.clients: list[Client] = []
        self.tickets: dict[int, Client] = {}
        self.numbers = itertools.count(1)
        self.generations: list[int] = [0]

    # -- what happens ----------------------------------------------------------------------

    def deliver(self, answers: list[Answer]) -> None:
        for ticket, result in answers:
            client = self.tickets.pop(ticket, None)
            assert client is not None, "an answer that nobody waits for"
            client.waits_for = None
            client.last_seen_ms = self.now_ms
            if isinstance(result, JoinResult):
                self.joined(client, result)
            else:
                self.synced(client, result)
        if self.group.generation != self.generations[-1]:
            self.generations.append(self.group.generation)

    def joined(self, client: Client, result: JoinResult) -> None:
        client.assignment = None
        if result.error is ErrorCode.NONE:
            client.member_id, client.generation = result.member_id, result.generation
            client.roster = [member_id for member_id, _, _ in result.members]
            if client.roster:
                assert result.leader == client.member_id
        elif result.error is ErrorCode.MEMBER_ID_REQUIRED:
            client.member_id = result.member_id
        else:
            self.forget(client)

    def synced(self, client: Client, result: SyncResult) -> None:
        if result.error is ErrorCode.NONE:
            client.assignment = result.assignment
        elif result.error is not ErrorCode.REBALANCE_IN_PROGRESS:
            self.forget(client)

    def forget(self, client: Client) -> None:
        client.member_id, client.generation, client.roster = "", -1, []
        client.assignment = None

    def ticket_for(self, client: Client, kind: str) -> int:
        ticket = next(self.numbers)
        self.tickets[ticket] = client
        client.waits_for = kind
        return ticket

    def idle(self) -> list[Client]:
        return [client for client in self.clients if client.waits_for is None]

    # -- rules -----------------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 8)
    @rule(static=st.booleans())
    def start_client(self, static: bool) -> None:
        name = f"i{len(self.clients)}" if static else None
        self.clients.append(Client(name))

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.idle()))
        new_id = f"m{next(self.numbers)}"
        ticket = self.ticket_for(client, "join")
        wanted = request(client.member_id, client.instance_id)
        self.deliver(self.group.join(wanted, new_id, ticket, self.now_ms))

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.idle()))
        ticket = self.ticket_for(client, "sync")
        assignments = assign(client.roster) if client.roster else {}
        self.deliver(self.group.sync(client.who, assignments, ticket, self.now_ms))

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.idle()))
        error = self.group.heartbeat(client.who, self.now_ms)
        if error is ErrorCode.NONE or error is ErrorCode.REBALANCE_IN_PROGRESS:
            client.last_seen_ms = self.now_ms
        elif error is not ErrorCode.ILLEGAL_GENERATION:
            self.forget(client)

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.idle()))
        member_id = client.member_id
        error, answers = self.group.leave(member_id, client.instance_id, self.now_ms)
        self.deliver(answers)
        self.forget(client)
        if error is ErrorCode.NONE and member_id:
            assert member_id not in self.group.members

    @precondition(lambda self: self.group.members)
    @rule(data=st.data())
    def be_removed_by_an_admin(self, data: st.DataObject) -> None:
        member_id = data.draw(st.sampled_from(sorted(self.group.members)))
        error, answers = self.group.leave(member_id, None, self.now_ms)
        assert error is ErrorCode.NONE
        self.deliver(answers)
        assert member_id not in self.group.members

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def lose_connection(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.tickets)))
        client = self.tickets.pop(ticket)
        client.waits_for = None
        client.last_seen_ms = self.now_ms
        self.group.abandon(ticket, self.now_ms)

    @rule(elapsed_ms=st.sampled_from([0, 1, 200, 400, 3_000, SESSION_MS, REBALANCE_MS + 1]))
    def time_passes(self, elapsed_ms: int) -> None:
        end_ms = self.now_ms + elapsed_ms
        for _ in range(200):
            due_ms = self.group.next_deadline_ms()
            if due_ms is None or due_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, due_ms)
            self.deliver(self.group.tick(self.now_ms))
        else:
            raise AssertionError("the clock never gets past a deadline")
        self.now_ms = end_ms

    # -- invariants ------------------------------------------------------------------------

    @invariant()
    def generations_only_grow(self) -> None:
        assert self.generations == sorted(set(self.generations))

    @invariant()
    def the_phase_agrees_with_the_members(self) -> None:
        group = self.group
        assert (group.phase is Phase.EMPTY) == (not group.members)
        if group.phase in {Phase.COMPLETING, Phase.STABLE}:
            assert group.leader is None or group.leader in group.members
            assert all(group.protocol in m.protocols for m in group.members.values())

    @invariant()
    def waiting_clients_are_known_to_the_group(self) -> None:
        parked = {m.join_ticket for m in self.group.members.values()}
        parked |= {m.sync_ticket for m in self.group.members.values()}
        assert set(self.tickets) <= parked

    @invariant()
    def every_partition_has_exactly_one_owner(self) -> None:
        if self.group.phase is not Phase.STABLE:
            return
        owned = [p for m in self.group.members.values() for p in m.assignment]
        assert len(owned) == len(set(owned))
        if len(self.group.members) == len([m for m in self.group.members.values() if m.synced]):
            assert sorted(owned) == list(range(PARTITIONS))

    @invariant()
    def assigned_clients_of_this_generation_hold_what_the_group_says(self) -> None:
        if self.group.phase is not Phase.STABLE:
            return
        for client in self.clients:
            current = client.generation == self.group.generation
            if current and client.assignment is not None and client.waits_for is None:
                member = self.group.members.get(client.member_id)
                if member is not None:
                    assert client.assignment == member.assignment

    @invariant()
    def the_silent_are_evicted(self) -> None:
        for member in self.group.members.values():
            assert member.parked or member.expires_ms >= self.now_ms
        assert len(self.group.members) <= LIMITS.max_members


GroupMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestGroupMachine = GroupMachine.TestCase


# -- single rules ----------------------------------------------------------------------------


def join_all(group: Group, *names: str, now_ms: int = 0) -> dict[int, JoinResult]:
    """Old-style members (no promised ids) join together; returns their results."""
    answers: list[Answer] = []
    for ticket, name in enumerate(names):
        wanted = request(name if name in group.members else "", id_required=False)
        answers += group.join(wanted, name, ticket, now_ms)
    answers += group.tick(now_ms + 2_000)
    return {ticket: result for ticket, result in answers if isinstance(result, JoinResult)}


def stable(group: Group, *names: str, now_ms: int = 0) -> int:
    """Bring the group to Stable; returns its generation."""
    results = join_all(group, *names, now_ms=now_ms)
    leader = next(r for r in results.values() if r.members)
    for ticket, name in enumerate(names):
        who = Identity(name, leader.generation)
        mine = assign(list(names)) if name == leader.leader else {}
        group.sync(who, mine, 100 + ticket, now_ms + 2_000)
    assert group.phase is Phase.STABLE
    return leader.generation


def test_a_forming_group_waits_for_others() -> None:
    group = Group(LIMITS)
    assert group.join(request(id_required=False), "a", 1, 0) == []
    assert group.next_deadline_ms() == 300
    assert group.join(request(id_required=False), "b", 2, 200) == []
    assert group.next_deadline_ms() == 500
    assert group.tick(499) == []
    answers = dict(group.tick(500))
    assert {a.error for a in answers.values()} == {ErrorCode.NONE}
    assert [len(a.members) for a in answers.values() if isinstance(a, JoinResult)] == [2, 0]


def test_a_rebalance_ends_without_those_who_do_not_come() -> None:
    group = Group(LIMITS)
    stable(group, "a", "b")
    group.heartbeat(Identity("b", group.generation), 3_000)
    group.join(request("a"), "", 1, 3_000)
    for now_ms in range(3_500, 11_000, 500):  # b is alive but does not rejoin
        group.heartbeat(Identity("b", group.generation), now_ms)
        assert group.tick(now_ms) == []
    ((ticket, result),) = group.tick(11_000)
    assert (ticket, result.error) == (1, ErrorCode.NONE)
    assert list(group.members) == ["a"]


def test_a_leader_that_beats_but_never_syncs_is_removed() -> None:
    group = Group(LIMITS)
    stable(group, "a", "b")  # in the first generation everybody did sync
    results = join_all(group, "a", "b", now_ms=3_000)
    generation = results[0].generation
    leader, follower = ("a", "b") if results[0].members else ("b", "a")
    group.sync(Identity(follower, generation), {}, 7, 3_000)
    for now_ms in range(4_000, 11_000, 1_000):
        group.heartbeat(Identity(leader, generation), now_ms)
        assert group.tick(now_ms) == []
    assert (7, SyncResult(ErrorCode.REBALANCE_IN_PROGRESS)) in group.tick(11_000)
    assert list(group.members) == [follower]


def test_a_promised_id_that_is_never_used_delays_a_rebalance_only_for_a_session() -> None:
    group = Group(LIMITS)
    stable(group, "a")
    ((_, promised),) = group.join(request(), "x", 1, 2_000)
    assert promised.error is ErrorCode.MEMBER_ID_REQUIRED
    assert group.join(request("a"), "", 2, 2_500) == []
    assert group.next_deadline_ms() == 2_000 + SESSION_MS
    ((ticket, result),) = group.tick(2_000 + SESSION_MS)
    assert (ticket, result.error) == (2, ErrorCode.NONE)


def test_a_static_member_comes_back_to_its_assignment_and_its_ghost_is_fenced() -> None:
    group = Group(LIMITS)
    group.join(request(instance_id="one"), "old", 1, 0)
    group.join(request(instance_id="two"), "other", 2, 0)
    group.tick(300)
    group.sync(Identity("old", 1, "one"), assign(["old", "other"]), 3, 300)
    group.sync(Identity("other", 1, "two"), {}, 4, 300)
    held = group.members["old"].assignment
    ((_, back),) = group.join(request(instance_id="one"), "new", 5, 1_000)
    assert isinstance(back, JoinResult)
    assert (back.error, back.generation, back.member_id) == (ErrorCode.NONE, 1, "new")
    assert back.leader != "new"  # it must not assign anew
    assert group.sync(Identity("new", 1, "one"), {}, 6, 1_000) == [
        (6, SyncResult(ErrorCode.NONE, held))
    ]
    ghost = Identity("old", 1, "one")
    assert group.heartbeat(ghost, 1_000) is ErrorCode.FENCED_INSTANCE_ID
    assert group.check_commit(ghost, 1_000) is ErrorCode.FENCED_INSTANCE_ID
    assert group.leave("", "two", 1_000)[0] is ErrorCode.NONE


def test_a_lost_connection_starts_the_session_clock() -> None:
    group = Group(LIMITS)
    stable(group, "a", "b")
    group.join(request("a"), "", 1, 3_000)
    group.abandon(1, 4_000)
    group.join(request("b"), "", 2, 4_000)
    assert group.next_deadline_ms() == 4_000 + SESSION_MS
    ((ticket, result),) = group.tick(4_000 + SESSION_MS)
    assert (ticket, result.error) == (2, ErrorCode.NONE)
    assert list(group.members) == ["b"]


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (request("stranger"), ErrorCode.UNKNOWN_MEMBER_ID),
        (request(protocols={"other": b""}), ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
        (
            JoinRequest("", 10, 10, "consumer", {"range": b""}),
            ErrorCode.INVALID_SESSION_TIMEOUT,
        ),
        (
            JoinRequest("", SESSION_MS, 10, "connect", {"range": b""}),
            ErrorCode.INCONSISTENT_GROUP_PROTOCOL,
        ),
        (JoinRequest("", SESSION_MS, 10, "consumer", {}), ErrorCode.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
def test_joins_that_are_refused_disturb_nobody(wanted: JoinRequest, error: ErrorCode) -> None:
    group = Group(LIMITS)
    generation = stable(group, "a", "b")
    ((_, result),) = group.join(wanted, "x", 9, 2_500)
    assert result.error is error
    assert group.phase is Phase.STABLE
    assert group.generation == generation


def test_a_full_group_refuses_strangers_but_not_its_members() -> None:
    group = Group(GroupLimits(max_members=2, min_session_timeout_ms=1))
    stable(group, "a", "b")
    ((_, result),) = group.join(request(), "c", 9, 2_500)
    assert result.error is ErrorCode.GROUP_MAX_SIZE_REACHED
    answers = group.join(request("a"), "", 10, 2_500) + group.join(request("b"), "", 11, 2_500)
    assert {ticket: result.error for ticket, result in answers} == {10: 0, 11: 0}


def test_offsets_are_committed_by_members_of_this_generation_or_by_nobody() -> None:
    group = Group(LIMITS)
    outsider = Identity("", -1)
    assert group.check_commit(outsider, 0) is ErrorCode.NONE
    generation = stable(group, "a")
    assert group.check_commit(outsider, 2_000) is ErrorCode.UNKNOWN_MEMBER_ID
    assert group.check_commit(Identity("a", generation), 2_000) is ErrorCode.NONE
    old = Identity("a", generation - 1)
    assert group.check_commit(old, 2_000) is ErrorCode.ILLEGAL_GENERATION
    join_all(group, "a", now_ms=3_000)
    completing = Identity("a", group.generation)
    assert group.check_commit(completing, 5_000) is ErrorCode.REBALANCE_IN_PROGRESS
