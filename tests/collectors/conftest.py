from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collectors.processes import Process, start_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Process]:
    process = start_broker(tmp_path / "broker", tmp_path / "broker.log")
    yield process
    process.end()
