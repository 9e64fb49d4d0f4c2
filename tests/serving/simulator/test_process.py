from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from serving.simulator.spec import SimulatorSpec, default_spec, write_spec

ROOT = Path(__file__).resolve().parents[3]


def start(spec_file: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if "REDLINE" not in key}
    return subprocess.Popen(
        [sys.executable, "-m", "serving.simulator", "--spec", str(spec_file)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def anywhere(directory: Path) -> SimulatorSpec:
    """The default fleet on free ports, without a load."""
    spec = default_spec(directory, control_port=0, engine_ports=(0, 0, 0))
    return spec.model_copy(update={"workload": None})


def test_the_process_says_once_that_it_listens_and_stops_on_sigterm(tmp_path: Path) -> None:
    write_spec(anywhere(tmp_path), tmp_path / "fleet.yaml")
    process = start(tmp_path / "fleet.yaml")
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["host"]) == ("listening", "127.0.0.1")
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['port']}/healthz") as response:
            assert response.status == 200
        engine = f"http://127.0.0.1:{ready['engines']['vllm-2']}/v1/models"
        with urllib.request.urlopen(engine) as response:
            assert json.load(response)["data"][0]["id"] == "llama-3.1-8b-fp8"
        process.send_signal(signal.SIGTERM)
        rest, logs = process.communicate(timeout=5)
    finally:
        process.kill()
    assert process.returncode == 0
    assert rest == ""
    assert "simulator_stopped" in logs


def test_a_taken_port_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = anywhere(tmp_path).model_copy(update={"control_port": port})
        write_spec(spec, tmp_path / "fleet.yaml")
        out, logs = start(tmp_path / "fleet.yaml").communicate(timeout=30)
    assert out == ""
    assert logs.count("\n") == 1
    assert str(port) in logs
    assert "control_port" in logs


def test_a_wrong_specification_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("engine: []\n", encoding="utf-8")
    process = start(tmp_path / "fleet.yaml")
    out, logs = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert "Fix:" in logs
