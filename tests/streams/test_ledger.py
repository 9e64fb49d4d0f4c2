"""The ledger's arithmetic, by hand-made examples, and what may never change."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.settings import GpuGroup, Price
from streams.pricing import Bill, Pricer, Unpriced
from streams.residence import SHARE_UNITS_PER_US, time_shares
from streams.windows import METHOD, METHOD_FROM_ARRIVAL
from tests.streams.world import BILL_NUSD, SECOND_US, T0_US, World, price, request

SLOT_US = 10 * SECOND_US


def lines(world: World, window: int = 0, instance: str = "a") -> dict[tuple[str, str, str], int]:
    return {
        (e.kind, e.tenant, e.reason): e.cost_nusd
        for e in world.windows()[instance, T0_US + window * SLOT_US]
    }


def bill(window: int = 0) -> int:
    answer = price("a", T0_US + window * SLOT_US, 0)
    assert isinstance(answer, Bill)
    return answer.bill_nusd


def test_alone_it_pays_for_its_time_and_idle_for_the_rest() -> None:
    world = World([[request(1, 6.0, 4.0)]])
    world.start()
    world.settle_all()
    assert lines(world)["request", "t", ""] in (bill() * 4 // 10, bill() * 4 // 10 + 1)
    world.check_balance()


def test_two_at_once_share_equally_while_they_overlap() -> None:
    """A runs 0-6, B 4-8: A pays 4 + 1, B 1 + 2, idle 2 tenths."""
    world = World([[request(1, 6.0, 6.0, tenant="A"), request(2, 8.0, 4.0, tenant="B")]])
    world.start()
    world.settle_all()
    found = lines(world)
    assert found["request", "A", ""] == pytest.approx(bill() * 0.5, abs=1)
    assert found["request", "B", ""] == pytest.approx(bill() * 0.3, abs=1)
    assert found["idle", "", "no_request"] == pytest.approx(bill() * 0.2, abs=1)


def test_a_request_over_three_windows_pays_in_each_and_counts_in_the_last() -> None:
    world = World([[request(1, 25.0, 20.0)]])
    world.start()
    world.settle_all()
    shares = [lines(world, window)["request", "t", ""] / bill(window) for window in range(3)]
    assert shares == pytest.approx([0.5, 1.0, 0.5], abs=1e-6)
    assert sorted(e.requests for e in world.ledger.values() if e.tenant) == [0, 0, 1]
    assert {p.start_us: p.requests for p in world.panes.values()} == {
        T0_US: 0, T0_US + SLOT_US: 0, T0_US + 2 * SLOT_US: 1,
    }  # fmt: skip


def test_a_failed_request_is_overhead_with_its_labels() -> None:
    world = World([[request(1, 6.0, 4.0, status_code=503), request(2, 9.0, 1.0)]])
    world.start()
    world.settle_all()
    assert lines(world)["overhead", "t", "failed"] == pytest.approx(bill() * 0.4, abs=1)
    pane = next(iter(world.panes.values()))
    assert pane.cost_nusd == lines(world)["request", "t", ""]


def test_the_method_says_when_queueing_was_unknown() -> None:
    world = World([[request(1, 6.0, queue_us=None), request(2, 6.0, tenant="u")]])
    world.start()
    world.settle_all()
    methods = {e.tenant: e.method for e in world.ledger.values()}
    assert methods == {"": METHOD, "t": METHOD_FROM_ARRIVAL, "u": METHOD}
    assert {c.method for c in world.costs.values()} == {METHOD, METHOD_FROM_ARRIVAL}


def test_queueing_is_not_paid() -> None:
    world = World([[request(1, 6.0, 6.0, queue_us=3 * SECOND_US)]])
    world.start()
    world.settle_all()
    assert lines(world)["request", "t", ""] == pytest.approx(bill() * 0.3, abs=1)


def test_an_instance_that_only_breathes_is_all_idle() -> None:
    world = World([])
    world.start()
    world.sample("a", 3.0)
    world.settle_all()
    assert lines(world) == {("idle", "", "no_request"): bill()}


def test_provisional_lines_are_replaced_and_equal_the_settled_ones() -> None:
    world = World([[request(1, 6.0, 4.0)], [request(2, 7.0, 2.0, tenant="u")]])
    world.start()
    world.read_messages(1)
    world.deliver()
    assert {e.status for e in world.ledger.values()} == {"provisional"}
    first = lines(world)
    world.read_messages(1)
    world.deliver()
    second = lines(world)
    assert second["request", "t", ""] < first["request", "t", ""]
    world.check_balance()
    assert not world.costs
    world.settle_all()
    assert lines(world) == second
    assert {e.status for e in world.ledger.values()} == {"settled"}
    assert len(world.costs) == 2


def test_late_requests_take_from_idle_in_pairs_and_closed_lines_stand() -> None:
    log = [[request(1, 6.0, 4.0)], [request(2, 200.0)], [request(3, 9.0, 4.0, tenant="u")]]
    world = World(log)
    world.start()
    world.read_messages(2)
    world.deliver()
    closed = {k: e for k, e in world.ledger.items() if e.window_start_us == T0_US}
    assert {e.status for e in closed.values()} == {"settled"}
    world.settle_all()
    assert {k: world.ledger[k] for k in closed} == closed
    pair = [e for e in world.ledger.values() if e.kind == "correction"]
    assert sum(e.cost_nusd for e in pair) == 0
    assert len({e.correction_id for e in pair}) == 1
    late = next(e for e in pair if e.tenant == "u")
    # 1 s beside the other request and 3 s alone: 3.5 tenths, by the profile of the window
    assert late.cost_nusd == pytest.approx(bill() * 0.35, abs=bill() * 0.01)
    assert world.costs[T0_US, "a", "r00003"].cost_nusd == late.cost_nusd
    world.check_balance()
    world.check_costs()
    world.check_counts()


def test_a_busy_window_has_nothing_left_to_give() -> None:
    log = [[request(1, 10.0, 10.0)], [request(2, 200.0)], [request(3, 9.0, 4.0, tenant="u")]]
    world = World(log)
    world.start()
    world.read_messages(2)
    world.deliver()
    world.settle_all()
    assert lines(world)["correction", "u", "late"] == 0
    world.check_balance()


def test_samples_that_were_read_ahead_close_nothing() -> None:
    """After an outage the samples' topic is read faster than the requests'."""
    world = World([[request(1, 6.0)], [request(2, 8.0)]])
    world.start()
    world.read_messages(1)
    world.sample("a", 5_000.0)
    world.deliver(caught_up=False)
    assert "settled" not in {e.status for e in world.ledger.values()}
    world.settle_all()
    assert not [e for e in world.ledger.values() if e.kind == "correction"]


def test_without_a_price_there_is_no_line_and_a_visible_reason() -> None:
    world = World([[request(1, 6.0, instance="unpriced-1")]])
    world.start()
    world.read_messages(1)
    world.deliver()
    assert not world.ledger
    assert "unpriced-1" in world.state.ledger.unpriced
    world.settle_all()
    assert not world.ledger
    assert world.state.ledger.unpriced_windows >= 1
    world.check_counts()


def test_hours_late_goes_to_a_pane_of_its_own() -> None:
    log = [[request(1, 5.0)], [request(2, 7_300.0)], [request(3, 6.0)], [request(4, 7.0)]]
    world = World(log)
    world.start()
    for _ in log:
        world.read_messages(1)
        world.deliver()
    panes = {
        (p.start_us - T0_US, p.source_partition): p.requests
        for p in world.panes.values()
        if p.requests
    }
    assert panes == {(0, 0): 1, (7_300 * SECOND_US, 0): 1, (0, 512): 2}
    world.settle_all()
    world.check_counts()
    world.check_balance()
    assert world.state.ledger.unpriced_residences == 2


def test_past_the_cap_tenants_are_counted_together() -> None:
    messages = [[request(n, 5.0 + n / 10, tenant=f"t{n}") for n in range(6)], [request(9, 6.0)]]
    world = World(messages, series_max=3)
    world.start()
    world.settle_all()
    world.check_counts()
    world.check_balance()
    assert "__other__" in {p.tenant for p in world.panes.values()}
    assert len({p.tenant for p in world.panes.values()}) <= 5
    assert world.state.panes.capped_records >= 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-20_000_000, 12_000_000), st.integers(0, 25_000_000)), max_size=80
    )
)
def test_shares_are_the_integral_of_one_over_running(pairs: list[tuple[int, int]]) -> None:
    start = np.array([a for a, _ in pairs], np.int64)
    end = np.array([a + b for a, b in pairs], np.int64)
    shares = time_shares(start, end, 0, SLOT_US)
    assert (shares.requests >= 0).all()
    total = int(shares.requests.sum()) + shares.idle
    assert abs(total - SLOT_US * SHARE_UNITS_PER_US) <= len(pairs) + 1
    # the plain definition, step by step between the edges
    edges = sorted({0, SLOT_US, *np.clip(np.concatenate((start, end)), 0, SLOT_US).tolist()})
    expected = [0.0] * len(pairs)
    for low, high in pairwise(edges):
        inside = [i for i in range(len(pairs)) if start[i] <= low and end[i] >= high]
        for i in inside:
            expected[i] += (high - low) / len(inside)
    assert shares.requests.tolist() == pytest.approx(
        [value * SHARE_UNITS_PER_US for value in expected], abs=1
    )


def test_prices_come_from_the_group_that_claims_the_instance() -> None:
    groups = [
        GpuGroup(name="big", sku="H200", gpus_per_instance=2, instances=["big-*"]),
        GpuGroup(name="rest", sku="H100", instances=["vllm-*"]),
        GpuGroup(name="lost", sku="A100", instances=["old-*"]),
    ]
    prices = [
        Price.model_validate({"sku": "H100", "price": "3.60", "valid_from": "2020-01-01"}),
        Price.model_validate(
            {"sku": "H200", "price": "7.20", "valid_from": "2020-01-01", "valid_to": "2030-01-01"}
        ),
    ]
    pricer = Pricer(groups, prices)
    assert pricer.bill("vllm-0", T0_US, T0_US + SLOT_US) == Bill("rest", 10_000_000)
    assert pricer.bill("big-0", T0_US, T0_US + SLOT_US) == Bill("big", 40_000_000)
    lost = pricer.bill("old-0", T0_US, T0_US + SLOT_US)
    assert isinstance(lost, Unpriced)
    assert lost.gpu_group == "lost"
    assert pricer.bill("who", T0_US, T0_US + SLOT_US) == Unpriced(
        "", "no gpu_groups entry claims instance 'who'"
    )
    later = pricer.bill("big-0", 2_000_000_000 * SECOND_US, 2_000_000_010 * SECOND_US)
    assert isinstance(later, Unpriced)
    assert BILL_NUSD > 0
