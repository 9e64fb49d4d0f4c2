"""What leaves the house, against real servers: signatures, limits, addresses, Slack's manners."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import SecretStr

from alerting import cloudevents, configuration
from alerting.notify.addresses import CheckedResolver
from alerting.notify.slack import SlackChannel, SlackRefused
from alerting.notify.webhook import WebhookReceiver, open_session
from redline.errors import ConfigFault, SignatureInvalid
from redline.records import ActionEvent
from redline.settings import (
    AlertingSettings,
    Rule,
    Secrets,
    SlackSettings,
    WebhookSettings,
)
from redline.testing.slack import SlackReceiver
from redline.webhooks import verify

KEY = b"k" * 32
SECRET = "whsec_a2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
EVENT = ActionEvent(
    ts_us=1_800_000_000_000_000,
    action_id="act_1",
    incident_id="inc_1",
    kind="rollback",
    mode="auto",
    status="delivering",
    target="m",
    from_state="v2",
    reason="p99_latency_ms is 8.21 s, limit 5.00 s",
    expires_at_us=1_800_000_300_000_000,
)
BODY = cloudevents.action_body(EVENT, EVENT.ts_us, "http://page/")


class Receiver:
    """Verifies what it gets; answers what it is told to."""

    def __init__(self) -> None:
        self.verified: list[str] = []
        self.answer: web.Response | None = None
        self.delay_s = 0.0
        self.hits = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._hook)
        app.router.add_route("*", "/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            self.verified.append(verify([KEY], request.headers, body, time.time()))
        except SignatureInvalid as invalid:
            return web.json_response(
                {"applied": False, "signature_verified": False, "reason": str(invalid)}, status=401
            )
        await asyncio.sleep(self.delay_s)
        if self.answer is not None:
            return self.answer
        return web.json_response(
            {"applied": True, "signature_verified": True, "weights": {"v1": 1.0, "v2": 0.0}}
        )

    async def _elsewhere(self, request: web.Request) -> web.Response:
        self.hits += 1
        return web.Response()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    running = Receiver()
    await running.start()
    yield running
    await running.stop()


@pytest_asyncio.fixture
async def outbound() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as session:
        yield session


def webhook(
    receiver: Receiver, outbound: aiohttp.ClientSession, key: bytes = KEY, timeout_s: float = 10
) -> WebhookReceiver:
    settings = WebhookSettings(name="router", url=receiver.url, timeout_s=timeout_s)
    return WebhookReceiver(settings, key, outbound)


def now_us() -> int:
    return time.time_ns() // 1_000


async def test_a_signed_order_is_verified_and_its_answer_read(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert receiver.verified == ["act_1"]
    assert (reply.http_status, reply.signature_verified, reply.applied) == (200, True, True)
    assert reply.drained
    assert reply.detail == "weights v1=1 v2=0"


def test_the_body_is_a_cloudevent_with_what_the_contract_names() -> None:
    event = json.loads(BODY)
    assert {"specversion", "id", "source", "type"} <= set(event)
    assert event["specversion"] == "1.0"
    assert event["data"] == {
        "action_id": "act_1",
        "incident_id": "inc_1",
        "kind": "rollback",
        "target": "m",
        "from": "v2",
        "to": "",
        "reason": "p99_latency_ms is 8.21 s, limit 5.00 s",
        "evidence_url": "http://page/#inc_1",
        "mode": "auto",
        "expires_at": "2027-01-15T08:05:00Z",
    }
    later = msgspec.structs.replace(EVENT, ts_us=EVENT.ts_us + 5, attempt=2)
    assert cloudevents.action_body(later, EVENT.ts_us, "http://page/") == BODY


async def test_a_wrong_key_is_a_refusal(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    reply = await webhook(receiver, outbound, key=b"x" * 32).deliver(EVENT, BODY, now_us())
    assert (reply.http_status, reply.signature_verified) == (401, False)
    assert receiver.verified == []


async def test_an_old_timestamp_is_a_refusal(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us() - 301_000_000)
    assert reply.http_status == 401
    assert "clock or replay" in reply.detail


async def test_a_redirect_is_not_followed(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    receiver.answer = web.Response(status=307, headers={"location": "/elsewhere"})
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert (reply.http_status, reply.detail) == (307, "a redirect is not followed")
    assert receiver.hits == 0


async def test_a_long_answer_is_not_read_to_its_end(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    receiver.answer = web.Response(body=b"x" * 50_000_000)
    began_s = time.monotonic()
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert (reply.http_status, reply.detail) == (200, "HTTP 200")
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b'{"weights": 7, "applied": "yes"}', b"\xff"])
def test_an_answer_that_says_nothing_says_nothing(body: bytes) -> None:
    reply = cloudevents.read_reply(200, body, EVENT)
    assert (reply.applied, reply.signature_verified, reply.drained) == (None, None, False)


async def test_a_slow_receiver_and_a_dead_one_are_no_answer(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    receiver.delay_s = 1
    reply = await webhook(receiver, outbound, timeout_s=0.2).deliver(EVENT, BODY, now_us())
    assert reply.http_status is None
    await receiver.stop()
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert reply.http_status is None
    assert reply.detail.startswith("no answer: ")


async def test_a_wish_to_wait_is_read(receiver: Receiver, outbound: aiohttp.ClientSession) -> None:
    receiver.answer = web.json_response({}, status=429, headers={"retry-after": "7"})
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert reply.retry_after_s == 7


# -- addresses -----------------------------------------------------------------------------


class Liar(AbstractResolver):
    """A DNS server in the wrong hands."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=2, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        return None


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.1.1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200",
     "0.0.0.0", "224.0.0.1", "::ffff:169.254.169.254", "::"],
)  # fmt: skip
async def test_a_name_that_leads_to_a_forbidden_address_is_not_called(address: str) -> None:
    resolver = CheckedResolver(Liar("10.0.0.1", address))
    with pytest.raises(OSError, match="link-local or metadata"):
        await resolver.resolve("deploy.example", 443)


async def test_a_name_that_leads_to_an_ordinary_address_is_called(
    receiver: Receiver, outbound: aiohttp.ClientSession
) -> None:
    assert await CheckedResolver(Liar("10.0.0.1", "127.0.0.1")).resolve("deploy.example", 443)
    receiver.url = receiver.url.replace("127.0.0.1", "localhost")
    reply = await webhook(receiver, outbound).deliver(EVENT, BODY, now_us())
    assert reply.http_status == 200


def hooks(url: str, **more: Any) -> AlertingSettings:
    return AlertingSettings(webhooks=[WebhookSettings(name="w", url=url)], **more)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://deploy.example/hook", "not in alerting.allowed_hosts"),
        ("http://127.0.0.1.evil.example/", "not in alerting.allowed_hosts"),
        ("http://user:pass@127.0.0.1/", "not a plain http"),
        ("file:///etc/passwd", "not a plain http"),
        ("http://169.254.169.254/latest", "link-local or metadata"),
    ],
)
def test_a_webhook_that_may_not_be_called_stops_the_start(url: str, says: str) -> None:
    settings = hooks(url, allowed_hosts=["127.0.0.1", "169.254.169.254"])
    with pytest.raises(ConfigFault, match=says):
        configuration.check_outbound(settings, Secrets(webhook_secret=SecretStr(SECRET)))


def test_outbound_needs_its_secrets() -> None:
    with pytest.raises(ConfigFault, match="REDLINE_WEBHOOK_SECRET"):
        configuration.check_outbound(hooks("http://127.0.0.1/"), Secrets())
    slack = AlertingSettings(slack=SlackSettings(enabled=True))
    with pytest.raises(ConfigFault, match="no bot token"):
        configuration.check_outbound(slack, Secrets())
    plain = AlertingSettings(slack=SlackSettings(enabled=True, base_url="http://slack.example/"))
    with pytest.raises(ConfigFault, match="unencrypted"):
        configuration.check_outbound(plain, Secrets(slack_bot_token=SecretStr("xoxb-1")))


def test_rules_are_checked_and_their_seconds_become_microseconds() -> None:
    assert [rule.name for rule in configuration.rules(None)] == [
        "p99_latency_over_slo", "kv_cache_saturation", "spend_over_baseline",
    ]  # fmt: skip
    good = Rule(name="a", signal="s", above=2, for_s=1.5, clear_below=1)
    assert configuration.rules([good])[0].for_us == 1_500_000
    with pytest.raises(ConfigFault, match="used twice"):
        configuration.rules([good, good])
    with pytest.raises(ConfigFault, match="over above"):
        configuration.rules([Rule(name="a", signal="s", above=2, clear_below=3)])


# -- Slack ---------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def slack() -> AsyncIterator[SlackReceiver]:
    running = SlackReceiver()
    await running.start()
    yield running
    await running.stop()


async def test_slack_posts_edits_and_replies(
    slack: SlackReceiver, outbound: aiohttp.ClientSession
) -> None:
    secrets = Secrets(slack_bot_token=SecretStr("xoxb-1"))
    channel = SlackChannel(SlackSettings(base_url=slack.url), secrets, outbound)
    where, ts = await channel.post({"text": "a", "blocks": []}, "inc_1")
    assert await channel.update(where, ts, {"text": "b", "blocks": []})
    await channel.reply(where, ts, "line")
    (root,) = slack.roots
    assert (root["text"], root["edits"], slack.thread(ts)) == ("b", 1, ["line"])
    assert root["metadata"]["event_payload"] == {"incident_id": "inc_1"}
    assert not await channel.update(where, "0.0", {"text": "b"})  # gone: post it anew


async def test_slack_says_when_to_come_again(
    slack: SlackReceiver, outbound: aiohttp.ClientSession
) -> None:
    secrets = Secrets(slack_bot_token=SecretStr("xoxb-1"))
    channel = SlackChannel(SlackSettings(base_url=slack.url), secrets, outbound)
    slack.fail_next.append((429, {"Retry-After": "30"}, {"ok": False, "error": "ratelimited"}))
    slack.fail_next.append((200, {}, {"ok": False, "error": "channel_not_found"}))
    slack.fail_next.append((500, {}, {}))
    with pytest.raises(SlackRefused) as refusal:
        await channel.post({"text": "a"}, "inc_1")
    assert (refusal.value.retry_after_s, refusal.value.reason) == (
        30,
        "chat.postMessage: ratelimited",
    )
    for says in ("channel_not_found", "HTTP 500"):
        with pytest.raises(SlackRefused, match=says):
            await channel.post({"text": "a"}, "inc_1")
    await slack.stop()
    with pytest.raises(SlackRefused, match=r"chat\.postMessage"):
        await channel.post({"text": "a"}, "inc_1")
    assert slack.messages == []
