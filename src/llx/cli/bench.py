"""`llx bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from llx.cli.arguments import (
    ArtifactFolders,
    ResultsFormat,
    Texts,
    command_line,
    length_pairs,
    lengths,
    names,
    numbers,
    optional,
    share,
)
from llx.cli.printed import printed


def bench(
    folder: ArtifactFolders = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Engines, with commas: torch, torch-compile, ort, ort-standard, openvino; on a "
            "GPU torch-cuda, torch-compile-cuda, ort-cuda, ort-tensorrt, trt, trt-rtx.",
        ),
    ] = "ort",
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of ONNX Runtime: cpu, cuda or tensorrt; ort-cuda is ort with --provider cuda.",
            show_default=False,
        ),
    ] = None,
    inference_precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of OpenVINO: f32, bf16, or auto, its own choice; openvino-f32 is openvino with "
            "--inference-precision f32.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "-p",
            metavar="N,N",
            help="Prompt lengths; 0 for none. [default: 512]",
            show_default=False,
        ),
    ] = None,
    generated: Annotated[
        str | None,
        typer.Option(
            "-n",
            metavar="N,N",
            help="Generated lengths; 0 for none. [default: 128]",
            show_default=False,
        ),
    ] = None,
    request_lengths: Annotated[
        str | None,
        typer.Option(
            "--requests",
            metavar="N:N",
            help="Whole requests, input:output lengths: 128:32,512:128.",
            show_default=False,
        ),
    ] = None,
    depths: Annotated[
        str, typer.Option("-d", metavar="N,N", help="Positions filled before.")
    ] = "0",
    batches: Annotated[str, typer.Option("-b", metavar="N,N", help="Batch sizes.")] = "1",
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, metavar="N", help="Runs that count.")
    ] = 5,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Go on until the interval is within this share of the speed, such as 1%.",
            show_default=False,
        ),
    ] = None,
    most_repetitions: Annotated[
        int | None,
        typer.Option(
            "--max-repetitions",
            metavar="N",
            help="Where --until and --against end at the latest. [default: 30; with --against 60]",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(min=0, metavar="N", help="Runs before the first that counts.")
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random prompts.")] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A short look: -p 256 -n 32, no fidelity."),
    ] = False,
    fidelity: Annotated[
        bool | None,
        typer.Option(
            "--fidelity/--no-fidelity",
            help="Judge against the PyTorch reference. [default: unless --quick]",
            show_default=False,
        ),
    ] = None,
    text: Texts = None,
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
    roofline: Annotated[
        bool, typer.Option(help="Probe what this machine can do, and hold the speeds to it.")
    ] = True,
    limit: Annotated[
        float,
        typer.Option(
            min=1, metavar="SECONDS", help="Seconds that a test may take before it is stopped."
        ),
    ] = 3600.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same run was cut off.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="Measure in turns with another artifact (its folder, or a file of its results) or "
            "engine, and say whether this one is faster.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="With --against: the change that matters. [default: 5%]",
            show_default=False,
        ),
    ] = None,
    output: ResultsFormat = None,
) -> None:
    """Measure speed and fidelity of one or several artifacts and engines."""
    from llx.api.bench import bench as measure
    from llx.api.results import Interrupted
    from llx.reports.console import warn
    from llx.reports.formats import writer_named
    from llx.result import encode_results

    write = writer_named(output)
    try:
        results = measure(
            folder,
            engines=names(engine),
            provider=provider,
            inference_precision=inference_precision,
            prompts=optional(lengths, prompts, "-p"),
            generated=optional(lengths, generated, "-n"),
            requests=optional(length_pairs, request_lengths, "--requests") or (),
            depths=numbers(depths, "-d", least=0),
            batches=numbers(batches, "-b", example="1,8"),
            repetitions=repetitions,
            until=optional(share, until, "--until"),
            max_repetitions=most_repetitions,
            warmup=warmup,
            seed=seed,
            quick=quick,
            fidelity=fidelity,
            texts=text or (),
            trust_engine=trust_engine,
            roofline=roofline,
            limit=limit,
            resume=resume,
            against=against,
            threshold=optional(share, threshold, "--threshold", "5%"),
            tell=warn,
            command=command_line(),
        )
    except Interrupted as interrupted:
        printed(write, interrupted.results, encode_results)
        raise
    printed(write, results, encode_results)
    raise typer.Exit(results.exit_code)
