"""Panes, p99, the cost ledger, baselines; ClickHouse is written from here only."""
