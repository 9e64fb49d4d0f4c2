"""A world for one partition without Kafka and ClickHouse, that can be cut off at any step.

The table, the rows and the log are what would survive; everything else dies with ``crash``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from redline.records import EngineSample, LedgerEntry, Pane, RequestCost, RequestRecord
from streams.batch import RequestBatch
from streams.partition import Partition
from streams.pricing import Bill, Unpriced

T0_US = 1_800_000_000_000_000  # divisible by a window
SECOND_US = 1_000_000
BILL_NUSD = 5_833_333
LATENESS_US = 20 * SECOND_US


def price(instance: str, start_us: int, end_us: int) -> Bill | Unpriced:
    if instance.startswith("unpriced"):
        return Unpriced("g", "no price")
    return Bill("g", BILL_NUSD + start_us // 10_000_000 % 7)


def request(
    number: int,
    end_s: float,
    duration_s: float = 1.0,
    *,
    instance: str = "a",
    tenant: str = "t",
    status_code: int = 200,
    queue_us: int | None = 0,
    e2e_us: int | None = None,
) -> RequestRecord:
    end_us = T0_US + round(end_s * SECOND_US)
    duration_us = round(duration_s * SECOND_US)
    return RequestRecord(
        request_id=f"r{number:05d}",
        seq=number,
        ts_arrival_us=end_us - duration_us,
        ts_end_us=end_us,
        instance=instance,
        model="m",
        version="1",
        region="eu",
        tenant=tenant,
        status_code=status_code,
        prompt_tokens=10,
        completion_tokens=20,
        queue_us=queue_us,
        ttft_us=1000 + number,
        e2e_us=duration_us if e2e_us is None else e2e_us,
    )


class Crashed(Exception):
    """The process is gone."""


@dataclass
class World:
    """``log`` is the source topic; a message's offset is its place in it."""

    log: list[list[RequestRecord]]
    lateness_us: int = LATENESS_US
    series_max: int = 1_000
    table: dict[bytes, bytes] = field(default_factory=dict)
    panes: dict[tuple[object, ...], Pane] = field(default_factory=dict)
    ledger: dict[tuple[object, ...], LedgerEntry] = field(default_factory=dict)
    costs: dict[tuple[object, ...], RequestCost] = field(default_factory=dict)
    committed: int = -1  # what Kafka would start from
    tick: Callable[[], None] = lambda: None  # raises Crashed where the process dies

    def start(self) -> None:
        self.state = Partition(
            0,
            price_of=price,
            lateness_us=self.lateness_us,
            series_max=self.series_max,
            stored=self.table,
        )
        self.read = self.committed + 1

    def read_messages(self, count: int) -> None:
        for offset in range(self.read, min(self.read + count, len(self.log))):
            if not self.state.is_delivered(offset):
                self.state.apply_requests(RequestBatch(self.log[offset]), offset)
            self.read = offset + 1

    def sample(self, instance: str, at_s: float) -> None:
        ts_us = T0_US + round(at_s * SECOND_US)
        self.state.apply_samples([EngineSample(ts_us=ts_us, instance=instance, model="m")], ts_us)

    def flush(self) -> None:
        for pane in self.state.fresh_panes():
            self.tick()
            self._put_pane(pane)

    def deliver(self, *, caught_up: bool | None = None) -> None:
        upto = self.read - 1
        checkpoint = self.state.checkpoint(
            caught_up=self.read >= len(self.log) if caught_up is None else caught_up
        )
        for key, value in checkpoint.puts:
            self.tick()
            self.table[key] = value
        for pane in checkpoint.panes:
            self.tick()
            self._put_pane(pane)
        for entry in checkpoint.ledger:
            self.tick()
            self._put_entry(entry)
        for cost in checkpoint.costs:
            self.tick()
            self.costs[cost.window_start_us, cost.instance, cost.request_id] = cost
        self.tick()
        self.table[checkpoint.commit[0]] = checkpoint.commit[1]
        self.tick()
        self.committed = max(self.committed, upto)
        for key in self.state.finish(checkpoint):
            self.tick()
            self.table.pop(key, None)

    def settle_all(self, at_s: float = 100_000.0) -> None:
        """Let event time pass, so that everything open is settled and delivered."""
        self.read_messages(len(self.log))
        self.deliver()
        self.sample("unpriced-clock", at_s)
        self.deliver()
        self.deliver()

    def _put_pane(self, pane: Pane) -> None:
        key = (pane.start_us, pane.series, pane.source_partition)
        known = self.panes.get(key)
        if known is None or pane.revision >= known.revision:
            self.panes[key] = pane

    def _put_entry(self, entry: LedgerEntry) -> None:
        key = (
            entry.window_start_us, entry.gpu_group, entry.instance, entry.kind, entry.model,
            entry.version, entry.region, entry.tenant, entry.reason, entry.correction_id,
        )  # fmt: skip
        known = self.ledger.get(key)
        if known is None or entry.revision >= known.revision:
            self.ledger[key] = entry

    # --- what must hold ------------------------------------------------------------------------

    def windows(self) -> dict[tuple[str, int], list[LedgerEntry]]:
        found: dict[tuple[str, int], list[LedgerEntry]] = {}
        for entry in self.ledger.values():
            found.setdefault((entry.instance, entry.window_start_us), []).append(entry)
        return found

    def check_balance(self) -> None:
        for (instance, start_us), entries in self.windows().items():
            bill = price(instance, start_us, start_us + 10_000_000)
            assert isinstance(bill, Bill)
            assert {entry.bill_nusd for entry in entries} == {bill.bill_nusd}
            assert sum(entry.cost_nusd for entry in entries) == bill.bill_nusd, (instance, start_us)
            assert all(e.cost_nusd >= 0 for e in entries if e.kind != "correction")
            idle = [e for e in entries if not e.tenant]
            assert sum(e.cost_nusd for e in idle) >= 0

    def check_counts(self) -> None:
        records = [record for message in self.log for record in message]
        assert sum(pane.requests for pane in self.panes.values()) == len(records)
        assert sum(p.errors for p in self.panes.values()) == sum(r.failed for r in records)
        assert sum(p.completion_tokens for p in self.panes.values()) == 20 * len(records)

    def check_ledger_requests(self) -> None:
        """Each request on a priced instance is counted in one line: where it ended."""
        records = [r for message in self.log for r in message if not r.instance.startswith("un")]
        assert sum(e.requests for e in self.ledger.values()) == len(records)

    def check_costs(self) -> None:
        """A pane's cost is what the ledger gave its series in its window."""
        given: dict[tuple[object, ...], int] = {}
        for e in self.ledger.values():
            if e.tenant and (
                e.kind == "request" or (e.kind == "correction" and e.reason == "late")
            ):
                key = (e.window_start_us, e.model, e.version, e.region, e.tenant)
                given[key] = given.get(key, 0) + e.cost_nusd
        shown = {
            (p.start_us, *p.series): p.cost_nusd
            for p in self.panes.values()
            if p.source_partition == 0
        }
        assert {k: v for k, v in given.items() if v} == {k: v for k, v in shown.items() if v}


def sequences(records: Sequence[RequestRecord], sizes: Sequence[int]) -> list[list[RequestRecord]]:
    """Cut records into messages of those sizes, again and again."""
    cut: list[list[RequestRecord]] = []
    position: Iterator[int] = iter(sizes)
    rest = list(records)
    while rest:
        size = max(1, next(position, 3))
        cut.append(rest[:size])
        rest = rest[size:]
    return cut
