from __future__ import annotations

from pathlib import Path

import pytest

from redline.errors import ConfigFault
from serving.simulator.spec import EngineSpec, default_spec, load_spec, write_spec


def test_the_default_fleet_survives_its_file(tmp_path: Path) -> None:
    spec = default_spec(tmp_path, targets=["http://127.0.0.1:7602"], rate_rps=25, start=True)
    write_spec(spec, tmp_path / "fleet.yaml")
    assert load_spec(tmp_path / "fleet.yaml") == spec
    assert [engine.version for engine in spec.engines] == ["v1", "v1", "v2"]
    assert [engine.canary for engine in spec.engines] == [False, False, True]
    assert len({engine.region for engine in spec.engines}) == 2
    assert spec.workload is not None
    assert sum(tenant.share for tenant in spec.workload.tenants) == pytest.approx(1.0)


def test_without_targets_the_load_goes_to_the_engines(tmp_path: Path) -> None:
    spec = default_spec(tmp_path, engine_ports=(8001, 8002, 8003))
    assert spec.workload is not None
    assert spec.workload.targets == [f"http://127.0.0.1:{port}" for port in (8001, 8002, 8003)]
    assert spec.workload.start is False


def engine_of(**changes: object) -> EngineSpec:
    return EngineSpec.model_validate({"instance": "a", "port": 1, "model": "m", **changes})


def test_blocks_follow_from_the_cache_s_size_and_the_model() -> None:
    assert engine_of().profile().num_gpu_blocks == 1024
    assert engine_of(kv_cache_dtype="bf16").profile().num_gpu_blocks == 512
    assert engine_of(kv_cache_gib=60).profile().num_gpu_blocks == 61440
    assert engine_of(gpus=2).profile().num_gpu_blocks == 2048  # each rank holds half of the heads
    assert engine_of(num_gpu_blocks=700).profile().num_gpu_blocks == 700


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"architecture": "gpt-9"}, "architecture"),
        ({"kv_cache_gib": 0.1}, "kv_cache_gib"),
        ({"kv_cache_dtype": "fp8_ds_mla"}, "kv_cache_dtype"),
    ],
)
def test_an_engine_that_cannot_be_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigFault, match=field):
        engine_of(**changes).profile()


GOOD = "log_dir: logs\nengines: [{instance: a, port: 0, model: m}]\n"


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        (GOOD + "colour: red\n", "colour", "remove the key"),
        ("log_dir: logs\nengines: [{instance: a, port: 0, model: m, sped: 2}]", "sped", "remove"),
        ("log_dir: logs\nengines: []\n", "engines", "at least 1"),
        (GOOD + "control_port: many\n", "control_port", "integer"),
        (GOOD.replace("instance: a", "instance: ../a"), "instance", "pattern"),
        (
            "log_dir: l\nengines: [{instance: a, port: 1, model: m},"
            " {instance: a, port: 2, model: m}]",
            "--spec",
            "same instance name",
        ),
        (GOOD.replace("port: 0", "port: 7610"), "--spec", "same port"),
        ("just text", "--spec", "dictionary"),
        ("a: [", "--spec", "not YAML"),
    ],
)
def test_a_wrong_specification_says_what_to_do(
    tmp_path: Path, text: str, field: str, hint: str
) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigFault) as fault:
        load_spec(path)
    assert field in str(fault.value)
    assert hint in str(fault.value)
    assert "Fix:" in str(fault.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match=r"none\.yaml"):
        load_spec(tmp_path / "none.yaml")
