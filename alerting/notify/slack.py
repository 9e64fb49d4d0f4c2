"""Slack: one message per incident, edited in place; its history in the thread.

Uses a bot token, because Incoming Webhooks cannot edit. This file refuses to retry and to wait:
the outbox does, so that a slow Slack stops nobody.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from redline.errors import DeliveryFailed
from redline.settings import Secrets, SlackSettings

TIMEOUT_S = 10
EVENT_TYPE = "redline_incident"
_GONE = ("message_not_found", "cant_update_message", "edit_window_closed")


class SlackRefused(DeliveryFailed):
    """Slack did not take it. ``retry_after_s`` is Slack's own wish, if it had one."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason, recoverable=True)
        self.retry_after_s = retry_after_s


class SlackChannel:
    """One channel of one workspace."""

    def __init__(
        self, settings: SlackSettings, secrets: Secrets, session: aiohttp.ClientSession
    ) -> None:
        self._channel = settings.channel
        self._client = AsyncWebClient(
            token=secrets.slack_bot_token.get_secret_value(),
            base_url=settings.base_url.rstrip("/") + "/",
            timeout=TIMEOUT_S,
            session=session,
            retry_handlers=[],
        )

    async def post(self, message: dict[str, Any], incident_id: str) -> tuple[str, str]:
        """Post a new message; its channel and ts.

        Raises:
            SlackRefused: not taken, or nobody knows whether it was.
        """
        return await self._call(
            "chat.postMessage",
            channel=self._channel,
            unfurl_links=False,
            metadata={"event_type": EVENT_TYPE, "event_payload": {"incident_id": incident_id}},
            **message,
        )

    async def update(self, channel: str, ts: str, message: dict[str, Any]) -> bool:
        """Edit a message; False if it cannot be edited any more, because it is gone.

        Raises:
            SlackRefused: not taken.
        """
        try:
            await self._call("chat.update", channel=channel, ts=ts, **message)
        except SlackRefused as refusal:
            if refusal.reason.endswith(_GONE):
                return False
            raise
        return True

    async def reply(self, channel: str, ts: str, text: str) -> None:
        """Add a line to a message's thread.

        Raises:
            SlackRefused: not taken.
        """
        await self._call(
            "chat.postMessage", channel=channel, thread_ts=ts, text=text, unfurl_links=False
        )

    async def _call(self, method: str, **arguments: Any) -> tuple[str, str]:
        try:
            answer = await self._client.api_call(method, json=arguments)
        except SlackApiError as error:
            response = error.response
            code = getattr(response, "status_code", None)
            reason = f"{method}: {response.get('error') or f'HTTP {code}'}"
            headers = {k.lower(): v for k, v in (response.headers or {}).items()}
            wish = str(headers.get("retry-after", ""))
            raise SlackRefused(reason, float(wish) if wish.isdigit() else None) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise SlackRefused(f"{method}: {type(error).__name__} {error}") from error
        return str(answer.get("channel", "")), str(answer.get("ts", ""))
