"""The build: artifact → dialect's graph → TensorRT engine, in a folder of the artifact.

The builder runs in a process of its own: its peak memory is measured, and a crash is an error.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import llx
from llx.artifact import Artifact
from llx.engine import (
    ENGINES,
    MANIFEST,
    PLAN,
    Engine,
    EngineKey,
    EngineManifest,
    note_built,
    open_engine,
    write_engine_manifest,
)
from llx.errors import BadInput, Lacking, LlxError, one_line
from llx.files import cache_folder, require_space
from llx.gpu import require_gpu
from llx.graphs.contract import GraphContract
from llx.graphs.tensorrt_rules import Target, require_buildable
from llx.manifest import WEIGHTS, FileRecord
from llx.processes import ProcessDied, in_own_process, peak_host_bytes
from llx.progress import Progress, silent
from llx.runtime import Runtime
from llx.scrub import handed_on
from llx.tensorrt import NOT_IN_RTX, BuildOptions, build, dialect_of, load, targets
from llx.typed import NewerSchema
from llx.whole import clear_leftovers_in, whole_folder

SAID = "stderr"  # of the builder's process, in the folder that is being written
MOST_SAID = 50  # lines of it that are shown where it died
IF_IT_DIED = (
    "its own words stand above; less memory is needed with a smaller --context, --max-prefill or "
    "--batch"
)
WITHOUT_GPU = (
    "`llx build --engine trt-rtx --sm 86` builds for a GPU that is not here, and `--device "
    "agx-orin-64` writes a bundle that builds on a Jetson"
)


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What `llx build` was asked for: one engine.

    `sm`: what TensorRT-RTX builds for; None is one engine for any GPU from Ampere on. `dialect`:
    None is the one that suits the TensorRT that is here. Sizes that are None are the artifact's.
    """

    runtime: Runtime
    sm: int | None = None
    dialect: str | None = None
    context: int | None = None
    batch: int = 1
    max_prefill: int | None = None
    options: BuildOptions = field(default_factory=BuildOptions)
    timing_cache: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class _Job:
    """What the process of the builder is given."""

    key: EngineKey
    graph: Path
    folder: Path
    timing_cache: Path | None


@dataclass(frozen=True)
class _Built:
    """What the process of the builder found."""

    plan: FileRecord
    layers: dict[str, int]
    seconds: float
    peak_host_bytes: int | None


def build_engine(
    artifact: Artifact,
    request: BuildRequest,
    overwrite: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Engine, bool]:
    """Build an engine of an artifact; return it, and whether it was built anew.

    The same request for the same artifact is a no-op. Raises `BadInput` where sizes do not fit or
    TensorRT cannot build the graph, `Lacking` where TensorRT, a GPU or disk space is missing.
    """
    key = key_of(artifact, request)
    folder = artifact.folder / ENGINES / key.name
    clear_leftovers_in(folder.parent, tell, "build")
    standing = _standing(folder, overwrite, tell)
    if standing is not None:
        return standing, False
    graph = checked_graph(artifact, key)
    artifact.intact(WEIGHTS, progress=progress)
    require_space(folder, 2 * artifact.manifest.files[WEIGHTS].bytes)
    made = True
    with whole_folder(folder, tell, "build") as partial:
        # Another build may have written it before this one held the lock.
        if _standing(folder, overwrite, lambda _: None) is None:
            # Built of the very bytes that its key names, and read back.
            with artifact.held(graph.name, WEIGHTS):
                _write_engine(partial, artifact, key, graph, request, progress, tell)
            _require_whole(partial)
        else:
            made = False
            shutil.rmtree(partial)
    return open_engine(folder), made


def key_of(artifact: Artifact, request: BuildRequest) -> EngineKey:
    """All that decides the engine. Raises as `build_engine` does."""
    api = load(request.runtime)
    sm, device = request.sm, None
    if request.runtime == "trt":
        gpu = require_gpu("a build with TensorRT", WITHOUT_GPU)
        sm, device = gpu.sm, gpu.name
    else:
        _require_rtx_can(request, targets(api))
    return EngineKey(
        artifact_sha256=artifact.sha256,
        runtime=request.runtime,
        version=api.__version__,
        sm=sm,
        device=device,
        dialect=request.dialect or dialect_of(api, artifact.manifest.precision.compute),
        contract=engine_contract(artifact.manifest.contract, request),
        options=request.options,
    )


def checked_graph(artifact: Artifact, key: EngineKey) -> Path:
    """The graph to build. `BadInput` for what TensorRT would refuse, or silently get wrong."""
    graph = artifact.graph(key.dialect)
    require_buildable(graph, Target(runtime=key.runtime, version=key.version_numbers, sm=key.sm))
    return graph


def engine_contract(contract: GraphContract, request: BuildRequest) -> GraphContract:
    """The artifact's contract with the engine's own limits. `BadInput` where it cannot have them.

    The cache's capacity is a number in the graph because TensorRT reads all of it at every step: an
    engine for shorter texts is a faster one.
    """
    limits = contract.limits
    context = limits.capacity if request.context is None else request.context
    usual = min(context, limits.max_new_tokens)
    most = usual if request.max_prefill is None else request.max_prefill
    if not 1 <= context <= limits.capacity:
        raise BadInput(
            f"--context {context} is outside the artifact's capacity of 1…{limits.capacity} "
            "positions",
            f"choose at most {limits.capacity}, or export again with a larger "
            "--context, where the model knows more positions",
        )
    if not 1 <= most <= context:
        raise BadInput(
            f"--max-prefill {most} is outside the cache's 1…{context} positions",
            f"choose at most {context}",
        )
    if not 1 <= request.batch <= limits.max_rows:
        raise BadInput(
            f"--batch {request.batch} is outside the artifact's 1…{limits.max_rows} rows",
            f"choose at most {limits.max_rows}",
        )
    return replace(
        contract,
        limits=replace(limits, capacity=context, max_new_tokens=most, max_rows=request.batch),
    )


def timing_cache_of(runtime: Runtime) -> Path | None:
    """Where TensorRT's timings on this GPU are kept; None for TensorRT-RTX, which times nothing.

    A timing is good for one version and one GPU.
    """
    if runtime != "trt":
        return None
    gpu = require_gpu("a build with TensorRT", WITHOUT_GPU)
    device = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower())
    try:
        return cache_folder() / "timing" / f"{load(runtime).__version__}-sm{gpu.sm}-{device}"
    except Lacking:  # no home to keep it in
        return None


def _require_rtx_can(request: BuildRequest, known: list[int]) -> None:
    if request.sm is not None and request.sm not in known:
        raise BadInput(
            f"TensorRT-RTX builds nothing for SM {request.sm} alone",
            f"choose among {', '.join(map(str, known))}, or leave --sm out for one engine for any "
            "GPU from Ampere on",
        )
    for name in NOT_IN_RTX:
        if getattr(request.options, name):
            option = name.replace("_", "-")
            raise BadInput(f"TensorRT-RTX has no --{option}", f"leave --{option} out")
    if request.options.strip:
        require_gpu("TensorRT-RTX, to strip an engine,", "leave --strip out, or build on a GPU")


def _standing(folder: Path, overwrite: bool, tell: Callable[[str], None]) -> Engine | None:
    """The engine that is there already, unless it is to be built again.

    What is damaged, or is not this user's and so would not be loaded, is built again too. Raises
    `BadInput` for one that a newer llx has built.
    """
    if overwrite or not (folder / MANIFEST).exists():
        return None
    try:
        engine = open_engine(folder)
    except NewerSchema:
        raise
    except LlxError as error:
        tell(f"{error.message}: it is built again")
        return None
    if engine.own and not engine.intact:
        tell(f"{folder} is not what was built: it is built again")
        return None
    return engine if engine.own else None


def _require_whole(folder: Path) -> None:
    """What does not open, or is not on the disk as it was written, takes no engine's place."""
    if not open_engine(folder).intact:
        raise Lacking(
            f"{folder / PLAN} is not on the disk as it was written",
            "check the disk, or build on another",
        )


def _write_engine(
    folder: Path,
    artifact: Artifact,
    key: EngineKey,
    graph: Path,
    request: BuildRequest,
    progress: Progress,
    tell: Callable[[str], None],
) -> None:
    job = _Job(key, graph, folder, request.timing_cache)
    said = folder / SAID
    try:
        built = in_own_process(_build, job, progress, f"the {key.runtime} builder", IF_IT_DIED)
    except ProcessDied:
        if said.exists():
            for line in said.read_text("utf-8", "replace").splitlines()[-MOST_SAID:]:
                print(one_line(line, 1000), file=sys.stderr)
        raise
    said.unlink()
    manifest = EngineManifest(
        key=key,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=handed_on(request.command, artifact.folder, request.timing_cache),
        llx=llx.__version__,
        build_s=built.seconds,
        peak_host_bytes=built.peak_host_bytes,
        weights_bytes=artifact.manifest.files[WEIGHTS].bytes,
        layers=built.layers,
        files={PLAN: built.plan},
    )
    write_engine_manifest(folder, manifest)
    try:
        note_built(built.plan.sha256)
    except (OSError, Lacking) as error:
        tell(
            f"it cannot be noted that this engine is your own ({one_line(error)}): load it with "
            "--trust-engine"
        )


def _build(job: _Job, progress: Progress) -> _Built:
    """The body of the builder's process: the graph with the engine's capacity, then the engine."""
    from llx.graphs.capacity import stamped

    key = job.key
    graph = stamped(job.graph, key.contract.limits.capacity)
    with _stderr_into(job.folder / SAID):
        plan = build(
            *(key.runtime, graph, job.graph, key.contract, key.options, key.sm),
            *(job.timing_cache, progress),
        )
    data = memoryview(plan.data)
    (job.folder / PLAN).write_bytes(data)
    record = FileRecord(bytes=data.nbytes, sha256=hashlib.sha256(data).hexdigest())
    return _Built(record, plan.layers, plan.seconds, peak_host_bytes())


@contextlib.contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """What libraries print on stderr, past every logger, goes into a file.

    It is for a process that says what it has to say to another one.
    """
    kept = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
