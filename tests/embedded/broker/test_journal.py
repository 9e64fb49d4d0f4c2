"""What must not be forgotten: any history folds to the same registry after a restart or a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.broker import journal as journal_module
from embedded.broker.journal import Journal
from embedded.broker.registry import (
    CleanMoved,
    ClusterNamed,
    Committed,
    Entry,
    GroupDeleted,
    OffsetsCommitted,
    OffsetsDeleted,
    ProducerIdsUsed,
    Registry,
    StartMoved,
    TopicDeleted,
    TopicSet,
)
from redline.errors import ConfigFault

NAMES = st.sampled_from(["a", "b", "c"])
INDEX = st.integers(0, 2)
OFFSET = st.integers(0, 99)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(TopicSet, NAMES, st.integers(1, 3), st.just({"retention.ms": "5"})),
    st.builds(TopicDeleted, NAMES),
    st.builds(StartMoved, NAMES, INDEX, OFFSET),
    st.builds(CleanMoved, NAMES, INDEX, OFFSET),
    st.builds(
        OffsetsCommitted,
        NAMES,
        st.lists(st.builds(Committed, NAMES, INDEX, OFFSET, st.just(0), st.text(max_size=5))),
    ),
    st.builds(OffsetsDeleted, NAMES, st.lists(st.tuples(NAMES, INDEX))),
    st.builds(GroupDeleted, NAMES),
    st.builds(ProducerIdsUsed, st.integers(1_000, 2_000)),
    st.builds(ClusterNamed, NAMES),
)


def facts(registry: Registry) -> dict[str, object]:
    known = dict(vars(registry))
    known["offsets"] = {group: held for group, held in registry.offsets.items() if held}
    return known


@given(entries=st.lists(ENTRIES, max_size=40))
def test_the_snapshot_folds_to_the_same_registry(entries: list[Entry]) -> None:
    whole, again = Registry(), Registry()
    for entry in entries:
        whole.apply(entry)
    for entry in whole.snapshot():
        again.apply(entry)
    assert facts(again) == facts(whole)


@given(entries=st.lists(ENTRIES, max_size=40))
def test_of_a_deleted_topic_nothing_is_known(entries: list[Entry]) -> None:
    registry = Registry()
    for entry in [*entries, TopicDeleted("a")]:
        registry.apply(entry)
    assert "a" not in registry.topics
    known = [*registry.starts, *registry.clean_until]
    known += [key for positions in registry.offsets.values() for key in positions]
    assert "a" not in {topic for topic, _ in known}


@settings(deadline=None)
@given(entries=st.lists(ENTRIES, max_size=20), torn_bytes=st.integers(0, 60))
def test_a_restart_remembers_and_a_torn_line_is_cut(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], torn_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for entry in entries:
        journal.record(entry)
    expected = facts(journal.registry)
    journal.close()
    again = Journal(path)
    assert facts(again.registry) == expected
    again.record(TopicSet("torn", 1, {"a": "x" * 80}))
    again.close()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1 - torn_bytes])  # always without the line's end
    last = Journal(path)
    assert facts(last.registry) == expected
    last.close()


def test_the_file_is_rewritten_before_it_grows_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_REWRITE_AT_LEAST_BYTES", 1_000)
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for offset in range(500):
        journal.record(OffsetsCommitted("g", [Committed("t", 0, offset, 0, "")]))
        assert path.stat().st_size < 2_000
    journal.close()
    assert Journal(path).registry.offsets["g"]["t", 0].offset == 499


def test_a_damaged_line_is_named_and_nothing_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"type":"cluster_named","cluster_id":"x"}\nrubbish\n')
    with pytest.raises(ConfigFault, match="line 2"):
        Journal(path)
    assert b"rubbish" in path.read_bytes()
