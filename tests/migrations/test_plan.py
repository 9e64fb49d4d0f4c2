"""The plan: forward only, nothing twice, nothing changed behind a database's back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrations.plan import (
    Migration,
    Remembered,
    Step,
    checksum_of,
    order_migrations,
    plan_steps,
    read_migration,
)
from redline.errors import ConfigFault

MIGRATIONS = st.lists(st.integers(1, 4), max_size=5).map(
    lambda sizes: [
        Migration(number, f"m{number}", tuple(f"CREATE TABLE t{number}_{i}" for i in range(size)))
        for number, size in enumerate(sizes, start=1)
    ]
)


def rows_of(migrations: list[Migration], done: int, started: bool = False) -> list[Remembered]:
    """What a database remembers after ``done`` statements, and one more that was started."""
    steps = [(m, index) for m in migrations for index in range(len(m.statements))]
    return [
        Remembered(m.number, index, len(m.statements), checksum_of(m.statements[index]), at < done)
        for at, (m, index) in enumerate(steps[: done + int(started)])
    ]


def all_steps(migrations: list[Migration]) -> int:
    return sum(len(m.statements) for m in migrations)


@given(MIGRATIONS, st.data())
def test_a_killed_run_goes_on_where_it_stopped(
    migrations: list[Migration], data: st.DataObject
) -> None:
    total = all_steps(migrations)
    done = data.draw(st.integers(0, total))
    started = data.draw(st.booleans()) and done < total
    steps = plan_steps(migrations, rows_of(migrations, done, started))
    fresh = plan_steps(migrations, [])
    assert [step.sql for step in steps] == [step.sql for step in fresh[done:]]
    assert [step.was_started for step in steps] == [started and at == 0 for at in range(len(steps))]


@given(MIGRATIONS)
def test_an_applied_set_leaves_nothing_and_a_new_file_is_all_that_is_left(
    migrations: list[Migration],
) -> None:
    rows = rows_of(migrations, all_steps(migrations))
    assert plan_steps(migrations, rows) == []
    new = Migration(len(migrations) + 1, "new", ("CREATE TABLE n",))
    assert plan_steps([*migrations, new], rows) == [Step(new, 0, False)]


@given(MIGRATIONS.filter(bool), st.data())
def test_any_change_of_an_applied_file_is_refused(
    migrations: list[Migration], data: st.DataObject
) -> None:
    rows = rows_of(migrations, all_steps(migrations))
    at = data.draw(st.integers(0, len(migrations) - 1))
    old = migrations[at]
    index = data.draw(st.integers(0, len(old.statements) - 1))
    kept = list(old.statements)
    changed = data.draw(
        st.sampled_from(
            [
                [*kept[:index], kept[index] + " X", *kept[index + 1 :]],
                [*kept, "CREATE TABLE more"],
                kept[:-1],
            ]
        )
    )
    edited = [*migrations]
    edited[at] = Migration(old.number, old.name, tuple(changed))
    with pytest.raises(ConfigFault, match="changed after it was applied") as caught:
        plan_steps(edited, rows)
    assert old.file_name in str(caught.value)
    assert "higher number" in caught.value.fix


def test_the_statement_that_failed_may_be_corrected_and_those_before_it_may_not() -> None:
    old = Migration(1, "a", ("CREATE TABLE one", "CREATE TABEL two", "CREATE TABLE three"))
    rows = rows_of([old], 1, started=True)
    corrected = Migration(1, "a", ("CREATE TABLE one", "CREATE TABLE two", "CREATE TABLE 3", "4"))
    steps = plan_steps([corrected], rows)
    assert [step.sql for step in steps] == ["CREATE TABLE two", "CREATE TABLE 3", "4"]
    assert not steps[0].was_started
    with pytest.raises(ConfigFault, match="statement 1 changed"):
        plan_steps([Migration(1, "a", ("CREATE TABLE 1", *corrected.statements[1:]))], rows)


@given(MIGRATIONS.filter(bool))
def test_a_database_newer_than_the_code_is_refused(migrations: list[Migration]) -> None:
    rows = rows_of(migrations, all_steps(migrations))
    with pytest.raises(ConfigFault, match="run a newer version"):
        plan_steps(migrations[:-1], rows)


def test_a_hole_in_what_the_database_remembers_is_refused() -> None:
    migrations = [Migration(1, "a", ("A",)), Migration(2, "b", ("B",))]
    rows = [row for row in rows_of(migrations, 2) if row.number == 2]
    with pytest.raises(ConfigFault, match=r"0002_b.sql.*is applied while 0001_a.sql is not"):
        plan_steps(migrations, rows)


@given(st.lists(st.integers(1, 6), max_size=6))
def test_numbers_run_from_one_without_gap_or_repeat(numbers: list[int]) -> None:
    migrations = [Migration(n, f"m{i}", ("S",)) for i, n in enumerate(numbers)]
    if sorted(numbers) == list(range(1, len(numbers) + 1)):
        assert [m.number for m in order_migrations(migrations)] == sorted(numbers)
    else:
        with pytest.raises(ConfigFault, match=r"is missing|is there twice"):
            order_migrations(migrations)


@pytest.mark.parametrize("name", ["1_a.sql", "0001-a.sql", "0001_A.sql", "0001_a.SQL", "x.sql"])
def test_a_file_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigFault, match=r"NNNN_name.sql"):
        read_migration(name, "SELECT 1")


def test_a_file_is_cut_into_statements_and_an_empty_one_is_refused() -> None:
    text = "-- why; because\nCREATE TABLE a (s String DEFAULT ';');\n\n/* ; */ CREATE TABLE b;\n"
    migration = read_migration("0007_two_tables.sql", text)
    assert (migration.number, migration.name) == (7, "two_tables")
    assert migration.statements == (
        "CREATE TABLE a (s String DEFAULT ';')",
        "CREATE TABLE b",
    )
    with pytest.raises(ConfigFault, match="holds no statement"):
        read_migration("0001_a.sql", "-- nothing;\n;")
