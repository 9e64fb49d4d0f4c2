"""Benchmarks: ratios within one run, never asserts."""
