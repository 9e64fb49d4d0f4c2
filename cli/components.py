"""What ``redline up`` runs: from settings to a list of child processes, in stages.

Pure. A stage starts when the one before it is ready. This file refuses to start anything.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from redline.errors import ConfigFault
from redline.settings import Settings


class Component(NamedTuple):
    """One child process. ``setting`` is where its address is configured."""

    name: str
    command: tuple[str, ...]
    host: str = ""
    port: int = 0
    setting: str = ""
    one_shot: bool = False  # runs to its end (migrations, topics); exit 0 is readiness
    shown_url: str = ""  # for people: the address to open

    @property
    def address(self) -> str:
        """Where it is reached, as one word."""
        return self.shown_url or (f"{self.host}:{self.port}" if self.port else "-")


Stage = tuple[Component, ...]


def module(name: str, config: Path, *arguments: str) -> tuple[str, ...]:
    """The command that runs a room with this configuration."""
    return (sys.executable, "-m", name, *arguments, "--config", str(config))


def stages(settings: Settings, config: Path, extra: Stage = ()) -> tuple[Stage, ...]:
    """The components in starting order; ``extra`` start with the rooms (a demo's fleet).

    Raises:
        ConfigFault: an embedded server is wanted at an address that names several hosts.
    """
    servers: list[Component] = []
    if settings.embedded.broker:
        servers.append(_broker(settings))
    if settings.embedded.store:
        servers.append(_store(settings))
    preparations = (
        Component("topics", module("cli.topics", config), one_shot=True),
        Component("migrations", module("migrations", config, "up"), one_shot=True),
    )
    page = settings.dashboards
    rooms = [
        _room("collectors", config, settings.collectors.host, settings.collectors.port),
        Component(
            "streams", module("streams", config), "127.0.0.1", settings.streams.port, "streams.port"
        ),
        _room("alerting", config, settings.alerting.host, settings.alerting.port),
        _room("dashboards", config, page.host, page.port)._replace(
            shown_url=f"http://{page.host}:{page.port}/"
        ),
    ]
    if settings.router.enabled:
        rooms.append(
            Component(
                "router",
                module("serving.router", config),
                settings.router.host,
                settings.router.port,
                "router.port",
            )
        )
    all_stages = (tuple(servers), preparations, (*rooms, *extra))
    return tuple(stage for stage in all_stages if stage)


def _room(name: str, config: Path, host: str, port: int) -> Component:
    return Component(name, module(name, config), host, port, f"{name}.port")


def _broker(settings: Settings) -> Component:
    setting = "kafka.bootstrap_servers"
    address = settings.kafka.bootstrap_servers
    host, _, port = address.rpartition(":")
    if "," in address or not host or not port.isdigit():
        raise ConfigFault(
            setting,
            address,
            "the embedded broker needs one host:port",
            "name one, or set embedded.broker: false to use your own Kafka",
        )
    directory = settings.data_dir / "broker"
    command = (
        sys.executable, "-m", "embedded.broker", "--data-dir", str(directory),
        "--host", host, "--port", port, "--partitions", str(settings.kafka.partitions),
    )  # fmt: skip
    return Component("broker", command, host, int(port), setting)


def _store(settings: Settings) -> Component:
    store = settings.clickhouse
    command = (
        sys.executable, "-m", "embedded.store", "--data-dir", str(settings.data_dir / "store"),
        "--host", store.host, "--port", str(store.port),
    )  # fmt: skip
    return Component("store", command, store.host, store.port, "clickhouse.port")
