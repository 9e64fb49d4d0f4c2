"""What people see, second by second."""

from __future__ import annotations

import msgspec
import pytest

from alerting import audit
from alerting.machine import IllegalMove
from alerting.outbox import Reply
from alerting.policy import Limits
from alerting.rules import SECOND_US, SHIPPED
from redline.errors import RecordInvalid
from redline.records import Signal
from tests.alerting.scenario import OPEN, P99, T0_US, World, p99

DRAINED = Reply(http_status=200, detail="weights v1=1 v2=0", applied=True, drained=True)


def test_fires_after_thirty_seconds_and_tells_once() -> None:
    world = World()
    world.every_second(0, 29, p99(8_200.0))
    assert world.told(between=(0, 29)) == []
    world.every_second(30, 60, p99(8_200.0))
    lines = world.told(between=(30, 31))
    assert lines[0] == "Firing: p99_latency_ms is 8.20 s, limit 5.00 s, for 30 s."
    assert world.told(between=(31.5, 60)) == []
    assert world.path() == ["pending", "firing"]


def test_a_breach_that_does_not_last_is_never_told() -> None:
    world = World()
    for start in range(0, 300, 30):
        world.every_second(start, start + 25, p99(9_000.0))
        world.every_second(start + 26, start + 29, p99(900.0))
    assert world.messages == []
    assert world.orders == []


def test_too_few_samples_are_no_breach() -> None:
    world = World()
    world.every_second(0, 120, p99(60_000.0, samples=19))
    assert world.alerts == []


def test_a_bad_version_is_rolled_back_once_and_the_thread_says_fixed() -> None:
    world = World()
    world.reply = DRAINED
    world.every_second(0, 45, p99(8_200.0), p99(900.0, version="v1"))
    assert [second for second, _ in world.orders] == [30]
    world.every_second(46, 90, p99(None), p99(900.0, version="v1"))
    assert world.path() == ["pending", "firing", "recovering", "resolved"]
    assert world.alerts[-1].reason == "version_drained"
    # v2 has no data from second 46 on; keep_firing_for is 20 s.
    fixed = world.told(between=(66, 67))
    assert fixed == [
        "Fixed after 36 s: v2 gets no traffic any more, and no other version is over 5.00 s."
    ]
    assert [action.status for action in world.actions] == ["proposed", "delivering", "delivered"]
    assert audit.verify(world.audit) == ""


def test_a_rollback_that_did_not_help_stays_open_and_says_so() -> None:
    world = World()
    world.reply = DRAINED
    world.every_second(0, 45, p99(8_200.0))
    world.every_second(46, 660, p99(None), p99(9_000.0, version="v1"))
    assert "resolved" not in world.path("v2")
    told = world.told(between=(630, 631))
    assert told == ["Not fixed 10 min after the rollback: p99_latency_ms is 8.20 s, limit 5.00 s."]
    # v1 fires too, but the model was rolled back within the hour.
    refused = [action for action in world.actions if action.status == "refused"]
    assert [action.from_state for action in refused] == ["v1"]
    assert "cooldown" in refused[0].reason
    assert len(world.orders) == 1


def test_silence_resolves_nothing_and_asks_for_nothing() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    other = p99(900.0, model="other")
    world.every_second(32, 3_000, other)
    assert world.path() == ["pending", "firing", "nodata"]
    assert world.told(between=(91, 91)) == [
        "No data: the alert stays open and nothing is done on its account."
    ]
    world.every_second(3_001, 3_030, p99(700.0), other)
    assert world.path()[3:] == ["recovering", "resolved"]
    assert len(world.orders) == 1


def test_silence_while_pending_never_fires() -> None:
    world = World()
    world.every_second(0, 29, p99(8_200.0))
    world.every_second(30, 89, p99(None))
    world.every_second(90, 119, p99(8_200.0))
    assert world.path() == ["pending", "inactive", "pending"]
    assert world.orders == []


def test_a_relapse_within_keep_firing_is_the_same_incident() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    for start in range(40, 200, 20):
        world.every_second(start, start + 9, p99(900.0))
        world.every_second(start + 10, start + 19, p99(8_200.0))
    world.every_second(200, 230, p99(900.0))
    incidents = {alert.incident_id for alert in world.alerts if alert.incident_id}
    assert len(incidents) == 1
    firing_or_resolved = [line for line in world.told(between=(0, 230)) if "Rollback" not in line]
    assert len(firing_or_resolved) == 2
    assert firing_or_resolved[1].startswith("Fixed after 3 min 10 s")


def test_a_second_incident_is_a_second_message() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    world.every_second(32, 60, p99(900.0))
    world.every_second(61, 100, p99(8_200.0))
    assert world.path() == ["pending", "firing", "recovering", "resolved", "pending", "firing"]
    assert len({incident for _, incident, _ in world.messages}) == 2


def test_learning_never_alerts() -> None:
    spend = Signal(
        ts_us=0,
        name="spend_projected_ratio",
        value=9.0,
        window_s=900,
        labels={"tenant": "acme"},
        samples=1,
        learning=True,
    )
    world = World(SHIPPED, OPEN)
    world.every_second(0, 100, spend)
    assert [alert.to_state for alert in world.alerts] == ["learning"]
    world.every_second(101, 161, msgspec.structs.replace(spend, learning=False))
    assert [alert.to_state for alert in world.alerts][1:] == ["pending", "firing"]
    assert world.actions == []


@pytest.mark.parametrize(("value", "fires"), [(0.849, False), (0.85, True), (0.99, True)])
def test_kv_saturation_includes_its_threshold(value: float, fires: bool) -> None:
    signal = Signal(
        ts_us=0,
        name="kv_cache_usage",
        value=value,
        window_s=10,
        labels={"instance": "a"},
        samples=9,
    )
    world = World(SHIPPED)
    world.every_second(0, 60, signal)
    assert ("firing" in [alert.to_state for alert in world.alerts]) is fires


def test_a_shipped_rollback_is_only_observed() -> None:
    world = World(SHIPPED)
    world.every_second(0, 40, p99(8_200.0))
    assert [(a.status, a.mode) for a in world.actions] == [("proposed", "observe")]
    assert world.orders == []


def test_a_replayed_old_breach_is_told_but_never_acted_on() -> None:
    world = World()
    late_us = T0_US + 3_600 * SECOND_US
    for second in range(40):
        signal = msgspec.structs.replace(p99(8_200.0), ts_us=T0_US + second * SECOND_US)
        world.take(signal, late_us)
    world.send(3_600)
    assert [action.status for action in world.actions] == ["expired"]
    assert world.orders == []
    assert world.messages


def test_a_signal_from_the_future_is_refused() -> None:
    world = World()
    signal = msgspec.structs.replace(p99(1.0), ts_us=T0_US + 301 * SECOND_US)
    with pytest.raises(RecordInvalid, match="301 s from the future"):
        world.engine.evaluate(world.state, signal, T0_US)


def test_the_kill_switch_refuses_and_says_so() -> None:
    world = World(limits=msgspec.structs.replace(OPEN, frozen=True))
    world.every_second(0, 40, p99(8_200.0))
    assert [action.status for action in world.actions] == ["refused"]
    assert "kill switch" in world.actions[0].reason
    assert world.orders == []


def test_pending_survives_a_restart() -> None:
    world = World(rules=[msgspec.structs.replace(P99, for_us=300 * SECOND_US)])
    world.every_second(0, 250, p99(8_200.0))
    world.restart()
    world.every_second(251, 310, p99(8_200.0))
    assert world.path() == ["pending", "firing"]
    assert world.alerts[-1].ts_us == T0_US + 300 * SECOND_US


def test_a_restart_does_not_take_an_old_snapshot_for_an_absence() -> None:
    world = World()
    world.every_second(0, 500, p99(8_200.0))
    world.restart()
    world.at(501, p99(900.0, model="other"))
    world.every_second(502, 510, p99(8_200.0))
    assert world.path() == ["pending", "firing"]


def test_a_rule_that_is_removed_closes_its_incidents() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    world.engine = World(rules=SHIPPED[1:]).engine
    world.restart()
    world.at(32, Signal(ts_us=0, name="kv_cache_usage", value=0.1, window_s=10, samples=1))
    assert world.path() == ["pending", "firing", "resolved"]
    assert "configured no more" in world.told(between=(32, 32))[0]


def test_what_is_over_is_forgotten_after_a_day() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    world.every_second(32, 60, p99(900.0))
    world.at(60 + 25 * 3_600, p99(900.0, model="other"))
    world.at(61 + 25 * 3_600, p99(900.0, model="other"))
    assert world.state.incidents == {}
    assert world.state.actions == {}
    assert [alert.labels["model"] for alert in world.state.alerts.values()] == ["other"]
    world.restart()
    assert world.state.incidents == {}
    assert world.state.alerts == {}


def test_on_nodata_fire_opens_an_incident_without_an_action() -> None:
    world = World(rules=[msgspec.structs.replace(P99, on_nodata="fire")])
    world.at(0, p99(900.0))
    world.restart()
    world.every_second(1, 70, p99(900.0, model="other"))
    assert world.path()[0] == "nodata"
    assert world.orders == []
    assert world.told(between=(60, 60))[0].startswith("No data")
    assert Limits().receivers == {}


def test_what_is_gone_for_good_is_closed_by_a_person() -> None:
    world = World()
    world.every_second(0, 31, p99(8_200.0))
    world.every_second(32, 100, p99(900.0, model="other"))
    (alert,) = [alert for alert in world.state.alerts.values() if alert.open]
    world.commit(world.engine.close(world.state, alert, "eva", T0_US + 101 * SECOND_US))
    world.send(101)
    assert world.path() == ["pending", "firing", "nodata", "resolved"]
    assert world.told(between=(101, 101))[0].startswith("Closed by hand after")
    assert world.audit[-1].actor == "eva"
    with pytest.raises(IllegalMove):
        world.engine.close(world.state, world.state.alerts[alert.fingerprint], "eva", T0_US)
    world.every_second(102, 140, p99(8_200.0))
    assert world.path()[-2:] == ["pending", "firing"]
