"""How a room listens: a taken port is named, a token is compared, signals are left alone."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from redline.errors import AddressInUse, ConfigFault
from redline.serve import Server, announce, bearer_problem, bind


def test_a_taken_port_names_component_address_and_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"room: 127\.0\.0\.1:{port} .*set room\.port"):
            bind("room", "127.0.0.1", port, "room.port")


def test_an_address_of_another_machine_is_a_config_fault() -> None:
    with pytest.raises(ConfigFault, match=r"room\.port"):
        bind("room", "192.0.2.1", 0, "room.port")


@pytest.mark.parametrize(
    ("authorization", "token", "status"),
    [("Bearer t", "t", None), ("Bearer x", "t", 401), ("", "t", 401), ("Bearer é", "t", 401),
     ("Bearer ", "", 403), ("Bearer t", "", 403)],
)  # fmt: skip
def test_bearer_tokens(authorization: str, token: str, status: int | None) -> None:
    problem = bearer_problem(authorization, token)
    assert (problem[0] if problem else None) == status


async def test_serves_in_the_callers_loop_and_leaves_signals_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    before = signal.getsignal(signal.SIGTERM)
    listener = bind("room", "127.0.0.1", 0, "room.port")
    server = Server(Starlette(routes=[Route("/", hello)]))
    await server.start(listener)
    announce(listener)
    said = json.loads(capsys.readouterr().out)
    assert signal.getsignal(signal.SIGTERM) is before
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{said['host']}:{said['port']}/") as response:
            assert await response.text() == "hello"
    await server.stop()


def test_the_slack_stand_in_runs_alone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "redline.testing.slack", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        post = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/chat.postMessage",
            data=json.dumps({"channel": "#inference", "text": "hi"}).encode(),
            headers={"content-type": "application/json", "authorization": "Bearer xoxb-1"},
        )
        with urllib.request.urlopen(post) as response:
            assert json.load(response)["ok"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/messages") as response:
            assert [message["text"] for message in json.load(response)] == ["hi"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        if process.stdout is not None:
            process.stdout.close()
