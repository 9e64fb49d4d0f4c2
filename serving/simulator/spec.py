"""The fleet's specification: one YAML file, unknown keys refused.

``default_spec`` is the fleet of the demo. This file refuses to open ports or to create files,
except ``write_spec``, which writes the one that it is told to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from redline.errors import ConfigFault
from redline.settings import LOOPBACK, Section
from serving.simulator.engine import EngineProfile
from serving.simulator.requests import Identity
from serving.simulator.workload import LoadProfile, TenantLoad
from serving.sizing import SHAPES, KvCacheDtype, num_gpu_blocks, page_bytes

GIB = 1024**3


class EngineSpec(Section):
    """One simulated vLLM server."""

    instance: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    port: int = Field(ge=0, le=65535)  # 0: a free one
    model: str
    version: str = ""
    region: str = ""
    canary: bool = False
    precision: Literal["fp8", "bf16"] = "fp8"
    gpus: int = Field(1, ge=0, le=16)
    gpu_name: str = "NVIDIA H100 80GB HBM3"
    speed: float = Field(6.0, gt=0)
    architecture: str = "llama-3.1-8b"  # one of serving.sizing.SHAPES
    kv_cache_dtype: KvCacheDtype = "fp8"
    kv_cache_gib: float = Field(1.0, gt=0)  # per GPU, as --kv-cache-memory-bytes
    num_gpu_blocks: int | None = Field(None, ge=2)  # instead of the formula
    block_size: int = Field(16, ge=1)
    max_model_len: int = Field(4096, ge=2)
    max_num_seqs: int = Field(256, ge=1)
    max_num_batched_tokens: int = Field(8192, ge=1)
    queue_requests_max: int = Field(1000, ge=0)

    @property
    def identity(self) -> Identity:
        """The labels of its requests."""
        return Identity(
            instance=self.instance,
            model=self.model,
            version=self.version,
            region=self.region,
            precision=self.precision,
            canary=self.canary,
        )

    def profile(self) -> EngineProfile:
        """Its size and speed.

        Raises:
            ConfigFault: unknown architecture, or a cache too small for one request.
        """
        blocks = self.num_gpu_blocks or self._blocks()
        if (blocks - 1) * self.block_size < self.max_model_len:
            raise ConfigFault(
                f"engines.{self.instance}.kv_cache_gib",
                self.kv_cache_gib,
                f"{blocks} blocks do not hold one request of {self.max_model_len} tokens",
                "raise kv_cache_gib or lower max_model_len",
            )
        return EngineProfile(
            num_gpu_blocks=blocks,
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            queue_requests_max=self.queue_requests_max,
            speed=self.speed,
        )

    def _blocks(self) -> int:
        shape = SHAPES.get(self.architecture)
        if shape is None:
            raise ConfigFault(
                f"engines.{self.instance}.architecture",
                self.architecture,
                "unknown",
                f"use one of: {', '.join(sorted(SHAPES))}",
            )
        page = page_bytes(shape, self.kv_cache_dtype, self.block_size, max(1, self.gpus))
        return num_gpu_blocks(int(self.kv_cache_gib * GIB), page, shape.layers)


class TenantSpec(Section):
    """One tenant of the load."""

    name: str
    share: float = Field(ge=0)
    prompt_median_tokens: float = Field(400.0, gt=0)
    prompt_sigma: float = Field(0.6, ge=0)
    output_median_tokens: float = Field(64.0, gt=0)
    output_sigma: float = Field(0.6, ge=0)
    prefix_tokens: int = Field(0, ge=0)


class WorkloadSpec(Section):
    """The load, and where it is sent."""

    targets: list[str] = Field(min_length=1)  # base URLs: the router, or engines in turn
    model: str
    rate_rps: float = Field(40.0, ge=0)
    seed: int = 1
    start: bool = True  # False: wait for POST /load
    speed: float = Field(1.0, gt=0)  # of the trace's or the day's time
    trace: Path | None = None  # instead of the seeded load
    tenants: list[TenantSpec] = Field(default_factory=lambda: [TenantSpec(name="acme", share=1.0)])
    regions: dict[str, float] = Field(default_factory=dict)
    diurnal_amplitude: float = Field(0.0, ge=0, lt=1)
    stream_share: float = Field(0.5, ge=0, le=1)
    abort_share: float = Field(0.01, ge=0, le=1)
    prompt_tokens_max: int = Field(3000, ge=1)
    output_tokens_max: int = Field(400, ge=1)
    concurrency_max: int = Field(2000, ge=1)
    timeout_s: float = Field(120.0, gt=0)
    sent_file: Path | None = None  # NDJSON, one line per request sent

    def profile(self) -> LoadProfile:
        """The load as the pure generator knows it."""
        return LoadProfile(
            tenants=tuple(TenantLoad(**tenant.model_dump()) for tenant in self.tenants),
            rate_rps=self.rate_rps,
            regions=self.regions,
            diurnal_amplitude=self.diurnal_amplitude,
            stream_share=self.stream_share,
            abort_share=self.abort_share,
            prompt_tokens_max=self.prompt_tokens_max,
            output_tokens_max=self.output_tokens_max,
        )


class SimulatorSpec(Section):
    """The whole fleet."""

    host: str = LOOPBACK
    control_port: int = Field(7610, ge=0, le=65535)
    engines: list[EngineSpec] = Field(min_length=1)
    log_dir: Path
    log_rotate_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    log_files_kept: int = Field(16, ge=1)
    nvml_state: Path | None = None
    stream_interval_tokens: int = Field(32, ge=1)
    workload: WorkloadSpec | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "json"

    @model_validator(mode="after")
    def _distinct(self) -> SimulatorSpec:
        names = [engine.instance for engine in self.engines]
        ports = [engine.port for engine in self.engines if engine.port] + [self.control_port]
        if len(set(names)) != len(names):
            raise ValueError("two engines have the same instance name")
        if len(set(ports)) != len(ports):
            raise ValueError("two engines, or an engine and control_port, have the same port")
        return self


def load_spec(path: Path) -> SimulatorSpec:
    """Read a specification.

    Raises:
        ConfigFault: names the field, the value and the fix.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFault("--spec", str(path), str(error), "name a file that exists") from error
    except yaml.YAMLError as error:
        raise ConfigFault("--spec", str(path), f"not YAML: {error}", "correct the file") from error
    try:
        return SimulatorSpec.model_validate(content)
    except ValidationError as error:
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"]) or "--spec"
        fix = "give a value of the kind that it names"
        if first["type"] == "extra_forbidden":
            fix = "remove the key, or correct its spelling"
        raise ConfigFault(where, first.get("input"), first["msg"], fix) from error


def write_spec(spec: SimulatorSpec, path: Path) -> None:
    """Write a specification as the file that ``--spec`` reads."""
    content: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def default_tenants() -> list[TenantSpec]:
    """Four tenants as unlike as real ones: chat, retrieval, code and nightly summaries."""
    return [
        TenantSpec(name="acme", share=0.45, prompt_median_tokens=250, prefix_tokens=128),
        TenantSpec(name="globex", share=0.3, prompt_median_tokens=500, prefix_tokens=256),
        TenantSpec(name="initech", share=0.2, prompt_median_tokens=350, output_median_tokens=80),
        TenantSpec(name="umbrella", share=0.05, prompt_median_tokens=300, prefix_tokens=64),
    ]


def default_spec(
    directory: Path,
    *,
    control_port: int = 7610,
    engine_ports: Sequence[int] = (7611, 7612, 7613),
    targets: Sequence[str] = (),
    rate_rps: float = 40.0,
    seed: int = 1,
    start: bool = False,
    speed: float = 6.0,
    model: str = "llama-3.1-8b-fp8",
) -> SimulatorSpec:
    """The demo's fleet: two engines of the stable version, one canary, in two regions.

    Logs go to ``directory/logs``, the GPUs' state to ``directory/nvml.json``, what was sent to
    ``directory/sent.ndjson``. Without ``targets`` the load goes to the engines in turn.
    """
    rows = (
        ("vllm-0", "v1", "us-east", False),
        ("vllm-1", "v1", "eu-west", False),
        ("vllm-2", "v2", "us-east", True),
    )
    engines = [
        EngineSpec(
            instance=instance,
            port=port,
            model=model,
            version=version,
            region=region,
            canary=canary,
            speed=speed,
            # A slow canary holds its requests longer: it shall show as slow, not as out of blocks.
            kv_cache_gib=3.0 if canary else 1.0,
        )
        for (instance, version, region, canary), port in zip(rows, engine_ports, strict=True)
    ]
    urls = list(targets) or [f"http://{LOOPBACK}:{port}" for port in engine_ports]
    return SimulatorSpec(
        control_port=control_port,
        engines=engines,
        log_dir=directory / "logs",
        nvml_state=directory / "nvml.json",
        workload=WorkloadSpec(
            targets=urls,
            model=model,
            rate_rps=rate_rps,
            seed=seed,
            start=start,
            tenants=default_tenants(),
            regions={"us-east": 0.6, "eu-west": 0.4},
            sent_file=directory / "sent.ndjson",
        ),
    )
