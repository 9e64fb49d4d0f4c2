"""One store for the tests that do not stop it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.embedded.store.process import StoreProcess


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreProcess]:
    with StoreProcess(tmp_path_factory.mktemp("store") / "data") as process:
        yield process
