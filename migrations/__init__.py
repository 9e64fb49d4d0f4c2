"""Numbered ClickHouse SQL and its runner."""
