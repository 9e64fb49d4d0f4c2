"""Logs go to stderr, one JSON line an event, and show no secret."""

from __future__ import annotations

import json

import pytest

from redline import log


def test_secrets_are_masked_and_stdout_stays_free(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json", "collectors")
    log.get_logger().info("connected", api_token="abc", host="h", slack_bot_token="xoxb")
    output = capsys.readouterr()
    line = json.loads(output.err)
    assert output.out == ""
    assert (line["event"], line["component"], line["host"]) == ("connected", "collectors", "h")
    assert line["api_token"] == line["slack_bot_token"] == "***"
