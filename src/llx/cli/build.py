"""`llx build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llx.cli.arguments import (
    ArtifactFolder,
    command_line,
    length_pairs,
    lengths,
    numbers,
    optional,
    path_named,
    positions,
)


def build(
    folder: ArtifactFolder = None,
    engine: Annotated[str, typer.Option(metavar="NAME", help="trt or trt-rtx.")] = "trt",
    sm: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="trt-rtx: compute capabilities, with commas: 86,89. [default: one engine for any "
            "GPU from Ampere on]",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            parser=positions, metavar="N", help="Cache capacity. [default: the artifact's]"
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", "-b", metavar="N", help="Most rows of a step.")
    ] = 1,
    max_prefill: Annotated[
        int | None, typer.Option(metavar="N", help="Most new tokens of a step. [default: 512]")
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which graph. [default: what suits the TensorRT here]"),
    ] = None,
    profiles: Annotated[
        int,
        typer.Option(
            min=1, max=2, metavar="N", help="2: decoding has a profile, and weights, of its own."
        ),
    ] = 1,
    workspace: Annotated[
        int | None,
        typer.Option(min=0, metavar="MIB", help="MiB of scratch memory. [default: TensorRT's]"),
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, metavar="N", help="Effort, 0 to 5. [default: TensorRT's]"),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="trt: a file of timings. [default: one per version and GPU]"
        ),
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
        typer.Option(
            metavar="NAME",
            help="Of `llx plan`. A Jetson: write a bundle that builds there. A card: with "
            "--engine trt-rtx, build here for its chip.",
        ),
    ] = None,
    jetpack: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION",
            help="The Jetson's. [default: 6.2 of an Orin; of a Thor the newest with a TensorRT]",
            show_default=False,
        ),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="user@host[:port]: build and measure there, over SSH."),
    ] = None,
    python: Annotated[str, typer.Option(metavar="PATH", help="The Python there.")] = "python3",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=path_named,
            metavar="DIR",
            help="The bundle. [default: under ./bundles]",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("-p", metavar="N,N", help="Prompt lengths to measure there. [default: 128]"),
    ] = None,
    generated: Annotated[
        str | None, typer.Option("-n", metavar="N,N", help="Generated lengths. [default: 64]")
    ] = None,
    request_lengths: Annotated[
        str | None,
        typer.Option(
            "--requests",
            metavar="N:N",
            help="Whole requests, input:output lengths: 128:32.",
            show_default=False,
        ),
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Runs that count.")
    ] = 5,
) -> None:
    """Build a TensorRT engine of an artifact: fp16, int8, fp8, bf16 or fp32, as its graph says."""
    from llx.api.build import build_requests, built
    from llx.api.elsewhere import Elsewhere, build_there, bundle_for, for_card
    from llx.api.results import Results
    from llx.artifact import open_artifact
    from llx.reports.artifacts import bundle_in_words, engine_in_words
    from llx.reports.console import say, show_results, warn

    requests = build_requests(
        engine,
        sm=optional(numbers, sm, "--sm", example="86,89"),
        context=context,
        batch=batch,
        max_prefill=max_prefill,
        dialect=dialect,
        profiles=profiles,
        workspace=workspace,
        opt_level=opt_level,
        timing_cache=timing_cache,
        strip=strip,
        version_compatible=version_compatible,
        command=command_line(),
    )
    where = Elsewhere(
        device=device,
        jetpack=jetpack,
        remote=remote,
        python=python,
        output=output,
        prompts=optional(lengths, prompts, "-p"),
        generated=optional(lengths, generated, "-n"),
        requests=optional(length_pairs, request_lengths, "--requests") or (),
        repetitions=repetitions,
    )
    requests, where = for_card(requests, where)
    artifact = open_artifact(folder)
    if not where.asked:
        for found, made in built(artifact, requests, overwrite, tell=warn):
            say(engine_in_words(found, made))
    elif remote is None:
        for request in requests:
            written = bundle_for(artifact, request, where, overwrite, tell=warn)
            say(bundle_in_words(written.folder, written.total_bytes, written.recipe, written.made))
    else:
        results = Results()
        for request in requests:
            there = build_there(artifact, request, where, overwrite, say=say)
            say(engine_in_words(there.engine, there.made))
            show_results([there.result])
            say(f"results: {there.results}")
            results.append(there.result)
        for error in results.errors:
            warn(f"{error.message}: {error.remedy}")
        raise typer.Exit(results.exit_code)
