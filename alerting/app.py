"""The process: wires the parts, runs sessions one after another, stops on a signal.

The only file of this room, with __main__, that names concrete classes. It refuses to hold rules.
"""

from __future__ import annotations

import asyncio
import random
import socket

import aiohttp
from aiokafka.errors import KafkaError

from alerting import configuration
from alerting.api import build_api
from alerting.dispatcher import SLACK, Dispatcher
from alerting.engine import Engine
from alerting.metrics import Metrics
from alerting.notify.slack import SlackChannel
from alerting.notify.webhook import WebhookReceiver, open_session
from alerting.session import Session
from alerting.writer import Writer
from redline.errors import ComponentFailed
from redline.kafka import client_options, ensure_topics
from redline.log import get_logger
from redline.serve import Server, announce, bind, stop_event
from redline.settings import Secrets, Settings
from redline.webhooks import read_secrets

SETTING = "alerting.port"
RETRY_S_MAX = 15.0
STOP_S = 3.0
CUT_S = 0.5


class Alerting:
    """One alerting process."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        alerting = settings.alerting
        configuration.check_outbound(alerting, secrets)
        self._settings = settings
        self._secrets = secrets
        self._metrics = Metrics()
        self._engine = Engine(
            configuration.rules(alerting.rules),
            configuration.limits(alerting),
            [SLACK] if alerting.slack.enabled else [],
        )
        page = settings.dashboards
        self._page_url = alerting.page_url or f"http://{page.host}:{page.port}/"
        self._session: Session | None = None
        self._joined = asyncio.Event()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT.

        Raises:
            AddressInUse, ConfigFault: it cannot start.
        """
        stop = stop_event()
        alerting = self._settings.alerting
        listener = bind("alerting", alerting.host, alerting.port, SETTING)
        server = Server(build_api(self._owner, self._ready, self._metrics, self._secrets))
        async with open_session() as outbound, aiohttp.ClientSession() as slack_http:
            await server.start(listener)
            sessions = asyncio.create_task(self._sessions(stop, outbound, slack_http))
            ready = asyncio.create_task(self._announce(listener))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait((sessions, stopped), return_when=asyncio.FIRST_COMPLETED)
                # Without a broker the clients would wait for it; what is unfinished is restored.
                await asyncio.wait((sessions,), timeout=STOP_S)
                if sessions.cancel():
                    get_logger().warning("session.cut", reason=f"not over within {STOP_S} s")
                    await asyncio.wait((sessions,), timeout=CUT_S)
                else:
                    sessions.result()
            finally:
                stopped.cancel()
                ready.cancel()
                await server.stop()

    def _owner(self) -> Writer | None:
        return self._session.writer if self._session else None

    def _ready(self) -> bool:
        return self._joined.is_set()

    async def _announce(self, listener: socket.socket) -> None:
        await self._joined.wait()
        announce(listener)

    async def _sessions(
        self,
        stop: asyncio.Event,
        outbound: aiohttp.ClientSession,
        slack_http: aiohttp.ClientSession,
    ) -> None:
        alerting = self._settings.alerting
        options = client_options(self._settings.kafka, self._secrets)
        slack = (
            SlackChannel(alerting.slack, self._secrets, slack_http)
            if alerting.slack.enabled
            else None
        )
        key = (
            read_secrets(self._secrets.webhook_secret.get_secret_value())[0]
            if alerting.webhooks
            else b""
        )
        webhooks = [WebhookReceiver(webhook, key, outbound) for webhook in alerting.webhooks]

        def _dispatch(writer: Writer) -> Dispatcher:
            return Dispatcher(writer, slack, webhooks, self._metrics, self._page_url)

        delay_s = 0.5
        while not stop.is_set():
            try:
                await ensure_topics(self._settings.kafka, self._secrets)
                self._session = Session(
                    options, self._engine, _dispatch, self._metrics, self._joined
                )
                await self._session.run(stop)
                delay_s = 0.5
            except (KafkaError, ComponentFailed, OSError) as error:
                get_logger().warning("session.ended", reason=f"{type(error).__name__}: {error}")
                delay_s = min(delay_s * 2, RETRY_S_MAX)
                await _wait(stop, delay_s * (0.5 + random.random() / 2))  # noqa: S311


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
