"""The protocol spoken by hand, for what no client would ever send."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Any, Self

from embedded.broker.api import Api
from embedded.broker.api_data import FETCH, INIT_PRODUCER_ID, PRODUCE
from embedded.broker.wire import Cursor
from tests.contracts.kafka.clients import wait_until

COORDINATOR_LOAD_IN_PROGRESS = 14


class RawClient:
    """One blocking connection between ``with`` and its end."""

    def __init__(self, bootstrap: str, timeout_s: float = 15.0) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._correlation_id = 0

    def call(self, api: Api, version: int, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and read its answer."""
        self.send(api, version, request)
        return self.receive(api, version)

    def send(self, api: Api, version: int, request: dict[str, Any]) -> None:
        self._correlation_id += 1
        head = struct.pack(">hhih", api.key, version, self._correlation_id, 3) + b"raw"
        body = head + api.write_request(version, request)
        self.send_bytes(struct.pack(">i", len(body)) + body)

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, api: Api, version: int) -> dict[str, Any]:
        frame = self._exactly(struct.unpack(">i", self._exactly(4))[0])
        cursor = Cursor(frame)
        (correlation_id,) = struct.unpack(">i", cursor.take(4))
        assert correlation_id == self._correlation_id
        answer = api.read_response(version, cursor)
        assert cursor.remaining == 0
        return answer

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise ConnectionError("the broker closed the connection")
            data += chunk
        return data

    def is_closed_by_the_broker(self) -> bool:
        """Wait for the end of the stream; what was still to be read is skipped."""
        try:
            while self._socket.recv(65_536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()


def produce(client: RawClient, topic: str, batch: bytes, **overrides: Any) -> dict[str, Any]:
    """Produce one batch to partition 0; returns the partition's answer."""
    request = {
        "transactional_id": None,
        "acks": -1,
        "timeout_ms": 10_000,
        "topics": [{"name": topic, "partitions": [{"index": 0, "records": batch}]}],
        **overrides,
    }
    answer = client.call(PRODUCE, 7, request)["topics"][0]["partitions"][0]
    assert isinstance(answer, dict)
    return answer


def fetch_request(topic: str, offset: int, **overrides: Any) -> dict[str, Any]:
    """A request for partition 0."""
    partition_max_bytes = overrides.pop("partition_max_bytes", 1 << 20)
    wanted = {
        "index": 0,
        "current_leader_epoch": -1,
        "fetch_offset": offset,
        "log_start_offset": -1,
        "partition_max_bytes": partition_max_bytes,
    }
    return {
        "replica_id": -1,
        "max_wait_ms": 5_000,
        "min_bytes": 1,
        "max_bytes": 50 << 20,
        "isolation_level": 0,
        "session_id": 0,
        "session_epoch": -1,
        "topics": [{"name": topic, "partitions": [wanted]}],
        "forgotten_topics": [],
        "rack_id": "",
        **overrides,
    }


def fetch(client: RawClient, topic: str, offset: int, **overrides: Any) -> dict[str, Any]:
    """Fetch from partition 0; returns the partition's answer."""
    request = fetch_request(topic, offset, **overrides)
    answer = client.call(FETCH, 11, request)["topics"][0]["partitions"][0]
    assert isinstance(answer, dict)
    return answer


def new_producer_id(client: RawClient) -> int:
    """An id for an idempotent producer."""
    request = {"transactional_id": None, "transaction_timeout_ms": 10_000}
    answers: list[dict[str, Any]] = []

    def ready() -> bool:
        answers.append(client.call(INIT_PRODUCER_ID, 1, request))
        return bool(answers[-1]["error_code"] != COORDINATOR_LOAD_IN_PROGRESS)

    wait_until(ready, "the broker hands out producer ids")
    assert answers[-1]["error_code"] == 0
    return int(answers[-1]["producer_id"])
