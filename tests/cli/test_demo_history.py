"""The demo's invented past balances like a real one and leaves live windows alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import pytest

from cli.demo.history import COLUMNS, history_rows
from cli.demo.layout import DemoOptions, choose_ports, fleet_spec, settings_content
from redline.settings import Settings
from serving.simulator.spec import SimulatorSpec
from streams.baselines import DAY_US
from streams.panes import PANE_US

END_US = 1_795_000_000_000_000 // PANE_US * PANE_US
SHARES = {instance: {"": 3, "acme": 50, "globex": 7} for instance in ("vllm-0", "vllm-1", "vllm-2")}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatorSpec, Settings]:
    path: Path = tmp_path_factory.mktemp("demo")
    options = DemoOptions(None, True, True, 40.0, 7, None, 1.0, 0, path)
    ports = choose_ports(0)
    spec = fleet_spec(options, ports)
    return spec, Settings(**settings_content(options, ports, spec))


def test_windows_tile_the_past_without_gap_or_overlap_and_balance(
    fleet: tuple[SimulatorSpec, Settings],
) -> None:
    windows: dict[str, dict[tuple[int, int], list[int]]] = defaultdict(lambda: defaultdict(list))
    bills: dict[tuple[str, int, int], int] = {}
    for values in history_rows(*fleet, SHARES, END_US):
        row = dict(zip(COLUMNS, values, strict=True))
        key = (row["window_start"], row["window_end"])
        windows[row["instance"]][key].append(row["cost_nusd"])
        bills[row["instance"], *key] = row["bill_nusd"]
    assert set(windows) == set(SHARES)
    for instance, by_window in windows.items():
        spans = sorted(by_window)
        assert spans[-1][1] * 1_000_000 == END_US
        assert END_US - spans[0][0] * 1_000_000 >= 7 * DAY_US
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        for span, costs in by_window.items():
            assert sum(costs) == bills[instance, *span]
        last_hour = [end - start for start, end in spans if start * 1_000_000 >= END_US - 3_600e6]
        assert set(last_hour) == {10}
