"""The control server: incidents, load and counts of a running fleet, as JSON over loopback.

Where REDLINE_API_TOKEN is set, every POST needs it as a bearer token. This file refuses to
decide what an incident is; it translates requests into calls.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.simulator.driver import Driver
from serving.simulator.fleet import ENGINE_INCIDENTS, EngineIncident, Fleet, IncidentOptions

Endpoint = Callable[[Request], Awaitable[Response]]
Body = TypeVar("Body", bound=msgspec.Struct)
MALFORMED_MAX = 10_000


class MalformedBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /malformed``."""

    count: int = 1


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /load``: a rate starts it, ``stop`` or a rate of 0 stops it."""

    rate_rps: float | None = None
    stop: bool = False


class Control:
    """The endpoints, over one fleet and, if there is one, its load."""

    def __init__(self, fleet: Fleet, driver: Driver | None, token: str = "") -> None:
        self._fleet = fleet
        self._driver = driver
        self._token = token
        self._active: dict[str, list[str]] = {}

    def app(self) -> Starlette:
        """The ASGI application."""
        guard = self._guarded
        return Starlette(
            routes=[
                Route("/healthz", self._healthz),
                Route("/summary", self._summary),
                Route("/incidents", self._incidents),
                Route("/incidents/{name}", guard(self._incident), methods=["POST"]),
                Route("/malformed", guard(self._malformed), methods=["POST"]),
                Route("/load", guard(self._load), methods=["POST"]),
            ]
        )

    def summary(self) -> dict[str, Any]:
        """The counts of the fleet and of the load; ``log_lines_written`` are records only."""
        log = self._fleet.log
        counts: dict[str, Any] = {}
        if self._driver is not None:
            driver = self._driver
            counts = msgspec.to_builtins(driver.counts)
            counts["load_running"] = driver.running
            counts["rate_rps"] = driver.workload.rate_rps
            p99_us = driver.first_chunk_us.quantile(0.99) if driver.first_chunk_us.count else None
            counts["p99_first_chunk_ms"] = None if p99_us is None else round(p99_us / 1000, 1)
        return {
            **counts,
            "log_lines_written": log.written - self._fleet.malformed,
            "log_lines_dropped": log.dropped,
            "malformed_planted": self._fleet.malformed,
            "incidents": self._active,
            "engines": {
                name: {
                    "version": served.identity.version,
                    "region": served.identity.region,
                    "ready": served.ready,
                    "running": served.engine.running,
                    "waiting": served.engine.waiting,
                    "kv_cache_usage": round(served.engine.blocks.usage, 4),
                    "preemptions": served.engine.counters.preemptions,
                    "generation_tokens": served.engine.counters.generation_tokens,
                }
                for name, served in self._fleet.engines.items()
            },
        }

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _summary(self, request: Request) -> Response:
        return JSONResponse(self.summary())

    async def _incidents(self, request: Request) -> Response:
        return JSONResponse({"known": [*ENGINE_INCIDENTS, "tenant_spike"], "active": self._active})

    async def _incident(self, request: Request) -> Response:
        name = request.path_params["name"]
        options = await _decoded(request, IncidentOptions)
        try:
            if name == "tenant_spike":
                touched = self._tenant_spike(options)
            elif name in ENGINE_INCIDENTS:
                touched = self._fleet.set_incident(cast(EngineIncident, name), options)
            else:
                return _problem(404, f"no incident {name!r}")
        except KeyError as error:
            return _problem(400, str(error.args[0]))
        self._active.pop(name, None)
        if options.on:
            self._active[name] = touched
        return JSONResponse({"incident": name, "on": options.on, "touched": touched})

    def _tenant_spike(self, options: IncidentOptions) -> list[str]:
        if self._driver is None:
            raise KeyError("the specification has no workload")
        tenant = options.tenant or self._driver.workload.profile.tenants[-1].name
        self._driver.set_tenant_factor(tenant, options.factor if options.on else 1.0)
        return [tenant]

    async def _malformed(self, request: Request) -> Response:
        body = await _decoded(request, MalformedBody)
        if not 0 < body.count <= MALFORMED_MAX:
            return _problem(400, f"count is {body.count}, give 1 to {MALFORMED_MAX}")
        return JSONResponse({"malformed_planted": self._fleet.plant_malformed(body.count)})

    async def _load(self, request: Request) -> Response:
        body = await _decoded(request, LoadBody)
        if self._driver is None:
            return _problem(400, "the specification has no workload")
        if body.rate_rps is not None and body.rate_rps < 0:
            return _problem(400, f"rate_rps is {body.rate_rps}, give 0 or more")
        if body.rate_rps is not None:
            self._driver.set_rate(body.rate_rps)
        if body.stop or body.rate_rps == 0:
            await self._driver.stop()
        else:
            self._driver.start()
        return JSONResponse(self.summary())

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            expected = f"Bearer {self._token}"
            if self._token and not hmac.compare_digest(given.encode(), expected.encode()):
                return _problem(401, "give the bearer token of REDLINE_API_TOKEN")
            try:
                return await endpoint(request)
            except msgspec.DecodeError as error:
                return _problem(400, str(error))

        return guarded


async def _decoded(request: Request, kind: type[Body]) -> Body:
    return msgspec.json.decode(await request.body() or b"{}", type=kind)


def _problem(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
