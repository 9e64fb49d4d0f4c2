"""Run the demo: stack up, history in, load on, incidents in turn, drain, summary.

Everything is waited for by its condition; the script's own times are the only waits by the clock.
This file refuses to judge: the summary's numbers do (report.is_good).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from clickhouse_connect.driver.client import Client

from cli.demo.events import Events
from cli.demo.history import seed_history, tenant_shares
from cli.demo.incidents import RUN_SECONDS, RUN_SECONDS_MIN, Step, script
from cli.demo.layout import (
    CANARY,
    CANARY_WEIGHT,
    HOST,
    STABLE,
    DemoOptions,
    Ports,
    choose_ports,
    environment,
    extra_components,
    fleet_spec,
    write_files,
)
from cli.demo.report import action_reports, alert_reports, in_words, is_good, open_incidents
from cli.memory import MemoryWatch
from cli.run_state import is_running
from cli.summary import PANE_US, stored_facts
from cli.supervisor import Supervisor
from cli.up import supervise
from redline.clickhouse import connect
from redline.errors import ConfigFault, Fault
from redline.settings import Secrets, Settings, load_settings
from serving.simulator.sent_file import SentLine
from serving.simulator.spec import SimulatorSpec
from streams.pricing import Pricer

MARKER = "redline-demo"
DRAIN_WITHIN_S = 90.0
CALM_WITHIN_S = 30.0  # for the last alerts to resolve, once the load is over
POLL_S = 0.5
PAGE_RANGE_S = 300


def run_demo(options: DemoOptions) -> int:
    """0: every promise was kept; 1: the summary says which was not."""
    if options.seconds is not None and options.seconds < RUN_SECONDS_MIN:
        raise ConfigFault(
            "--seconds",
            options.seconds,
            "too short for the incidents",
            f"give {RUN_SECONDS_MIN:.0f} or more",
        )
    prepare_directory(options.data_dir, MARKER)
    ports = choose_ports(options.port_base)
    spec = fleet_spec(options, ports)
    config, fleet = write_files(options, ports, spec)
    settings = load_settings(config)
    demo = Demo(options, ports, spec, settings, environment(spec))
    asyncio.run(
        supervise(
            settings,
            config,
            demo.body,
            extra=extra_components(ports, fleet),
            environment=demo.environment,
            notice=None if not options.as_json else lambda state: None,
        )
    )
    if demo.report is None:
        return 0
    if options.as_json:
        print(msgspec.json.encode(demo.report).decode())
    else:
        print("\n" + in_words(demo.report))
    return 0 if is_good(demo.report) else 1


def prepare_directory(path: Path, marker: str) -> None:
    """Empty our own directory; refuse one that is somebody else's, or in use."""
    sign = path / f".{marker}"
    if path.exists() and any(path.iterdir()) and not sign.exists():
        raise ConfigFault(
            "--data-dir", str(path), "not empty and not made by this command", "name another"
        )
    if is_running(path):
        raise Fault(
            f"Another run uses {path}. Fix: stop it with Ctrl-C, or name another --data-dir."
        )
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    sign.touch()


class Demo:
    """One run; ``report`` is there when the load has been drained."""

    def __init__(
        self,
        options: DemoOptions,
        ports: Ports,
        spec: SimulatorSpec,
        settings: Settings,
        environment: dict[str, str],
    ) -> None:
        self.options = options
        self.environment = environment
        self.report: dict[str, Any] | None = None
        self._ports = ports
        self._spec = spec
        self._settings = settings
        self._began_s = time.time()
        self._incidents: list[tuple[float, Step]] = []
        self._first_chart_s: float | None = None
        self._load_us = 0
        self._until_us = 0

    async def body(self, stop: asyncio.Event, supervisor: Supervisor) -> None:
        """From the moment that everything is ready."""
        client = await asyncio.to_thread(connect, self._settings.clickhouse, Secrets())
        headers = {"Authorization": f"Bearer {self.environment['REDLINE_API_TOKEN']}"}
        memory = MemoryWatch(supervisor, fleet=("fleet", "slack"))
        async with aiohttp.ClientSession(headers=headers) as session, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(memory.watch())
            await self._seed(client)
            page = f"http://{HOST}:{self._ports.page}/"
            self._tell(f"the page is at {page}")
            if not self.options.headless:
                webbrowser.open(f"{page}?range={PAGE_RANGE_S}")
            await self._start_load(session)
            charting = tasks.create_task(self._wait_for_chart(session))
            events = Events(self._load_us)
            telling = tasks.create_task(self._tell_events(client, events))
            await self._play(session, stop)
            await self._finish(session, client, events, stop)
            for task in (watching, charting, telling):
                task.cancel()
            if self.report is not None:
                self.report |= memory.figures()

    async def _seed(self, client: Client) -> None:
        weights = {STABLE: 1 - CANARY_WEIGHT, CANARY: CANARY_WEIGHT}
        shares = await asyncio.to_thread(tenant_shares, self._spec, weights)
        end_us = int(self._began_s * 1e6) // PANE_US * PANE_US
        rows = await asyncio.to_thread(
            seed_history, client, self._spec, self._settings, shares, end_us
        )
        self._tell(f"seven simulated days of spend are in the ledger ({rows} lines)")

    async def _start_load(self, session: aiohttp.ClientSession) -> None:
        self._load_us = int(time.time() * 1e6)
        await self._control(session, "/load", {"rate_rps": self.options.rate_rps})
        self._tell(f"{self.options.rate_rps:g} requests/s go through the router")

    async def _play(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        seconds = self.options.seconds or RUN_SECONDS
        began_s = self._load_us / 1e6
        for step in script(seconds):
            if await _stopped(stop, began_s + step.at_s):
                return
            if step.rule:
                self._incidents.append((time.time(), step))
            await self._control(session, step.path, step.body)
            self._tell(f"INCIDENT: {step.told}")
        if self.options.seconds is None:
            self._tell("the script is over; the fleet runs on until Ctrl-C")
            await stop.wait()
        else:
            await _stopped(stop, began_s + seconds)

    async def _finish(
        self,
        session: aiohttp.ClientSession,
        client: Client,
        events: Events,
        stop: asyncio.Event,
    ) -> None:
        if self.options.seconds is None:
            return
        summary = await self._control(session, "/load", {"stop": True})
        self._tell("the load has stopped; waiting until all is stored and settled")
        self._until_us = int(time.time() * 1e6)
        deadline = time.monotonic() + DRAIN_WITHIN_S
        calm_by = time.monotonic() + CALM_WITHIN_S
        while True:
            sent = self._sent()
            facts = await asyncio.to_thread(self._facts, client, {line.request_id for line in sent})
            done = facts.lost == 0 and facts.unsettled_windows == 0
            done = done and facts.panes_requests == facts.requests_stored
            calm = not open_incidents(events.alerts) or time.monotonic() > calm_by
            if (done and calm) or stop.is_set():
                break
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(events.refresh, client)
        after = {
            row.action_id: await self._requests_after(client, row.ts) for row in events.actions
        }
        self.report = {
            "requests_sent": summary["requests_sent"],
            **facts._asdict(),
            "malformed_planted": summary["malformed_planted"],
            "alerts": alert_reports(events.alerts, self._incidents),
            "actions": action_reports(events.actions, after),
            "first_chart_s": self._first_chart_s,
            "seconds": self.options.seconds,
            "rate_rps": self.options.rate_rps,
        }

    def _facts(self, client: Client, sent_ids: set[str]) -> Any:
        pricer = Pricer(self._settings.gpu_groups, self._settings.prices)
        return stored_facts(client, sent_ids, self._load_us, self._until_us, pricer)

    async def _requests_after(self, client: Client, when: Any) -> int:
        """How many requests reached the canary after ``when`` (its queue may still be emptied)."""
        sql = (
            "SELECT count() FROM requests WHERE version = {version:String} "
            "AND ts_arrival > {when:DateTime64(6)} + INTERVAL 1 SECOND"
        )
        parameters = {"version": CANARY, "when": when}
        result = await asyncio.to_thread(client.query, sql, parameters)
        return int(result.result_rows[0][0])

    def _sent(self) -> list[SentLine]:
        assert self._spec.workload is not None
        path = self._spec.workload.sent_file
        assert path is not None
        decoder = msgspec.json.Decoder(SentLine)
        return [decoder.decode(line) for line in path.read_bytes().splitlines() if line]

    async def _wait_for_chart(self, session: aiohttp.ClientSession) -> None:
        """Until the page's own data has a point to draw."""
        url = f"http://{HOST}:{self._ports.page}/api/overview"
        while self._first_chart_s is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.ok and _has_requests(await response.json()):
                        self._first_chart_s = round(time.time() - self._began_s, 1)
            await asyncio.sleep(POLL_S / 2)
        self._tell(f"the first chart is there, {self._first_chart_s} s after the start")

    async def _tell_events(self, client: Client, events: Events) -> None:
        own = await asyncio.to_thread(connect, self._settings.clickhouse, Secrets())
        while True:
            for row in await asyncio.to_thread(events.refresh, own):
                self._tell(f"REDLINE:  {row.told}", at_s=row.ts.timestamp())
            await asyncio.sleep(POLL_S)

    async def _control(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        url = f"http://{HOST}:{self._ports.control}{path}"
        async with session.post(url, json=body) as response:
            content: dict[str, Any] = await response.json()
            if not response.ok:
                raise Fault(f"the fleet refused {path}: {content}")
            return content

    def _tell(self, text: str, at_s: float | None = None) -> None:
        since_s = (at_s if at_s is not None else time.time()) - self._began_s
        line = f"{int(since_s) // 60:02d}:{since_s % 60:04.1f}  {text}"
        print(line, file=sys.stderr if self.options.as_json else sys.stdout, flush=True)


async def _stopped(stop: asyncio.Event, at_s: float) -> bool:
    """Wait until the clock says ``at_s``; True if the run was stopped before."""
    try:
        await asyncio.wait_for(stop.wait(), max(0.0, at_s - time.time()))
    except TimeoutError:
        return False
    return True


def _has_requests(overview: Any) -> bool:
    """Whether the page's overview shows a request rate, wherever it keeps it."""
    tiles = overview.get("tiles", overview) if isinstance(overview, dict) else {}
    tile = tiles.get("requests_per_s") if isinstance(tiles, dict) else None
    value = tile.get("value") if isinstance(tile, dict) else tile
    return value is not None
