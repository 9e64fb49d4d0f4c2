"""Every record's fields are its table's columns, in the SQL that creates it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redline.records import RECORD_TYPES, Pane, Record
from streams.rows import PANE_COLUMNS, SOURCE_COLUMNS, TABLES, column_of, to_columns

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def columns_in_sql() -> dict[str, list[str]]:
    text = "\n".join(path.read_text() for path in sorted(MIGRATIONS.glob("*.sql")))
    found = {}
    for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\) ENGINE", text, re.DOTALL):
        lines = [line.strip() for line in body.strip().splitlines()]
        found[name] = [line.split()[0].strip("`") for line in lines if not line.startswith("INDEX")]
    for name, column in re.findall(r"ALTER TABLE (\w+) ADD COLUMN IF NOT EXISTS (\w+)", text):
        found[name].append(column)
    return found


@pytest.mark.parametrize("kind", RECORD_TYPES)
def test_a_record_and_its_table_have_the_same_columns(kind: type[Record]) -> None:
    table = TABLES[kind]
    assert sorted(table.columns) == sorted(columns_in_sql()[table.name])


def test_every_record_has_a_table() -> None:
    assert set(TABLES) == set(RECORD_TYPES)


def test_instants_lose_their_unit_and_durations_keep_it() -> None:
    assert column_of("ts_end_us") == "ts_end"
    assert column_of("queue_us") == "queue_us"


def test_the_pane_encoder_writes_every_field_of_a_pane() -> None:
    assert set(PANE_COLUMNS) == {column_of(field) for field in Pane.__struct_fields__}


def test_sourced_rows_carry_partition_and_offset_and_windows_are_seconds() -> None:
    for kind, table in TABLES.items():
        assert (table.columns[-2:] == SOURCE_COLUMNS) == table.sourced, kind
    pane = Pane(
        model="m", version="", region="", tenant="", start_us=30_000_000, source_partition=1,
        revision=2,
    )  # fmt: skip
    assert to_columns([pane])[4] == [30]
