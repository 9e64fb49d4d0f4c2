"""The production stack is well formed, pinned, health-checked and closed to the outside."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from redline.settings import load_settings

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "docker-compose.yml"
ONE_SHOTS = {"topics", "migrations"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return dict(content["services"])


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        assert tag, name
        assert tag != "latest", name


def test_every_server_has_a_health_check(services: dict[str, Any]) -> None:
    missing = {name for name, service in services.items() if "healthcheck" not in service}
    assert missing == ONE_SHOTS


def test_published_ports_are_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_rooms_wait_for_topics_and_migrations(services: dict[str, Any]) -> None:
    for room in ("collectors", "streams", "alerting", "dashboards"):
        assert set(services[room]["depends_on"]) == ONE_SHOTS


def test_no_secret_has_a_default(services: dict[str, Any]) -> None:
    text = FILE.read_text()
    for name in ("REDLINE_API_TOKEN", "REDLINE_CLICKHOUSE_PASSWORD", "GRAFANA_ADMIN_PASSWORD"):
        assert f"${{{name}:?" in text
        assert f"${{{name}:-" not in text


def test_the_rooms_read_the_mounted_settings() -> None:
    settings = load_settings(ROOT / "deploy/compose/redline.yaml")
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert not settings.embedded.broker
    assert not settings.embedded.store


def test_docker_compose_accepts_the_file() -> None:
    compose = ["docker", "compose"]
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no docker command here")
    if subprocess.run([*compose, "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker has no compose plug-in here")
    environment = str(ROOT / "deploy/compose/example.env")
    result = subprocess.run(
        [*compose, "--env-file", environment, "-f", str(FILE), "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
