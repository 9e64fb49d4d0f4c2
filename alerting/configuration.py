"""Settings into the values that the cores take, checked. All ConfigFaults of alerting are here.

This file refuses to open sockets: a host's address is checked when it is called (addresses.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from alerting.notify.addresses import is_forbidden
from alerting.policy import Limits
from alerting.rules import SECOND_US, SHIPPED, Rule
from redline.errors import ConfigFault
from redline.settings import AlertingSettings, Secrets, WebhookSettings
from redline.settings import Rule as RuleSettings
from redline.webhooks import read_secrets

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


def rules(settings: Sequence[RuleSettings] | None) -> tuple[Rule, ...]:
    """The rules in force: the shipped ones, or exactly those that are configured.

    Raises:
        ConfigFault: two rules of one name, or ``clear_below`` over ``above``.
    """
    if settings is None:
        return SHIPPED
    seen: set[str] = set()
    for index, rule in enumerate(settings):
        field = f"alerting.rules.{index}"
        if rule.name in seen:
            raise ConfigFault(f"{field}.name", rule.name, "used twice", "name each rule once")
        seen.add(rule.name)
        if rule.clear_below is not None and rule.clear_below > rule.above:
            raise ConfigFault(
                f"{field}.clear_below", rule.clear_below, f"over above = {rule.above}", "lower it"
            )
    return tuple(_rule(rule) for rule in settings)


def _rule(rule: RuleSettings) -> Rule:
    return Rule(
        name=rule.name,
        signal=rule.signal,
        above=rule.above,
        inclusive=rule.inclusive,
        clear_below=rule.clear_below,
        for_us=_us(rule.for_s),
        keep_firing_for_us=_us(rule.keep_firing_for_s),
        min_samples=rule.min_samples,
        labels=dict(rule.labels),
        severity=rule.severity,
        summary=rule.summary,
        runbook_url=rule.runbook_url,
        on_nodata=rule.on_nodata,
        nodata_after_us=_us(rule.nodata_after_s),
        action=rule.action,
        mode=rule.mode,
    )


def _us(seconds: float) -> int:
    return round(seconds * SECOND_US)


def limits(settings: AlertingSettings) -> Limits:
    """What holds for every action."""
    return Limits(
        frozen=settings.actions_frozen,
        expiry_us=_us(settings.action_expiry_s),
        cooldown_us=_us(settings.action_cooldown_s),
        receivers={webhook.name: tuple(webhook.kinds) for webhook in settings.webhooks},
    )


def check_outbound(settings: AlertingSettings, secrets: Secrets) -> None:
    """Refuse to start with a receiver that may never be called, or without what signs for it.

    Raises:
        ConfigFault: names the field, the value and the fix.
    """
    names = [webhook.name for webhook in settings.webhooks]
    for index, webhook in enumerate(settings.webhooks):
        if names.count(webhook.name) > 1:
            raise ConfigFault(
                f"alerting.webhooks.{index}.name", webhook.name, "used twice", "name each once"
            )
        _check_url(f"alerting.webhooks.{index}.url", webhook, settings.allowed_hosts)
    if settings.webhooks:
        read_secrets(secrets.webhook_secret.get_secret_value())
    if settings.slack.enabled:
        _check_slack(settings, secrets)


def _check_url(field: str, webhook: WebhookSettings, allowed_hosts: Sequence[str]) -> None:
    url = urlsplit(webhook.url)
    host = url.hostname or ""
    if url.scheme not in ("http", "https") or not host or url.username or url.password:
        raise ConfigFault(
            field, webhook.url, "not a plain http(s) address", "write https://host/path"
        )
    if host not in allowed_hosts:
        raise ConfigFault(
            field,
            webhook.url,
            f"host {host} is not in alerting.allowed_hosts",
            f"add {host} there if Redline may call it",
        )
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    if is_forbidden(address):
        raise ConfigFault(
            field, webhook.url, "a link-local or metadata address", "name the receiver's own host"
        )


def _check_slack(settings: AlertingSettings, secrets: Secrets) -> None:
    if not secrets.slack_bot_token.get_secret_value():
        raise ConfigFault(
            "alerting.slack.enabled",
            True,
            "no bot token",
            "set REDLINE_SLACK_BOT_TOKEN, or set it to false",
        )
    url = urlsplit(settings.slack.base_url)
    if url.scheme != "https" and (url.hostname or "") not in LOOPBACK_HOSTS:
        raise ConfigFault(
            "alerting.slack.base_url",
            settings.slack.base_url,
            "would send the bot token unencrypted",
            "use https",
        )
