"""`llx build`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import ArtifactFolder, command_line, length_pairs, lengths, numbers

if TYPE_CHECKING:
    from llx.engine import Engine


def build(
    folder: ArtifactFolder = None,
    engine: Annotated[str, typer.Option(help="trt or trt-rtx.")] = "trt",
    sm: Annotated[
        str | None,
        typer.Option(
            help="trt-rtx: compute capabilities, with commas: 86,89. [default: one engine for any "
            "GPU from Ampere on]",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Cache capacity. [default: the artifact's]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", help="Most rows of a step.")] = 1,
    max_prefill: Annotated[
        int | None, typer.Option(help="Most new tokens of a step. [default: 512]")
    ] = None,
    dialect: Annotated[
        str | None, typer.Option(help="Which graph. [default: what suits the TensorRT here]")
    ] = None,
    profiles: Annotated[
        int, typer.Option(min=1, max=2, help="2: decoding has a profile, and weights, of its own.")
    ] = 1,
    workspace: Annotated[
        int | None, typer.Option(min=0, help="MiB of scratch memory. [default: TensorRT's]")
    ] = None,
    opt_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="Effort, 0 to 5. [default: TensorRT's]")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(help="trt: a file of timings. [default: one per version and GPU]"),
    ] = None,
    strip: Annotated[
        bool, typer.Option("--strip", help="Leave weights out; loading takes them from here.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="trt: loads in later releases too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Build again what is there already.")] = False,
    device: Annotated[
        str | None,
        typer.Option(help="A Jetson of `llx plan`: write a bundle that builds there."),
    ] = None,
    jetpack: Annotated[
        str | None,
        typer.Option(
            help="The Jetson's. [default: the newest that ships TensorRT]",
            show_default=False,
        ),
    ] = None,
    remote: Annotated[
        str | None, typer.Option(help="user@host[:port]: build and measure there, over SSH.")
    ] = None,
    python: Annotated[str, typer.Option(help="The Python there.")] = "python3",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The bundle. [default: under ./bundles]"),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("-p", help="Prompt lengths to measure there. [default: 128]")
    ] = None,
    generated: Annotated[
        str | None, typer.Option("-n", help="Generated lengths. [default: 64]")
    ] = None,
    request_lengths: Annotated[
        str | None,
        typer.Option(
            "--requests", help="Whole requests, input:output lengths: 128:32.", show_default=False
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", min=1)] = 5,
) -> None:
    """Build a TensorRT engine of an artifact: fp16, int8, bf16 or fp32, as its graph says."""
    from llx.artifact import open_artifact
    from llx.cli.elsewhere import Elsewhere, build_elsewhere
    from llx.errors import EXIT_DONE, BadInput
    from llx.exporter.engines.build import BuildRequest, build_engine, key_of, timing_cache_of
    from llx.graphs.dialects import dialect_named
    from llx.reports.console import progress_bars, say, warn
    from llx.runtime import RUNTIMES
    from llx.tensorrt import BuildOptions

    runtime = next((name for name in RUNTIMES if name == engine), None)
    if runtime is None:
        raise BadInput(f"{engine!r} builds no engines", f"choose {' or '.join(RUNTIMES)}")
    if timing_cache and runtime == "trt-rtx":
        raise BadInput("TensorRT-RTX times nothing", "leave --timing-cache out")
    if dialect is not None:
        dialect_named(dialect)
    if sm is not None and runtime == "trt":
        raise BadInput(
            "TensorRT builds for the GPU that it runs on, and takes no --sm",
            "leave --sm out, or choose --engine trt-rtx",
        )
    where = Elsewhere(
        device=device,
        jetpack=jetpack,
        remote=remote,
        python=python,
        output=output,
        prompts=None if prompts is None else lengths(prompts, "-p"),
        generated=None if generated is None else lengths(generated, "-n"),
        requests=length_pairs(request_lengths) if request_lengths else (),
        repetitions=repetitions,
    )
    artifact = open_artifact(folder)
    asked = BuildRequest(
        runtime=runtime,
        dialect=dialect,
        context=context,
        batch=batch,
        max_prefill=max_prefill,
        options=BuildOptions(
            profiles=profiles,
            workspace_mib=workspace,
            opt_level=opt_level,
            strip=strip,
            version_compatible=version_compatible,
        ),
        timing_cache=timing_cache,
        command=command_line(),
    )
    chips = (None,) if sm is None else dict.fromkeys(numbers(sm, "--sm", example="86,89"))
    requests = [replace(asked, sm=chip) for chip in chips]
    if not where.asked:
        for request in requests:  # what one of them cannot have is said before any is built
            key_of(artifact, request)
    code = EXIT_DONE
    for request in requests:
        if where.asked:
            code = max(code, build_elsewhere(artifact, request, where, overwrite))
            continue
        kept = timing_cache or timing_cache_of(runtime)
        with progress_bars() as progress:
            built, made = build_engine(
                artifact, replace(request, timing_cache=kept), overwrite, progress, warn
            )
        say(summary(built) if made else f"{built.folder} is there already: nothing to do")
    raise typer.Exit(code)


def summary(engine: Engine) -> str:
    """What was built, in a few lines."""
    from llx.reports.units import binary_bytes

    manifest = engine.manifest
    limits = manifest.key.contract.limits
    peak = manifest.peak_host_bytes
    return (
        f"{engine.folder}\n  {binary_bytes(engine.plan_bytes)}, "
        f"{engine.plan_bytes / manifest.weights_bytes:.2f} × its weights, built in "
        f"{manifest.build_s:.1f} s"
        + (f" with {binary_bytes(peak)} of memory" if peak else "")
        + f"\n  {limits.capacity} positions, up to {limits.max_rows} × {limits.max_new_tokens} "
        "tokens a step\n  built, not run: `llx bench` runs it where its GPU is"
    )
