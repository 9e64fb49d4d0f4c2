from __future__ import annotations

from pathlib import Path

import pytest

from cli.source import run_source_check
from redline.errors import ConfigFault

DATA = Path(__file__).parents[1] / "collectors" / "data" / "sources"


def test_it_shows_records_errors_and_what_was_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_source_check("nginx", DATA / "nginx.log", 1, {}) == 1
    shown = capsys.readouterr().out
    assert '"request_id": "5f1c0b6e9f0e4d3c8a7b6c5d4e3f2a1b"' in shown
    assert "0002" not in shown
    assert "byte 827: nginx: field ts_end_us: 'soon' is not a number" in shown
    assert "2 requests, 1 errors, 1 lines about other things" in shown
    assert run_source_check("litellm", DATA / "litellm.log", 5, {"model": "set"}) == 0
    assert '"model": "set"' in capsys.readouterr().out


def test_a_log_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="LOGFILE"):
        run_source_check("nginx", tmp_path / "none", 1, {})
