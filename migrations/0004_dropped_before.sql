-- How many requests a log writer had to drop (full queue, full disk) since its last line.

ALTER TABLE requests ADD COLUMN IF NOT EXISTS dropped_before UInt64 CODEC(T64, ZSTD(1)) AFTER canary;
