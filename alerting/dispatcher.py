"""Sends what is due: one worker per receiver, so that a slow one delays nobody else.

Each attempt is three steps: claim (written), send, outcome (written). Nothing is sent that was
not claimed, nothing is claimed twice at once. This file refuses to decide what is due or when to
try again: outbox.py does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

from alerting import cloudevents, outbox
from alerting.messages import incident_message
from alerting.metrics import Metrics
from alerting.notify.slack import SlackChannel, SlackRefused
from alerting.notify.webhook import WebhookReceiver
from alerting.state import Action, Incident, Step
from alerting.writer import Writer
from redline.log import get_logger
from redline.records import DeadLetter

SLACK = "slack"
IDLE_S = 1.0  # how often the clock alone is asked whether something became due
STOP_S = 2.0


def wall_us() -> int:
    """The wall clock, µs UTC."""
    return time.time_ns() // 1_000


class Dispatcher:
    """The workers of one session."""

    def __init__(
        self,
        writer: Writer,
        slack: SlackChannel | None,
        webhooks: Sequence[WebhookReceiver],
        metrics: Metrics,
        page_url: str,
    ) -> None:
        self._writer = writer
        self._slack = slack
        self._webhooks = webhooks
        self._metrics = metrics
        self._page_url = page_url
        self._stopping = False
        self._wakers: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Start the workers. ``failed`` hears of the one error that ends the session."""
        jobs: list[Coroutine[Any, Any, None]] = [self._work(self._close_overdue)]
        if self._slack is not None:
            jobs.append(self._work(partial(self._tell_next, self._slack)))
        for webhook in self._webhooks:
            jobs.append(self._work(partial(self._act_next, webhook)))

        def _ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        for job in jobs:
            task = asyncio.create_task(job)
            task.add_done_callback(_ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Let running attempts end, within STOP_S; cut what still runs. It stays claimed."""
        self._stopping = True
        for waker in self._wakers:
            waker.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, once: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Do ``once`` as long as it finds work; then wait for news, or for time to pass."""
        waker = self._writer.waker()
        self._wakers.append(waker)
        while not self._stopping:
            waker.clear()
            if await once():
                continue
            try:
                await asyncio.wait_for(waker.wait(), IDLE_S)
            except TimeoutError:
                continue

    # -- notifications ---------------------------------------------------------------------

    async def _tell_next(self, slack: SlackChannel) -> bool:
        due = outbox.due_notifications(self._writer.state, SLACK, wall_us())
        if not due:
            return False
        incident, notification = due[0]
        key = notification.key
        await self._keep(outbox.claim_notification(incident, key))
        try:
            channel, ts = await self._tell(slack, incident, notification.text)
        except SlackRefused as refusal:
            self._metrics.notifications.labels(SLACK, "failed").inc()
            get_logger().warning(
                "notification.failed", incident=incident.incident_id, reason=refusal.reason
            )
            later = outbox.notification_failed(
                self._latest(incident), key, refusal.reason, refusal.retry_after_s, wall_us()
            )
            await self._keep(later)
            return True
        self._metrics.notifications.labels(SLACK, "sent").inc()
        self._metrics.notification_latency_s.labels(SLACK).observe(
            max(0, wall_us() - notification.at_us) / 1e6
        )
        await self._keep(outbox.notification_sent(self._latest(incident), key, channel, ts))
        return True

    async def _tell(self, slack: SlackChannel, incident: Incident, text: str) -> tuple[str, str]:
        state, incident = self._writer.state, self._latest(incident)
        message = incident_message(
            self._writer.engine.rule_of(incident),
            incident,
            state.alerts.get(incident.fingerprint),
            state.actions_of(incident.incident_id),
            self._page_url,
        )
        channel, ts = incident.channel, incident.ts
        if not ts or not await slack.update(channel, ts, message):
            channel, ts = await slack.post(message, incident.incident_id)
            # Kept before the thread is written: a message that is known is never posted again.
            posted = msgspec.structs.replace(self._latest(incident), channel=channel, ts=ts)
            await self._keep(posted)
        await slack.reply(channel, ts, text)
        return channel, ts

    def _latest(self, incident: Incident) -> Incident:
        """As it is now: it goes on while something is being sent."""
        return self._writer.state.incidents.get(incident.incident_id, incident)

    async def _keep(self, incident: Incident) -> None:
        step = Step()
        step.incidents[incident.incident_id] = incident
        await self._writer.commit(step)

    # -- actions ---------------------------------------------------------------------------

    async def _act_next(self, webhook: WebhookReceiver) -> bool:
        state, engine = self._writer.state, self._writer.engine
        settle = engine.consequences.settle
        now_us = wall_us()
        due = outbox.due_actions(state.actions.values(), webhook.name, now_us)
        if not due:
            return False
        action = due[0]
        if engine.limits.frozen or now_us >= action.event.expires_at_us:
            why = "the kill switch is on" if engine.limits.frozen else "too late"
            late = outbox.expire_action(action, webhook.name, why, now_us)
            await self._writer.commit(settle(state, late, now_us=now_us))
            return True
        claimed = outbox.claim_action(action, webhook.name, now_us)
        await self._writer.commit(settle(state, claimed, now_us=now_us))
        body = cloudevents.action_body(claimed.event, claimed.proposed_at_us, self._page_url)
        reply = await webhook.deliver(claimed.event, body, wall_us())
        now_us = wall_us()
        # Another receiver may have moved it meanwhile.
        action = state.actions.get(claimed.event.action_id, claimed)
        settled = outbox.settle_action(action, webhook.name, reply, random.random(), now_us)  # noqa: S311
        step = settle(state, settled, drained=reply.drained, now_us=now_us)
        if settled.event.status == "failed":
            step.dead_letters.append(_dead_letter(webhook.name, settled, body, now_us))
        get_logger().info(
            "action.attempted",
            action=settled.event.action_id,
            receiver=webhook.name,
            status=settled.event.status,
            http_status=reply.http_status,
            detail=reply.detail,
        )
        await self._writer.commit(step)
        return True

    async def _close_overdue(self) -> bool:
        """Proposals that nobody approved in time."""
        state, now_us = self._writer.state, wall_us()
        settle = self._writer.engine.consequences.settle
        for action in list(state.actions.values()):
            if outbox.is_overdue(action, now_us):
                late = outbox.close(action, "expired", "nobody approved it in time", now_us)
                await self._writer.commit(settle(state, late, now_us=now_us))
                return True
        return False


def _dead_letter(receiver: str, action: Action, body: bytes, now_us: int) -> DeadLetter:
    return DeadLetter(
        ts_us=now_us,
        source=f"webhook/{receiver}",
        offset=action.event.attempt,
        reason=action.event.detail,
        payload=body,
    )
