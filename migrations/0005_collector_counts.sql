-- Both sides of the reconciliation, per instance and minute, and what GPUs and probes say besides.
-- A row with a higher revision replaces the one before it; parts of one minute add up. Read with FINAL.

CREATE TABLE collector_counts (
    start DateTime('UTC') CODEC(Delta, ZSTD(1)),
    instance LowCardinality(String),
    side LowCardinality(String),
    part UInt64,
    revision UInt64,
    log LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    requests UInt64,
    finished UInt64,
    aborted UInt64,
    refused UInt64,
    failed UInt64,
    prompt_tokens UInt64,
    completion_tokens UInt64,
    first_seq Nullable(UInt64),
    last_seq Nullable(UInt64),
    dropped UInt64,
    lost_lines UInt64,
    dead_letters UInt64,
    restarts UInt64,
    samples UInt64,
    complete Bool,
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(start)
ORDER BY (instance, start, side, log, part)
TTL start + INTERVAL 90 DAY DELETE;

ALTER TABLE gpu_samples ADD COLUMN IF NOT EXISTS energy_delta_j Nullable(Float64) CODEC(ZSTD(1)) AFTER xid;
ALTER TABLE gpu_samples ADD COLUMN IF NOT EXISTS nvlink_tx_bytes Nullable(UInt64) CODEC(ZSTD(1)) AFTER energy_delta_j;
ALTER TABLE gpu_samples ADD COLUMN IF NOT EXISTS nvlink_rx_bytes Nullable(UInt64) CODEC(ZSTD(1)) AFTER nvlink_tx_bytes;
ALTER TABLE gpu_samples ADD COLUMN IF NOT EXISTS processes Nullable(UInt32) CODEC(ZSTD(1)) AFTER nvlink_rx_bytes;
ALTER TABLE probes ADD COLUMN IF NOT EXISTS model LowCardinality(String) AFTER error;
ALTER TABLE probes ADD COLUMN IF NOT EXISTS instance LowCardinality(String) AFTER model;
ALTER TABLE probes ADD COLUMN IF NOT EXISTS proof LowCardinality(String) AFTER instance;
ALTER TABLE probes ADD COLUMN IF NOT EXISTS healthy Nullable(Bool) AFTER proof;
