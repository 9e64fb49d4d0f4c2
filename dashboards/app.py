"""The web page's HTTP: static files, JSON, one event stream. It only reads; nothing changes state.

Bound to loopback, other Host headers are refused, so that a web site cannot read it by
rebinding its name. This file refuses to hold SQL and figures.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from clickhouse_connect.driver.client import Client
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dashboards.headers import SecurityHeaders
from dashboards.history import History
from dashboards.hub import Hub
from dashboards.limits import limits_from
from dashboards.metrics import PageMetrics
from dashboards.poller import Poller
from dashboards.reader import Reader, StoreAway
from dashboards.wording import tell_action, tell_alert, tell_mark
from redline import queries
from redline.queries import TimeRange
from redline.settings import LOOPBACK, Settings

STATIC = Path(__file__).parent / "static"
LOCAL_HOSTS = [LOOPBACK, "localhost", "[::1]"]
RANGE_MAX_S = 400 * 86_400
SECOND_US = 1_000_000
RETRY_MS = 2_000

LastSeconds = Annotated[int, Query(alias="last", ge=10, le=RANGE_MAX_S)]
Seconds = Annotated[float | None, Query(ge=0, le=32_503_680_000)]


class Page:
    """What runs behind the page: reader, poller, hub. ``connect`` makes one thread's client."""

    def __init__(
        self, settings: Settings, connect: Callable[[], Client], clock_us: Callable[[], int]
    ) -> None:
        self.settings = settings
        self.clock_us = clock_us
        self.metrics = PageMetrics()
        self.limits = limits_from(settings.alerting.rules)
        self.reader = Reader(connect, self.metrics.observe_query)
        self.history = History(self.reader)
        self.hub = Hub()
        self.metrics.clients.set_function(lambda: self.hub.clients)
        self.poller = Poller(
            self.reader,
            self.hub,
            self.limits,
            refresh_s=settings.dashboards.refresh_s,
            billing_utc_offset_hours=settings.streams.billing_utc_offset_hours,
            clock_us=clock_us,
            count=self.metrics.count_poll,
        )

    async def close(self) -> None:
        """End the streams and the reader's threads."""
        await self.hub.close()
        self.reader.close()


def create_app(page: Page) -> FastAPI:
    """The application over a page. The caller runs ``page.poller``."""
    app = FastAPI(title="Redline", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.page = page
    app.add_middleware(GZipMiddleware, minimum_size=1_024, compresslevel=5)
    if page.settings.dashboards.host in LOCAL_HOSTS:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS)
    app.add_middleware(SecurityHeaders)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_api(app, page)
    _add_stream(app, page)
    _add_operations(app, page)

    @app.get("/", response_class=FileResponse)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.exception_handler(StoreAway)
    async def store_away(request: Request, error: StoreAway) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "2"})

    return app


def _add_api(app: FastAPI, page: Page) -> None:
    poller = page.poller

    @app.get("/api/overview")
    async def overview() -> Response:
        poller.want()
        body = poller.now() | {"status": poller.status(), "spark": poller.spark}
        return _json(body)

    @app.get("/api/series")
    async def series(
        start_s: Annotated[Seconds, Query(alias="from")] = None,
        end_s: Annotated[Seconds, Query(alias="to")] = None,
        last_s: LastSeconds = 3_600,
    ) -> Response:
        within = _range(page, start_s, end_s, last_s)
        chart = queries.chart_range(within.start_us, within.end_us)
        return _json(await page.history.charts(chart, page.clock_us()))

    @app.get("/api/marks")
    async def marks(
        start_s: Annotated[Seconds, Query(alias="from")] = None,
        end_s: Annotated[Seconds, Query(alias="to")] = None,
        last_s: LastSeconds = 3_600,
    ) -> Response:
        within = _range(page, start_s, end_s, last_s)
        rows = (await page.reader.read({"marks": queries.marks(within)}))["marks"]
        return _json({"marks": [tell_mark(row, page.limits.signals) for row in rows]})

    @app.get("/api/alerts")
    async def alerts(last_s: LastSeconds = 7 * 86_400) -> Response:
        within = _range(page, None, None, last_s)
        rows = (await page.reader.read({"alerts": queries.alerts(within)}))["alerts"]
        return _json({"alerts": [tell_alert(row, page.limits.signals) for row in rows]})

    @app.get("/api/actions")
    async def actions(last_s: LastSeconds = 7 * 86_400) -> Response:
        within = _range(page, None, None, last_s)
        rows = (await page.reader.read({"actions": queries.actions(within)}))["actions"]
        return _json({"actions": [tell_action(row) for row in rows]})


def _add_stream(app: FastAPI, page: Page) -> None:
    async def place() -> AsyncIterator[None]:
        if not page.hub.enter():
            page.metrics.refused.inc()
            raise HTTPException(503, "all places are taken", {"Retry-After": "10"})
        try:
            yield
        finally:
            page.hub.leave()

    @app.get("/events", response_class=EventSourceResponse, dependencies=[Depends(place)])
    async def events() -> AsyncIterator[ServerSentEvent]:
        page.poller.want()
        yield ServerSentEvent(comment="redline", retry=RETRY_MS)
        async for event in page.hub.events():
            yield ServerSentEvent(id=str(event.id), event=event.name, raw_data=event.data)


def _add_operations(app: FastAPI, page: Page) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        page.poller.want()
        problem = page.poller.problem
        if problem is not None:
            return JSONResponse({"status": "unavailable", "reason": problem}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(page.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _range(page: Page, start_s: float | None, end_s: float | None, last_s: int) -> TimeRange:
    """The range asked for: ``from`` and ``to`` in s UTC, else the last seconds up to now."""
    end_us = page.clock_us() if end_s is None else int(end_s * SECOND_US)
    start_us = end_us - last_s * SECOND_US if start_s is None else int(start_s * SECOND_US)
    if not 0 < end_us - start_us <= RANGE_MAX_S * SECOND_US:
        raise HTTPException(422, f"from must lie before to, by {RANGE_MAX_S} s at most")
    return TimeRange(start_us, end_us)


def _json(body: Any) -> Response:
    return Response(
        msgspec.json.encode(body),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@contextlib.asynccontextmanager
async def running(page: Page) -> AsyncIterator[None]:
    """Runs the poller meanwhile, and closes the page after."""
    task = asyncio.create_task(page.poller.run(), name="poller")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await page.close()
