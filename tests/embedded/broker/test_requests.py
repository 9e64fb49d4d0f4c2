"""Any well-formed request gets an answer that can be written; none breaks a handler."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.broker import batches, wire
from embedded.broker.api import Api
from embedded.broker.config import BrokerConfig
from embedded.broker.coordinator import Coordinator
from embedded.broker.handle_admin import AdminHandlers
from embedded.broker.handle_data import DataHandlers
from embedded.broker.handle_groups import GroupHandlers
from embedded.broker.journal import Journal
from embedded.broker.node import Caller, Handlers, Node
from embedded.broker.topics import Topics
from embedded.broker.wire import Array, Fields, Primitive
from tests.embedded.broker.test_log import NOW_MS

# Values that meet each other: the same few topics, groups, partitions and members.
WORDS = st.sampled_from(
    ["t", "u", "g", "range", "consumer", "compact", "retention.ms", "", "é~/.."]
)
NUMBERS = st.sampled_from([-3, -2, -1, 0, 1, 2, 4, 100])
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    wire.INT8.name: st.sampled_from([-1, 0, 1, 2, 3, 4, 9]),
    wire.INT16.name: st.sampled_from([-1, 0, 1, 3]),
    wire.INT32.name: NUMBERS | st.sampled_from([5_000, (1 << 31) - 1, -(1 << 31)]),
    wire.INT64.name: NUMBERS | st.sampled_from([NOW_MS, (1 << 63) - 1, -(1 << 63)]),
    wire.BOOL.name: st.booleans(),
    wire.STRING.name: WORDS,
    wire.NULLABLE_STRING.name: st.none() | WORDS,
    wire.BYTES.name: st.binary(max_size=5),
    wire.NULLABLE_BYTES.name: st.none()
    | st.binary(max_size=80)
    | st.just(batches.build([(b"k", b"v", NOW_MS)])),
}


def values_of(kind: Primitive | Array | Fields, version: int) -> st.SearchStrategy[Any]:
    if isinstance(kind, Primitive):
        return SCALARS[kind.name]
    if isinstance(kind, Array):
        several = st.lists(values_of(kind.of, version), max_size=2)
        return st.none() | several if kind.nullable else several
    return st.fixed_dictionaries(
        {
            field.name: values_of(field.kind, version)
            for field in kind
            if field.since <= version <= field.until
        }
    )


def open_node(directory: Path) -> Node:
    config = BrokerConfig(directory, max_partitions=50, max_partitions_a_topic=10)
    journal = Journal(directory / "journal.jsonl")
    return Node(
        config=config,
        journal=journal,
        topics=Topics(config, journal, clean_shutdown=False, now_ms=NOW_MS),
        coordinator=Coordinator(config, journal, lambda: NOW_MS),
        wall_ms=lambda: NOW_MS,
    )


def handlers_of(node: Node) -> Handlers:
    return DataHandlers(node).table() | GroupHandlers(node).table() | AdminHandlers(node).table()


async def answer(handlers: Handlers, api: Api, version: int, request: dict[str, Any]) -> None:
    reply = handlers[api](version, request, Caller("client", "127.0.0.1", ("127.0.0.1", 1)))
    if reply is None:
        assert api.name == "Produce"
        return
    if not isinstance(reply, dict):
        waiting = asyncio.ensure_future(reply)
        done, _ = await asyncio.wait([waiting], timeout=0.001)
        if not done:
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            return
        reply = waiting.result()
    written = b"".join(api.write_response(version, reply))
    assert api.read_response(version, wire.Cursor(written)).keys() <= reply.keys()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_request_is_answered(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("node")

    async def run() -> None:
        node = open_node(directory)
        handlers = handlers_of(node)
        node.topics.create("t", 2, {}, NOW_MS)
        for _ in range(12):
            api = data.draw(st.sampled_from(sorted(handlers, key=lambda api: api.key)))
            version = data.draw(st.integers(api.first, api.last))
            await answer(handlers, api, version, data.draw(values_of(api.request, version)))
        node.coordinator.close()
        node.topics.close()
        node.journal.close()
        # And what was done can be opened again.
        again = open_node(directory)
        assert {t.name: len(t.partitions) for t in again.topics} == {
            t.name: len(t.partitions) for t in node.topics
        }
        again.topics.close()
        again.journal.close()

    asyncio.run(run())
