"""A log or a trace of one's own goes through the whole pipeline, each request once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from redline.codec import encode_json
from redline.records import RequestRecord
from tests.integration.conftest import Run

TRACE = Path(__file__).parents[3] / "shared/traces/azure/AzureLLMInferenceTrace_conv.csv"


@pytest.mark.slow
def test_the_azure_trace_is_stored_once(start: Callable[..., Run]) -> None:
    if not TRACE.exists():
        pytest.skip("the Azure conversation trace is not here")
    status, out, err = start("replay", str(TRACE), "--json").end(within_s=180)
    report = json.loads(out)
    assert status == 0, f"{report}\n{err}"
    assert report["requests_sent"] == report["requests_stored"] == 19_366
    assert report["lost"] == report["duplicated"] == report["ledger_imbalance_nusd"] == 0
    assert report["unsettled_windows"] == 0
    assert report["p99_error"] <= 0.01


@pytest.mark.slow
def test_an_own_log_of_last_year_with_bad_lines(start: Callable[..., Run], tmp_path: Path) -> None:
    lines = [
        encode_json(
            RequestRecord(
                request_id=f"r-{number}",
                seq=number,
                ts_arrival_us=1_700_000_000_000_000 + number * 50_000,
                ts_end_us=1_700_000_000_000_000 + number * 50_000 + 900_000 + number * 100,
                e2e_us=900_000 + number * 100,
                queue_us=1_000,
                instance=f"vllm-{number % 2}",
                model="m",
                tenant="acme",
                completion_tokens=10,
            )
        )
        for number in range(1, 1001)
    ]
    lines.insert(500, b'{"type": "request", "request_id": "torn')
    lines.insert(100, lines[7].replace(b'"seq":8', b'"seq":"eight"'))
    log = tmp_path / "requests.ndjson"
    log.write_bytes(b"\n".join(lines) + b"\n")

    status, out, err = start("replay", str(log), "--json").end(within_s=180)
    report = json.loads(out)
    assert status == 0, f"{report}\n{err}"
    assert report["requests_sent"] == report["requests_stored"] == 1000
    assert report["rejected"] == report["malformed_in_file"] == 2
    assert report["lost"] == report["duplicated"] == report["ledger_imbalance_nusd"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FILE = 'trace.csv': no such file. Fix: name a request log or a trace file."),
        ("a,b,c\n1,2,3\n", "trace.csv, line 1: 'a,b,c' is no known trace"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,many\n",
            "trace.csv, line 2",
        ),
    ],
)
def test_unreadable_files_are_explained(
    start: Callable[..., Run], tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "trace.csv").write_text(content)
    status, _, err = start("replay", "trace.csv").end(within_s=30)
    assert status == 2
    assert message in err
