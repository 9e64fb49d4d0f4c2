from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from collectors.http import BODY_BYTES_MAX, create_app
from collectors.metrics import Metrics
from redline.codec import decode_json
from redline.records import DeployEvent
from redline.testing.publisher import MemoryPublisher
from redline.topics import DEPLOYS

BODY = {"model": "llama", "version": "v2", "action": "weights", "weight": 0.1, "who": "ci"}
BEARER = {"Authorization": "Bearer s3cret"}


def client(
    publisher: MemoryPublisher | None = None,
    token: str = "s3cret",
    not_ready: Callable[[], str] = str,
) -> TestClient:
    registry = Metrics().registry
    return TestClient(create_app(publisher or MemoryPublisher(), registry, token, not_ready))


def test_a_deploy_is_published_with_its_time() -> None:
    publisher = MemoryPublisher()
    answer = client(publisher).post("/deploys", json=BODY, headers=BEARER)
    assert answer.status_code == 202
    (message,) = publisher.of_topic(DEPLOYS.name)
    event = decode_json(message.value, DeployEvent)
    assert (event.model, event.version, event.action, event.weight) == (
        "llama",
        "v2",
        "weights",
        0.1,
    )
    assert event.ts_us == answer.json()["ts_us"] > 1_700_000_000_000_000
    assert message.key == b"llama"


def test_who_knows_when_it_happened_may_say_so() -> None:
    publisher = MemoryPublisher()
    body = {**BODY, "ts_us": 1_764_000_000_000_000, "type": "deploy"}
    assert client(publisher).post("/deploys", json=body, headers=BEARER).status_code == 202
    (message,) = publisher.of_topic(DEPLOYS.name)
    assert decode_json(message.value, DeployEvent).ts_us == 1_764_000_000_000_000


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}]
)
def test_without_the_token_nothing_is_published(headers: dict[str, str]) -> None:
    publisher = MemoryPublisher()
    answer = client(publisher).post("/deploys", json=BODY, headers=headers)
    assert answer.status_code == 401
    assert "Authorization: Bearer" in answer.json()["detail"]
    assert publisher.messages == {}


def test_while_no_token_is_set_every_deploy_is_refused() -> None:
    for headers in ({}, {"Authorization": "Bearer "}, BEARER):
        answer = client(token="").post("/deploys", json=BODY, headers=headers)
        assert answer.status_code == 503
        assert "REDLINE_API_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"action": "explode"}, "action"),
        ({"weight": 2}, "weight"),
        ({"model": ""}, "model"),
        ({"ts_us": -1}, "ts_us"),
        ({"modle": "x"}, "modle"),
    ],
)
def test_a_wrong_body_names_the_field(change: dict[str, object], field: str) -> None:
    answer = client().post("/deploys", json={**BODY, **change}, headers=BEARER)
    assert answer.status_code == 422
    assert field in str(answer.json()["detail"][0]["loc"])


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert client().post("/deploys", content=body, headers=BEARER).status_code == 422


def test_a_body_is_read_up_to_a_limit_and_only_with_the_token() -> None:
    large = b" " * (BODY_BYTES_MAX + 1)
    assert client().post("/deploys", content=large, headers=BEARER).status_code == 413
    assert client().post("/deploys", content=large).status_code == 401


def test_kafka_that_does_not_take_it_is_said() -> None:
    publisher = MemoryPublisher()
    publisher.fail_next = 1
    answer = client(publisher).post("/deploys", json=BODY, headers=BEARER)
    assert answer.status_code == 503
    assert "again" in answer.json()["detail"]


def test_health_says_why_it_is_not_ready() -> None:
    answer = client(not_ready=lambda: "waiting for Kafka").get("/healthz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "waiting for Kafka")
    assert client().get("/healthz").status_code == 200


def test_metrics_are_the_rooms_own() -> None:
    page = client().get("/metrics").text
    assert "redline_collectors_log_lines_total 0.0" in page
    assert "python_gc" not in page
