"""Which engine runs: by name, by provider, and one that is built on the way where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llx.api.watching import Tell, telling, watched
from llx.artifact import Artifact
from llx.bench.session import Built
from llx.bench.sessions import OPENVINO, ORT_PROVIDERS, engine_named
from llx.bench.speed.samples import Workload
from llx.engine import Engine
from llx.errors import BadInput, Lacking, LlxError
from llx.gpu import require_gpu
from llx.progress import Progress
from llx.runtime import Runtime


def engines_named(
    engines: str | Sequence[str],
    provider: str | None = None,
    inference_precision: str | None = None,
) -> list[str]:
    """Engines by name, each known; a provider or an inference precision says which is meant."""
    names = [engines] if isinstance(engines, str) else list(engines)
    precisions = {str(inference): name for name, inference in OPENVINO.items()}
    names = _meant(names, "ort", "provider", provider, ORT_PROVIDERS)
    names = _meant(names, "openvino", "inference precision", inference_precision, precisions)
    if not names:
        raise BadInput("no engine is named", "name some, such as ort,torch")
    for name in names:
        engine_named(name)
    return names


def _meant(
    names: list[str], engine: str, option: str, value: str | None, engines: Mapping[str, str]
) -> list[str]:
    """The engines by name, where an option of one engine says by `engines` which of its kin."""
    if value is None:
        return names
    if value not in engines:
        raise BadInput(f"unknown {option} {value!r}", f"choose one of {', '.join(engines)}")
    if names != [engine]:
        raise BadInput(
            f"--{option.replace(' ', '-')} is for --engine {engine} alone, not {','.join(names)}",
            f"leave it out, and name {engines[value]} among the engines",
        )
    return [engines[value]]


def require_intact(
    artifact: Artifact, names: Sequence[str], *files: str, progress: Progress | None = None
) -> None:
    """Raise `BadInput` where what engines read of an artifact is not what was exported.

    `files`: what else is used. All of it is read, once for every state that a file is in, before
    anything is shown or measured; whoever opens a file compares that state again.
    """
    used = [
        file for name in names if runs_here(name) for file in engine_named(name).reads(artifact)
    ]
    used += [file for file in files if artifact.has(file)]
    with watched(progress) as news:
        for file in dict.fromkeys(used):
            artifact.intact(file, progress=news)


def runs_here(name: str) -> bool:
    """Whether this machine has what an engine needs."""
    try:
        engine_named(name).require()
    except LlxError:
        return False
    return True


def built_for(
    artifact: Artifact,
    name: str,
    workload: Workload,
    trust: bool,
    command: str,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> tuple[Built, LlxError | None]:
    """Which engine runs, built now where there is none; or why there can be none.

    Raises `BadInput` where the workload does not fit an engine that was built.
    """
    runtime = engine_named(name).runtime
    if runtime is None or not runs_here(name):
        return Built(trust=trust), None
    try:
        engine = engine_for(
            artifact, runtime, max(workload.batches), trust, command, progress, tell
        )
    except LlxError as error:
        return Built(trust=trust), error
    workload.require_fit(engine.manifest.key.contract.limits, "engine", "build")
    telling(tell)(f"{name} runs {engine.folder}")
    return Built(engine.folder, trust), None


def engine_for(
    artifact: Artifact,
    runtime: Runtime,
    rows: int,
    trust: bool = False,
    command: str = "",
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Engine:
    """The newest engine that fits this machine and so many rows, built now where there is none."""
    from llx.bench.sessions.trt import chosen_engine
    from llx.exporter.engines.build import BuildRequest, build_engine, timing_cache_of
    from llx.tensorrt import load, targets

    try:
        return chosen_engine(artifact, runtime, rows, Built(trust=trust))
    except Lacking as missing:
        telling(tell)(f"{missing.message}: it is built now")
    sm = require_gpu(f"engine {runtime}", "bench on a machine with one").sm
    request = BuildRequest(
        runtime=runtime,
        sm=sm if sm in targets(load(runtime)) and runtime == "trt-rtx" else None,
        batch=rows,
        timing_cache=timing_cache_of(runtime),
        command=command,
    )
    with watched(progress, f"{runtime}: ") as news:
        return build_engine(artifact, request, progress=news, tell=telling(tell))[0]
