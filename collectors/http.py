"""The room's HTTP surface: health, metrics, and deploy events from deploy tooling.

It refuses any change without the token, and any change at all while no token is set. A body is not
read before the token was seen, nor beyond a limit.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Literal

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from redline.codec import encode_json
from redline.errors import DeliveryFailed
from redline.ports import Message, Publisher
from redline.records import DeployEvent
from redline.topics import DEPLOYS

PUBLISH_S = 5.0
BODY_BYTES_MAX = 64 * 1024


class DeployBody(BaseModel):
    """What deploy tooling sends: a DeployEvent. Its time is when it arrives, unless it says so."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["deploy"] = "deploy"
    ts_us: int | None = Field(None, ge=0)
    model: str = Field(min_length=1, max_length=200)
    version: str = Field(min_length=1, max_length=200)
    action: Literal["deploy", "promote", "rollback", "scale", "weights"]
    region: str = Field("", max_length=100)
    weight: float | None = Field(None, ge=0, le=1)
    who: str = Field("", max_length=200)
    detail: str = Field("", max_length=2_000)


def create_app(
    publisher: Publisher,
    registry: CollectorRegistry,
    api_token: str,
    not_ready: Callable[[], str],
) -> FastAPI:
    """The application. ``not_ready`` says why the collector is not ready; empty when it is."""
    app = FastAPI(title="Redline collectors", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz(response: Response) -> dict[str, str]:
        reason = not_ready()
        if reason:
            response.status_code = 503
            return {"status": "not ready", "reason": reason}
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/deploys", status_code=202)
    async def deploys(request: Request) -> dict[str, object]:
        _authorize(api_token, request.headers.get("authorization", ""))
        body = await _read_deploy(request)
        fields = body.model_dump(exclude={"type", "ts_us"})
        now_us = time.time_ns() // 1000
        event = DeployEvent(ts_us=now_us if body.ts_us is None else body.ts_us, **fields)
        message = Message(DEPLOYS, body.model.encode(), encode_json(event))
        try:
            await asyncio.wait_for(publisher.publish([message]), PUBLISH_S)
        except (DeliveryFailed, TimeoutError) as error:
            detail = "Kafka does not take it now. Fix: send it again in a moment"
            raise HTTPException(503, detail) from error
        return {"accepted": True, "ts_us": event.ts_us}

    return app


async def _read_deploy(request: Request) -> DeployBody:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES_MAX:
            raise HTTPException(413, f"a deploy event has at most {BODY_BYTES_MAX} bytes")
    try:
        return DeployBody.model_validate_json(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise HTTPException(422, found) from error


def _authorize(api_token: str, authorization: str) -> None:
    if not api_token:
        raise HTTPException(
            503,
            "deploy events are refused because no token is set. "
            "Fix: set the environment variable REDLINE_API_TOKEN and restart the collectors",
        )
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), api_token.encode()):
        raise HTTPException(
            401,
            "the token is missing or wrong. Fix: send 'Authorization: Bearer <REDLINE_API_TOKEN>'",
            {"WWW-Authenticate": "Bearer"},
        )
