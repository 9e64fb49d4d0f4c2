"""The ``redline`` command. Exit codes: 0 done, 1 the answer is no, 2 the call or setup is wrong.

Commands stay thin: they read settings, call one function of this package, print. Heavy modules
are imported inside the command that needs them. This file refuses to compute anything.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from redline.errors import Fault

app = typer.Typer(
    name="redline",
    help="The cost and reliability guard for self-hosted LLM inference.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file. Default: redline.yaml here, if present."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def up(config: Config = None) -> None:
    """Start the whole stack here and supervise it, until Ctrl-C or `redline down`."""
    from cli.up import run_up

    raise typer.Exit(run_up(config))


@app.command()
def down(config: Config = None) -> None:
    """Stop the stack that another terminal started."""
    from cli.up import run_down

    raise typer.Exit(run_down(config))


@app.command()
def status(config: Config = None, json: Json = False) -> None:
    """Show each component: state, address, restarts, log. Exit 1 if not all are ready."""
    from cli.up import run_status

    raise typer.Exit(run_status(config, as_json=json))


@app.command()
def demo(
    seconds: Annotated[
        float | None,
        typer.Option(help="Stop the load after this long and print a summary. Default: until ^C."),
    ] = None,
    headless: Annotated[bool, typer.Option(help="Do not open the page.")] = False,
    json: Json = False,
    rate: Annotated[float, typer.Option(help="Requests per second.", min=1, max=500)] = 40.0,
    seed: Annotated[int, typer.Option(help="Seed of the workload.")] = 7,
    trace: Annotated[
        Path | None, typer.Option(help="Take arrivals and lengths from a trace file.")
    ] = None,
    speed: Annotated[float, typer.Option(help="Play the trace this many times faster.")] = 1.0,
    port_base: Annotated[
        int, typer.Option(help="First of twenty ports; 0 picks free ones.", min=0, max=65000)
    ] = 7600,
    data_dir: Annotated[Path, typer.Option(help="Emptied at each start.")] = Path(".redline/demo"),
) -> None:
    """A simulated fleet, three incidents, and what Redline does about them."""
    from cli.demo.layout import DemoOptions
    from cli.demo.run import run_demo

    options = DemoOptions(
        seconds=seconds,
        headless=headless,
        as_json=json,
        rate_rps=rate,
        seed=seed,
        trace=trace,
        speed=speed,
        port_base=port_base,
        data_dir=data_dir,
    )
    raise typer.Exit(run_demo(options))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A request log (NDJSON) or a trace file.")],
    json: Json = False,
    data_dir: Annotated[Path, typer.Option(help="Emptied at each start.")] = Path(
        ".redline/replay"
    ),
    keep: Annotated[bool, typer.Option(help="Leave the stack up afterwards, until ^C.")] = False,
) -> None:
    """Run a log or trace of your own through the whole pipeline; print the same summary."""
    from cli.replay import run_replay

    raise typer.Exit(run_replay(file, as_json=json, data_dir=data_dir, keep=keep))


deploy_app = typer.Typer(help="Tell Redline what was deployed.", no_args_is_help=True)
app.add_typer(deploy_app, name="deploy")


@deploy_app.command("mark")
def deploy_mark(
    model: Annotated[str, typer.Option(help="The model as engines serve it.")],
    version: Annotated[str, typer.Option(help="What runs now, as in request records.")],
    action: Annotated[
        str, typer.Option(help="deploy, promote, rollback, scale or weights.")
    ] = "deploy",
    region: Annotated[str, typer.Option(help="Where; empty: everywhere.")] = "",
    weight: Annotated[float | None, typer.Option(help="Share of traffic, 0 to 1.")] = None,
    who: Annotated[str, typer.Option(help="Default: the CI's user, else the login.")] = "",
    detail: Annotated[str, typer.Option(help="Anything else, e.g. the pipeline's URL.")] = "",
    url: Annotated[str, typer.Option(help="The collectors. Default: as configured.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Record a deployment, so that graphs and verdicts show it. Exit 1: send it again later."""
    from cli.deploy import Mark, run_mark

    mark = Mark(model, version, action, region, weight, who, detail)
    raise typer.Exit(run_mark(mark, url, config, time.time_ns() // 1000, as_json=json))


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A model directory, or a name on the hub.")],
    extra: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="For vLLM; they win.")
    ] = None,
    profile: Annotated[str, typer.Option(help="fp8, fp8-kv or bf16.")] = "fp8",
    python: Annotated[
        Path | None, typer.Option(help="The Python that has vLLM. Default: this one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    max_model_len: Annotated[int, typer.Option(help="Longest context, tokens.", min=1)] = 4096,
    instance: Annotated[str, typer.Option(help="Engine's name. Default: host name and port.")] = "",
    served_name: Annotated[str, typer.Option(help="What clients call the model.")] = "",
    model_version: Annotated[str, typer.Option(help="Version that requests are filed under.")] = "",
    region: Annotated[str, typer.Option(help="Region that requests are filed under.")] = "",
    canary: Annotated[bool, typer.Option(help="Mark its requests as a canary's.")] = False,
    log_dir: Annotated[
        Path | None, typer.Option(help="Request logs. Default: where the collectors look.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the command and stop.")] = False,
    config: Config = None,
) -> None:
    """Start vLLM by a profile, with one exact record per request."""
    from cli.serve import ServeOptions, run_serve

    options = ServeOptions(
        model=model,
        extra=tuple(extra or ()),
        profile=profile,
        python=python,
        host=host,
        port=port,
        max_model_len=max_model_len,
        instance=instance,
        served_name=served_name,
        model_version=model_version,
        region=region,
        canary=canary,
        log_dir=log_dir,
        dry_run=dry_run,
    )
    raise typer.Exit(run_serve(options, config))


source = typer.Typer(no_args_is_help=True, help="Access logs of what stands before the engines.")
app.add_typer(source, name="source")


@source.command("check")
def source_check(
    logfile: Annotated[Path, typer.Argument(help="A JSON access log.")],
    mapping: Annotated[str, typer.Option(help="litellm, nginx, envoy, or a mapping file.")],
    lines: Annotated[int, typer.Option("-n", help="Show so many records and errors.")] = 5,
    instance: Annotated[str, typer.Option(help="As in collectors.log_sources.")] = "",
    model: Annotated[str, typer.Option(help="As in collectors.log_sources.")] = "",
) -> None:
    """Show what a mapping makes of a log. Exit 1 if lines cannot be read."""
    from cli.source import run_source_check

    fixed = {"instance": instance, "model": model}
    raise typer.Exit(run_source_check(mapping, logfile, lines, fixed))


def main() -> None:
    """Entry point: a Fault becomes one clear line and exit code 2."""
    try:
        app()
    except Fault as fault:
        print(f"redline: {fault}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
