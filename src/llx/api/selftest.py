"""`llx selftest`: SmolLM2-135M on every engine that is here, each judged against PyTorch."""

from __future__ import annotations

from pathlib import Path

from llx.api.bench import jobs_for, run_all
from llx.api.export import exported
from llx.api.reference import Texts, with_references
from llx.api.results import Results
from llx.api.watching import Tell, telling
from llx.artifact import Artifact
from llx.bench.sessions import ENGINES
from llx.bench.speed.samples import Workload
from llx.corpus import Cut
from llx.errors import Lacking, LlxError
from llx.exporter.locate import RandomWeights, locate
from llx.exporter.request import ExportRequest
from llx.gpu import require_gpu
from llx.llama.presets import preset_of_size
from llx.precision import PRECISIONS
from llx.progress import Progress

SIZE, CONTEXT = "135m", 768
PROMPT, GENERATED = 128, 32
WINDOW, WINDOWS = 256, 2  # a fifth of what `llx bench` judges by


def selftest(
    folder: Path,
    *,
    gpu: bool = False,
    texts: Texts = (),
    progress: Progress | None = None,
    tell: Tell | None = None,
    command: str = "llx selftest",
) -> Results:
    """Export SmolLM2-135M under `folder`, and measure it on every engine of this machine.

    `gpu`: the engines on the GPU, in fp16. `texts`: to judge on, instead of llx's own. What an
    engine lacks is told. Raises `Lacking` where there is no GPU to test, and `Interrupted` as
    `bench` does.
    """
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
            telling(tell)(f"{engine.name} is left out: {error}")
    artifact = _exported("fp16" if gpu else "fp32", folder, progress, tell, command)
    fidelity = artifact.manifest.source.format != "random"
    if fidelity:
        window = min(WINDOW, artifact.manifest.contract.limits.capacity)
        cut = Cut(window=window, windows=WINDOWS)
        artifact, _ = with_references(artifact, texts, tell, cut, progress)
    workload = Workload(prompts=(PROMPT,), generated=(GENERATED,))
    jobs = jobs_for(artifact, names, workload, fidelity, False, command, progress, tell, texts)
    return run_all(jobs, progress, tell)


def _exported(
    precision: str, folder: Path, progress: Progress | None, tell: Tell | None, command: str
) -> Artifact:
    """SmolLM2-135M, or random weights of its shape where it cannot be had."""
    preset = preset_of_size(SIZE)
    try:
        weights = locate(None, preset)
    except Lacking as error:
        telling(tell)(
            f"{error.message}: random weights take its place, whose fidelity is not judged"
        )
        weights = RandomWeights()
    kind = "-random" if isinstance(weights, RandomWeights) else ""
    request = ExportRequest(
        weights=weights,
        folder=folder / "artifacts" / f"selftest{kind}-{precision}",
        precision=PRECISIONS[precision],
        context=CONTEXT,
        preset=preset,
        command=command,
    )
    return exported(request, True, progress, tell)[0]  # the folder is this command's own
