"""One store for the whole room: a seeded database of a fixed hour, and an empty one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.dashboards import seed
from tests.dashboards.store import new_database, running_store

NOW_US = 1_795_500_007_000_000  # 2026-11-24, seven seconds into a pane


class Store(NamedTuple):
    """Where it listens, and when "now" is in its database ``seeded``."""

    port: int
    now_us: int


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running_store(tmp_path_factory.mktemp("dashboards")) as port:
        client = new_database(port, "seeded")
        seed.seed_hour(client, NOW_US)
        client.close()
        new_database(port, "empty").close()
        yield Store(port, NOW_US)
