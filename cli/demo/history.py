"""Seven days of spend that never happened, so that the demo's baseline has something to stand on.

The same fleet and load are simulated for two minutes in virtual time; each tenant's time share of
each engine is then written as settled ledger lines for the past seven billing days and today. It
is marked in the rows (method ``demo_history``). This file refuses to touch live windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from clickhouse_connect.driver.client import Client

from redline.money import largest_remainder
from redline.records import RequestRecord
from redline.settings import Settings
from serving.simulator.offline import FleetMember, simulate
from serving.simulator.spec import SimulatorSpec
from serving.simulator.workload import Arrival, Workload
from streams.baselines import BASELINE_DAYS, DAY_US, HOUR_US, billing_day_start_us
from streams.panes import PANE_US
from streams.pricing import Bill, Pricer
from streams.residence import time_shares

SIMULATED_US = 120_000_000
METHOD = "demo_history"
# Windows grow with age, so that charts of every range look as they would in production without a
# million lines: (window, for what is older than).
WINDOWS_US = (
    (HOUR_US, DAY_US),
    (HOUR_US // 12, 6 * HOUR_US),
    (HOUR_US // 60, HOUR_US),
    (PANE_US, 0),
)
COLUMNS = (
    "window_start", "window_end", "gpu_group", "instance", "kind", "status", "revision", "method",
    "cost_nusd", "bill_nusd", "model", "version", "region", "tenant", "requests", "reason",
    "correction_id",
)  # fmt: skip

Shares = dict[str, dict[str, int]]  # instance → tenant → time; the tenant "" is idle


def tenant_shares(spec: SimulatorSpec, weights: dict[str, float]) -> Shares:
    """Each tenant's share of each engine's time, from a simulation. ``weights`` by version."""
    assert spec.workload is not None
    counts = dict.fromkeys(weights, 0)
    for engine in spec.engines:
        counts[engine.version] += 1
    fleet = [
        FleetMember(
            identity=engine.identity,
            profile=engine.profile(),
            weight=weights[engine.version] / counts[engine.version],
        )
        for engine in spec.engines
    ]
    # the router splits by weight alone, so regions play no part
    profile = msgspec.structs.replace(spec.workload.profile(), regions={})
    workload = Workload(profile, spec.workload.seed, "history")
    by_instance: dict[str, list[RequestRecord]] = {engine.instance: [] for engine in spec.engines}
    for record in simulate(_arrivals(workload), fleet, sample_every_us=0):
        if isinstance(record, RequestRecord):
            by_instance[record.instance].append(record)
    return {instance: _shares(records) for instance, records in by_instance.items()}


def _arrivals(workload: Workload) -> Iterator[Arrival]:
    arrival = workload.next_arrival(0)
    while arrival is not None and arrival.at_us < SIMULATED_US:
        yield arrival
        arrival = workload.next_arrival(arrival.at_us)


def _shares(records: list[RequestRecord]) -> dict[str, int]:
    start = np.array([r.ts_arrival_us + (r.queue_us or 0) for r in records], np.int64)
    end = np.array([r.ts_end_us for r in records], np.int64)
    shares = time_shares(start, end, 0, SIMULATED_US)
    totals = {"": shares.idle}
    for record, share in zip(records, shares.requests.tolist(), strict=True):
        totals[record.tenant] = totals.get(record.tenant, 0) + share
    return totals


def history_rows(
    spec: SimulatorSpec, settings: Settings, shares: Shares, end_us: int
) -> Iterator[tuple[Any, ...]]:
    """Ledger rows from seven billing days ago up to ``end_us``, a multiple of PANE_US."""
    pricer = Pricer(settings.gpu_groups, settings.prices)
    offset_us = round(settings.streams.billing_utc_offset_hours * HOUR_US)
    start_us = billing_day_start_us(offset_us, end_us) - BASELINE_DAYS * DAY_US
    while start_us < end_us:
        stop_us = min(_window_end_us(start_us, end_us - start_us), end_us)
        for engine in spec.engines:
            bill = pricer.bill(engine.instance, start_us, stop_us)
            assert isinstance(bill, Bill)
            tenants = sorted(shares[engine.instance])
            weights = [shares[engine.instance][tenant] for tenant in tenants]
            for tenant, nusd in zip(
                tenants, largest_remainder(bill.bill_nusd, weights), strict=True
            ):
                kind = "request" if tenant else "idle"
                labels = (engine.model, "v1", engine.region, tenant) if tenant else ("",) * 4
                yield (
                    start_us // 1_000_000, stop_us // 1_000_000, bill.gpu_group, engine.instance,
                    kind, "settled", 1, METHOD, nusd, bill.bill_nusd, *labels, 0, "", "",
                )  # fmt: skip
        start_us = stop_us


def _window_end_us(start_us: int, age_us: int) -> int:
    window_us = next(window for window, older in WINDOWS_US if age_us > older)
    return start_us // window_us * window_us + window_us


def seed_history(
    client: Client, spec: SimulatorSpec, settings: Settings, shares: Shares, end_us: int
) -> int:
    """Write the history; how many rows."""
    rows = list(history_rows(spec, settings, shares, end_us))
    client.insert("ledger", rows, column_names=COLUMNS)
    return len(rows)
