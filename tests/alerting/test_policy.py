"""Every decision about an action has its reason, and no cap can be passed."""

from __future__ import annotations

import msgspec
import pytest

from alerting import policy
from alerting.machine import Alert
from alerting.policy import Limits
from alerting.rules import SECOND_US
from alerting.state import Action
from redline.records import ActionMode, ActionStatus
from tests.alerting.scenario import OPEN, P99, T0_US

ALERT = Alert(
    fingerprint="f",
    rule="p99",
    labels={"model": "m", "version": "v2"},
    state="firing",
    value=8_000.0,
    changed_at_us=T0_US,
    started_at_us=T0_US,
    incident_id="inc_1",
)


def decided(
    mode: ActionMode = "auto",
    limits: Limits = OPEN,
    alert: Alert = ALERT,
    others: tuple[Action, ...] = (),
    late_us: int = 0,
) -> Action:
    rule = msgspec.structs.replace(P99, mode=mode)
    action = policy.decide(rule, alert, others, limits, T0_US + late_us)
    assert action is not None
    return action


def earlier(
    status: ActionStatus, ago_s: int, mode: ActionMode = "auto", target: str = "m"
) -> Action:
    action = decided(mode)
    event = msgspec.structs.replace(
        action.event,
        action_id="act_earlier",
        status=status,
        target=target,
        ts_us=T0_US - ago_s * SECOND_US,
    )
    return msgspec.structs.replace(action, event=event)


@pytest.mark.parametrize(
    ("mode", "sent"), [("observe", False), ("dry_run", True), ("approve", False), ("auto", True)]
)
def test_what_a_mode_sends_by_itself(mode: ActionMode, sent: bool) -> None:
    action = decided(mode)
    assert (action.event.status, action.event.mode) == ("proposed", mode)
    assert bool(action.deliveries) is sent
    assert action.final is (mode == "observe")


@pytest.mark.parametrize(
    ("others", "limits", "says"),
    [
        ((), msgspec.structs.replace(OPEN, frozen=True), "kill switch"),
        ((), Limits(), "no webhook"),
        ((earlier("delivering", 5),), OPEN, "in flight"),
        ((earlier("proposed", 5, "approve"),), OPEN, "in flight"),
        ((earlier("delivered", 1_799),), OPEN, "cooldown of m: 1 s left"),
        ((earlier("delivered", 1_801),), OPEN, "within the last hour"),
        ((earlier("delivered", 3_599),), OPEN, "within the last hour"),
    ],
)
def test_caps(others: tuple[Action, ...], limits: Limits, says: str) -> None:
    for mode in ("auto", "approve"):
        event = decided(mode, limits, others=others).event
        assert event.status == "refused"
        assert says in event.reason


@pytest.mark.parametrize(
    "other",
    [
        earlier("delivered", 3_601),
        earlier("delivered", 5, target="another"),
        earlier("delivered", 5, mode="dry_run"),
        earlier("failed", 5),
        earlier("proposed", 5, mode="observe"),
    ],
)
def test_what_does_not_count_against_an_action(other: Action) -> None:
    assert decided(others=(other,)).event.status == "proposed"


@pytest.mark.parametrize("labels", [{"model": "m"}, {"version": "v2"}, {}])
def test_without_target_or_version_nothing_is_asked(labels: dict[str, str]) -> None:
    event = decided(alert=msgspec.structs.replace(ALERT, labels=labels)).event
    assert event.status == "refused"
    assert "label" in event.reason


def test_it_expires_five_minutes_after_the_alert_began_whenever_it_is_decided() -> None:
    assert decided().event.expires_at_us == T0_US + 300 * SECOND_US
    late = decided(late_us=300 * SECOND_US)
    assert late.event.status == "expired"
    assert late.deliveries == ()


def test_the_same_incident_asks_for_the_same_action() -> None:
    assert decided().event.action_id == decided(late_us=7).event.action_id
    other = msgspec.structs.replace(ALERT, incident_id="inc_2")
    assert decided().event.action_id != decided(alert=other).event.action_id
