"""A signed webhook: one attempt to deliver one action. Standard Webhooks headers, CloudEvents body.

No redirects (a redirect would send a signed order elsewhere), no proxies from the environment, a
time limit, and at most 64 KiB of the answer. This file refuses to retry: the outbox does.
"""

from __future__ import annotations

import aiohttp

from alerting import cloudevents
from alerting.notify.addresses import CheckedResolver
from alerting.outbox import Reply
from redline.records import ActionEvent
from redline.settings import WebhookSettings
from redline.webhooks import headers

RESPONSE_BYTES_MAX = 64 * 1024
RETRY_AFTER_S_MAX = 300.0


def open_session() -> aiohttp.ClientSession:
    """A client session that reaches checked addresses only; it keeps no connection, no cookie."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=CheckedResolver(), use_dns_cache=False, force_close=True, limit=16
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
    )


class WebhookReceiver:
    """One configured receiver."""

    def __init__(
        self, settings: WebhookSettings, key: bytes, session: aiohttp.ClientSession
    ) -> None:
        self.name = settings.name
        self._settings = settings
        self._key = key
        self._session = session

    async def deliver(self, event: ActionEvent, body: bytes, now_us: int) -> Reply:
        """Send once; whatever happens is a Reply."""
        signed = headers(self._key, event.action_id, now_us // 1_000_000, body)
        try:
            async with self._session.post(
                self._settings.url,
                data=body,
                headers={**signed, "content-type": cloudevents.CONTENT_TYPE},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
            ) as response:
                answer = await _read(response.content)
                if 300 <= response.status < 400:
                    return Reply(http_status=response.status, detail="a redirect is not followed")
                reply = cloudevents.read_reply(response.status, answer, event)
                return _with_wish(reply, response.headers.get("retry-after", ""))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            return Reply(detail=f"no answer: {reason}")


async def _read(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    left = RESPONSE_BYTES_MAX
    while left > 0 and (part := await content.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _with_wish(reply: Reply, retry_after: str) -> Reply:
    if not retry_after.isdigit():
        return reply
    return Reply(
        http_status=reply.http_status,
        detail=reply.detail,
        signature_verified=reply.signature_verified,
        applied=reply.applied,
        drained=reply.drained,
        retry_after_s=min(float(retry_after), RETRY_AFTER_S_MAX),
    )
