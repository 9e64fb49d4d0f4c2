"""The demo keeps its promises, also when its stream worker is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import run_state
from tests.integration.conftest import Run, wait_for

pytestmark = pytest.mark.slow


def streams_pid(data_dir: Path) -> int:
    state = run_state.read(data_dir)
    components = state.components if state else []
    return next((c.pid for c in components if c.name == "streams" and c.state == "ready"), 0)


def test_demo_survives_the_death_of_its_stream_worker(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    data_dir = tmp_path / "demo"
    run = start(
        "demo", "--seconds", "75", "--headless", "--json", "--port-base", "0",
        "--data-dir", str(data_dir),
    )  # fmt: skip
    assert run.process.stderr is not None
    for line in run.process.stderr:
        if "tenant umbrella sends" in line:
            break
    first = streams_pid(data_dir)
    assert first, "the stream worker is not up"
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: streams_pid(data_dir) not in {0, first}, 60, "a new stream worker")

    status, out, err = run.end(within_s=240)
    report = json.loads(out)
    assert status == 0, f"{report}\n{err}"
    assert report["requests_sent"] == report["requests_stored"] == report["panes_requests"] > 1000
    assert report["lost"] == report["duplicated"] == report["ledger_imbalance_nusd"] == 0
    assert report["unsettled_windows"] == 0
    assert report["rejected"] == report["malformed_planted"] == 5
    assert report["p99_error"] <= 0.01
    assert report["first_chart_s"] > 0
    assert 0 < report["rss_mb"] < 1536

    rules = {alert["rule"] for alert in report["alerts"]}
    assert rules == {"p99_latency_over_slo", "kv_cache_saturation", "spend_over_baseline"}
    assert all(alert["resolved"] for alert in report["alerts"] if alert["incident"] == "bad_canary")
    rollbacks = [action for action in report["actions"] if action["kind"] == "rollback"]
    assert [action["from"] for action in rollbacks] == ["v2"]
    assert rollbacks[0]["delivered"]
    assert rollbacks[0]["signature_verified"]
    assert rollbacks[0]["traffic_shifted"]


def test_demo_refuses_what_is_not_its_own(start: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    status, _, err = start("demo", "--data-dir", "mine").end(within_s=30)
    assert status == 2
    assert "--data-dir = 'mine': not empty and not made by this command" in err
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_demo_too_short_is_explained(start: Callable[..., Run]) -> None:
    status, _, err = start("demo", "--seconds", "5").end(within_s=30)
    assert status == 2
    assert "--seconds = 5.0: too short for the incidents. Fix: give 60 or more." in err
