"""The shell around the groups: timers fire, lost clients are let go, old groups are forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedded.broker.codes import ErrorCode
from embedded.broker.config import BrokerConfig
from embedded.broker.coordinator import Coordinator
from embedded.broker.journal import Journal
from embedded.broker.membership import GroupLimits, Identity, JoinRequest, Phase
from embedded.broker.registry import Committed

OUTSIDER = Identity("", -1)
POSITION = Committed("t", 0, 5, 0, "")


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def joining(session_timeout_ms: int = 200) -> JoinRequest:
    return JoinRequest("", session_timeout_ms, 500, "consumer", {"range": b"m"})


@pytest.fixture
def config(tmp_path: Path) -> BrokerConfig:
    limits = GroupLimits(initial_delay_ms=20, min_session_timeout_ms=1)
    return BrokerConfig(tmp_path, group=limits, max_groups=3)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.jsonl")
    yield opened
    opened.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_silent_member_is_evicted_by_the_timer_and_its_group_forgotten(
    config: BrokerConfig, journal: Journal
) -> None:
    coordinator = Coordinator(config, journal, monotonic_ms)
    joined = await asyncio.wait_for(coordinator.join("g", joining()), 10)
    assert (joined.error, joined.generation) == (ErrorCode.NONE, 1)
    assert coordinator.group_ids() == ["g"]
    await until(lambda: coordinator.group_ids() == [])
    assert not coordinator._timers
    coordinator.close()


async def test_a_member_whose_connection_is_lost_no_longer_counts_as_waiting(
    config: BrokerConfig, journal: Journal
) -> None:
    coordinator = Coordinator(config, journal, monotonic_ms)
    first = await coordinator.join("g", joining(5_000))
    waiting = asyncio.create_task(coordinator.join("g", joining()))
    group = coordinator.group("g")
    assert group is not None
    await until(lambda: group.phase is Phase.PREPARING)
    assert len(group.members) == 2
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert not any(member.parked for member in group.members.values())
    await until(lambda: list(group.members) == [first.member_id])
    coordinator.close()


async def test_offsets_outlive_the_group_but_not_their_retention(
    config: BrokerConfig, journal: Journal
) -> None:
    now_ms = [0]
    config = replace(config, offsets_retention_ms=1_000)
    coordinator = Coordinator(config, journal, lambda: now_ms[0])
    assert coordinator.commit("g", OUTSIDER, [POSITION]) is ErrorCode.NONE
    now_ms[0] = 1_000
    coordinator.expire()
    assert coordinator.committed("g") == {("t", 0): POSITION}
    now_ms[0] = 1_001
    coordinator.expire()
    assert coordinator.group_ids() == []
    coordinator.close()


async def test_groups_have_a_limit(config: BrokerConfig, journal: Journal) -> None:
    coordinator = Coordinator(config, journal, monotonic_ms)
    errors = [coordinator.commit(f"g{i}", OUTSIDER, [POSITION]) for i in range(4)]
    assert errors == [ErrorCode.NONE] * 3 + [ErrorCode.POLICY_VIOLATION]
    assert coordinator.commit("g0", OUTSIDER, [POSITION]) is ErrorCode.NONE
    members = [(await coordinator.join(f"m{i}", joining(5_000))).error for i in range(4)]
    assert members == [ErrorCode.NONE] * 3 + [ErrorCode.POLICY_VIOLATION]
    coordinator.close()


async def test_a_commit_of_a_generation_that_is_gone_is_refused(
    config: BrokerConfig, journal: Journal
) -> None:
    coordinator = Coordinator(config, journal, monotonic_ms)
    stranger = Identity("m", 3)
    assert coordinator.commit("g", stranger, [POSITION]) is ErrorCode.ILLEGAL_GENERATION
    assert coordinator.heartbeat("g", stranger) is ErrorCode.UNKNOWN_MEMBER_ID
    assert coordinator.leave("g", "m", None) is ErrorCode.UNKNOWN_MEMBER_ID
    assert coordinator.delete("g") is ErrorCode.GROUP_ID_NOT_FOUND
    coordinator.close()
