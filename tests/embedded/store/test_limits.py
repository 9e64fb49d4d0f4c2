"""The engine takes every limit that it is given, and the process stays small under a light load."""

from __future__ import annotations

import random
from pathlib import Path
from xml.etree import ElementTree

import psutil

from embedded.store.limits import Limits, default_query_settings, engine_config_xml
from tests.embedded.store.process import StoreProcess

RESIDENT_BYTES_MAX = 450 * 1024 * 1024


def test_the_engine_knows_every_name_in_its_configuration(store: StoreProcess) -> None:
    client = store.client()
    configured = {
        element.tag: element.text
        for element in ElementTree.fromstring(engine_config_xml(Limits(), fsync=True))
        if len(element) == 0
    }
    rows = client.query("SELECT name, value FROM system.server_settings").result_rows
    in_force = {row[0]: row[1] for row in rows}
    assert {name: in_force.get(name) for name in configured} == configured


def test_fsync_reaches_the_tables(tmp_path: Path) -> None:
    sql = (
        "SELECT name, value FROM system.merge_tree_settings "
        "WHERE name IN ('fsync_after_insert', 'fsync_part_directory') ORDER BY name"
    )
    with StoreProcess(tmp_path / "d", "--fsync") as store:
        rows = store.client().query(sql).result_rows
    assert [tuple(row) for row in rows] == [
        ("fsync_after_insert", "1"),
        ("fsync_part_directory", "1"),
    ]


def test_every_query_starts_from_the_default_settings(store: StoreProcess) -> None:
    wanted = default_query_settings(Limits())
    rows = store.client(settings={}).query("SELECT name, value FROM system.settings").result_rows
    in_force = {row[0]: row[1] for row in rows}
    assert {name: in_force.get(name) for name in wanted} == wanted


def test_a_light_load_stays_within_its_memory(tmp_path: Path) -> None:
    generator = random.Random(3)
    columns: list[list[object]] = [
        list(range(10_000)),
        [f"tenant-{i % 20}" for i in range(10_000)],
        [generator.random() for _ in range(10_000)],
    ]
    with StoreProcess(tmp_path / "d") as store:
        client = store.client()
        client.command(
            "CREATE TABLE t (n UInt64, k LowCardinality(String), f Float64) "
            "ENGINE = MergeTree ORDER BY (k, n)"
        )
        for _ in range(10):
            client.insert("t", columns, column_names=["n", "k", "f"], column_oriented=True)
            client.query("SELECT k, quantilesDD(0.01, 0.5, 0.99)(f) FROM t GROUP BY k")
        assert client.query("SELECT count() FROM t").result_rows == [(100_000,)]
        assert psutil.Process(store.process.pid).memory_info().rss < RESIDENT_BYTES_MAX
