"""One ``redline.yaml``, one model of it. Unknown keys are refused; secrets are not in it.

Order of precedence: environment (``REDLINE_KAFKA__BOOTSTRAP_SERVERS``), the file, the defaults.
Secrets come from the environment only (``Secrets``). Each room receives its own section.
This file refuses to open sockets or to create directories.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from redline.errors import ConfigFault

LOOPBACK = "127.0.0.1"
EngineKind = Literal["vllm", "sglang", "tensorrt_llm", "triton"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """Where Kafka is. The embedded broker, Apache Kafka, Redpanda or MSK: the same keys."""

    bootstrap_servers: str = f"{LOOPBACK}:7606"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str = ""
    partitions: int = Field(4, ge=1, le=256)
    replication_factor: int = Field(1, ge=1, le=5)


class ClickHouseSettings(Section):
    """Where ClickHouse's HTTP interface is."""

    host: str = LOOPBACK
    port: int = 7605
    database: str = "redline"
    username: str = "default"
    secure: bool = False


class EmbeddedSettings(Section):
    """Which servers ``redline up`` starts itself."""

    broker: bool = True
    store: bool = True


class GpuGroup(Section):
    """GPUs that are rented at one price and drive one or more engine instances."""

    name: str
    sku: str
    gpus_per_instance: int = Field(1, ge=1)
    instances: list[str] = ["*"]  # shell patterns of instance names
    provider: str = ""
    region: str = ""


class Price(Section):
    """One effective-dated row of the price book, half-open in UTC."""

    sku: str
    price: Decimal = Field(ge=0)
    unit: Literal["gpu_hour", "gb_egress"] = "gpu_hour"
    currency: Literal["USD"] = "USD"
    provider: str = ""
    region: str = ""
    commitment: str = "on_demand"
    valid_from: datetime
    valid_to: datetime | None = None

    @field_validator("valid_from", "valid_to")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class EngineTarget(Section):
    """One engine to scrape: a server's base URL and what runs on it."""

    instance: str
    url: str
    model: str
    version: str = ""
    region: str = ""
    engine: EngineKind | None = None  # None: what its metrics page shows


class ProbeSettings(Section):
    """One probe of one target: an engine, or what stands in front of a region's engines."""

    target: str = Field(min_length=1)  # the name under which results are stored
    kind: Literal["health", "first_token", "keep_warm"]
    url: str
    model: str
    instance: str = ""  # the engine behind the url, where there is one: its counter proves tokens
    region: str = ""
    engine: EngineKind | None = None
    interval_s: float = Field(30.0, gt=0)
    failure_threshold: int = Field(3, ge=1, le=10)
    success_threshold: int = Field(3, ge=1, le=10)
    timeout_s: float = Field(6.0, gt=0)
    first_token_s_max: float = Field(2.0, gt=0)  # first_token: slower is a failure, and cold
    cold_after_s: float = Field(300.0, gt=0)  # first_token: idle for longer is cold
    keep_warm_after_s: float = Field(120.0, gt=0)  # keep_warm: idle for longer gets a request
    warm_replicas_min: int = Field(1, ge=1)  # keep_warm: per model and region
    dns_ttl_s: float = Field(60.0, ge=0)  # health: for the failover time that is shown


class GpuSettings(Section):
    """Polling of NVML. ``nvml_module`` is what answers as pynvml does."""

    enabled: bool = True
    nvml_module: str = "pynvml"
    host: str = ""  # empty: this machine's name
    fast_s: float = Field(1.0, gt=0)
    slow_s: float = Field(30.0, gt=0)
    instances: dict[str, str] = {}  # GPU UUID → the engine instance that it serves


class LogSource(Section):
    """JSON access logs of something in front of the engines. What is set here wins over a line."""

    directory: Path
    mapping: str  # litellm, nginx, envoy, or the path of a mapping file
    pattern: str = "*.log*"
    instance: str = ""
    model: str = ""
    version: str = ""
    region: str = ""
    tenant: str = ""
    precision: Literal["fp8", "bf16", "fp16", "int8", "int4", "unknown"] = "unknown"


class OtlpSettings(Section):
    """The OTLP/HTTP receiver of vLLM's spans. Beyond loopback it wants the API token."""

    enabled: bool = False
    host: str = LOOPBACK
    port: int = 4318
    body_bytes_max: int = Field(16 * 1024 * 1024, ge=1_024)
    spool_bytes_max: int = Field(256 * 1024 * 1024, ge=1_024)  # spans that Kafka did not take yet


class CollectorSettings(Section):
    """What is collected on this machine."""

    host: str = LOOPBACK
    port: int = 7603  # /healthz, /metrics, POST /deploys
    log_directories: list[Path] = []  # rotated NDJSON request logs; <data_dir>/logs if empty
    log_pattern: str = "*.ndjson*"
    log_sources: list[LogSource] = []
    otlp: OtlpSettings = OtlpSettings()
    engines: list[EngineTarget] = []
    engine_poll_s: float = Field(1.0, gt=0)
    gpu: GpuSettings = GpuSettings()
    probes: list[ProbeSettings] = []  # each is a request with a cost; none by default
    batch_records_max: int = Field(1_000, ge=1, le=2_000)
    batch_age_ms: int = Field(500, ge=1)
    # Log files are the spool while Kafka is away; this bounds deleted ones that are kept open, and
    # as much again the samples on disk.
    spool_bytes_max: int = Field(256 * 1024 * 1024, ge=0)


class StreamSettings(Section):
    """The stream processors."""

    port: int = 7604  # Faust's web server and /metrics, loopback only
    flush_ms: int = Field(500, ge=50)
    signal_window_s: int = Field(60, ge=10)  # of p99, error ratio and the like; a multiple of 10
    lateness_s: int = Field(60, ge=0)  # a window settles this long after its end, in event time
    series_max: int = Field(10_000, ge=1)
    spend_rate_window_s: int = Field(900, ge=10)
    spend_floor_usd_per_day: float = Field(1.0, ge=0)
    billing_utc_offset_hours: float = Field(0.0, ge=-14, le=14)
    session_timeout_s: float = Field(10.0, ge=6)


class Rule(Section):
    """One alert rule over a signal."""

    name: str
    signal: str
    above: float
    inclusive: bool = False  # breaches at ``above`` itself too
    clear_below: float | None = None  # None: resolves below ``above``
    for_s: float = Field(0.0, ge=0)
    keep_firing_for_s: float = Field(20.0, ge=0)
    min_samples: int = Field(1, ge=0)
    labels: dict[str, str] = {}  # the signal's labels that must match
    severity: Literal["page", "ticket", "info"] = "ticket"
    summary: str = ""
    runbook_url: str = ""
    on_nodata: Literal["hold", "fire"] = "hold"
    nodata_after_s: float = Field(60.0, gt=0)
    action: Literal["none", "rollback", "scale"] = "none"
    mode: Literal["observe", "dry_run", "approve", "auto"] = "observe"


class SlackSettings(Section):
    """Slack, or any Slack-compatible receiver."""

    enabled: bool = False
    base_url: str = "https://slack.com/api/"
    channel: str = "#inference"


class WebhookSettings(Section):
    """One receiver of signed action webhooks. Only hosts in ``allowed_hosts`` are ever called."""

    name: str
    url: str
    kinds: list[Literal["rollback", "scale"]] = ["rollback", "scale"]
    timeout_s: float = Field(10.0, gt=0, le=60)


class AlertingSettings(Section):
    """Rules, and where alerts and actions go."""

    host: str = LOOPBACK
    port: int = 7601
    rules: list[Rule] | None = None  # None: the shipped rules
    slack: SlackSettings = SlackSettings()
    webhooks: list[WebhookSettings] = []
    allowed_hosts: list[str] = [LOOPBACK, "localhost"]
    action_expiry_s: float = Field(300.0, gt=0)
    action_cooldown_s: float = Field(1800.0, ge=0)
    actions_frozen: bool = False  # the kill switch
    page_url: str = ""  # linked from messages; the web page's address if empty


class DashboardSettings(Section):
    """The web page."""

    host: str = LOOPBACK
    port: int = 7600
    refresh_s: float = Field(1.0, ge=0.5)


class RouterBackend(Section):
    """One version of the model behind the router."""

    version: str
    urls: list[str]
    weight: float = Field(ge=0, le=1)


class RouterSettings(Section):
    """The version router for machines without Kubernetes."""

    enabled: bool = False
    host: str = LOOPBACK
    port: int = 7602
    model: str = ""
    stable: str = ""  # the version that a rollback returns to
    backends: list[RouterBackend] = []
    collector_url: str = ""  # where weight changes are reported as deploy events


class Settings(BaseSettings):
    """Everything that ``redline.yaml`` may say."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="REDLINE_", env_nested_delimiter="__"
    )

    data_dir: Path = Path(".redline")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "json"
    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    gpu_groups: list[GpuGroup] = []
    prices: list[Price] = []
    collectors: CollectorSettings = CollectorSettings()
    streams: StreamSettings = StreamSettings()
    alerting: AlertingSettings = AlertingSettings()
    dashboards: DashboardSettings = DashboardSettings()
    router: RouterSettings = RouterSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file: the file arrives as init arguments."""
        return (env_settings, init_settings)


class Secrets(BaseSettings):
    """Secrets, from the environment and from nowhere else. Never printed, never logged."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_prefix="REDLINE_")

    api_token: SecretStr = SecretStr("")  # for every call that changes state
    probe_api_key: SecretStr = SecretStr("")  # of engines that ask probes for one
    kafka_password: SecretStr = SecretStr("")
    clickhouse_password: SecretStr = SecretStr("")
    slack_bot_token: SecretStr = SecretStr("")
    webhook_secret: SecretStr = SecretStr("")  # whsec_...; two, space-separated, while rotating


def load_settings(path: Path | None = None) -> Settings:
    """Read ``path`` (default: ``redline.yaml`` here, if there is one) and the environment.

    Raises:
        ConfigFault: names the field, the value and the fix.
    """
    content = _read(path)
    _refuse_secrets(content)
    try:
        return Settings(**content)
    except ValidationError as error:
        raise _fault(error, content) from error


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path("redline.yaml")
        if not path.exists():
            return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigFault("--config", str(path), str(error), "name a file that exists") from error
    except yaml.YAMLError as error:
        raise ConfigFault(
            "--config", str(path), f"not YAML: {error}", "correct the file"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigFault("--config", str(path), "not a mapping", "write `key: value` lines")
    return content


def _refuse_secrets(content: dict[str, Any]) -> None:
    for name in Secrets.model_fields:
        if name in content:
            raise ConfigFault(
                name,
                "***",
                "a secret in the configuration file",
                f"remove it and set the environment variable REDLINE_{name.upper()}",
            )


def _fault(error: ValidationError, content: dict[str, Any]) -> ConfigFault:
    # An unknown key explains the missing one beside it, so it is named first.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    value = first.get("input", content)
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"])
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        fix = f"write {close[0]!r}" if close else f"use one of: {', '.join(known)}"
        return ConfigFault(where, value, "unknown key", fix)
    return ConfigFault(where, value, first["msg"], "give a value of the kind that it names")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            inner = (candidate, *getattr(candidate, "__args__", ()))
            found = [c for c in inner if isinstance(c, type) and issubclass(c, BaseModel)]
            if found:
                model = found[0]
                break
    return sorted(model.model_fields)
