"""An order: signed, in time, once; and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from redline.errors import ConfigFault
from redline.webhooks import headers
from serving.router.hooks import Orders
from serving.router.report import Cause, changes
from serving.router.weights import Answer, Weights

KEY = b"k" * 32
NOW_US = 1_800_000_000_000_000
BEFORE = {"v1": 0.9, "v2": 0.1}


class Desk:
    """A router's orders without its HTTP."""

    def __init__(self, folder: Path, configured: Mapping[str, float] = BEFORE) -> None:
        self.path = folder / "router" / "weights.json"
        self.reports: list[tuple[Cause, dict[str, float], dict[str, float]]] = []
        self.weights = Weights(self.path, configured)
        self.orders = Orders(self.weights, "m", "v1", [KEY], self._report)

    def _report(
        self, cause: Cause, before: Mapping[str, float], after: Mapping[str, float], why: str
    ) -> None:
        self.reports.append((cause, dict(before), dict(after)))

    def give(
        self, order_id: str = "act_1", key: bytes = KEY, age_s: int = 0, **changed: Any
    ) -> Answer:
        body = order(order_id, **changed)
        signed = headers(key, order_id, NOW_US // 1_000_000 - age_s, body)
        return self.orders.receive(signed, body, NOW_US)


def order(order_id: str, **changed: Any) -> bytes:
    data = {
        "action_id": order_id,
        "incident_id": "inc_1",
        "kind": "rollback",
        "target": "m",
        "from": "v2",
        "to": "",
        "mode": "auto",
        "expires_at": "2027-01-15T08:05:00Z",
    }
    event = {"specversion": "1.0", "id": order_id, "source": "s", "type": "t"}
    return json.dumps({**event, "data": {**data, **changed}}).encode()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_rollback_is_applied_kept_and_reported(desk: Desk, tmp_path: Path) -> None:
    answer = desk.give()
    assert answer.status == 200
    assert answer.body == {
        "applied": True,
        "signature_verified": True,
        "weights": {"v1": 1.0, "v2": 0.0},
    }
    assert desk.reports == [("rollback", BEFORE, {"v1": 1.0, "v2": 0.0})]
    assert Desk(tmp_path).weights.split.weights == {"v1": 1.0, "v2": 0.0}


def test_the_same_order_gets_the_same_answer_even_after_a_restart(
    desk: Desk, tmp_path: Path
) -> None:
    first = desk.give()
    assert desk.give() == first
    reborn = Desk(tmp_path)
    assert reborn.give() == first
    assert reborn.reports == []
    assert reborn.give("act_2").status == 409


def test_a_forged_order_changes_nothing(desk: Desk) -> None:
    answer = desk.give(key=b"x" * 32)
    assert answer.status == 401
    assert answer.body["signature_verified"] is False
    assert desk.weights.split.weights == BEFORE
    assert not desk.path.exists()


def test_a_replayed_old_order_is_refused(desk: Desk) -> None:
    assert desk.give(age_s=301).status == 401


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"expires_at": "2027-01-15T08:00:00Z"}, 410),
        ({"expires_at": "2027-01-15T08:05:00"}, 400),
        ({"expires_at": "soon"}, 400),
        ({"kind": "scale"}, 422),
        ({"target": "other"}, 409),
        ({"from": "v1"}, 409),
        ({"from": "v9"}, 409),
        ({"from": 7}, 400),
    ],
)
def test_an_order_that_does_not_hold(desk: Desk, changed: dict[str, Any], status: int) -> None:
    answer = desk.give(**changed)
    assert answer.status == status
    assert answer.body["applied"] is False
    assert answer.body["signature_verified"] is True
    assert desk.weights.split.weights == BEFORE
    assert desk.reports == []


def test_a_rehearsal_says_what_it_would_do_and_does_not(desk: Desk) -> None:
    answer = desk.give(mode="dry_run")
    assert answer.body["weights"] == {"v1": 1.0, "v2": 0.0}
    assert answer.body["applied"] is False
    assert desk.weights.split.weights == BEFORE
    assert desk.give().body["applied"] is True


def test_a_changed_configuration_wins_over_what_was_kept(desk: Desk, tmp_path: Path) -> None:
    desk.give()
    assert Desk(tmp_path, {"v1": 0.5, "v2": 0.5}).weights.split.weights == {"v1": 0.5, "v2": 0.5}
    assert Desk(tmp_path, {"v1": 0.9, "v3": 0.1}).weights.split.weights == {"v1": 0.9, "v3": 0.1}


def test_answers_are_kept_within_a_limit(desk: Desk) -> None:
    desk.weights.set(BEFORE, {f"old_{n}": Answer(200, {}) for n in range(200)})
    assert len(desk.weights.answers) == 64
    assert "old_199" in desk.weights.answers


@pytest.mark.parametrize("content", [b"", b"{", b'{"configured": 7}'])
def test_a_broken_file_is_said_not_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "router" / "weights.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigFault, match=r"weights\.json"):
        Desk(tmp_path)
    assert path.read_bytes() == content


def test_configured_weights_must_be_a_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"router\.backends"):
        Desk(tmp_path, {"v1": 0.9, "v2": 0.2})


def test_only_who_lost_traffic_is_reported_as_rolled_back() -> None:
    before = {"v1": 0.8, "v2": 0.1, "v3": 0.1}
    events = changes("m", "rollback", before, {"v1": 0.9, "v2": 0.0, "v3": 0.1}, "inc_1", NOW_US)
    assert [(e.version, e.action, e.weight) for e in events] == [
        ("v1", "weights", 0.9),
        ("v2", "rollback", 0.0),
    ]
