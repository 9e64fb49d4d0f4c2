-- What the streams computed. Absolute values: a row with a higher revision replaces the one
-- before it, so a replay changes nothing. Read with FINAL.

CREATE TABLE panes (
    start DateTime('UTC') CODEC(Delta, ZSTD(1)),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    tenant LowCardinality(String),
    source_partition UInt16,
    revision UInt64,
    requests UInt64 CODEC(T64, ZSTD(1)),
    errors UInt64 CODEC(T64, ZSTD(1)),
    prompt_tokens UInt64 CODEC(T64, ZSTD(1)),
    cached_tokens UInt64 CODEC(T64, ZSTD(1)),
    completion_tokens UInt64 CODEC(T64, ZSTD(1)),
    preemptions UInt64 CODEC(T64, ZSTD(1)),
    queue_us UInt64 CODEC(T64, ZSTD(1)),
    prefill_us UInt64 CODEC(T64, ZSTD(1)),
    decode_us UInt64 CODEC(T64, ZSTD(1)),
    cost_nusd Int64 CODEC(T64, ZSTD(1)),
    e2e_sketch AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99, 0.999), Float64),
    ttft_sketch AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99, 0.999), Float64)
) ENGINE = ReplacingMergeTree(revision)
PARTITION BY toDate(start)
ORDER BY (toStartOfHour(start), model, version, region, tenant, start, source_partition)
TTL start + INTERVAL 90 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, index_granularity = 1024;

CREATE TABLE signals (
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    name LowCardinality(String),
    labels Map(LowCardinality(String), String),
    value Nullable(Float64),
    window_s UInt32,
    samples UInt64,
    data_age_ms UInt64,
    coverage Float32,
    learning Bool,
    src_partition UInt16,
    src_offset UInt64
) ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (name, ts)
TTL toDateTime(ts) + INTERVAL 30 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE ledger (
    window_start DateTime('UTC') CODEC(Delta, ZSTD(1)),
    window_end DateTime('UTC') CODEC(Delta, ZSTD(1)),
    gpu_group LowCardinality(String),
    instance LowCardinality(String),
    kind LowCardinality(String),
    status LowCardinality(String),
    revision UInt64,
    method LowCardinality(String),
    cost_nusd Int64 CODEC(T64, ZSTD(1)),
    bill_nusd Int64 CODEC(T64, ZSTD(1)),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    tenant LowCardinality(String),
    requests UInt64 CODEC(T64, ZSTD(1)),
    reason LowCardinality(String),
    correction_id String CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(window_start)
ORDER BY (toStartOfHour(window_start), gpu_group, instance, window_start, kind, model, version,
          region, tenant, reason, correction_id);

CREATE TABLE request_costs (
    window_start DateTime('UTC') CODEC(Delta, ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    instance LowCardinality(String),
    cost_nusd Int64 CODEC(T64, ZSTD(1)),
    method LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    tenant LowCardinality(String),
    INDEX ix_request_id request_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = ReplacingMergeTree
PARTITION BY toDate(window_start)
ORDER BY (window_start, instance, request_id)
TTL window_start + INTERVAL 14 DAY DELETE
SETTINGS ttl_only_drop_parts = 1;
