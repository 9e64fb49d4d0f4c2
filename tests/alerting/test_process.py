"""The process against a real broker: what comes in, what goes out, and what a kill changes."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from alerting import audit
from redline.topics import ACTIONS, ALERTS, AUDIT, DEAD_LETTERS, SIGNALS
from tests.alerting.stage import READY_S, Child, Stage, eventually, seconds_ago


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    ready = Stage(tmp_path)
    await ready.start()
    yield ready
    await ready.stop()


async def states(stage: Stage) -> list[str]:
    return [alert.to_state for alert in await stage.topic(ALERTS)]


async def test_a_breach_is_told_once_and_rolled_back_once(stage: Stage) -> None:
    child = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 8))
    await eventually(lambda: stage.says("Firing", "Rollback of m from v2 done, HTTP 200"))
    await stage.signals(None, *seconds_ago(7, 0))
    await eventually(lambda: stage.says("Fixed after"))

    assert await states(stage) == ["pending", "firing", "recovering", "resolved"]
    assert len(stage.slack.roots) == 1
    assert "RESOLVED" in stage.slack.roots[0]["text"]
    assert [order["from"] for order in stage.hook.orders] == ["v2"]
    actions = await stage.topic(ACTIONS)
    assert [action.status for action in actions] == ["proposed", "delivering", "delivered"]
    assert (actions[-1].http_status, actions[-1].signature_verified) == (200, True)
    assert actions[-1].detail == "weights v1=1 v2=0"
    assert stage.hook.ids == [actions[-1].action_id]
    assert audit.verify(await stage.topic(AUDIT)) == ""
    (alert,) = await stage.get(child, "/alerts")
    assert (alert["state"], alert["labels"]["version"]) == ("resolved", "v2")
    (action,) = await stage.get(child, "/actions")
    assert action["status"] == "delivered"
    assert "/actions/{action_id}/approve" in (await stage.get(child, "/openapi.json"))["paths"]
    assert await child.end() == 0


async def test_killed_while_pending_it_goes_on_counting(stage: Stage) -> None:
    first = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 20))
    await until_pending(stage)
    await first.end(signal.SIGKILL)
    await stage.signals(8_213.0, *seconds_ago(19, 0))
    await stage.alerting()
    await eventually(lambda: stage.says("Firing"))
    pending, firing = await stage.topic(ALERTS)
    assert (pending.to_state, firing.to_state) == ("pending", "firing")
    assert firing.breached_at_us == pending.ts_us


async def until_pending(stage: Stage) -> None:
    for _ in range(200):
        if await states(stage):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing became pending")


async def until_one_owns(stage: Stage, first: Child, second: Child) -> tuple[Child, Child]:
    for _ in range(200):
        roles = [(await stage.get(child, "/healthz"))["role"] for child in (first, second)]
        if sorted(roles) == ["active", "standby"]:
            return (first, second) if roles[0] == "active" else (second, first)
        await asyncio.sleep(0.05)
    raise AssertionError("nobody owns the alerts, or both do")


async def test_killed_after_firing_nothing_is_told_or_ordered_again(stage: Stage) -> None:
    first = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(50, 15))
    await eventually(lambda: stage.says("Rollback of m from v2 done"))
    await first.end(signal.SIGKILL)
    second = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(14, 8))
    await second.end(signal.SIGKILL)
    await stage.alerting()
    await stage.signals(900.0, *seconds_ago(7, 0))
    await eventually(lambda: stage.says("Fixed"))
    assert await states(stage) == ["pending", "firing", "recovering", "resolved"]
    assert len(stage.slack.roots) == 1
    assert len(stage.lines()) == len(set(stage.lines())) == 4
    assert len(stage.hook.orders) == 1
    assert audit.verify(await stage.topic(AUDIT)) == ""


async def test_killed_while_an_order_is_out_it_comes_again_under_the_same_id(stage: Stage) -> None:
    stage.hook.hold = asyncio.Event()
    first = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 0))
    await eventually(lambda: stage.hook.orders)
    await first.end(signal.SIGKILL)
    stage.hook.hold.set()
    await stage.alerting()
    await eventually(lambda: stage.says("Rollback of m from v2 done"))
    assert len(stage.hook.orders) == 2
    assert len(set(stage.hook.ids)) == 1
    assert len(stage.slack.roots) == 1


async def test_a_standby_takes_over(stage: Stage) -> None:
    first = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 20))
    await until_pending(stage)
    second = await stage.alerting()
    owner, heir = await until_one_owns(stage, first, second)
    assert await owner.end() == 0
    await stage.signals(8_213.0, *seconds_ago(19, 0))
    await eventually(lambda: stage.says("Firing", "Rollback of m from v2 done"))
    assert (await stage.get(heir, "/healthz"))["role"] == "active"
    assert await states(stage) == ["pending", "firing"]
    assert len(stage.hook.orders) == 1


async def test_a_slack_that_is_down_delays_no_order_and_is_told_later(stage: Stage) -> None:
    down = (429, {"Retry-After": "1"}, {"ok": False, "error": "ratelimited"})
    stage.slack.fail_next += [down, down]
    stage.hook.statuses.append(503)
    await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 0))
    await eventually(lambda: len(stage.hook.orders) == 2)
    await eventually(lambda: stage.says("Firing", "Rollback of m from v2 done"))
    assert len(stage.slack.roots) == 1
    assert len(set(stage.hook.ids)) == 1
    statuses = [(a.status, a.attempt, a.http_status) for a in await stage.topic(ACTIONS)]
    assert statuses == [
        ("proposed", 0, None),
        ("delivering", 1, None),
        ("delivering", 1, 503),
        ("delivering", 2, None),
        ("delivered", 2, 200),
    ]


async def test_an_approval_lets_a_rollback_go_once(stage: Stage) -> None:
    child = await stage.alerting(mode="approve")
    await stage.signals(8_213.0, *seconds_ago(40, 0))
    await eventually(lambda: stage.says("Rollback of m from v2 waits for approval"))
    (action,) = await stage.get(child, "/actions")
    path, eva = f"/actions/{action['action_id']}/approve", {"by": "eva"}
    assert (await stage.post(child, path, eva, token="wrong"))[0] == 401
    assert (await stage.post(child, "/actions/act_none/approve", eva))[0] == 404
    assert stage.hook.orders == []
    assert (await stage.post(child, path, eva))[0] == 200
    assert (await stage.post(child, path, eva))[0] == 409
    await eventually(lambda: stage.says("Rollback of m from v2 done"))
    assert len(stage.hook.orders) == 1
    (alert,) = await stage.get(child, "/alerts")
    path = f"/alerts/{alert['fingerprint']}/close"
    assert (await stage.post(child, path, eva, token="wrong"))[0] == 401
    status, closed = await stage.post(child, path, eva)
    assert (status, closed["state"]) == (200, "resolved")
    assert (await stage.post(child, path, eva))[0] == 409
    entries = await stage.topic(AUDIT)
    assert [entry.actor for entry in entries if entry.event == "action.approved"] == ["eva"]
    assert audit.verify(entries) == ""


async def test_what_cannot_be_read_is_dead_lettered_and_does_not_stop_the_rest(
    stage: Stage,
) -> None:
    await stage.alerting()
    await stage.signals(900.0, 60)
    await stage.producer.send_and_wait(SIGNALS.name, b"\x01garbage", partition=0)
    await stage.signals(1.0, -400)  # from the future
    await stage.signals(8_213.0, *seconds_ago(40, 0))
    await eventually(lambda: stage.says("Firing"))
    letters = await stage.topic(DEAD_LETTERS)
    assert [letter.source for letter in letters] == ["redline.signals/0"] * 2
    assert letters[0].payload == b"\x01garbage"
    assert "from the future" in letters[1].reason


async def test_it_stops_in_time_without_a_broker(stage: Stage) -> None:
    child = await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 20))
    await until_pending(stage)
    await stage.broker.end(signal.SIGKILL)
    began_s = time.monotonic()
    assert await child.end() == 0
    assert time.monotonic() - began_s < 5


async def test_it_goes_on_when_the_broker_comes_back(stage: Stage) -> None:
    await stage.alerting()
    await stage.signals(8_213.0, *seconds_ago(40, 20))
    await until_pending(stage)
    port = stage.broker.port
    await stage.broker.end(signal.SIGKILL)
    stage.broker.arguments = (*stage.broker.arguments[:-1], str(port))
    await stage.broker.start()
    await stage.signals(8_213.0, *seconds_ago(19, 0))
    await eventually(lambda: stage.says("Firing", "Rollback of m from v2 done"), within_s=40)
    assert await states(stage) == ["pending", "firing"]
    assert len(stage.slack.roots) == 1
    assert len(stage.hook.orders) == 1


async def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "redline.yaml"
        path.write_text(json.dumps({"alerting": {"port": port}}))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "alerting", "--config", str(path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), READY_S)
    assert (process.returncode, out) == (2, b"")
    assert f"127.0.0.1:{port}" in err.decode()
    assert "alerting.port" in err.decode()
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"webhooks": [{"name": "x", "url": "https://else.example/"}]}, "allowed_hosts"),
        ({"slack": {"enabled": True}}, "REDLINE_SLACK_BOT_TOKEN"),
    ],
)
async def test_a_configuration_that_is_wrong_is_said_in_one_line(
    tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    path = tmp_path / "redline.yaml"
    path.write_text(json.dumps({"alerting": settings}))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "alerting", "--config", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), READY_S)
    assert (process.returncode, out) == (2, b"")
    assert says in err.decode()
    assert err.count(b"\n") == 1
