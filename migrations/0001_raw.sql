-- What was received, row by row. One Kafka message is one insert block with the deduplication
-- token topic-partition-offset, so a replayed message adds nothing.

CREATE TABLE requests (
    ts_end DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    ts_arrival DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    request_id String CODEC(ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    instance LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    tenant LowCardinality(String),
    user String CODEC(ZSTD(1)),
    api_key_hash LowCardinality(String),
    endpoint LowCardinality(String),
    stream Bool,
    status_code UInt16 CODEC(T64, ZSTD(1)),
    finish_reason LowCardinality(String),
    error String CODEC(ZSTD(1)),
    prompt_tokens UInt32 CODEC(T64, ZSTD(1)),
    cached_tokens UInt32 CODEC(T64, ZSTD(1)),
    completion_tokens UInt32 CODEC(T64, ZSTD(1)),
    queue_us Nullable(UInt64) CODEC(ZSTD(1)),
    prefill_us Nullable(UInt64) CODEC(ZSTD(1)),
    decode_us Nullable(UInt64) CODEC(ZSTD(1)),
    ttft_us Nullable(UInt64) CODEC(ZSTD(1)),
    e2e_us Nullable(UInt64) CODEC(ZSTD(1)),
    preprocess_us Nullable(UInt64) CODEC(ZSTD(1)),
    network_us Nullable(UInt64) CODEC(ZSTD(1)),
    preemptions UInt16 CODEC(T64, ZSTD(1)),
    precision LowCardinality(String),
    canary Bool,
    src_partition UInt16 CODEC(T64, ZSTD(1)),
    src_offset UInt64 CODEC(T64, ZSTD(1)),
    INDEX ix_request_id request_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = MergeTree
PARTITION BY toDate(ts_end)
ORDER BY (toStartOfHour(ts_end), model, version, region, ts_end)
TTL toDateTime(ts_end) + INTERVAL 14 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE engine_samples (
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    instance LowCardinality(String),
    model LowCardinality(String),
    version LowCardinality(String),
    region LowCardinality(String),
    up Bool,
    running Nullable(Float64) CODEC(ZSTD(1)),
    waiting Nullable(Float64) CODEC(ZSTD(1)),
    kv_cache_usage Nullable(Float64) CODEC(ZSTD(1)),
    preemptions_total Nullable(Float64) CODEC(ZSTD(1)),
    prompt_tokens_total Nullable(Float64) CODEC(ZSTD(1)),
    generation_tokens_total Nullable(Float64) CODEC(ZSTD(1)),
    requests_total Nullable(Float64) CODEC(ZSTD(1)),
    prefix_cache_queries_total Nullable(Float64) CODEC(ZSTD(1)),
    prefix_cache_hits_total Nullable(Float64) CODEC(ZSTD(1)),
    num_gpu_blocks Nullable(UInt32) CODEC(ZSTD(1)),
    block_size Nullable(UInt16) CODEC(ZSTD(1)),
    max_model_len Nullable(UInt32) CODEC(ZSTD(1)),
    kv_cache_dtype LowCardinality(String),
    error String CODEC(ZSTD(1)),
    src_partition UInt16 CODEC(T64, ZSTD(1)),
    src_offset UInt64 CODEC(T64, ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (instance, ts)
TTL toDateTime(ts) + INTERVAL 14 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE gpu_samples (
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    host LowCardinality(String),
    gpu_uuid LowCardinality(String),
    gpu_index UInt16 CODEC(T64, ZSTD(1)),
    gpu_name LowCardinality(String),
    mig LowCardinality(String),
    instance LowCardinality(String),
    lost Bool,
    utilization Nullable(Float32) CODEC(ZSTD(1)),
    memory_used_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_reserved_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    memory_total_bytes Nullable(UInt64) CODEC(ZSTD(1)),
    power_w Nullable(Float32) CODEC(ZSTD(1)),
    energy_j Nullable(Float64) CODEC(ZSTD(1)),
    sm_clock_mhz Nullable(UInt32) CODEC(ZSTD(1)),
    memory_clock_mhz Nullable(UInt32) CODEC(ZSTD(1)),
    throttle_reasons Nullable(UInt64) CODEC(ZSTD(1)),
    temperature_c Nullable(Int16) CODEC(ZSTD(1)),
    ecc_uncorrected_total Nullable(UInt64) CODEC(ZSTD(1)),
    xid Nullable(UInt32) CODEC(ZSTD(1)),
    src_partition UInt16 CODEC(T64, ZSTD(1)),
    src_offset UInt64 CODEC(T64, ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(ts)
ORDER BY (host, gpu_uuid, ts)
TTL toDateTime(ts) + INTERVAL 14 DAY DELETE
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE probes (
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    target LowCardinality(String),
    kind LowCardinality(String),
    ok Bool,
    region LowCardinality(String),
    latency_us Nullable(UInt64),
    cold Bool,
    error String,
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
PARTITION BY toDate(ts)
ORDER BY (target, kind, ts, src_partition, src_offset)
TTL toDateTime(ts) + INTERVAL 14 DAY DELETE;

CREATE TABLE deploys (
    ts DateTime64(6, 'UTC'),
    model LowCardinality(String),
    version LowCardinality(String),
    action LowCardinality(String),
    region LowCardinality(String),
    weight Nullable(Float64),
    who String,
    detail String,
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (ts, model, version, src_partition, src_offset);

CREATE TABLE dead_letters (
    ts DateTime64(6, 'UTC'),
    source String,
    offset UInt64,
    reason String,
    payload String CODEC(ZSTD(3)),
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (ts, source, offset)
TTL toDateTime(ts) + INTERVAL 30 DAY DELETE;
