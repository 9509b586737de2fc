"""`llx bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llx.cli.arguments import ArtifactFolder, command_line, lengths, numbers
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
    from llx.bench.run import Job
    from llx.result import Result


def bench(
    folder: ArtifactFolder = None,
    engine: Annotated[str, typer.Option(help="Engines, with commas: torch,ort.")] = "ort",
    prompts: Annotated[str, typer.Option("-p", help="Prompt lengths; 0 for none.")] = "512",
    generated: Annotated[str, typer.Option("-n", help="Generated lengths; 0 for none.")] = "128",
    depths: Annotated[str, typer.Option("-d", help="Positions filled before.")] = "0",
    batches: Annotated[str, typer.Option("-b", help="Batch sizes.")] = "1",
    repetitions: Annotated[
        int, typer.Option("--repetitions", "-r", min=1, help="Runs that count.")
    ] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Runs before the first that counts.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random prompts.")] = 0,
    fidelity: Annotated[bool, typer.Option(help="Judge against the PyTorch reference.")] = True,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="md, json, jsonl or csv. [default: table]")
    ] = None,
) -> None:
    """Measure speed and fidelity of one or several engines."""
    from llx.artifact import open_artifact
    from llx.bench.run import Job
    from llx.bench.samples import Workload
    from llx.reports.console import show_results, warn
    from llx.reports.formats import format_named

    write = format_named(output) if output else None
    names = _engine_names(engine)
    workload = Workload(
        prompts=lengths(prompts, "-p"),
        generated=lengths(generated, "-n"),
        depths=numbers(depths, "-d", least=0),
        batches=numbers(batches, "-b"),
        repetitions=repetitions,
        warmup=warmup,
        seed=seed,
    )
    artifact = open_artifact(folder)
    workload.require_fit(artifact.manifest.contract.limits)
    if fidelity and any(_runs(name) for name in names):
        artifact = _with_reference(artifact)
    jobs = [
        Job(
            folder=artifact.folder,
            engine=name,
            workload=workload,
            fidelity=fidelity,
            command=command_line(),
        )
        for name in names
    ]
    results, interrupted = _run_all(jobs)
    if write:
        print(write(results), end="")
    else:
        show_results(results)
    for result in results:
        if result.error:
            warn(f"{result.error.message}: {result.error.remedy}")
    if interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(_exit_code(results))


def _engine_names(engine: str) -> list[str]:
    """The engines of a comma list, each of them known."""
    names = [name.strip() for name in engine.split(",")]
    for name in names:
        _require_known(name)
    return names


def _run_all(jobs: list[Job]) -> tuple[list[Result], bool]:
    """The results of one engine after the other, as far as Ctrl-C let them come, and whether."""
    from llx.bench.run import bench as run
    from llx.reports.console import progress_bars

    results: list[Result] = []
    for job in jobs:
        try:
            with progress_bars(f"{job.engine}: ") as progress:
                results.append(run(job, progress))
        except KeyboardInterrupt:
            return results, True
    return results, False


def _require_known(name: str) -> None:
    """Refuse a name that no machine could run; one that this machine lacks becomes a row."""
    from llx.bench.sessions import engine_named
    from llx.errors import Lacking

    try:
        engine_named(name)
    except Lacking:
        return


def _runs(name: str) -> bool:
    from llx.bench.sessions import engine_named

    try:
        engine_named(name).require()
    except LlxError:
        return False
    return True


def _with_reference(artifact: Artifact) -> Artifact:
    """The artifact with a reference: captured now where it can be, else as it is, and said."""
    from llx.artifact import REFERENCE
    from llx.bench.reference import capture
    from llx.cli.reference import open_reference
    from llx.errors import Lacking
    from llx.reports.console import progress_bars, warn

    if artifact.has(REFERENCE):
        return artifact
    try:
        with progress_bars() as progress:
            return capture(artifact, open_reference, progress=progress)[0]
    except (Lacking, OSError) as error:
        warn(f"fidelity is not measured: {error}")
        return artifact


def _exit_code(results: list[Result]) -> int:
    codes = [result.error.exit_code for result in results if result.error]
    for code in (EXIT_BUG, EXIT_LACKING, EXIT_BAD_INPUT, EXIT_GATE_FAILED):
        if code in codes:
            return code
    return EXIT_DONE
