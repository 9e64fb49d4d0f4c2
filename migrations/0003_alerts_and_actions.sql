-- What alerting did. One row a transition; a replayed message replaces itself.

CREATE TABLE alerts (
    ts DateTime64(6, 'UTC'),
    fingerprint String,
    incident_id String,
    rule LowCardinality(String),
    from_state LowCardinality(String),
    to_state LowCardinality(String),
    reason String,
    severity LowCardinality(String),
    labels Map(LowCardinality(String), String),
    value Nullable(Float64),
    threshold Nullable(Float64),
    breached_at Nullable(DateTime64(6, 'UTC')),
    started_at Nullable(DateTime64(6, 'UTC')),
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (ts, fingerprint, to_state, src_partition, src_offset);

CREATE TABLE actions (
    ts DateTime64(6, 'UTC'),
    action_id String,
    incident_id String,
    kind LowCardinality(String),
    mode LowCardinality(String),
    status LowCardinality(String),
    target LowCardinality(String),
    from_state String,
    to_state String,
    reason String,
    expires_at DateTime64(6, 'UTC'),
    attempt UInt32,
    http_status Nullable(UInt16),
    signature_verified Nullable(Bool),
    detail String,
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (ts, action_id, status, src_partition, src_offset);

CREATE TABLE audit (
    ts DateTime64(6, 'UTC'),
    seq UInt64,
    actor LowCardinality(String),
    event LowCardinality(String),
    payload String CODEC(ZSTD(3)),
    previous_hash FixedString(64),
    hash FixedString(64),
    src_partition UInt16,
    src_offset UInt64
) ENGINE = ReplacingMergeTree
ORDER BY (seq, hash);
