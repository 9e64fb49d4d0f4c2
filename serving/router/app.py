"""The process: checks the settings, wires the parts, stops on a signal.

The only file of the router, with __main__, that names concrete classes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from redline.errors import ConfigFault
from redline.serve import Server, announce, bind, stop_event
from redline.settings import RouterSettings, Secrets, Settings
from redline.webhooks import read_secrets
from serving.router.api import build_api
from serving.router.hooks import Orders
from serving.router.metrics import Metrics
from serving.router.proxy import Proxy, open_session
from serving.router.report import Cause, Reporter, changes
from serving.router.weights import Weights

SETTING = "router.port"
PROXIED = "/v1/"


def check(router: RouterSettings) -> None:
    """Refuse settings that cannot route.

    Raises:
        ConfigFault: names the field, the value and the fix.
    """
    versions = [backend.version for backend in router.backends]
    if not versions:
        raise ConfigFault("router.backends", [], "nothing to route to", "name one at least")
    for index, backend in enumerate(router.backends):
        if versions.count(backend.version) > 1:
            raise ConfigFault(
                f"router.backends.{index}.version", backend.version, "used twice", "name each once"
            )
        if not backend.urls:
            raise ConfigFault(f"router.backends.{index}.urls", [], "no server", "name one at least")
    if router.stable not in versions:
        raise ConfigFault(
            "router.stable", router.stable, "not a version in router.backends", "name one of them"
        )


class Router:
    """One router process."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        check(settings.router)
        self._settings = settings.router
        self._secrets = secrets
        secret = secrets.webhook_secret.get_secret_value()
        self._keys = read_secrets(secret) if secret else ()
        self._weights = Weights(
            settings.data_dir / "router" / "weights.json",
            {backend.version: backend.weight for backend in self._settings.backends},
        )

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            AddressInUse, ConfigFault: it cannot start.
        """
        router, token = self._settings, self._secrets.api_token.get_secret_value()
        stop = stop_event()
        listener = bind("router", router.host, router.port, SETTING)
        metrics = Metrics()
        async with open_session() as upstream, aiohttp.ClientSession() as outbound:
            reporter = Reporter(router.collector_url, token, outbound)

            def _report(
                cause: Cause,
                before: Mapping[str, float],
                after: Mapping[str, float],
                why: str,
            ) -> None:
                now_us = time.time_ns() // 1_000
                reporter.put(changes(router.model, cause, before, after, why, now_us))

            def _changed(before: Mapping[str, float], after: Mapping[str, float], who: str) -> None:
                _report("weights", before, after, who)

            orders = Orders(self._weights, router.model, router.stable, self._keys, _report)
            proxy = Proxy(
                {backend.version: backend.urls for backend in router.backends},
                self._weights,
                upstream,
                metrics,
            )
            own = build_api(self._weights, orders, metrics, _changed, token)

            async def _app(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] == "http" and scope["path"].startswith(PROXIED):
                    await proxy(scope, receive, send)
                else:
                    await own(scope, receive, send)

            server = Server(_app, date_header=False)
            await server.start(listener)
            reports = asyncio.create_task(reporter.run())
            announce(listener)
            await stop.wait()
            await server.stop()
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reports
