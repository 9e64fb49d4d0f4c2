"""DDSketch states written by the kernel are ClickHouse's own: inserted as bytes, merged exactly."""

from __future__ import annotations

import random

import pytest
from clickhouse_connect.driver.client import Client

from redline.sketch import DDSketch

STATE = "AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.99), Float64)"
LEVELS = "0.01, 0.5, 0.9, 0.99"


@pytest.fixture
def sketches(client: Client) -> Client:
    client.command(
        f"CREATE TABLE sk (part UInt8, q {STATE}) ENGINE = AggregatingMergeTree ORDER BY part"
    )
    return client


def quantiles(client: Client) -> list[float]:
    row = client.query(f"SELECT quantilesDDMerge({LEVELS})(q) FROM sk").first_row
    assert row is not None
    return [float(value) for value in row[0]]


def insert_state(client: Client, part: int, state: bytes) -> None:
    """RowBinary carries a state as it stands: no length, no header."""
    client.raw_insert("sk", ["part", "q"], bytes([part]) + state, fmt="RowBinary")


def test_states_written_by_the_kernel_merge_to_what_the_values_give(sketches: Client) -> None:
    client = sketches
    generator = random.Random(7)
    parts = [[1 + generator.lognormvariate(10, 1) for _ in range(2_000)] for _ in range(4)]
    client.command("CREATE TABLE raw (v Float64) ENGINE = MergeTree ORDER BY tuple()")
    for number, values in enumerate(parts):
        client.insert("raw", [[value] for value in values], column_names=["v"])
        sketch = DDSketch()
        sketch.add_many(values)
        insert_state(client, number, sketch.to_bytes())
    whole = client.query(f"SELECT quantilesDD({LEVELS})(v) FROM raw").first_row
    assert whole is not None
    assert quantiles(client) == [float(value) for value in whole[0]]
    exact = sorted(value for values in parts for value in values)
    for level, found in zip((0.5, 0.9, 0.99), quantiles(client), strict=True):
        assert abs(found / exact[int(level * (len(exact) - 1))] - 1) <= 0.0101


def test_the_kernel_writes_the_servers_bytes(client: Client) -> None:
    values = [1.5, 20.0, 20.1, 300.0, 45_000.0]
    rows = ", ".join(f"({value})" for value in values)
    state = client.query(
        f"SELECT hex(quantilesDDState({LEVELS})(v)) FROM values('v Float64', {rows})"
    ).first_row
    sketch = DDSketch()
    sketch.add_many(values)
    assert state is not None
    assert bytes.fromhex(state[0]) == sketch.to_bytes()


def test_a_state_as_text_casts_too(sketches: Client) -> None:
    """JSON lines and VALUES carry states in hexadecimal."""
    sketch = DDSketch()
    sketch.add_many([5.0, 7.0, 9.0])
    sketches.command(
        f"INSERT INTO sk SELECT 1, CAST(unhex('{sketch.to_bytes().hex()}'), '{STATE}')"
    )
    assert quantiles(sketches)[0] == pytest.approx(7.0, rel=0.0101)
