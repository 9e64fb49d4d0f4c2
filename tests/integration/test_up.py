"""``redline up``, ``status`` and ``down``, from other terminals, over restarts and kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cli.demo.layout import choose_ports
from redline.clickhouse import connect
from redline.codec import encode_json
from redline.records import RequestRecord
from redline.settings import Secrets, load_settings
from tests.integration.conftest import Run, wait_for


def configure(tmp_path: Path, **changes: Any) -> Path:
    ports = choose_ports(0)
    content: dict[str, Any] = {
        "data_dir": str(tmp_path / "data"),
        "kafka": {"bootstrap_servers": f"127.0.0.1:{ports.broker}"},
        "clickhouse": {"port": ports.store},
        "collectors": {"port": ports.collectors, "gpu": {"enabled": False}},
        "streams": {"port": ports.streams, "session_timeout_s": 6},
        "alerting": {"port": ports.alerting},
        "dashboards": {"port": ports.page},
    }
    path = tmp_path / "redline.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def write_log(tmp_path: Path, numbers: range) -> None:
    folder = tmp_path / "data" / "logs" / "vllm-0"
    folder.mkdir(parents=True, exist_ok=True)
    now_us = time.time_ns() // 1000
    with (folder / "requests.ndjson").open("ab") as log:
        for number in numbers:
            record = RequestRecord(
                request_id=f"r-{number}", seq=number, ts_arrival_us=now_us - 500_000,
                ts_end_us=now_us, e2e_us=500_000, queue_us=0, instance="vllm-0", model="m",
            )  # fmt: skip
            log.write(encode_json(record) + b"\n")


def stored(config: Path) -> int:
    with connect(load_settings(config).clickhouse, Secrets()) as client:
        return int(client.command("SELECT uniqExact(request_id) FROM requests"))  # type: ignore[arg-type]


def spend_note(page: str) -> str:
    with urllib.request.urlopen(page, timeout=10) as response:
        content: dict[str, Any] = json.load(response)
    return str((content["tiles"] or {}).get("spend_today_nusd", {}).get("note"))


def status(start: Callable[..., Run]) -> dict[str, Any]:
    _, out, _ = start("status", "--json").end(within_s=30)
    content: dict[str, Any] = json.loads(out)
    return content


def ready(start: Callable[..., Run]) -> bool:
    return bool(status(start)["healthy"])


@pytest.mark.slow
def test_up_status_down_and_the_state_survives(start: Callable[..., Run], tmp_path: Path) -> None:
    config = configure(tmp_path)
    first = start("up")
    wait_for(lambda: ready(start), 90, "all components ready")
    components = {item["name"]: item for item in status(start)["components"]}
    assert set(components) == {
        "broker", "store", "topics", "migrations", "collectors", "streams", "alerting",
        "dashboards",
    }  # fmt: skip
    write_log(tmp_path, range(1, 101))
    wait_for(lambda: stored(config) == 100, 60, "100 requests in the store")
    page = f"http://127.0.0.1:{load_settings(config).dashboards.port}/api/overview"
    fix = "no price for vllm-0: add gpu_groups and prices to redline.yaml"
    wait_for(lambda: spend_note(page) == fix, 60, "the missing price on the page")

    again = start("up").end(within_s=30)
    assert again[0] == 2
    assert "Redline already runs on" in again[2]

    os.kill(components["collectors"]["pid"], signal.SIGKILL)
    write_log(tmp_path, range(101, 151))
    wait_for(lambda: stored(config) == 150, 60, "150 requests after the collectors were killed")

    pids = [item["pid"] for item in status(start)["components"] if item["pid"]]
    code, out, _ = start("down").end(within_s=20)
    assert (code, out.strip()) == (0, "Stopped.")
    assert first.end(within_s=5)[0] == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not list((tmp_path / "data").rglob("*.tmp"))

    second = start("up")
    wait_for(lambda: ready(start), 90, "all components ready again")
    assert stored(config) == 150
    write_log(tmp_path, range(151, 201))
    wait_for(lambda: stored(config) == 200, 60, "200 requests after the restart")
    second.process.send_signal(signal.SIGINT)
    assert second.end(within_s=12)[0] == 0


def test_nothing_runs(start: Callable[..., Run], tmp_path: Path) -> None:
    configure(tmp_path)
    code, out, _ = start("status").end(within_s=30)
    assert code == 1
    assert "Start it with `redline up`" in out
    assert start("down").end(within_s=30)[0] == 0


def test_a_taken_port_is_a_clear_error(start: Callable[..., Run], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        configure(tmp_path, dashboards={"port": port})
        code, _, err = start("up").end(within_s=30)
    assert code == 2
    assert f"dashboards: 127.0.0.1:{port} is already in use." in err
    assert "set dashboards.port to a free port" in err


def test_a_wrong_key_is_a_clear_error(start: Callable[..., Run], tmp_path: Path) -> None:
    configure(tmp_path, alertin={})
    code, _, err = start("up").end(within_s=30)
    assert code == 2
    assert "alertin = {}: unknown key. Fix: write 'alerting'." in err


@pytest.mark.slow
def test_a_missing_log_directory_is_a_clear_error(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    config = configure(tmp_path)
    content = yaml.safe_load(config.read_text())
    content["collectors"]["log_directories"] = [str(tmp_path / "absent")]
    config.write_text(yaml.safe_dump(content))
    code, _, err = start("up").end(within_s=90)
    assert code == 2
    assert "collectors.log_directories" in err
    assert "absent" in err
    assert subprocess.run(["pgrep", "-f", str(config)], capture_output=True, check=False).returncode
