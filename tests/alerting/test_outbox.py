"""Claims, outcomes and retries."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting import outbox
from alerting.consequences import Consequences
from alerting.outbox import Reply
from alerting.rules import SECOND_US
from alerting.state import Action, Delivery, Incident, Notification, State
from redline.records import ActionEvent
from tests.alerting.scenario import OPEN, SLACK, T0_US, WEBHOOK


def order(expires_s: int = 300, receivers: tuple[str, ...] = (WEBHOOK,)) -> Action:
    event = ActionEvent(
        ts_us=T0_US,
        action_id="act_1",
        incident_id="inc_1",
        kind="rollback",
        mode="auto",
        status="proposed",
        target="m",
        expires_at_us=T0_US + expires_s * SECOND_US,
    )
    deliveries = tuple(Delivery(receiver=name, due_at_us=T0_US) for name in receivers)
    return Action(event=event, fingerprint="f", proposed_at_us=T0_US, deliveries=deliveries)


def attempts(action: Action, reply: Reply, jitter: float = 0.0) -> tuple[list[float], Action]:
    """The seconds at which it is sent when every attempt gets ``reply``."""
    at: list[float] = []
    now_us = T0_US
    while outbox.due_actions([action], WEBHOOK, now_us):
        at.append((now_us - T0_US) / SECOND_US)
        action = outbox.claim_action(action, WEBHOOK, now_us)
        action = outbox.settle_action(action, WEBHOOK, reply, jitter, now_us)
        now_us = max(now_us, action.deliveries[0].due_at_us)
    return at, action


def test_an_unanswered_order_is_sent_six_times_in_two_minutes() -> None:
    at, action = attempts(order(), Reply(detail="no answer"))
    assert at == [0, 2, 7, 22, 52, 112]
    assert action.event.status == "failed"
    assert action.event.detail == "6 attempts, the last: no answer"


def test_it_is_never_sent_after_its_expiry() -> None:
    at, action = attempts(order(expires_s=20), Reply(http_status=503, detail="HTTP 503"))
    assert at == [0, 2, 7]
    assert action.event.status == "failed"
    assert "expires before the next attempt" in action.event.detail


@given(st.floats(0, 1), st.integers(1, 200))
def test_jitter_never_passes_the_expiry_either(jitter: float, expires_s: int) -> None:
    at, action = attempts(order(expires_s), Reply(detail="no answer"), jitter)
    assert max(at) < expires_s
    assert action.final


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (200, "delivered"),
        (202, "delivered"),
        (204, "delivered"),
        (409, "refused"),
        (410, "expired"),
    ],
)
def test_the_receivers_last_word_is_taken(status: int, becomes: str) -> None:
    at, action = attempts(order(), Reply(http_status=status, detail="said"))
    assert at == [0]
    assert (action.event.status, action.event.http_status) == (becomes, status)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 503])
def test_everything_else_is_tried_again(status: int) -> None:
    at, _ = attempts(order(), Reply(http_status=status, detail="said"))
    assert len(at) == 6


def test_a_wish_to_wait_is_granted() -> None:
    at, _ = attempts(order(), Reply(http_status=429, detail="said", retry_after_s=40))
    assert at[:2] == [0, 40]


def test_success_that_applied_nothing_is_a_refusal_unless_it_was_a_rehearsal() -> None:
    reply = Reply(http_status=200, detail="not now", applied=False)
    assert attempts(order(), reply)[1].event.status == "refused"
    rehearsal = order()
    event = msgspec.structs.replace(rehearsal.event, mode="dry_run")
    rehearsal = msgspec.structs.replace(rehearsal, event=event)
    assert attempts(rehearsal, reply)[1].event.status == "delivered"


def test_an_action_is_done_when_its_last_receiver_is() -> None:
    action = order(receivers=(WEBHOOK, "other"))
    action = outbox.claim_action(action, WEBHOOK, T0_US)
    action = outbox.settle_action(action, WEBHOOK, Reply(http_status=200), 0, T0_US)
    assert action.event.status == "delivering"
    action = outbox.claim_action(action, "other", T0_US)
    action = outbox.settle_action(action, "other", Reply(http_status=409), 0, T0_US)
    assert action.event.status == "refused"


def incident(*notifications: Notification) -> tuple[State, Incident]:
    held = Incident(
        incident_id="inc_1",
        fingerprint="f",
        rule="p99",
        severity="page",
        started_at_us=T0_US,
        notifications=notifications,
    )
    state = State()
    state.incidents["inc_1"] = held
    return state, held


def line(key: str, at_s: int) -> Notification:
    at_us = T0_US + at_s * SECOND_US
    return Notification(key=key, receiver=SLACK, text=key, at_us=at_us, due_at_us=at_us)


def test_a_later_line_never_overtakes_one_that_failed() -> None:
    state, held = incident(line("a", 0), line("b", 1))
    now_us = T0_US + 2 * SECOND_US
    claimed = outbox.claim_notification(held, "a")
    state.incidents["inc_1"] = outbox.notification_failed(claimed, "a", "down", 30.0, now_us)
    assert outbox.due_notifications(state, SLACK, now_us) == []
    due = outbox.due_notifications(state, SLACK, now_us + 30 * SECOND_US)
    assert [notification.key for _, notification in due] == ["a"]


def test_a_notification_is_given_up_after_a_day_and_the_next_one_goes() -> None:
    state, held = incident(line("a", 0), line("b", 1))
    now_us, tries = T0_US, 0
    while (due := outbox.due_notifications(state, SLACK, now_us)) and due[0][1].key == "a":
        held = outbox.claim_notification(state.incidents["inc_1"], "a")
        held = outbox.notification_failed(held, "a", "down", None, now_us)
        state.incidents["inc_1"] = held
        now_us, tries = max(now_us, held.notifications[0].due_at_us), tries + 1
    assert held.notifications[0].status == "failed"
    assert 23.5 * 3_600 <= (now_us - T0_US) / SECOND_US <= 24.5 * 3_600
    assert 280 <= tries <= 310
    assert due[0][1].key == "b"


def test_the_same_thing_is_left_due_once_and_the_history_has_a_limit() -> None:
    _, held = incident()
    consequences = Consequences(OPEN, [SLACK])
    for _ in range(2):
        held = consequences.tell(held, "firing", "line", T0_US)
    assert len(held.notifications) == 1
    for second in range(1, 200):
        held = consequences.tell(held, "nodata", "line", T0_US + second)
    assert len(held.notifications) == 200  # nothing that was not told is forgotten
    for notification in held.notifications:
        held = outbox.notification_sent(held, notification.key, "C", "1.1")
    held = consequences.tell(held, "resolved", "last", T0_US + 200)
    assert len(held.notifications) == 64
    assert held.notifications[-1].text == "last"
