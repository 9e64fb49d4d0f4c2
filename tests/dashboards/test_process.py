"""``python -m dashboards`` as it is started: ready line, stream, store gone and back, stop."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dashboards.conftest import Store
from tests.dashboards.store import ROOT, new_database, running, running_store


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_config(directory: Path, store_port: int, database: str = "seeded") -> Path:
    path = directory / "redline.yaml"
    path.write_text(
        f"clickhouse: {{port: {store_port}, database: {database}}}\n"
        f"dashboards: {{port: {free_port()}, refresh_s: 0.5}}\n"
    )
    return path


def events(response: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    """(name, id, data) of a stream."""
    found: dict[str, str] = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            found[name] = value
        elif "data" in found:
            yield found["event"], found["id"], json.loads(found["data"])
            found = {}


def wait_for(url: str, status: int, within_s: float = 15) -> httpx.Response:
    deadline = time.monotonic() + within_s
    while True:
        answer = httpx.get(url)
        if answer.status_code == status:
            return answer
        assert time.monotonic() < deadline, f"{url} still answers {answer.status_code}"
        time.sleep(0.1)


def test_one_stream_carries_every_event_and_ends_at_sigterm(store: Store, tmp_path: Path) -> None:
    config = write_config(tmp_path, store.port)
    log = tmp_path / "page.log"
    with running("dashboards", ["--config", str(config)], log) as (process, port):
        url = f"http://127.0.0.1:{port}"
        with httpx.stream("GET", f"{url}/events", timeout=20) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert "content-encoding" not in response.headers
            seen: dict[str, Any] = {}
            ids: list[int] = []
            stream = events(response)  # held: a dropped generator would close the connection
            for name, number, data in stream:
                seen[name] = data
                ids.append(int(number))
                if {"tiles", "series", "marks", "status"} <= set(seen) and len(ids) > 8:
                    break
            assert ids == sorted(set(ids))
            assert set(seen["tiles"]) == {"tiles", "tenants", "engines"}
            assert len(seen["series"]["t"]) == 9
            assert {"t", "p99_latency_ms"} <= set(seen["series"]["spark"])
            assert "redline_dashboards_clients 1.0" in httpx.get(f"{url}/metrics").text
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert time.monotonic() - began < 5
    assert "Traceback" not in log.read_text()


def test_it_stays_up_while_the_store_is_gone_and_finds_it_again(tmp_path: Path) -> None:
    with running_store(tmp_path / "s") as store_port:
        new_database(store_port, "seeded").close()
        config = write_config(tmp_path, store_port)
        log = tmp_path / "page.log"
        page = running("dashboards", ["--config", str(config)], log)
        _, port = page.__enter__()
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/healthz", 200)
    try:
        gone = wait_for(f"{url}/healthz", 503)
        assert "does not answer" in gone.json()["reason"]
        assert httpx.get(f"{url}/").status_code == 200
        assert httpx.get(f"{url}/api/overview").json()["status"]["store"] == "away"
        with running_store(tmp_path / "s", store_port):
            wait_for(f"{url}/healthz", 200)
            status = httpx.get(f"{url}/api/overview").json()["status"]
            assert status["store"] == "ok"
    finally:
        page.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("dashboards: {port: %d}", "dashboards.port"),
        ("dashboards: {prot: 1}", "write 'port'"),
        ("dashboards: {host: 203.0.113.9}", "203.0.113.9"),
    ],
)
def test_wrong_settings_end_it_with_one_line(tmp_path: Path, content: str, said: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = content % taken.getsockname()[1] if "%d" in content else content
        (tmp_path / "redline.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "dashboards", "--config", str(tmp_path / "redline.yaml")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert said in line
