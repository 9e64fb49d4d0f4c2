"""What the request handlers share: the broker's state, its clocks, and who is calling.

The file refuses behaviour; it only names what belongs together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from embedded.broker.api import Api
from embedded.broker.config import BrokerConfig
from embedded.broker.coordinator import Coordinator
from embedded.broker.journal import Journal
from embedded.broker.topics import Topics
from embedded.broker.wire import Message

NODE_ID = 1
LEADER_EPOCH = 0
NO_AUTHORIZED_OPERATIONS = -(1 << 31)  # "not asked for": there are no ACLs here


@dataclass(frozen=True, slots=True)
class Caller:
    """One connection's client. ``local`` is the address that it reached the broker at."""

    client_id: str
    client_host: str
    local: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Node:
    """The state of one broker. Clocks: milliseconds since 1970, and monotonic milliseconds."""

    config: BrokerConfig
    journal: Journal
    topics: Topics
    coordinator: Coordinator
    wall_ms: Callable[[], int]


# A handler answers at once, or later (fetch, join, sync), or not at all (acks=0).
Reply = Message | None | Awaitable[Message]
Handler = Callable[[int, Message, Caller], Reply]
Handlers = dict[Api, Handler]
