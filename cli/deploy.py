"""Tell the collectors that something was deployed: ``redline deploy mark``, from any CI.

One POST to the collectors, with the token from the environment. This file refuses to deploy
anything, and to repeat a call by itself: the exit code tells CI whether to.
"""

from __future__ import annotations

import asyncio
import getpass
import json as json_module
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from redline.codec import encode_json
from redline.errors import ConfigFault
from redline.records import DeployEvent
from redline.settings import Secrets, load_settings

TIMEOUT_S = 10.0
ACTIONS = ("deploy", "promote", "rollback", "scale", "weights")
# Who started the run, and where it is shown: the first variable that is set counts.
WHO_VARIABLES = (
    "REDLINE_WHO",
    "GITHUB_ACTOR",
    "GITLAB_USER_LOGIN",
    "BUILDKITE_BUILD_CREATOR",
    "CIRCLE_USERNAME",
    "DRONE_COMMIT_AUTHOR",
    "BITBUCKET_STEP_TRIGGERER_UUID",
    "BUILD_REQUESTEDFOR",  # Azure Pipelines
    "BUILD_USER_ID",  # Jenkins, with the build-user-vars plugin
)


class Mark(NamedTuple):
    """What is to be said. ``weight`` is a share of traffic, 0 to 1."""

    model: str
    version: str
    action: str
    region: str = ""
    weight: float | None = None
    who: str = ""
    detail: str = ""


def default_who(environment: Mapping[str, str]) -> str:
    """Who deploys: the first CI variable that is set; empty if none is."""
    return next((environment[name] for name in WHO_VARIABLES if environment.get(name)), "")


def body(mark: Mark, now_us: int) -> bytes:
    """The event as the collectors take it.

    Raises:
        ConfigFault: the action or the weight is not one.
    """
    if mark.action not in ACTIONS:
        raise ConfigFault("--action", mark.action, "unknown", f"use one of: {', '.join(ACTIONS)}")
    if mark.weight is not None and not 0 <= mark.weight <= 1:
        raise ConfigFault("--weight", mark.weight, "not a share", "give 0 to 1, 0.05 for 5 %")
    for option, value in (("--model", mark.model), ("--version", mark.version)):
        if not value.strip():
            raise ConfigFault(option, value, "empty", "name what was deployed")
    event = DeployEvent(ts_us=now_us, **mark._asdict())
    return encode_json(event)


def run_mark(mark: Mark, url: str, config: Path | None, now_us: int, *, as_json: bool) -> int:
    """Send it and say so. Returns 0 when the collectors took it, 1 when they did not.

    Raises:
        ConfigFault: an argument, the address or the token is wrong: a repeat cannot help.
    """
    token = Secrets().api_token.get_secret_value()
    if not token:
        raise ConfigFault(
            "REDLINE_API_TOKEN",
            "",
            "not set",
            "set it to the token that the collectors were started with",
        )
    if not mark.who:
        mark = mark._replace(who=default_who(os.environ) or _login())
    address = _address(url, config)
    status, answer = asyncio.run(_post(address, body(mark, now_us), token))
    _refuse(status, answer, address)
    accepted = status == 202
    if as_json:
        found = {"accepted": accepted, "url": address, "status": status, **mark._asdict()}
        print(json_module.dumps(found if accepted else {**found, "reason": answer}))
    elif accepted:
        share = "" if mark.weight is None else f", weight {mark.weight:g}"
        where = f" in {mark.region}" if mark.region else ""
        print(f"Marked: {mark.action} of {mark.model} {mark.version}{where}{share} by {mark.who}.")
    else:
        print(f"redline: the collectors at {address} did not take it: {answer}", file=sys.stderr)
    return 0 if accepted else 1


def _refuse(status: int, answer: str, address: str) -> None:
    if status in (401, 403):
        raise ConfigFault(
            "REDLINE_API_TOKEN", "***", f"{address} refuses it ({status})", "use the same token"
        )
    if status == 422:
        raise ConfigFault("deploy event", address, answer, "correct the argument that it names")
    if status in (404, 405):
        raise ConfigFault("--url", address, "no deploy events there", "name the collectors' URL")


def _address(url: str, config: Path | None) -> str:
    if not url:
        mine = load_settings(config).collectors
        host = f"[{mine.host}]" if ":" in mine.host else mine.host
        url = f"http://{host}:{mine.port}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigFault("--url", url, "not an http(s) URL", "write e.g. http://127.0.0.1:7603")
    return url if parts.path.endswith("/deploys") else url.rstrip("/") + "/deploys"


async def _post(address: str, data: bytes, token: str) -> tuple[int, str]:
    """The status and the answer's text; status 0 and the reason where nobody answers."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            async with session.post(
                address, data=data, headers=headers, allow_redirects=False
            ) as response:
                return response.status, _detail(await response.text(errors="replace"))
    except TimeoutError:
        return 0, f"no answer within {TIMEOUT_S:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return 0, f"{type(error).__name__}: {error}"


def _detail(text: str) -> str:
    try:
        found = json_module.loads(text)
    except ValueError:
        return text[:500]
    detail = found.get("detail", found) if isinstance(found, dict) else found
    return detail if isinstance(detail, str) else json_module.dumps(detail)[:500]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""
