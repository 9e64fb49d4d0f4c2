from __future__ import annotations

import time
from pathlib import Path

import pytest

from redline.codec import decode_json, encode_json
from redline.records import EngineSample, RequestRecord
from serving.simulator.engine import Conditions, EngineProfile
from serving.simulator.offline import FleetMember, default_fleet, records_from_trace, simulate
from serving.simulator.requests import Identity
from serving.simulator.workload import Arrival, LoadProfile, TenantLoad, Workload

TRACES = Path(__file__).resolve().parents[4] / "shared" / "traces"
END_US = 1_800_000_000_000_000


def load(count: int, seed: int = 1) -> list[Arrival]:
    profile = LoadProfile(
        tenants=(TenantLoad(name="a", share=1.0),),
        rate_rps=30.0,
        regions={"us-east": 1.0, "eu-west": 1.0},
    )
    workload = Workload(profile, seed)
    found: list[Arrival] = []
    at_us = END_US
    while len(found) < count:
        arrival = workload.next_arrival(at_us)
        assert arrival is not None
        at_us = arrival.at_us
        found.append(arrival)
    return found


def requests_of(output: list[RequestRecord | EngineSample]) -> list[RequestRecord]:
    return [record for record in output if isinstance(record, RequestRecord)]


def samples_of(output: list[RequestRecord | EngineSample]) -> list[EngineSample]:
    return [record for record in output if isinstance(record, EngineSample)]


def test_every_arrival_is_one_record_in_order_of_event_time() -> None:
    arrivals = load(1500)
    output = list(simulate(arrivals, default_fleet(), sample_every_us=1_000_000))
    records = requests_of(output)
    assert {r.request_id for r in records} == {a.request_id for a in arrivals}
    assert len(records) == len(arrivals)
    times = [r.ts_end_us if isinstance(r, RequestRecord) else r.ts_us for r in output]
    assert times == sorted(times)
    for instance in ("vllm-0", "vllm-1", "vllm-2"):
        seqs = [r.seq for r in records if r.instance == instance]
        assert seqs == list(range(1, len(seqs) + 1))


def test_the_samples_agree_with_the_records() -> None:
    output = list(simulate(load(1500), default_fleet(), sample_every_us=1_000_000))
    records, last = requests_of(output), {s.instance: s for s in samples_of(output)}
    for instance, sample in last.items():
        ended = [r for r in records if r.instance == instance and r.ts_end_us <= sample.ts_us]
        assert sample.requests_total == len(ended)
        assert sample.kv_cache_usage is not None
        assert 0 <= sample.kv_cache_usage <= 1
    assert all(s.ts_us % 1_000_000 == 0 for s in samples_of(output))


def test_clients_are_served_in_their_region_where_an_engine_is() -> None:
    arrivals = {a.request_id: a.region for a in load(400)}
    for record in requests_of(list(simulate(load(400), default_fleet()))):
        assert record.region == arrivals[record.request_id]


def test_stages_add_up_to_the_latency() -> None:
    for record in requests_of(list(simulate(load(300), default_fleet()))):
        assert None not in (record.queue_us, record.prefill_us, record.decode_us)
        stages = (record.queue_us or 0) + (record.prefill_us or 0) + (record.decode_us or 0)
        assert stages == record.e2e_us == record.ts_end_us - record.ts_arrival_us
        assert decode_json(encode_json(record), RequestRecord) == record


def test_a_prompt_that_does_not_fit_is_a_record_of_a_refusal() -> None:
    arrival = Arrival(at_us=END_US, request_id="r", tenant="t", prompt_tokens=99, output_tokens=1)
    member = FleetMember(
        identity=Identity(instance="i", model="m"),
        profile=EngineProfile(num_gpu_blocks=10, max_model_len=64),
        conditions=Conditions(),
    )
    (record,) = requests_of(list(simulate([arrival], [member])))
    assert (record.status_code, record.ttft_us, record.completion_tokens) == (400, None, 0)
    assert "64" not in record.request_id
    assert "63" in record.error


def test_disorder_and_an_empty_fleet_are_refused() -> None:
    arrivals = load(10)
    with pytest.raises(ValueError, match="earlier"):
        list(simulate(reversed(arrivals), default_fleet()))
    with pytest.raises(ValueError, match="at least one"):
        list(simulate(arrivals, []))


def test_a_replay_ends_when_it_is_told_to_and_has_the_same_ids_each_time(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    lines = [f"2023-11-16 18:15:{second:02d}.5000000,300,20" for second in range(60)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(lines), "utf-8")
    first = requests_of(list(records_from_trace(path, end_us=END_US)))
    again = requests_of(list(records_from_trace(path, end_us=END_US + 5_000_000)))
    assert max(r.ts_end_us for r in first) == END_US
    assert [r.request_id for r in first] == [r.request_id for r in again]
    assert [r.ts_end_us + 5_000_000 for r in first] == [r.ts_end_us for r in again]
    few = requests_of(list(records_from_trace(path, end_us=END_US, requests_max=7)))
    assert len(few) == 7
    assert max(r.ts_end_us for r in few) == END_US


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.is_dir(), reason="the folder of real traces is not here")
def test_an_hour_of_azure_s_traffic_takes_less_than_a_minute() -> None:
    path = TRACES / "azure" / "AzureLLMInferenceTrace_conv.csv"
    began_s = time.monotonic()
    records = requests_of(list(records_from_trace(path, end_us=END_US)))
    assert time.monotonic() - began_s < 60
    assert len({r.request_id for r in records}) == 19_366
    assert sum(r.completion_tokens for r in records) == 4_088_665
