"""`llx bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llx.cli.arguments import ArtifactFolder, command_line, length_pairs, lengths, numbers, share
from llx.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_DONE,
    EXIT_GATE_FAILED,
    EXIT_LACKING,
    LlxError,
)

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.bench.sessions import Built
    from llx.bench.speed.samples import Workload
    from llx.bench.worker import Job
    from llx.engine import Engine
    from llx.result import ErrorRecord, Result
    from llx.runtime import Runtime


def bench(
    folder: ArtifactFolder = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Engines, with commas: torch, torch-compile, ort; on a GPU torch-cuda, "
            "torch-compile-cuda, ort-cuda, ort-tensorrt, trt, trt-rtx."
        ),
    ] = "ort",
    provider: Annotated[
        str | None,
        typer.Option(
            help="Of ONNX Runtime: cpu, cuda or tensorrt; ort-cuda is ort with --provider cuda.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("-p", help="Prompt lengths; 0 for none. [default: 512]", show_default=False),
    ] = None,
    generated: Annotated[
        str | None,
        typer.Option(
            "-n", help="Generated lengths; 0 for none. [default: 128]", show_default=False
        ),
    ] = None,
    request_lengths: Annotated[
        str | None,
        typer.Option(
            "--requests",
            help="Whole requests, input:output lengths: 128:32,512:128.",
            show_default=False,
        ),
    ] = None,
    depths: Annotated[str, typer.Option("-d", help="Positions filled before.")] = "0",
    batches: Annotated[str, typer.Option("-b", help="Batch sizes.")] = "1",
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs that count.")
    ] = 5,
    until: Annotated[
        str | None,
        typer.Option(
            help="Go on until the interval is within this share of the speed, such as 1%.",
            show_default=False,
        ),
    ] = None,
    most_repetitions: Annotated[
        int | None,
        typer.Option(
            "--max-repetitions",
            help="Where --until and --against end at the latest. [default: 30; with --against 60]",
            show_default=False,
        ),
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first that counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random prompts.")] = 0,
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
    trust_engine: Annotated[
        bool, typer.Option("--trust-engine", help="Load a built engine that is not your own.")
    ] = False,
    roofline: Annotated[
        bool, typer.Option(help="Probe what this machine can do, and hold the speeds to it.")
    ] = True,
    limit: Annotated[
        float, typer.Option(min=1, help="Seconds that a test may take before it is stopped.")
    ] = 3600.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same run was cut off.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Measure in turns with another artifact (its folder, or a file of its results) or "
            "engine, and say whether this one is faster.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            help="With --against: the change that matters. [default: 5%]", show_default=False
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="md, json, jsonl, csv; junit, bencher, github-bigger, github-smaller. "
            "[default: table]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure speed and fidelity of one or several engines."""
    from llx.artifact import open_artifact
    from llx.bench.speed.rows import MIN_REPETITIONS
    from llx.bench.speed.samples import Workload
    from llx.cli.against import baseline_of, run_in_turns
    from llx.errors import BadInput
    from llx.reports.console import show_results
    from llx.reports.formats import format_named

    write = format_named(output) if output else None
    names = _engine_names(engine, provider)
    if most_repetitions is None:
        most_repetitions = 30 if against is None else 60
    if until and not MIN_REPETITIONS <= repetitions <= most_repetitions:
        raise BadInput(
            f"--until begins with {MIN_REPETITIONS} repetitions or more, and ends with as many "
            f"or more: not {repetitions} and {most_repetitions}",
            f"write -r {MIN_REPETITIONS} --max-repetitions 30",
        )
    if threshold and against is None:
        raise BadInput("--threshold is of a comparison", "add --against, or leave it out")
    matters = share(threshold or "5%", "--threshold", "5%")
    usual = ("256", "32") if quick else ("512", "128")
    if request_lengths:
        usual = ("0", "0")
    workload = Workload(
        prompts=lengths(prompts or usual[0], "-p"),
        generated=lengths(generated or usual[1], "-n"),
        requests=length_pairs(request_lengths) if request_lengths else (),
        depths=numbers(depths, "-d", least=0),
        batches=numbers(batches, "-b", example="1,8"),
        repetitions=repetitions,
        warmup=warmup,
        seed=seed,
        until=share(until, "--until") if until else None,
        most_repetitions=most_repetitions,
        quick=quick,
    )
    artifact = open_artifact(folder)
    workload.require_fit(artifact.manifest.contract.limits)
    judged = not quick if fidelity is None else fidelity
    settings = {"limit_s": limit, "roofline": roofline, "resume": resume}
    jobs = jobs_for(artifact, names, workload, judged, trust_engine, **settings)
    if against is None:
        results, interrupted = run_all(jobs)
    else:
        pairs = []
        for job in jobs:
            of, name = baseline_of(against, artifact, job.engine)
            baseline = jobs_for(of, [name], workload, judged, trust_engine, **settings)[0]
            pairs.append((job, baseline))
        results, interrupted = run_in_turns(pairs, matters)
        say_errors(results)
    if write:
        print(write(results), end="")
    else:
        show_results(results)
    if interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(exit_code(results))


def jobs_for(
    artifact: Artifact,
    names: list[str],
    workload: Workload,
    fidelity: bool,
    trust: bool = False,
    **settings: Any,
) -> list[Job]:
    """A job for each engine, with what it needs: an engine that was built, the reference.

    `settings`: what else a `Job` takes.

    Raises `BadInput` where the workload does not fit an engine that was built.
    """
    from llx.bench.worker import Job

    built: dict[str, tuple[Built, LlxError | None]] = {
        name: _built(artifact, name, workload, trust) for name in names
    }
    if fidelity and any(_runs(name) for name in names):
        artifact = with_reference(artifact)
    return [
        Job(
            folder=artifact.folder,
            engine=name,
            workload=workload,
            fidelity=fidelity,
            command=command_line(),
            built=which,
            problem=problem,
            **settings,
        )
        for name, (which, problem) in built.items()
    ]


def _built(
    artifact: Artifact, name: str, workload: Workload, trust: bool
) -> tuple[Built, LlxError | None]:
    """Which engine runs, built now where there is none; or why there can be none."""
    from llx.bench.sessions import Built, engine_named
    from llx.reports.console import warn

    runtime = engine_named(name).runtime
    if runtime is None or not _runs(name):
        return Built(trust=trust), None
    try:
        engine = engine_for(artifact, runtime, max(workload.batches), trust)
    except LlxError as error:
        return Built(trust=trust), error
    workload.require_fit(engine.manifest.key.contract.limits, "engine", "build")
    warn(f"{name} runs {engine.folder}")
    return Built(engine.folder, trust), None


def engine_for(artifact: Artifact, runtime: Runtime, rows: int, trust: bool) -> Engine:
    """The newest engine that fits this machine and so many rows, built now where there is none."""
    from llx.bench.sessions import Built
    from llx.bench.sessions.trt import chosen_engine
    from llx.errors import Lacking
    from llx.exporter.engines.build import BuildRequest, build_engine, timing_cache_of
    from llx.gpu import require_gpu
    from llx.reports.console import progress_bars, warn
    from llx.tensorrt import load, targets

    try:
        return chosen_engine(artifact, runtime, rows, Built(trust=trust))
    except Lacking as missing:
        warn(f"{missing.message}: it is built now")
    sm = require_gpu(f"engine {runtime}", "bench on a machine with one").sm
    request = BuildRequest(
        runtime=runtime,
        sm=sm if sm in targets(load(runtime)) and runtime == "trt-rtx" else None,
        batch=rows,
        timing_cache=timing_cache_of(runtime),
        command=command_line(),
    )
    with progress_bars(f"{runtime}: ") as progress:
        return build_engine(artifact, request, progress=progress, tell=warn)[0]


def _engine_names(engine: str, provider: str | None = None) -> list[str]:
    """The engines of a comma list, each of them known; a provider says which ort is meant."""
    from llx.bench.sessions import ORT_PROVIDERS, engine_named
    from llx.errors import BadInput

    names = [name.strip() for name in engine.split(",")]
    if provider is not None:
        if provider not in ORT_PROVIDERS:
            raise BadInput(
                f"unknown provider {provider!r}", f"choose one of {', '.join(ORT_PROVIDERS)}"
            )
        if names != ["ort"]:
            raise BadInput(
                f"--provider is for --engine ort alone, not {engine}",
                f"leave it out, and name {ORT_PROVIDERS[provider]} among the engines",
            )
        names = [ORT_PROVIDERS[provider]]
    for name in names:
        engine_named(name)
    return names


def run_all(jobs: list[Job]) -> tuple[list[Result], bool]:
    """The results of one engine after the other, as far as Ctrl-C let them come, and whether.

    What has no numbers is said at once.
    """
    from llx.bench.run import Measurement
    from llx.reports.console import progress_bars, warn

    results: list[Result] = []
    for job in jobs:
        measurement = Measurement(job)
        if job.resume and not measurement.was_cut_off():
            warn(f"nothing is kept of such a run on {job.engine}: it begins anew")
        try:
            with progress_bars(f"{job.engine}: ") as progress:
                measurement.run(progress)
        except KeyboardInterrupt:
            if measurement.rows:
                warn("the same command with --resume goes on from what is below")
            return [*results, measurement.result()], True
        results.append(measurement.result())
        say_errors(results[-1:])
    return results, False


def say_errors(results: list[Result]) -> None:
    """A line on stderr for each thing that went wrong."""
    from llx.reports.console import warn

    for error in (error for result in results for error in errors_of(result)):
        warn(f"{error.message}: {error.remedy}")


def errors_of(result: Result) -> list[ErrorRecord]:
    """What went wrong with an engine, and with each of its tests."""
    return [*([result.error] if result.error else []), *(one.error for one in result.failed)]


def _runs(name: str) -> bool:
    from llx.bench.sessions import engine_named

    try:
        engine_named(name).require()
    except LlxError:
        return False
    return True


def with_reference(artifact: Artifact, protocol: tuple[int, int] | None = None) -> Artifact:
    """The artifact with a reference: captured now where it can be, else as it is, and said.

    `protocol`: tokens of a window, and how many windows, where they are not the usual ones. Windows
    are shorter where the cache holds no more.
    """
    from llx.artifact import REFERENCE
    from llx.bench.fidelity.reference import capture
    from llx.cli.reference import open_reference
    from llx.corpus import WINDOW, WINDOWS
    from llx.errors import Lacking
    from llx.reports.console import progress_bars, warn

    if artifact.has(REFERENCE):
        return artifact
    if protocol is None:
        protocol = min(WINDOW, artifact.manifest.contract.limits.capacity), WINDOWS
    try:
        with progress_bars() as progress:
            return capture(artifact, open_reference, *protocol, progress)[0]
    except (Lacking, OSError) as error:
        warn(f"fidelity is not measured: {error}")
        return artifact


def exit_code(results: list[Result]) -> int:
    """The worst of what went wrong."""
    codes = [error.exit_code for result in results for error in errors_of(result)]
    compared = [test for result in results if result.against for test in result.against.tests]
    if any(test.verdict == "slower" for test in compared):
        codes.append(EXIT_GATE_FAILED)
    for code in (EXIT_BUG, EXIT_LACKING, EXIT_BAD_INPUT, EXIT_GATE_FAILED):
        if code in codes:
            return code
    return EXIT_DONE
