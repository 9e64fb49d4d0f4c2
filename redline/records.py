"""Every message that crosses Kafka: frozen, tagged structs. The contract between the rooms.

Additive changes only. Unknown fields pass; wrong types are RecordInvalid (see codec.py).
Times are µs UTC since the epoch. A number that was not measured is None, never 0.
This file refuses behaviour: a record knows its fields and its series, nothing else.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

FinishReason = Literal["stop", "length", "abort", "error", "repetition", "tool_calls", ""]
Precision = Literal["fp8", "bf16", "fp16", "int8", "int4", "unknown"]
Severity = Literal["page", "ticket", "info"]
AlertState = Literal[
    "inactive", "pending", "firing", "recovering", "resolved", "nodata", "learning"
]
ActionKind = Literal["rollback", "scale"]
ActionMode = Literal["observe", "dry_run", "approve", "auto"]
ActionStatus = Literal[
    "proposed", "approved", "rejected", "delivering", "delivered", "failed", "expired", "refused"
]
LedgerKind = Literal["request", "idle", "overhead", "correction"]
LedgerStatus = Literal["provisional", "settled", "correction"]


class Series(NamedTuple):
    """The labels under which requests are aggregated."""

    model: str
    version: str
    region: str
    tenant: str


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=False, tag_field="type"):
    """Base of every message. Name the fields when you make one: positions are the codec's."""


class RequestRecord(Record, frozen=True, tag="request"):
    """One finished request of one engine, in whatever way it finished."""

    request_id: str
    seq: int  # counts up per instance and log writer; a gap is a lost line
    ts_arrival_us: int
    ts_end_us: int
    instance: str
    model: str
    version: str = ""
    region: str = ""
    tenant: str = ""
    user: str = ""
    api_key_hash: str = ""
    endpoint: str = "/v1/chat/completions"
    stream: bool = False
    status_code: int = 200
    finish_reason: FinishReason = ""
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_us: int | None = None
    prefill_us: int | None = None
    decode_us: int | None = None
    ttft_us: int | None = None
    e2e_us: int | None = None
    preprocess_us: int | None = None
    network_us: int | None = None
    preemptions: int = 0
    precision: Precision = "unknown"
    canary: bool = False
    dropped_before: int = 0  # requests that the writer could not log since its last line
    tokens_known: bool = True  # False: the source does not say, and the token fields are no zeros

    @property
    def series(self) -> Series:
        """The labels that this request is aggregated under."""
        return Series(self.model, self.version, self.region, self.tenant)

    @property
    def failed(self) -> bool:
        """Whether the server failed it: 5xx or an engine error; a client's 4xx or 499 is not."""
        return self.status_code >= 500 or self.finish_reason == "error"


class EngineSample(Record, frozen=True, tag="engine_sample"):
    """One scrape of one engine's /metrics. Counters are as the engine has them, since its start."""

    ts_us: int
    instance: str
    model: str
    version: str = ""
    region: str = ""
    up: bool = True
    running: float | None = None
    waiting: float | None = None
    kv_cache_usage: float | None = None  # 0 to 1
    preemptions_total: float | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    requests_total: float | None = None
    prefix_cache_queries_total: float | None = None
    prefix_cache_hits_total: float | None = None
    num_gpu_blocks: int | None = None
    block_size: int | None = None
    max_model_len: int | None = None
    kv_cache_dtype: str = ""
    error: str = ""


class GpuSample(Record, frozen=True, tag="gpu_sample"):
    """One poll of one GPU. None means that this GPU cannot say."""

    ts_us: int
    host: str
    gpu_uuid: str
    gpu_index: int
    gpu_name: str = ""
    mig: str = ""
    instance: str = ""
    lost: bool = False
    utilization: float | None = None  # 0 to 1, NVML duty cycle
    memory_used_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_w: float | None = None
    energy_j: float | None = None  # since driver load
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: int | None = None  # NVML's bit mask
    temperature_c: int | None = None
    ecc_uncorrected_total: int | None = None
    xid: int | None = None
    energy_delta_j: float | None = None  # since the last sample; None across a reset of energy_j
    nvlink_tx_bytes: int | None = None  # since driver load, all links
    nvlink_rx_bytes: int | None = None
    processes: int | None = None  # compute processes


class ProbeResult(Record, frozen=True, tag="probe"):
    """One probe of one target."""

    ts_us: int
    target: str
    kind: Literal["health", "first_token", "keep_warm"]
    ok: bool
    region: str = ""
    latency_us: int | None = None
    cold: bool = False
    error: str = ""
    model: str = ""
    instance: str = ""
    proof: Literal["counter", "completion", ""] = ""  # how it is known that tokens come
    healthy: bool | None = None  # the state after this result, by the thresholds; None: unknown


class DeployEvent(Record, frozen=True, tag="deploy"):
    """Deploy tooling changed what runs, or how traffic is split."""

    ts_us: int
    model: str
    version: str
    action: Literal["deploy", "promote", "rollback", "scale", "weights"]
    region: str = ""
    weight: float | None = None  # share of traffic, 0 to 1
    who: str = ""
    detail: str = ""


class Pane(Record, frozen=True, tag="pane"):
    """10 s of one series from one source partition. Absolute values; a higher revision replaces."""

    model: str
    version: str
    region: str
    tenant: str
    start_us: int
    source_partition: int
    revision: int  # last source offset that changed it
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    preemptions: int = 0
    queue_us: int = 0  # sums, to name the slow stage
    prefill_us: int = 0
    decode_us: int = 0
    cost_nusd: int = 0  # allocated to this series within this pane's time
    e2e_sketch: bytes = b""  # DDSketch states, ClickHouse's own bytes; b"" is empty
    ttft_sketch: bytes = b""

    @property
    def series(self) -> Series:
        """The labels of this pane."""
        return Series(self.model, self.version, self.region, self.tenant)


class LedgerEntry(Record, frozen=True, tag="ledger"):
    """One line of one instance's bill for one window. Per window all lines sum to bill_nusd."""

    gpu_group: str
    instance: str
    window_start_us: int
    window_end_us: int
    kind: LedgerKind
    status: LedgerStatus
    revision: int
    method: str  # e.g. time_share_v1
    cost_nusd: int
    bill_nusd: int  # of the whole window, on every line, so that a line can be checked alone
    model: str = ""
    version: str = ""
    region: str = ""
    tenant: str = ""
    requests: int = 0
    reason: str = ""  # of overhead: cold_start, failed, canary; of idle: no_request
    correction_id: str = ""  # of corrections: what they correct, so that each exists once


class RequestCost(Record, frozen=True, tag="request_cost"):
    """What one request cost within one settled window."""

    request_id: str
    instance: str
    window_start_us: int
    cost_nusd: int
    method: str
    model: str = ""
    version: str = ""
    region: str = ""
    tenant: str = ""


class Signal(Record, frozen=True, tag="signal"):
    """One evaluated number per series and window, with what it rests on."""

    ts_us: int  # end of the window, event time
    name: str  # p99_latency_ms, kv_cache_usage, spend_projected_ratio ...
    value: float | None  # None: no data in the window
    window_s: int
    labels: dict[str, str] = {}
    samples: int = 0
    data_age_ms: int = 0
    coverage: float = 1.0
    learning: bool = False


class AlertEvent(Record, frozen=True, tag="alert"):
    """One transition of one alert."""

    ts_us: int
    fingerprint: str
    incident_id: str
    rule: str
    from_state: AlertState
    to_state: AlertState
    reason: str
    severity: Severity = "ticket"
    labels: dict[str, str] = {}
    value: float | None = None
    threshold: float | None = None
    breached_at_us: int | None = None  # first breaching signal
    started_at_us: int | None = None  # when it began to fire


class ActionEvent(Record, frozen=True, tag="action"):
    """One step in the life of one action asked of deploy tooling."""

    ts_us: int
    action_id: str
    incident_id: str
    kind: ActionKind
    mode: ActionMode
    status: ActionStatus
    target: str  # model, or model/region
    from_state: str = ""  # the state that must be current for the action to apply
    to_state: str = ""
    reason: str = ""
    expires_at_us: int = 0
    attempt: int = 0
    http_status: int | None = None
    signature_verified: bool | None = None  # as the receiver said
    detail: str = ""


class AuditEntry(Record, frozen=True, tag="audit"):
    """One link of the append-only hash chain."""

    ts_us: int
    seq: int
    actor: str
    event: str
    payload: str  # JSON
    previous_hash: str
    hash: str


class DeadLetter(Record, frozen=True, tag="dead_letter"):
    """Input that could not be read, kept whole."""

    ts_us: int
    source: str  # file path or topic/partition
    offset: int  # byte offset in the file, or Kafka offset
    reason: str
    payload: bytes


class CollectorCount(Record, frozen=True, tag="collector_count"):
    """What one minute held, by one side of the reconciliation; a higher revision replaces.

    ``published``: what Kafka acknowledged of one log, by ``ts_end_us``. ``engine``: how far the
    engine's own counters rose. Rows of one minute, instance and side add up.
    """

    start_us: int  # of the minute
    instance: str
    side: Literal["published", "engine"]
    part: int  # when this count was opened, µs: a minute that was closed may get another part
    revision: int
    log: str = ""  # of ``published``: a log has one writer
    model: str = ""
    version: str = ""
    region: str = ""
    requests: int = 0  # all records; of ``engine``: request_success_total
    finished: int = 0  # those that request_success_total counts
    aborted: int = 0  # the client left: no success counter has them, the token counters do
    refused: int = 0  # 4xx and 5xx before the engine: no engine counter has them
    failed: int = 0  # server failures
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    dropped: int = 0  # the writer says that it could not log them
    lost_lines: int = 0  # numbers missing beyond that
    dead_letters: int = 0  # lines that were no record
    restarts: int = 0  # of ``published``: the writer began anew; of ``engine``: its counters did
    samples: int = 0  # of ``engine``: scrapes that the rise rests on
    complete: bool = True  # False: something of this minute is known to be missing here


AnyRecord = (
    RequestRecord
    | EngineSample
    | GpuSample
    | ProbeResult
    | DeployEvent
    | Pane
    | LedgerEntry
    | RequestCost
    | Signal
    | AlertEvent
    | ActionEvent
    | AuditEntry
    | DeadLetter
    | CollectorCount
)

RECORD_TYPES: tuple[type[Record], ...] = (
    RequestRecord,
    EngineSample,
    GpuSample,
    ProbeResult,
    DeployEvent,
    Pane,
    LedgerEntry,
    RequestCost,
    Signal,
    AlertEvent,
    ActionEvent,
    AuditEntry,
    DeadLetter,
    CollectorCount,
)
