"""The targets of the contract: our broker as a child process, and Apache Kafka when it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.contracts.kafka.clients import Aio, Confluent, Target
from tests.contracts.kafka.process import BrokerProcess

KAFKA_VARIABLE = "REDLINE_TEST_KAFKA"


@pytest.fixture(
    scope="session", params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)]
)
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    if request.param == "apache":
        bootstrap = os.environ.get(KAFKA_VARIABLE)
        if not bootstrap:
            pytest.skip(f"{KAFKA_VARIABLE} is not set (python -m tests.contracts.kafka.apache)")
        yield Target("apache", bootstrap)
        return
    data_dir = tmp_path_factory.mktemp("broker") / "data"
    with BrokerProcess(data_dir, "--housekeeping-interval-ms", "200") as broker:
        yield Target("embedded", broker.bootstrap)


@pytest.fixture(scope="session")
def confluent(target: Target) -> Confluent:
    return Confluent(target)


@pytest.fixture(scope="session")
def aio(target: Target) -> Aio:
    return Aio(target)
