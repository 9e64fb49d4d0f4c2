from __future__ import annotations

import gzip
from itertools import islice, pairwise
from pathlib import Path

import pytest

from serving.simulator.traces import TraceInvalid, azure_timestamp_us, read_trace

TRACES = Path(__file__).resolve().parents[4] / "shared" / "traces"

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 1555, "output_length": 5, "hash_ids": [46,47,48]}
{"timestamp": 30535, "input_length": 700, "output_length": 26, "hash_ids": [46, 47]}
"""
SERVEGEN = """client,t_s,rate_rps,iat_cv,pattern,param1,param2
0,0,1.5,8.5,Weibull,0.37,0.39
1,600,0.5,1.0,Gamma,0.06,107.0
0,600,2.0,1.0,Gamma,0.06,107.0
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_s_seven_digits_are_microseconds(tmp_path: Path) -> None:
    assert azure_timestamp_us("1970-01-01 00:00:01.2345678") == 1_234_567
    assert azure_timestamp_us("1970-01-01 00:00:01") == 1_000_000
    found = list(read_trace(write(tmp_path, "azure.csv", AZURE)))
    assert [a.at_us for a in found] == [0, 4_314_579, 4_541_877]
    assert [(a.prompt_tokens, a.output_tokens) for a in found] == [(374, 44), (396, 109), (879, 55)]
    assert [a.request_id for a in found] == ["azure-2", "azure-3", "azure-4"]


def test_mooncake_s_hash_ids_are_shared_prefixes(tmp_path: Path) -> None:
    found = list(read_trace(write(tmp_path, "mooncake.jsonl", MOONCAKE)))
    assert [a.at_us for a in found] == [0, 3_053_000]
    assert [s.segment_id for s in found[0].prefix] == [46, 47, 48]
    assert [s.segment_id for s in found[1].prefix] == [46]  # 700 tokens hold one whole block
    assert found[0].tenant == found[1].tenant


def test_servegen_s_rates_become_arrivals_in_their_windows(tmp_path: Path) -> None:
    path = write(tmp_path, "servegen.csv", SERVEGEN)
    found = list(read_trace(path, seed=3))
    assert all(a.at_us <= b.at_us for a, b in pairwise(found))
    late = [a for a in found if a.at_us >= 600_000_000]
    assert sum(a.tenant == "client-0" for a in late) == pytest.approx(1200, rel=0.1)
    assert sum(a.tenant == "client-1" for a in late) == pytest.approx(300, rel=0.2)
    assert found == list(read_trace(path, seed=3))
    assert found != list(read_trace(path, seed=4))


def test_a_gzipped_trace_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_bytes(gzip.compress(AZURE.encode()))
    assert len(list(read_trace(path))) == 3


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("when,what\n1,2\n", 1, "is no known trace"),
        ("", 1, "is no known trace"),
        (AZURE + "2023-11-16 18:15:52.0,many,3\n", 5, "ContextTokens"),
        (AZURE + "yesterday,1,3\n", 5, "TIMESTAMP"),
        (AZURE + "2023-11-16 18:15:52.0,1\n", 5, "GeneratedTokens"),
        (AZURE + "2023-11-16 18:15:52.0,0,3\n", 5, "0 tokens"),
        (AZURE + "2023-11-16 18:15:40.0,9,3\n", 5, "earlier"),
        (MOONCAKE + "{broken\n", 3, "timestamp"),
        (MOONCAKE + '{"timestamp": 31000, "output_length": 3}\n', 3, "input_length"),
        (MOONCAKE + "[1]\n", 3, "timestamp"),
        (SERVEGEN + "0,1200,fast,1.0\n", 5, "rate_rps"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, line: int, hint: str) -> None:
    with pytest.raises(TraceInvalid, match=rf"line {line}:.*{hint}"):
        list(read_trace(write(tmp_path, "trace.csv", text)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceInvalid, match=r"nothing\.csv"):
        list(read_trace(tmp_path / "nothing.csv"))


def test_lines_that_go_back_in_time_are_an_error_in_mooncake_too(tmp_path: Path) -> None:
    text = MOONCAKE + '{"timestamp": 30000, "input_length": 1, "output_length": 1}\n'
    with pytest.raises(TraceInvalid, match=r"line 3:.*earlier"):
        list(read_trace(write(tmp_path, "mooncake.jsonl", text)))


@pytest.mark.skipif(not TRACES.is_dir(), reason="the folder of real traces is not here")
def test_the_real_files_are_read() -> None:
    azure = list(read_trace(TRACES / "azure" / "AzureLLMInferenceTrace_conv.csv"))
    assert len(azure) == 19_366
    assert azure[-1].at_us == pytest.approx(3_502e6, rel=0.001)
    assert len({a.request_id for a in azure}) == len(azure)
    servegen = list(islice(read_trace(TRACES / "servegen" / "m-large_clients.csv.gz"), 2_000))
    assert len({a.tenant for a in servegen}) > 20
    assert all(a.at_us <= b.at_us for a, b in pairwise(servegen))
