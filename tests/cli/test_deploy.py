"""``redline deploy mark`` as CI runs it, against the collectors' real application."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cli.deploy import ACTIONS, WHO_VARIABLES, Mark, body, default_who
from collectors.http import create_app
from redline.codec import decode_json
from redline.errors import ConfigFault
from redline.records import DeployEvent
from redline.serve import bind
from redline.testing.publisher import MemoryPublisher
from redline.topics import DEPLOYS

ROOT = Path(__file__).parents[2]


class Collectors:
    def __init__(self) -> None:
        self.publisher = MemoryPublisher()
        app = create_app(self.publisher, CollectorRegistry(), "t0ken", lambda: "")
        self._listener = bind("test", "127.0.0.1", 0, "")
        self.port = self._listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    @property
    def events(self) -> list[DeployEvent]:
        found = self.publisher.of_topic(DEPLOYS.name)
        return [decode_json(message.value, DeployEvent) for message in found]

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture
def collectors() -> Iterator[Collectors]:
    running = Collectors()
    yield running
    running.close()


def mark(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if name not in WHO_VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "deploy", "mark", *arguments],
        cwd=ROOT,
        env={**bare, "REDLINE_API_TOKEN": "t0ken", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


BASE = ("--model", "llama", "--version", "v2")


def test_an_event_reaches_the_topic_with_who_from_ci(collectors: Collectors) -> None:
    url = f"http://127.0.0.1:{collectors.port}"
    done = mark(
        *BASE, "--region", "eu", "--weight", "0.05", "--url", url, "--json", GITHUB_ACTOR="ada"
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["accepted"] is True
    (event,) = collectors.events
    assert (event.model, event.version, event.action) == ("llama", "v2", "deploy")
    assert (event.region, event.weight, event.who) == ("eu", 0.05, "ada")


def test_each_fault_has_its_exit_code_and_says_what_to_do(
    collectors: Collectors, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{collectors.port}"
    wrong = mark(*BASE, "--url", url, REDLINE_API_TOKEN="wr0ng")
    unset = mark(*BASE, "--url", url, REDLINE_API_TOKEN="")
    action = mark(*BASE, "--url", url, "--action", "explode")
    weight = mark(*BASE, "--url", url, "--weight", "5")
    elsewhere = mark(*BASE, "--url", url + "/nowhere")
    gone = mark(*BASE, "--url", "http://127.0.0.1:1")
    assert [run.returncode for run in (wrong, unset, action, weight, elsewhere, gone)] == [
        2, 2, 2, 2, 2, 1,
    ]  # fmt: skip
    assert "REDLINE_API_TOKEN" in wrong.stderr
    assert "REDLINE_API_TOKEN" in unset.stderr
    assert "rollback" in action.stderr
    assert "0.05" in weight.stderr
    assert "--url" in elsewhere.stderr
    assert "127.0.0.1:1/deploys" in gone.stderr
    assert all("wr0ng" not in run.stderr + run.stdout for run in (wrong, gone))
    assert collectors.events == []


def test_kafka_away_is_exit_1(collectors: Collectors) -> None:
    collectors.publisher.fail_next = 1
    done = mark(*BASE, "--url", f"http://127.0.0.1:{collectors.port}", "--json")
    assert done.returncode == 1
    assert "send it again" in json.loads(done.stdout)["reason"]


@given(
    st.sampled_from(ACTIONS),
    st.none() | st.floats(0, 1),
    st.text(min_size=1, max_size=20).filter(str.strip),
)
def test_what_is_sent_is_what_was_said(action: str, weight: float | None, model: str) -> None:
    made = decode_json(body(Mark(model, "v", action, "r", weight, "w", "d"), 7), DeployEvent)
    assert (made.model, made.action, made.weight, made.ts_us) == (model, action, weight, 7)


@given(st.floats().filter(lambda weight: not 0 <= weight <= 1))
def test_a_weight_that_is_no_share_is_refused(weight: float) -> None:
    with pytest.raises(ConfigFault, match="--weight"):
        body(Mark("m", "v", "deploy", weight=weight), 0)


@given(st.dictionaries(st.sampled_from(WHO_VARIABLES), st.text(max_size=5)))
def test_the_first_variable_that_says_something_counts(environment: dict[str, str]) -> None:
    said = [environment[name] for name in WHO_VARIABLES if environment.get(name)]
    assert default_who(environment) == (said[0] if said else "")
