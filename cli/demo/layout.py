"""The demo's fleet, settings and ports: everything that is decided before anything starts.

The demo runs the same rooms with the same code as production. Only waiting times are short: its
windows and ``for`` durations are seconds where the shipped rules have minutes. This file refuses
to start anything.
"""

from __future__ import annotations

import base64
import secrets
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cli.components import Component, Stage
from serving.simulator.gpu_state import gpu_uuid
from serving.simulator.spec import SimulatorSpec, default_spec, write_spec

HOST = "127.0.0.1"
STABLE, CANARY = "v1", "v2"
CANARY_WEIGHT = 0.2
USD_PER_GPU_HOUR = "2.10"
SKU = "H100-SXM"
SLO_MS = 5_000


class DemoOptions(NamedTuple):
    """What the command line says."""

    seconds: float | None
    headless: bool
    as_json: bool
    rate_rps: float
    seed: int
    trace: Path | None
    speed: float
    port_base: int
    data_dir: Path


class Ports(NamedTuple):
    """Every port of the demo."""

    page: int
    alerting: int
    router: int
    collectors: int
    streams: int
    store: int
    broker: int
    slack: int
    control: int
    engines: tuple[int, int, int]


def choose_ports(base: int) -> Ports:
    """Ports from ``base`` on; 0 takes free ones."""
    if base:
        numbers = [base + step for step in (0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13)]
        return _ports(numbers)
    sockets = [socket.create_server((HOST, 0)) for _ in range(12)]
    free = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return _ports(free)


def _ports(numbers: list[int]) -> Ports:
    names = Ports._fields[:-1]
    one, two, three = numbers[len(names) :]
    return Ports(**dict(zip(names, numbers, strict=False)), engines=(one, two, three))


def fleet_spec(options: DemoOptions, ports: Ports) -> SimulatorSpec:
    """Two stable engines and a canary in two regions; the load goes through the router."""
    spec = default_spec(
        options.data_dir / "fleet",
        control_port=ports.control,
        engine_ports=ports.engines,
        targets=[f"http://{HOST}:{ports.router}"],
        rate_rps=options.rate_rps,
        seed=options.seed,
    )
    assert spec.workload is not None
    workload = spec.workload.model_copy(update={"trace": options.trace, "speed": options.speed})
    engines = spec.engines
    if options.trace is not None:
        # traces have longer prompts than the seeded load
        size = {"max_model_len": 16384, "kv_cache_gib": 4.0}
        engines = [engine.model_copy(update=size) for engine in engines]
        workload = workload.model_copy(update={"prompt_tokens_max": 16000})
    return spec.model_copy(update={"workload": workload, "engines": engines})


def settings_content(options: DemoOptions, ports: Ports, spec: SimulatorSpec) -> dict[str, Any]:
    """The demo's ``redline.yaml``."""
    model = spec.engines[0].model
    urls = {engine.instance: f"http://{HOST}:{engine.port}" for engine in spec.engines}
    return {
        "data_dir": str(options.data_dir),
        "kafka": {"bootstrap_servers": f"{HOST}:{ports.broker}"},
        "clickhouse": {"port": ports.store},
        "gpu_groups": [{"name": "h100", "sku": SKU, "instances": ["vllm-*"]}],
        "prices": [{"sku": SKU, "price": USD_PER_GPU_HOUR, "valid_from": "2020-01-01"}],
        "collectors": {
            "port": ports.collectors,
            "log_directories": [str(spec.log_dir)],
            "engines": [
                {
                    "instance": engine.instance,
                    "url": urls[engine.instance],
                    "model": engine.model,
                    "version": engine.version,
                    "region": engine.region,
                }
                for engine in spec.engines
            ],
            "gpu": {
                "nvml_module": "redline.testing.nvml",
                "host": "demo",
                "instances": {
                    gpu_uuid(engine.instance, index): engine.instance
                    for engine in spec.engines
                    for index in range(engine.gpus)
                },
            },
            "batch_age_ms": 250,
        },
        "streams": {
            "port": ports.streams,
            "flush_ms": 500,
            "lateness_s": 15,
            "signal_window_s": 20,
            "spend_rate_window_s": 30,
            "billing_utc_offset_hours": _noon_offset_hours(datetime.now(UTC)),
            "session_timeout_s": 6,
        },
        "alerting": {
            "port": ports.alerting,
            "rules": _rules(),
            "slack": {"enabled": True, "base_url": f"http://{HOST}:{ports.slack}/api/"},
            "webhooks": [{"name": "router", "url": f"http://{HOST}:{ports.router}/hooks/redline"}],
            "page_url": f"http://{HOST}:{ports.page}/",
        },
        "dashboards": {"port": ports.page},
        "router": {
            "enabled": True,
            "port": ports.router,
            "model": model,
            "stable": STABLE,
            "collector_url": f"http://{HOST}:{ports.collectors}",
            "backends": [
                {
                    "version": version,
                    "weight": weight,
                    "urls": [urls[e.instance] for e in spec.engines if e.version == version],
                }
                for version, weight in ((STABLE, 1 - CANARY_WEIGHT), (CANARY, CANARY_WEIGHT))
            ],
        },
    }


def _rules() -> list[dict[str, Any]]:
    return [
        {
            "name": "p99_latency_over_slo",
            "signal": "p99_latency_ms",
            "above": SLO_MS,
            "for_s": 3,
            "keep_firing_for_s": 5,
            "min_samples": 20,
            "severity": "page",
            "summary": "p99 latency is over its SLO",
            "action": "rollback",
            "mode": "auto",
        },
        {
            "name": "kv_cache_saturation",
            "signal": "kv_cache_usage",
            "above": 0.85,
            "for_s": 3,
            "keep_firing_for_s": 5,
            "severity": "page",
            "summary": "the KV cache is nearly full",
        },
        {
            "name": "spend_over_baseline",
            "signal": "spend_projected_ratio",
            "above": 1.2,
            "for_s": 3,
            "keep_firing_for_s": 5,
            "severity": "ticket",
            "summary": "today's projected spend is over 120 % of the 7-day baseline",
        },
    ]


def _noon_offset_hours(now: datetime) -> float:
    """Put the demo at noon of its billing day, so that a projection has a half day to go."""
    return 12 - (now.hour + (now.minute // 15) / 4)


def environment(spec: SimulatorSpec) -> dict[str, str]:
    """Fresh secrets for this run, and where the fake GPUs' state is."""
    return {
        "REDLINE_API_TOKEN": secrets.token_urlsafe(24),
        "REDLINE_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "REDLINE_SLACK_BOT_TOKEN": "xoxb-demo",
        "REDLINE_FAKE_NVML_STATE": str(spec.nvml_state),
    }


def write_files(options: DemoOptions, ports: Ports, spec: SimulatorSpec) -> tuple[Path, Path]:
    """Write ``redline.yaml`` and the fleet's specification into the data directory."""
    spec.log_dir.mkdir(parents=True, exist_ok=True)
    config = options.data_dir / "redline.yaml"
    config.write_text(yaml.safe_dump(settings_content(options, ports, spec), sort_keys=False))
    fleet = options.data_dir / "fleet.yaml"
    write_spec(spec, fleet)
    return config, fleet


def extra_components(ports: Ports, fleet: Path) -> Stage:
    """What the demo runs beside the rooms."""
    return (
        Component(
            "slack",
            (sys.executable, "-m", "redline.testing.slack", "--port", str(ports.slack)),
            HOST,
            ports.slack,
            "--port-base",
        ),
        Component(
            "fleet",
            (sys.executable, "-m", "serving.simulator", "--spec", str(fleet)),
            HOST,
            ports.control,
            "--port-base",
        ),
    )
