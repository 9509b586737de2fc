"""The harness: each engine in a process of its own, so that no crash reaches another."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field, replace
from pathlib import Path

import llx
from llx.artifact import REFERENCE, Artifact, open_artifact
from llx.bench import clock, environment
from llx.bench.fidelity import judge
from llx.bench.reference import read_reference
from llx.bench.samples import Workload
from llx.bench.sessions import Built, Engine, Session, engine_named
from llx.bench.sessions.base import Details
from llx.bench.speed import measure, overall_energy
from llx.bench.watch import Watch
from llx.conditions import GpuRecord, RunRecord
from llx.errors import LlxError
from llx.gpu import find_gpu
from llx.processes import in_own_process, peak_host_bytes
from llx.progress import Progress, silent
from llx.result import (
    ArtifactRecord,
    ErrorRecord,
    Fidelity,
    MemoryRecord,
    Result,
    SpeedRow,
    TimeRecord,
)

IF_IT_DIED = "its own words stand above; less memory is needed with a smaller --context or -b"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the process of an engine is to do."""

    folder: Path
    engine: str
    workload: Workload
    fidelity: bool
    command: str
    built: Built = field(default_factory=Built)
    problem: LlxError | None = None  # why it cannot run, where that is known already


@dataclass(frozen=True)
class Measured:
    """What the process of an engine found."""

    weights: str
    details: Details
    speed: list[SpeedRow]
    fidelity: Fidelity | None
    memory: MemoryRecord
    load_s: float
    run: RunRecord
    gpu: GpuRecord | None = None
    unjudged: str | None = None  # why there is no fidelity
    problem: LlxError | None = None  # what went wrong after speed was measured


def bench(job: Job, progress: Progress = silent) -> Result:
    """Measure one engine. An engine that this machine lacks, or that fails, is a result as well.

    Raises `BadInput` for what no engine could do: an unknown engine, a workload that does not fit
    the artifact, or the engine that was built of it.
    """
    artifact = open_artifact(job.folder)
    job.workload.require_fit(artifact.manifest.contract.limits)
    load_before = environment.load()
    engine = engine_named(job.engine)
    try:
        if job.problem:
            raise job.problem
        engine.require()
        limits = engine.limits(artifact, max(job.workload.batches), job.built)
    except LlxError as error:
        return _result(job, artifact, None, error, load_before)
    job.workload.require_fit(limits, "engine", "build")
    try:
        measured = in_own_process(_measure, job, progress, f"engine {job.engine}", IF_IT_DIED)
    except LlxError as error:
        return _result(job, artifact, None, error, load_before)
    return _result(job, artifact, measured, measured.problem, load_before)


def _result(
    job: Job,
    artifact: Artifact,
    measured: Measured | None,
    error: LlxError | None,
    load_before: float | None,
) -> Result:
    manifest = artifact.manifest
    engine = engine_named(job.engine)
    details = measured.details if measured else {}
    record = None
    if error:
        record = ErrorRecord(message=error.message, remedy=error.remedy, exit_code=error.exit_code)
    return Result(
        llx=llx.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=job.command,
        engine=job.engine,
        precision=manifest.precision.name,
        dialect=details.get("dialect", engine.dialect) if measured else None,
        artifact=ArtifactRecord(
            name=manifest.name,
            sha256=artifact.sha256,
            bytes=artifact.model_bytes,
            params=manifest.spec.parameters,
            source=manifest.source.label,
            weights=measured.weights if measured else "none",
            quantization=manifest.quantization.in_words if manifest.quantization else None,
        ),
        environment=environment.read_environment(
            details.get("threads"),
            load_before,
            environment.load(),
            find_gpu() if measured and engine.gpu else None,
            measured.gpu if measured else None,
            measured.run if measured else None,
        ),
        speed=measured.speed if measured else [],
        fidelity=measured.fidelity if measured else None,
        memory=measured.memory if measured else None,
        time=TimeRecord(load_s=measured.load_s, build_s=details.get("build_s"))
        if measured
        else None,
        details=details,
        energy=overall_energy(measured.speed) if measured else None,
        unjudged=measured.unjudged if measured else None,
        error=record,
    )


def _measure(job: Job, progress: Progress) -> Measured:
    artifact = open_artifact(job.folder)
    engine = engine_named(job.engine)
    manifest = artifact.manifest
    held: list[int] = []
    with Watch(find_gpu() if engine.gpu else None) as watch:
        start = clock.now_ns()
        first = engine.open(artifact, job.workload.batches[0], job.built)
        load_s = (clock.now_ns() - start) / 1e9
        details, weights, cache = first.details(), first.weights, first.memory().cache_bytes
        speed = measure(
            _Reopen(engine, artifact, job.built, first),
            job.workload,
            manifest.spec,
            manifest.precision,
            progress,
            lambda session: held.append(session.memory().device_bytes or 0),
            manifest.dense,
            watch,
        )
        run, gpu = watch.end(), watch.gpu()
    memory = MemoryRecord(
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=max(held) or None,
        cache_bytes=cache,
        engine_bytes=details.get("engine_bytes"),
    )
    measured = Measured(weights, details, speed, None, memory, load_s, run, gpu)
    if not job.fidelity:
        return replace(measured, unjudged="it was not asked for")
    if not artifact.has(REFERENCE):
        return replace(measured, unjudged="there is no reference; see `llx reference`")
    try:
        fidelity = judge(
            _Reopen(engine, artifact, job.built, None), read_reference(artifact), progress
        )
    except LlxError as error:
        return replace(measured, unjudged=error.message, problem=error)
    return replace(measured, fidelity=fidelity)


class _Reopen:
    """Opens sessions for the rows asked for, and hands out first the one that is open already."""

    def __init__(
        self, engine: Engine, artifact: Artifact, built: Built, ready: Session | None
    ) -> None:
        self._engine, self._artifact, self._built, self._ready = engine, artifact, built, ready

    def __call__(self, rows: int) -> Session:
        ready, self._ready = self._ready, None
        if ready is not None and ready.rows == rows:
            return ready
        return self._engine.open(self._artifact, rows, self._built)
