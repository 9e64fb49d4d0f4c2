"""Bad configuration names the field, the value and the fix; secrets never sit in the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import ConfigFault
from redline.settings import Secrets, Settings, load_settings


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "redline.yaml"
    path.write_text(text)
    return load_settings(path)


def test_no_file_gives_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "kafka: {bootstrap_server: x}",
            "kafka.bootstrap_server = 'x': unknown key. Fix: write 'bootstrap_servers'.",
        ),
        ("dashboard: {}", "dashboard = {}: unknown key. Fix: write 'dashboards'."),
        (
            "alerting: {rules: [{name: a, signal: b, abov: 3}]}",
            "alerting.rules.0.abov = 3: unknown key. Fix: write 'above'.",
        ),
        (
            "collectors: {gpu: {zzz: 1}}",
            "collectors.gpu.zzz = 1: unknown key. Fix: use one of: enabled, fast_s, host,",
        ),
        ("kafka: {partitions: 0}", "kafka.partitions = 0: Input should be greater than"),
        ("- a", "not a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", sorted(Secrets.model_fields))
def test_secrets_in_the_file_are_refused_without_being_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(tmp_path, f"{name}: hunter2")
    assert "hunter2" not in str(caught.value)
    assert f"REDLINE_{name.upper()}" in str(caught.value)


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDLINE_KAFKA__BOOTSTRAP_SERVERS", "kafka-1:9092")
    settings = load(tmp_path, "kafka: {bootstrap_servers: other, partitions: 8}")
    assert (settings.kafka.bootstrap_servers, settings.kafka.partitions) == ("kafka-1:9092", 8)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"absent\.yaml.*Fix: name a file that exists"):
        load_settings(tmp_path / "absent.yaml")


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_SLACK_BOT_TOKEN", "xoxb-1")
    assert "xoxb" not in repr(Secrets())
    assert Secrets().slack_bot_token.get_secret_value() == "xoxb-1"


def test_price_times_are_utc(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "prices: [{sku: H100, price: '2.10', valid_from: 2026-01-01T02:00:00+02:00}]"
    )
    assert settings.prices[0].valid_from.isoformat() == "2026-01-01T00:00:00+00:00"
