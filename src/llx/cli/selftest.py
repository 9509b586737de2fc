"""`llx selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llx.artifact import Artifact

SIZE, CONTEXT = "135m", 768
PROMPT, GENERATED = 128, 32
PROTOCOL = (256, 2)  # tokens of a window, windows: a fifth of what `llx bench` judges by


def selftest(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="The engines on this machine's GPU, in fp16.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of results, to send with a report.")
    ] = Path("selftest.json"),
) -> None:
    """Export SmolLM2-135M, run it on every engine here, judge each against PyTorch."""
    from llx.bench.sessions import ENGINES
    from llx.bench.speed.samples import Workload
    from llx.cli.bench import exit_code, jobs_for, run_all, with_reference
    from llx.errors import LlxError
    from llx.files import write_whole
    from llx.gpu import require_gpu
    from llx.reports.console import say, show_results, warn
    from llx.result import encode_results

    if gpu:
        require_gpu("llx selftest --gpu", "leave --gpu out to test the engines on the CPU")
    names = []
    for engine in ENGINES.values():
        if engine.gpu != gpu or engine.compiles:
            continue
        try:
            engine.require()
            names.append(engine.name)
        except LlxError as error:
            warn(f"{engine.name} is left out: {error}")
    artifact = _exported("fp16" if gpu else "fp32", output.parent)
    fidelity = artifact.manifest.source.format != "random"
    if fidelity:
        artifact = with_reference(artifact, PROTOCOL)
    workload = Workload(prompts=(PROMPT,), generated=(GENERATED,))
    results, interrupted = run_all(jobs_for(artifact, names, workload, fidelity))
    if results:
        write_whole(output, encode_results(results))
        show_results(results)
        say(f"\nresults: {output}")
    if interrupted:
        raise KeyboardInterrupt
    raise typer.Exit(exit_code(results))


def _exported(precision: str, folder: Path) -> Artifact:
    """SmolLM2-135M, or random weights of its shape where it cannot be had."""
    from llx.cli.arguments import command_line
    from llx.errors import Lacking
    from llx.exporter.export import ExportRequest, export
    from llx.exporter.locate import RandomWeights, locate
    from llx.llama.presets import preset_of_size
    from llx.precision import PRECISIONS
    from llx.reports.console import progress_bars, warn

    preset = preset_of_size(SIZE)
    try:
        weights = locate(None, preset)
    except Lacking as error:
        warn(f"{error.message}: random weights take its place, whose fidelity is not judged")
        weights = RandomWeights()
    kind = "-random" if isinstance(weights, RandomWeights) else ""
    request = ExportRequest(
        weights=weights,
        folder=folder / "artifacts" / f"selftest{kind}-{precision}",
        precision=PRECISIONS[precision],
        context=CONTEXT,
        preset=preset,
        command=command_line(),
    )
    with progress_bars() as progress:
        return export(request, False, progress, warn)[0]
