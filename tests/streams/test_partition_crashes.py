"""Whatever the messages are, wherever the worker dies, everything is counted and billed once."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redline.records import RequestRecord
from tests.streams.world import Crashed, World, request, sequences

PROFILE = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def logs(draw: st.DrawFn) -> list[list[RequestRecord]]:
    """Messages that are mostly in order, with some that are late by seconds or minutes."""
    count = draw(st.integers(1, 60))
    rng = random.Random(draw(st.integers(0, 2**32)))
    records = []
    for number in range(count):
        late_s = rng.choice([0, 0, 0, 0, 5, 30, 90])
        end_s = max(0.5, number * 3 + rng.random() * 10 - late_s)
        records.append(
            request(
                number,
                end_s,
                rng.choice([0.0, 0.2, 3.0, 12.0, 45.0]),
                instance=rng.choice(["a", "a", "b", "unpriced"]),
                tenant=rng.choice(["t", "u", "v"]),
                status_code=rng.choice([200, 200, 200, 429, 500]),
                queue_us=rng.choice([None, 0, 150_000]),
            )
        )
    return sequences(records, draw(st.lists(st.integers(1, 9), max_size=20)))


def live(world: World, rng: random.Random, deaths: int) -> None:
    """Run to the end with that many deaths, each at a random step of a flush or delivery."""
    world.start()
    for _ in range(deaths):
        left = rng.randrange(1, 60)

        def tick() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crashed

        world.tick = tick
        try:
            while world.read < len(world.log):
                world.read_messages(rng.randrange(1, 4))
                if rng.random() < 0.3:
                    world.sample(rng.choice(["a", "b", "c"]), rng.random() * 60 + world.read)
                world.flush() if rng.random() < 0.5 else world.deliver()
        except Crashed:
            # Kafka may have kept less than we committed: acknowledgements are written lazily
            world.committed = rng.randrange(-1, world.committed + 1)
            world.start()
    world.tick = lambda: None
    world.settle_all()


@PROFILE
@given(logs(), st.integers(0, 2**32), st.integers(0, 5))
def test_every_request_is_counted_once_and_every_window_balances(
    log: list[list[RequestRecord]], seed: int, deaths: int
) -> None:
    world = World(log)
    live(world, random.Random(seed), deaths)
    world.check_counts()
    world.check_balance()
    world.check_costs()
    world.check_ledger_requests()
    assert not [e for e in world.ledger.values() if e.status == "provisional"]


@PROFILE
@given(logs(), st.integers(0, 2**32))
def test_a_replay_from_any_offset_changes_no_row(log: list[list[RequestRecord]], seed: int) -> None:
    world = World(log)
    live(world, random.Random(seed), 0)
    before = (dict(world.panes), dict(world.ledger), dict(world.costs))
    world.committed = random.Random(seed).randrange(-1, len(log))
    world.start()
    world.settle_all()
    assert (world.panes, world.ledger, world.costs) == before


@PROFILE
@given(logs(), st.lists(st.integers(1, 12), max_size=30))
def test_neither_order_nor_cut_changes_a_settled_window(
    log: list[list[RequestRecord]], sizes: list[int]
) -> None:
    records = [record for message in log for record in message]
    shuffled = records[:]
    random.Random(len(records)).shuffle(shuffled)
    results = []
    for order in (log, sequences(shuffled, sizes)):
        world = World(order, lateness_us=900_000_000)  # nothing is late
        live(world, random.Random(1), 0)
        lines = {key: (e.cost_nusd, e.requests) for key, e in world.ledger.items()}
        panes = {key: (p.requests, p.cost_nusd, p.e2e_sketch) for key, p in world.panes.items()}
        results.append((lines, panes, {k: c.cost_nusd for k, c in world.costs.items()}))
        assert not [e for e in world.ledger.values() if e.kind == "correction"]
    assert results[0] == results[1]


@PROFILE
@given(logs())
def test_the_rows_of_requests_add_up_to_the_lines(log: list[list[RequestRecord]]) -> None:
    world = World(log)
    live(world, random.Random(3), 0)
    lines = sum(e.cost_nusd for e in world.ledger.values() if e.tenant)
    assert sum(cost.cost_nusd for cost in world.costs.values()) == lines


@PROFILE
@given(logs(), st.integers(0, 2**32))
def test_state_does_not_grow_with_history(log: list[list[RequestRecord]], seed: int) -> None:
    world = World(log)
    live(world, random.Random(seed), 2)
    # one request a day later lets everything before it go
    world.log.append([request(99_999, 400_000.0)])
    world.read_messages(10)
    world.deliver()
    world.sample("unpriced-clock", 410_000.0)
    world.deliver()
    world.log.append([request(99_998, 420_000.0)])
    world.read_messages(10)
    world.deliver()
    world.deliver()
    assert len(world.state.panes) <= 4
    assert world.state.ledger.settled_windows <= 4
    assert len(world.table) <= 16
