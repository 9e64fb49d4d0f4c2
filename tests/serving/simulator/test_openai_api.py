from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.simulator.conftest import MODEL, Launch, LiveFleet, body, engine


def values(page: str) -> dict[str, float]:
    """Samples by name, summed over labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def metrics(fleet: LiveFleet, instance: str = "e0") -> dict[str, float]:
    async with fleet.client.get(fleet.url("/metrics", instance)) as response:
        assert response.status == 200
        return values(await response.text())


async def events(fleet: LiveFleet, request: dict[str, Any], path: str) -> list[str]:
    async with fleet.client.post(fleet.url(path), json=request) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    return [part.removeprefix("data: ") for part in text.split("\n\n") if part]


async def test_a_plain_answer_says_what_it_used_and_is_logged_once(launch: Launch) -> None:
    fleet = await launch()
    status, answer = await fleet.post(
        "/v1/chat/completions",
        body(user="u-1"),
        **{"X-Request-Id": "r-1", "X-Tenant": "acme", "Authorization": "Bearer sk-secret"},
    )
    assert status == 200
    assert answer["id"] == "chatcmpl-r-1"
    assert answer["choices"][0]["message"]["content"].split() == ["redline"] * 12
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 50
    assert answer["usage"]["completion_tokens"] == 12
    await fleet.until(fleet.records)
    (record,) = fleet.records()
    assert (record.request_id, record.tenant, record.user) == ("r-1", "acme", "u-1")
    assert (record.model, record.version, record.region) == (MODEL, "v1", "us-east")
    assert (record.status_code, record.finish_reason, record.seq) == (200, "stop", 1)
    assert (record.prompt_tokens, record.completion_tokens) == (50, 12)
    assert record.stream is False
    assert record.precision == "fp8"
    assert record.api_key_hash
    assert "sk-secret" not in record.api_key_hash
    stages = (record.queue_us or 0) + (record.prefill_us or 0) + (record.decode_us or 0)
    assert stages == record.e2e_us == record.ts_end_us - record.ts_arrival_us


async def test_a_stream_is_chunked_like_vllm_with_a_stream_interval(launch: Launch) -> None:
    fleet = await launch(stream_interval_tokens=10)
    request = body(stream=True, stream_options={"include_usage": True})
    request["vllm_xargs"]["output_tokens"] = 35
    parts = await events(fleet, request, "/v1/chat/completions")
    assert parts.pop() == "[DONE]"
    chunks = [json.loads(part) for part in parts]
    usage = chunks.pop()
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 35
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    words = [len(delta["content"].split()) for delta in deltas]
    assert words == [1, 10, 10, 10, 4]
    assert [delta.get("role") for delta in deltas] == ["assistant", None, None, None, None]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, None, "stop"]
    await fleet.until(fleet.records)
    assert fleet.records()[0].stream is True


async def test_completions_speak_text_and_stop_at_max_tokens(launch: Launch) -> None:
    fleet = await launch()
    request = {"model": MODEL, "prompt": "x" * 400, "max_tokens": 3}
    request["vllm_xargs"] = {"output_tokens": 9}
    status, answer = await fleet.post("/v1/completions", request)
    assert (status, answer["object"]) == (200, "text_completion")
    assert answer["choices"][0]["text"].split() == ["redline"] * 3
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 100
    parts = await events(fleet, {**request, "stream": True}, "/v1/completions")
    assert "redline" in json.loads(parts[0])["choices"][0]["text"]
    await fleet.until(lambda: len(fleet.records()) == 2)
    assert {record.endpoint for record in fleet.records()} == {"/v1/completions"}


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": "nope"}, 404),
        ({"messages": None}, 400),
        ({"max_tokens": 0}, 400),
        ({"stream": "yes"}, 400),
        ({"vllm_xargs": {"prompt_tokens": 5000}}, 400),
    ],
)
async def test_what_cannot_be_answered_is_refused_and_logged(
    launch: Launch, changes: dict[str, Any], status: int
) -> None:
    fleet = await launch()
    got, answer = await fleet.post(
        "/v1/chat/completions", body(**changes), **{"X-Request-Id": "bad", "X-Tenant": "acme"}
    )
    assert got == status
    assert answer["error"]["code"] == status
    await fleet.until(fleet.records)
    (record,) = fleet.records()
    assert (record.request_id, record.tenant, record.status_code) == ("bad", "acme", status)
    assert record.error
    assert record.ttft_us is None
    assert not record.failed


async def test_bad_json_and_unknown_paths(launch: Launch) -> None:
    fleet = await launch()
    async with fleet.client.post(fleet.url("/v1/chat/completions"), data=b"{") as response:
        assert response.status == 400
    async with fleet.client.get(fleet.url("/v1/chat/completions")) as response:
        assert response.status == 405
    async with fleet.client.get(fleet.url("/v1/embeddings")) as response:
        assert response.status == 404
    await fleet.until(fleet.records)
    assert [record.status_code for record in fleet.records()] == [400]


async def test_a_client_that_leaves_is_a_499_and_frees_its_blocks(launch: Launch) -> None:
    fleet = await launch([engine(0, speed=2.0)])
    request = body(stream=True)
    request["vllm_xargs"]["output_tokens"] = 3000
    response = await fleet.client.post(fleet.url("/v1/chat/completions"), json=request)
    await response.content.readany()
    assert (await metrics(fleet))["vllm:num_requests_running"] == 1
    response.close()
    await fleet.until(fleet.records)
    (record,) = fleet.records()
    assert (record.status_code, record.finish_reason) == (499, "abort")
    assert 1 <= record.completion_tokens < 3000
    page = await metrics(fleet)
    assert page["vllm:num_requests_running"] == page["vllm:kv_cache_usage_perc"] == 0
    assert page["vllm:request_success_total"] == 0  # as vLLM: a client's abort is no success
    assert page["vllm:generation_tokens_total"] == record.completion_tokens


async def test_a_client_that_leaves_before_the_first_token_is_logged_too(launch: Launch) -> None:
    fleet = await launch([engine(0, speed=0.02)])  # a step takes 1.5 s
    asking = asyncio.ensure_future(
        fleet.client.post(fleet.url("/v1/chat/completions"), json=body())
    )
    engine_state = fleet.simulator.fleet.engines["e0"].engine  # type: ignore[union-attr]
    await fleet.until(lambda: engine_state.running == 1)
    asking.cancel()
    await fleet.until(fleet.records)
    (record,) = fleet.records()
    assert (record.status_code, record.completion_tokens, record.ttft_us) == (499, 0, None)


async def test_a_full_queue_answers_503(launch: Launch) -> None:
    fleet = await launch([engine(0, speed=1.0, max_num_seqs=1, queue_requests_max=2)])
    answers = await asyncio.gather(*[fleet.post("/v1/chat/completions", body()) for _ in range(8)])
    codes = [status for status, _ in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) in (3, 4)
    await fleet.until(lambda: len(fleet.records()) == 8)
    assert sorted(codes) == sorted(record.status_code for record in fleet.records())
    assert [record.seq for record in fleet.records()] == list(range(1, 9))


async def test_the_metrics_page_agrees_with_the_log(launch: Launch) -> None:
    fleet = await launch()
    asked = [fleet.post("/v1/chat/completions", body()) for _ in range(40)]
    await asyncio.gather(*asked)
    await fleet.until(lambda: len(fleet.records()) == 40)
    page = await metrics(fleet)
    records = fleet.records()
    assert page["vllm:request_success_total"] == 40
    assert page["vllm:prompt_tokens_total"] == sum(record.prompt_tokens for record in records)
    generated = sum(record.completion_tokens for record in records)
    assert page["vllm:generation_tokens_total"] == generated
    assert page["vllm:e2e_request_latency_seconds_count"] == 40
    latency_s = sum(record.e2e_us or 0 for record in records) / 1e6
    assert page["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(latency_s)
    first_s = sum(record.ttft_us or 0 for record in records) / 1e6
    assert page["vllm:time_to_first_token_seconds_sum"] == pytest.approx(first_s)
    assert page["vllm:num_preemptions_total"] == sum(record.preemptions for record in records)


async def test_the_cache_s_configuration_is_vllm_s(launch: Launch) -> None:
    fleet = await launch()
    async with fleet.client.get(fleet.url("/metrics")) as response:
        page = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    labels = families["vllm:cache_config_info"].samples[0].labels
    assert labels["num_gpu_blocks"] == "1024"  # 1 GiB of 64 KiB tokens, 16 a block
    assert labels["block_size"] == "16"
    assert labels["cache_dtype"] == "fp8"
    running = families["vllm:num_requests_running"].samples[0]
    assert running.labels == {"engine": "0", "model_name": MODEL}


async def test_models_version_and_health(launch: Launch) -> None:
    fleet = await launch()
    async with fleet.client.get(fleet.url("/v1/models")) as response:
        card = (await response.json())["data"][0]
        assert (card["id"], card["max_model_len"]) == (MODEL, 4096)
    async with fleet.client.get(fleet.url("/version")) as response:
        assert await response.json() == {"version": "0.32.0"}
    async with fleet.client.get(fleet.url("/health")) as response:
        assert response.status == 200
