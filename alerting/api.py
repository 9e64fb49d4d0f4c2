"""The HTTP side: health, metrics, what is alerting now, and approval of actions.

Reading is open (it listens on loopback); whatever changes state needs the API token.
This file refuses to evaluate and to send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from alerting import outbox
from alerting.dispatcher import wall_us
from alerting.metrics import Metrics
from alerting.policy import open_deliveries
from alerting.state import Action
from alerting.writer import Writer
from redline.serve import bearer_problem
from redline.settings import Secrets


class Decision(BaseModel):
    """Who decides about a proposed action, and why."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(min_length=1, max_length=100)
    why: str = Field("", max_length=300)


router = APIRouter()


def build_api(
    owner: Callable[[], Writer | None],
    ready: Callable[[], bool],
    metrics: Metrics,
    secrets: Secrets,
) -> FastAPI:
    """The application. ``owner`` is the writer of the session that runs, if it owns the alerts."""
    app = FastAPI(title="Redline alerting", docs_url=None, redoc_url=None)
    app.state.owner, app.state.ready, app.state.metrics = owner, ready, metrics
    app.state.token = secrets.api_token.get_secret_value()
    app.include_router(router)
    return app


def _writer(request: Request) -> Writer:
    writer: Writer | None = request.app.state.owner()
    if writer is None:
        raise HTTPException(503, "this process stands by; another one owns the alerts")
    return writer


def _authorized(request: Request) -> None:
    problem = bearer_problem(request.headers.get("authorization", ""), request.app.state.token)
    if problem is not None:
        raise HTTPException(*problem)


Owned = Annotated[Writer, Depends(_writer)]


@router.get("/healthz")
async def healthz(request: Request, response: Response) -> dict[str, str]:
    """200 when it has joined its group, as the owner of the alerts or as a standby."""
    if not request.app.state.ready():
        response.status_code = 503
        return {"status": "joining"}
    return {"status": "ok", "role": "active" if request.app.state.owner() else "standby"}


@router.get("/metrics")
async def metrics_page(request: Request) -> Response:
    """Prometheus text."""
    metrics: Metrics = request.app.state.metrics
    writer: Writer | None = request.app.state.owner()
    metrics.alerts.clear()
    for alert in writer.state.alerts.values() if writer else ():
        metrics.alerts.labels(alert.state).inc()
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/alerts")
async def alerts(writer: Owned) -> list[dict[str, Any]]:
    """Every alert that is not inactive, newest change first."""
    found = [alert for alert in writer.state.alerts.values() if alert.state != "inactive"]
    found.sort(key=lambda alert: -alert.changed_at_us)
    return [msgspec.structs.asdict(alert) for alert in found]


@router.post("/alerts/{fingerprint}/close", dependencies=[Depends(_authorized)])
async def close(fingerprint: str, decision: Decision, writer: Owned) -> dict[str, Any]:
    """Close an open incident whose subject is gone: the absence of data never does."""
    alert = writer.state.alerts.get(fingerprint)
    if alert is None:
        raise HTTPException(404, f"no alert {fingerprint}")
    if not alert.open:
        raise HTTPException(409, f"the alert is {alert.state}: nothing to close")
    await writer.commit(writer.engine.close(writer.state, alert, decision.by, wall_us()))
    return msgspec.structs.asdict(writer.state.alerts[fingerprint])


@router.get("/actions")
async def actions(writer: Owned) -> list[dict[str, Any]]:
    """Every action that is remembered, newest first."""
    found = sorted(writer.state.actions.values(), key=lambda action: -action.proposed_at_us)
    return [_view(action) for action in found]


@router.post("/actions/{action_id}/approve", dependencies=[Depends(_authorized)])
async def approve(action_id: str, decision: Decision, writer: Owned) -> dict[str, Any]:
    """Let a proposed action go out. Once; until it expires."""
    action, now_us = _waiting(writer, action_id), wall_us()
    if writer.engine.limits.frozen:
        raise HTTPException(409, "the kill switch is on (alerting.actions_frozen)")
    deliveries = open_deliveries(action.event.kind, writer.engine.limits, now_us)
    if not deliveries:
        raise HTTPException(409, f"no webhook accepts {action.event.kind}")
    approved = outbox.approve(action, decision.by, deliveries, now_us)
    return await _decide(writer, approved, decision)


@router.post("/actions/{action_id}/reject", dependencies=[Depends(_authorized)])
async def reject(action_id: str, decision: Decision, writer: Owned) -> dict[str, Any]:
    """Close a proposed action."""
    action = _waiting(writer, action_id)
    why = f"rejected by {decision.by}" + (f": {decision.why}" if decision.why else "")
    return await _decide(writer, outbox.close(action, "rejected", why, wall_us()), decision)


def _view(action: Action) -> dict[str, Any]:
    event: dict[str, Any] = msgspec.to_builtins(action.event)
    return {**event, "deliveries": msgspec.to_builtins(action.deliveries)}


def _waiting(writer: Writer, action_id: str) -> Action:
    action = writer.state.actions.get(action_id)
    if action is None:
        raise HTTPException(404, f"no action {action_id}")
    event = action.event
    if event.mode != "approve" or event.status != "proposed":
        raise HTTPException(409, f"the action is {event.status}, mode {event.mode}")
    if wall_us() >= event.expires_at_us:
        raise HTTPException(410, "the action has expired")
    return action


async def _decide(writer: Writer, action: Action, decision: Decision) -> dict[str, Any]:
    now_us = wall_us()
    consequences = writer.engine.consequences
    step = consequences.settle(writer.state, action, actor=decision.by, now_us=now_us)
    await writer.commit(step)
    return _view(action)
