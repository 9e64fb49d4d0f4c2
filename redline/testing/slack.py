"""A small stand-in for Slack's Web API: chat.postMessage, chat.update; ``GET /messages`` shows all.

A real HTTP server, so that the real client is what is tested. ``python -m redline.testing.slack
--port P`` runs it alone, for the demo. This file refuses to check tokens beyond their presence
and to render blocks.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from typing import Any

from aiohttp import web

MESSAGES_MAX = 10_000


class SlackReceiver:
    """One workspace with any channels. ``fail_next`` answers are given before real ones."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []  # as they are now, edits applied
        self.calls: list[tuple[str, dict[str, Any]]] = []  # as they came, in order
        self.fail_next: list[tuple[int, dict[str, str], dict[str, Any]]] = []
        self.url = ""
        self._serial = itertools.count(1)
        self._runner: web.AppRunner | None = None

    @property
    def roots(self) -> list[dict[str, Any]]:
        """The messages that are not replies in a thread."""
        return [message for message in self.messages if not message.get("thread_ts")]

    def thread(self, ts: str) -> list[str]:
        """The texts of a message's thread."""
        return [m["text"] for m in self.messages if m.get("thread_ts") == ts]

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port."""
        app = web.Application()
        app.router.add_post("/api/{method}", self._call)
        app.router.add_get("/messages", self._show)
        app.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound: int = self._runner.addresses[0][1]
        self.url = f"http://{host}:{bound}/api/"
        return bound

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _call(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        form = request.content_type != "application/json"
        body: dict[str, Any] = dict(await request.post()) if form else await request.json()
        self.calls.append((method, body))
        if self.fail_next:
            status, headers, answer = self.fail_next.pop(0)
            return web.json_response(answer, status=status, headers=headers)
        if not request.headers.get("authorization", "").startswith("Bearer "):
            return web.json_response({"ok": False, "error": "not_authed"})
        match method:
            case "chat.postMessage":
                return web.json_response(self._post(body))
            case "chat.update":
                return web.json_response(self._update(body))
            case _:
                return web.json_response({"ok": False, "error": "unknown_method"})

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        ts = f"{int(time.time())}.{next(self._serial):06}"
        channel = "C" + str(body.get("channel", "")).removeprefix("#").removeprefix("C").upper()
        self.messages.append({**body, "channel": channel, "ts": ts, "edits": 0})
        del self.messages[:-MESSAGES_MAX]
        return {"ok": True, "channel": channel, "ts": ts}

    def _update(self, body: dict[str, Any]) -> dict[str, Any]:
        for message in self.messages:
            if message["ts"] == body.get("ts") and message["channel"] == body.get("channel"):
                message.update(body, edits=message["edits"] + 1)
                return {"ok": True, "channel": message["channel"], "ts": message["ts"]}
        return {"ok": False, "error": "message_not_found"}

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(self.messages)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


async def _serve(host: str, port: int) -> None:
    receiver = SlackReceiver()
    bound = await receiver.start(host, port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps({"event": "listening", "host": host, "port": bound}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    await receiver.stop()


def main() -> None:
    """Run it alone until a signal."""
    parser = argparse.ArgumentParser(prog="python -m redline.testing.slack", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
