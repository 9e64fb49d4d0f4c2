"""The script: what goes wrong when, as shares of the run. Pure."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

RUN_SECONDS = 90.0  # the script's own length, where no --seconds is given
RUN_SECONDS_MIN = 60.0  # shorter, and windows have no time to fill

Path = Literal[
    "/incidents/bad_canary", "/incidents/tenant_spike", "/incidents/kv_squeeze", "/malformed"
]


class Step(NamedTuple):
    """One call to the fleet's control server, and how it is told in the terminal."""

    at_s: float
    path: Path
    body: dict[str, Any]
    told: str
    rule: str = ""  # that should fire because of it


def script(seconds: float) -> list[Step]:
    """All steps of a run of ``seconds``, in order of time."""
    return [
        Step(
            seconds * 0.08,
            "/malformed",
            {"count": 5},
            "five malformed lines are written into a request log",
        ),
        Step(
            seconds * 0.12,
            "/incidents/bad_canary",
            {"on": True},
            "the canary v2 becomes six times slower and fails 3 % of its requests",
            "p99_latency_over_slo",
        ),
        Step(
            seconds * 0.45,
            "/incidents/bad_canary",
            {"on": False},
            "v2 is mended (it gets no traffic any more, if Redline did its work)",
        ),
        Step(
            seconds * 0.47,
            "/incidents/tenant_spike",
            {"on": True, "factor": 10.0},
            "tenant umbrella sends ten times its usual load",
            "spend_over_baseline",
        ),
        Step(
            seconds * 0.66,
            "/incidents/kv_squeeze",
            {"on": True},
            "vllm-0 loses most of its KV cache",
            "kv_cache_saturation",
        ),
        Step(seconds * 0.78, "/incidents/tenant_spike", {"on": False}, "umbrella is back to usual"),
        Step(seconds * 0.82, "/incidents/kv_squeeze", {"on": False}, "vllm-0 has its cache back"),
    ]
