"""The router's own routes: health, metrics, weights, and where Redline's orders arrive.

Orders are signed; weights need the API token. This file refuses to proxy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict

from redline.log import get_logger
from redline.serve import bearer_problem
from serving.router.hooks import Orders
from serving.router.metrics import Metrics
from serving.router.traffic import WeightsInvalid
from serving.router.weights import Weights

ORDER_BYTES_MAX = 64 * 1024
Changed = Callable[[Mapping[str, float], Mapping[str, float], str], None]

router = APIRouter()


class NewWeights(BaseModel):
    """A split to put in force; versions that are not named get 0."""

    model_config = ConfigDict(extra="forbid")

    weights: dict[str, float]
    who: str = ""


def build_api(
    weights: Weights, orders: Orders, metrics: Metrics, changed: Changed, token: str
) -> FastAPI:
    """The application. ``changed(before, after, who)`` hears of weights that an operator set."""
    app = FastAPI(title="Redline router", docs_url=None, redoc_url=None)
    app.state.weights, app.state.orders, app.state.metrics = weights, orders, metrics
    app.state.changed, app.state.token = changed, token
    app.include_router(router)
    return app


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """200 while it answers."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics_page(request: Request) -> Response:
    """Prometheus text."""
    metrics: Metrics = request.app.state.metrics
    for version, weight in request.app.state.weights.split.weights.items():
        metrics.weight.labels(version).set(weight)
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/weights")
async def get_weights(request: Request) -> dict[str, dict[str, float]]:
    """The split in force."""
    return {"weights": request.app.state.weights.split.weights}


@router.put("/weights")
async def put_weights(request: Request, new: NewWeights) -> dict[str, dict[str, float]]:
    """Put a split in force. Needs the API token."""
    problem = bearer_problem(request.headers.get("authorization", ""), request.app.state.token)
    if problem is not None:
        raise HTTPException(*problem)
    weights: Weights = request.app.state.weights
    before = weights.split.weights
    try:
        weights.set(new.weights)
    except WeightsInvalid as error:
        raise HTTPException(422, str(error)) from error
    get_logger().info("weights.set", before=before, after=weights.split.weights, who=new.who)
    request.app.state.changed(before, weights.split.weights, new.who)
    return {"weights": weights.split.weights}


@router.post("/hooks/redline")
async def order(request: Request) -> JSONResponse:
    """An order from Redline, signed after Standard Webhooks."""
    body = await _read(request)
    orders: Orders = request.app.state.orders
    answer = orders.receive(request.headers, body, time.time_ns() // 1_000)
    request.app.state.metrics.orders.labels(str(answer.status)).inc()
    get_logger().info(
        "order.answered",
        order=request.headers.get("webhook-id", ""),
        status=answer.status,
        answer=answer.body,
    )
    return JSONResponse(answer.body, answer.status)


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > ORDER_BYTES_MAX:
            raise HTTPException(413, f"an order is at most {ORDER_BYTES_MAX} bytes")
    return bytes(body)
