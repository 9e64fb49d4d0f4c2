"""A Slack message: the numbers, Slack's limits, and no markup from outside."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerting.history import number, seconds
from alerting.machine import Alert
from alerting.messages import incident_message
from alerting.rules import SHIPPED
from alerting.state import Incident
from tests.alerting.scenario import T0_US, World, p99

PAGE = "http://127.0.0.1:7600/"


def rendered(alert: Alert, incident: Incident) -> str:
    rule = SHIPPED[0]
    return json.dumps(incident_message(rule, incident, alert, [], PAGE), ensure_ascii=False)


def test_a_firing_message_shows_value_limit_samples_and_labels() -> None:
    world = World(SHIPPED)
    world.every_second(0, 31, p99(8_213.0))
    (alert,) = world.state.alerts.values()
    (incident,) = world.state.incidents.values()
    text = rendered(alert, incident)
    for part in (
        "FIRING",
        "8.21 s",
        "limit 5.00 s",
        "100, at least 20",
        "v2",
        incident.incident_id,
    ):
        assert part in text
    assert incident_message(SHIPPED[0], incident, alert, [], PAGE) == incident_message(
        SHIPPED[0], incident, alert, [], PAGE
    )


def test_a_resolved_message_shows_the_worst_and_how_long() -> None:
    world = World(SHIPPED)
    world.every_second(0, 10, p99(9_999.0))
    world.every_second(11, 40, p99(6_000.0))
    world.every_second(41, 61, p99(800.0))
    (alert,) = world.state.alerts.values()
    (incident,) = world.state.incidents.values()
    text = rendered(alert, incident)
    assert "RESOLVED" in text
    assert "after 31 s" in text
    assert "10.00 s" in text


def test_an_old_incidents_message_is_resolved_even_when_the_alert_fires_again() -> None:
    world = World(SHIPPED)
    world.every_second(0, 31, p99(9_000.0))
    world.every_second(32, 60, p99(900.0))
    world.every_second(61, 100, p99(9_000.0))
    (alert,) = world.state.alerts.values()
    first = min(world.state.incidents.values(), key=lambda incident: incident.started_at_us)
    assert "RESOLVED" in rendered(alert, first)
    assert "FIRING" not in rendered(alert, first)


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=4_000), max_size=20))
def test_labels_stay_within_slacks_limits_and_are_no_markup(labels: dict[str, str]) -> None:
    labels["tenant"] = "<!channel> & <http://evil|click>"
    incident = Incident(
        incident_id="inc_1",
        fingerprint="f",
        rule="r",
        severity="page",
        started_at_us=T0_US,
        labels=labels,
    )
    alert = Alert(fingerprint="f", rule="r", labels=labels, state="firing", incident_id="inc_1")
    message = incident_message(SHIPPED[0], incident, alert, [], PAGE)
    header, *rest = message["blocks"]
    assert len(header["text"]["text"]) <= 150
    for block in rest:
        texts = [block["text"]] if "text" in block else block.get("fields", block.get("elements"))
        assert len(texts) <= 10
        for text in texts:
            assert len(text["text"]) <= 3_000
            assert "<!" not in text["text"]
            assert "<http://evil" not in text["text"]
    assert "<!" not in message["text"]


def test_a_forgotten_alert_still_has_a_message() -> None:
    world = World(SHIPPED)
    world.every_second(0, 31, p99(9_000.0))
    (incident,) = world.state.incidents.values()
    incident = msgspec.structs.replace(incident, resolved_at_us=T0_US + 90_000_000)
    message = incident_message(SHIPPED[0], incident, None, [], PAGE)
    assert "RESOLVED" in message["text"]


@pytest.mark.parametrize(
    ("us", "text"),
    [(400_000, "0 s"), (59_000_000, "59 s"), (60_000_000, "1 min"), (95_000_000, "1 min 35 s"),
     (3_600_000_000, "1 h"), (7_500_000_000, "2 h 5 min")],
)  # fmt: skip
def test_lengths_of_time(us: int, text: str) -> None:
    assert seconds(us) == text


@pytest.mark.parametrize(
    ("value", "signal", "text"),
    [(None, "x", "no data"), (950.0, "p99_latency_ms", "950 ms"),
     (8_213.0, "p99_latency_ms", "8.21 s"),
     (0.875, "kv_cache_usage", "87.5 %"), (1_234.5, "spend_today_usd", "$1,234.50")],
)  # fmt: skip
def test_numbers_have_their_unit(value: float | None, signal: str, text: str) -> None:
    assert number(value, signal) == text
