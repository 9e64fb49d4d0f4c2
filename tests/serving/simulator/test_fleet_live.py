from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from redline.errors import AddressInUse, ConfigFault
from redline.records import RequestRecord
from serving.simulator.app import Simulator
from serving.simulator.spec import SimulatorSpec
from tests.serving.simulator.conftest import Launch, LiveFleet, body, engine, workload
from tests.serving.simulator.test_openai_api import metrics


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


async def loaded(launch: Launch, tmp_path: Path, **changes: Any) -> LiveFleet:
    ports = free_ports(2)
    targets = [f"http://127.0.0.1:{port}" for port in ports]
    engines = [engine(number, port=port) for number, port in enumerate(ports)]
    load = workload(targets, sent_file=tmp_path / "sent.ndjson", **changes)
    return await launch(engines, workload=load)


async def sent(fleet: LiveFleet, at_least: int) -> dict[str, Any]:
    counts = await fleet.summary()
    while counts["requests_sent"] < at_least:
        await asyncio.sleep(0.05)
        counts = await fleet.summary()
    return counts


async def test_what_was_sent_is_what_was_logged(launch: Launch, tmp_path: Path) -> None:
    fleet = await loaded(launch, tmp_path, abort_share=0.3)
    assert (await fleet.summary())["requests_sent"] == 0
    await fleet.command("/load", {"rate_rps": 150})
    await sent(fleet, 200)
    status, counts = await fleet.command("/load", {"stop": True})
    assert (status, counts["load_running"]) == (200, False)
    while counts["in_flight"]:
        await asyncio.sleep(0.05)
        counts = await fleet.summary()
    assert counts["responses_ok"] + counts["aborted"] == counts["requests_sent"]
    assert counts["responses_failed"] == 0
    assert counts["aborted"] > 0
    total = counts["requests_sent"]
    await fleet.until(lambda: len(fleet.records() + fleet.records("e1")) == total)
    assert (await fleet.summary())["log_lines_written"] == total
    await fleet.simulator.stop()
    lines = [json.loads(row) for row in (tmp_path / "sent.ndjson").read_bytes().splitlines()]
    by_id = {line["request_id"]: line for line in lines}
    assert len(by_id) == total
    records = fleet.records() + fleet.records("e1")
    assert {record.request_id for record in records} == set(by_id)
    assert {record.tenant for record in records} == {"acme", "umbrella"}
    for record in records:
        assert record.tenant == by_id[record.request_id]["tenant"]


async def test_a_trace_is_sent_at_its_own_times_and_under_new_ids(
    launch: Launch, tmp_path: Path
) -> None:
    trace = tmp_path / "azure.csv"
    rows = [f"2023-11-16 18:15:{second:02d}.0,300,20" for second in range(60)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows), "utf-8")
    fleet = await loaded(launch, tmp_path, trace=trace, speed=60.0)
    for _ in range(2):
        await fleet.command("/load", {})
        while (counts := await fleet.summary())["load_running"] or counts["in_flight"]:
            await asyncio.sleep(0.05)
    await fleet.until(lambda: len(fleet.records() + fleet.records("e1")) == 120)
    records = fleet.records() + fleet.records("e1")
    assert len({record.request_id for record in records}) == 120
    assert {record.prompt_tokens for record in records} == {300}


async def test_a_trace_that_cannot_be_read_stops_the_start(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("a,b\n")
    with pytest.raises(ConfigFault, match=r"workload\.trace.*no known trace"):
        await loaded(launch, tmp_path, trace=tmp_path / "trace.csv")


async def test_a_spike_makes_one_tenant_loud_and_ends(launch: Launch, tmp_path: Path) -> None:
    fleet = await loaded(launch, tmp_path)
    status, answer = await fleet.command("/incidents/tenant_spike", {"on": True, "factor": 20})
    assert (status, answer["touched"]) == (200, ["umbrella"])
    await fleet.command("/load", {"rate_rps": 60})
    await sent(fleet, 250)
    await fleet.command("/load", {"rate_rps": 0})
    await fleet.until(lambda: len(fleet.records() + fleet.records("e1")) >= 200)
    tenants = Counter(record.tenant for record in fleet.records() + fleet.records("e1"))
    assert tenants["umbrella"] > 2 * tenants["acme"]
    await fleet.command("/incidents/tenant_spike", {"on": False})
    assert (await fleet.summary())["incidents"] == {}


async def ask(fleet: LiveFleet, count: int, instance: str) -> list[RequestRecord]:
    """Ask ``count`` times at once; the log's new records."""
    before = len(fleet.records(instance))
    url = fleet.url("/v1/chat/completions", instance)

    async def one(number: int) -> int:
        headers = {"X-Request-Id": f"{instance}-{before}-{number}"}
        async with fleet.client.post(url, json=body(), headers=headers) as response:
            return response.status

    codes = await asyncio.gather(*[one(number) for number in range(count)])
    await fleet.until(lambda: len(fleet.records(instance)) == before + count)
    records = fleet.records(instance)[before:]
    assert sorted(codes) == sorted(record.status_code for record in records)
    return records


def median_e2e_us(records: list[RequestRecord]) -> int:
    good = sorted(record.e2e_us or 0 for record in records if record.status_code == 200)
    return good[len(good) // 2]


async def test_a_bad_canary_is_slow_and_fails_and_the_stable_version_is_not(
    launch: Launch,
) -> None:
    fleet = await launch([engine(0, speed=8.0), engine(1, speed=8.0)])
    before = await ask(fleet, 60, "e1")
    bad = {"on": True, "error_ratio": 0.2}
    status, answer = await fleet.command("/incidents/bad_canary", bad)
    assert (status, answer["touched"]) == (200, ["e1"])
    during, stable = await ask(fleet, 60, "e1"), await ask(fleet, 60, "e0")
    assert median_e2e_us(during) > 3 * median_e2e_us(before)
    assert median_e2e_us(stable) < 2 * median_e2e_us(before)
    failed = [record for record in during if record.failed]
    assert 3 <= len(failed) <= 30
    assert {(record.status_code, record.finish_reason) for record in failed} == {(500, "error")}
    assert not any(record.failed for record in before + stable)
    await fleet.command("/incidents/bad_canary", {"on": False})
    assert not any(record.failed for record in await ask(fleet, 60, "e1"))


async def test_a_kv_squeeze_fills_the_cache_until_it_is_over(launch: Launch) -> None:
    fleet = await launch([engine(0, num_gpu_blocks=300, max_model_len=512, speed=8.0)])
    status, answer = await fleet.command("/incidents/kv_squeeze", {"on": True})
    assert (status, answer["touched"]) == (200, ["e0"])
    assert (await metrics(fleet))["vllm:kv_cache_usage_perc"] > 0.55
    request = body()
    request["vllm_xargs"] = {"prompt_tokens": 300, "output_tokens": 100}
    url = fleet.url("/v1/chat/completions")
    asking = [asyncio.ensure_future(fleet.client.post(url, json=request)) for _ in range(30)]
    engine_state = fleet.simulator.fleet.engines["e0"].engine  # type: ignore[union-attr]
    await fleet.until(lambda: engine_state.waiting > 5 and engine_state.blocks.usage > 0.85)
    await fleet.until(lambda: engine_state.counters.preemptions > 0)
    await fleet.command("/incidents/kv_squeeze", {"on": False})
    assert {response.status for response in await asyncio.gather(*asking)} == {200}
    page = await metrics(fleet)
    assert page["vllm:kv_cache_usage_perc"] == 0
    assert page["vllm:num_preemptions_total"] > 0


async def test_a_cold_start_holds_requests_until_it_is_warm(launch: Launch) -> None:
    fleet = await launch()
    (quick,) = await ask(fleet, 1, "e0")
    await fleet.command("/incidents/cold_start", {"on": True, "seconds": 1.0})
    async with fleet.client.get(fleet.url("/health")) as response:
        assert response.status == 503
    (cold,) = await ask(fleet, 1, "e0")
    assert (quick.queue_us or 0) < 300_000 < (cold.queue_us or 0)
    async with fleet.client.get(fleet.url("/health")) as response:
        assert response.status == 200


async def test_a_cold_start_can_be_cut_short(launch: Launch) -> None:
    fleet = await launch()
    await fleet.command("/incidents/cold_start", {"on": True, "seconds": 600})
    asking = asyncio.ensure_future(ask(fleet, 1, "e0"))
    engine_state = fleet.simulator.fleet.engines["e0"].engine  # type: ignore[union-attr]
    await fleet.until(lambda: engine_state.waiting == 1)
    await fleet.command("/incidents/cold_start", {"on": False})
    (record,) = await asyncio.wait_for(asking, 10)
    assert record.status_code == 200


async def test_a_lost_region_answers_503_and_ends_what_it_had(launch: Launch) -> None:
    fleet = await launch([engine(0), engine(1, speed=1.0)])
    asking = asyncio.ensure_future(ask(fleet, 3, "e1"))
    engine_state = fleet.simulator.fleet.engines["e1"].engine  # type: ignore[union-attr]
    await fleet.until(lambda: engine_state.running == 3)
    await fleet.command("/incidents/region_loss", {"on": True, "region": "eu-west"})
    assert {record.status_code for record in await asking} == {500}
    for path in ("/metrics", "/health"):
        async with fleet.client.get(fleet.url(path, "e1")) as response:
            assert response.status == 503
    assert [record.status_code for record in await ask(fleet, 1, "e1")] == [503]
    assert [record.status_code for record in await ask(fleet, 1, "e0")] == [200]
    await fleet.command("/incidents/region_loss", {"on": False, "region": "eu-west"})
    assert [record.status_code for record in await ask(fleet, 1, "e1")] == [200]


async def test_malformed_lines_are_planted_and_not_counted_as_records(launch: Launch) -> None:
    fleet = await launch()
    await ask(fleet, 2, "e0")
    assert await fleet.command("/malformed", {"count": 5}) == (200, {"malformed_planted": 5})
    path = fleet.spec.log_dir / "e0" / "requests.ndjson"
    await fleet.until(lambda: len(path.read_bytes().splitlines()) == 7)
    summary = await fleet.summary()
    assert (summary["malformed_planted"], summary["log_lines_written"]) == (5, 2)
    with pytest.raises(Exception, match="request"):
        fleet.records()


@pytest.mark.parametrize(
    ("path", "sent_body", "status"),
    [
        ("/incidents/flood", {"on": True}, 404),
        ("/incidents/bad_canary", {"on": True, "version": "v9"}, 400),
        ("/incidents/kv_squeeze", {"on": True, "instance": "e9"}, 400),
        ("/incidents/region_loss", {"on": True, "region": "mars"}, 400),
        ("/incidents/tenant_spike", {"on": True}, 400),
        ("/incidents/bad_canary", {"on": "perhaps"}, 400),
        ("/incidents/bad_canary", {"onn": True}, 400),
        ("/malformed", {"count": 0}, 400),
        ("/load", {"rate_rps": 5}, 400),
    ],
)
async def test_commands_that_mean_nothing_are_refused(
    launch: Launch, path: str, sent_body: Any, status: int
) -> None:
    fleet = await launch()
    got, answer = await fleet.command(path, sent_body)
    assert got == status
    assert answer["error"]


async def test_commands_need_the_token_where_there_is_one(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDLINE_API_TOKEN", "t0ken")
    fleet = await launch()
    assert (await fleet.command("/malformed", {}))[0] == 401
    assert (await fleet.command("/malformed", {}, Authorization="Bearer other"))[0] == 401
    assert (await fleet.command("/malformed", {}, Authorization="Bearer t0ken"))[0] == 200
    assert (await fleet.summary())["malformed_planted"] == 1


async def test_the_gpus_state_file_follows_the_engines(launch: Launch, tmp_path: Path) -> None:
    path = tmp_path / "nvml.json"
    fleet = await launch([engine(0, gpus=2, speed=1.0), engine(1)], nvml_state=path)
    await fleet.until(path.exists)
    asking = asyncio.ensure_future(ask(fleet, 5, "e0"))
    await fleet.until(
        lambda: json.loads(path.read_bytes())["gpus"][0]["utilization_gpu"] > 0, seconds=15
    )
    gpus = json.loads(path.read_bytes())["gpus"]
    assert [gpu["instance"] for gpu in gpus] == ["e0", "e0", "e1"]
    assert len({gpu["uuid"] for gpu in gpus}) == 3
    assert gpus[2]["utilization_gpu"] == 0
    await asking


async def test_sequence_numbers_survive_a_restart_of_the_fleet(launch: Launch) -> None:
    fleet = await launch()
    await ask(fleet, 3, "e0")
    await fleet.simulator.stop()
    again = await launch()
    await ask(again, 2, "e0")
    assert [record.seq for record in again.records()] == [1, 2, 3, 4, 5]


async def test_stopping_ends_requests_in_flight_and_logs_them(launch: Launch) -> None:
    fleet = await launch([engine(0, speed=0.1)])
    url = fleet.url("/v1/chat/completions")
    asking = [asyncio.ensure_future(fleet.client.post(url, json=body())) for _ in range(4)]
    engine_state = fleet.simulator.fleet.engines["e0"].engine  # type: ignore[union-attr]
    await fleet.until(lambda: engine_state.running + engine_state.waiting == 4)
    began = asyncio.get_running_loop().time()
    await fleet.simulator.stop()
    assert asyncio.get_running_loop().time() - began < 5
    answers = await asyncio.gather(*asking, return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, aiohttp.ClientError) or answer.status == 503  # type: ignore[union-attr]
    assert [record.finish_reason for record in fleet.records()] == ["abort"] * 4


async def test_a_taken_port_is_named_and_leaves_nothing_bound(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        spec = SimulatorSpec(control_port=0, engines=[engine(0, port=port)], log_dir=tmp_path)
        with pytest.raises(AddressInUse, match=rf"{port}.*the port of engine e0"):
            await Simulator(spec).start()
    simulator = Simulator(spec)
    await simulator.start()
    await simulator.stop()
