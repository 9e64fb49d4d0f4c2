"""A record that fits no column, or comes from the future, is refused alone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import CLOCK_AHEAD_MAX_US, SUM_FIELDS, RequestBatch, admit
from tests.streams.world import SECOND_US, T0_US, request

RECEIVED_US = T0_US + 60 * SECOND_US

FAULTS = [
    {"ts_end_us": 5},
    {"ts_end_us": RECEIVED_US + CLOCK_AHEAD_MAX_US + 1},
    {"ts_arrival_us": RECEIVED_US * 1_000},
    {"prompt_tokens": -1},
    {"completion_tokens": 2**32},
    {"status_code": 2**16},
    {"preemptions": -1},
    {"seq": 2**63},
    {"e2e_us": -1},
    {"network_us": 2**63},
    {"tenant": "x" * 257},
    {"request_id": "x" * 257},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_record_does_not_block_its_message(fault: dict[str, object]) -> None:
    good = [request(1, 5.0), request(2, 6.0)]
    bad = msgspec.structs.replace(good[0], **fault)
    admitted, refused = admit([good[0], bad, good[1]], RECEIVED_US)
    assert admitted == good
    assert [r.record for r in refused] == [bad]
    assert next(iter(fault)) in refused[0].reason


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([{}, {}, {}, *FAULTS]), max_size=12))
def test_admitting_together_or_alone_is_the_same(faults: list[dict[str, object]]) -> None:
    records = [
        msgspec.structs.replace(request(n, 5.0 + n), **fault) for n, fault in enumerate(faults)
    ]
    together = admit(records, RECEIVED_US)
    alone = [admit([record], RECEIVED_US) for record in records]
    assert together[0] == [r for good, _ in alone for r in good]
    assert together[1] == [r for _, refused in alone for r in refused]
    assert len(together[1]) == sum(1 for fault in faults if fault)


def test_columns_hold_what_the_records_say() -> None:
    records = [request(1, 5.0, 2.0, queue_us=500), request(2, 6.0, 1.0, queue_us=None, tenant="u")]
    batch = RequestBatch(records)
    assert batch.start_us.tolist() == [T0_US + 3 * SECOND_US + 500, T0_US + 5 * SECOND_US]
    assert batch.queue_known.tolist() == [True, False]
    assert [series.tenant for series in batch.series] == ["t", "u"]
    sums = dict(zip(SUM_FIELDS, batch.sums.sum(axis=1).tolist(), strict=True))
    assert sums["requests"] == 2
    assert sums["queue_us"] == 500
    assert batch.latest_us == T0_US + 6 * SECOND_US
    assert RequestBatch([]).latest_us == 0
    assert np.array_equal(batch.instances["a"], [0, 1])


def test_an_arrival_after_the_end_costs_no_negative_time() -> None:
    skewed = msgspec.structs.replace(request(1, 5.0), ts_arrival_us=T0_US + 7 * SECOND_US)
    batch = RequestBatch([skewed])
    assert (batch.end_us - batch.start_us).tolist() == [0]
    assert batch.queue_known.tolist() == [False]
