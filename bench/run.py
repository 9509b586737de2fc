"""The harness: each engine in a process of its own, so that no crash reaches another."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llx
from llx.artifact import REFERENCE, Artifact, open_artifact
from llx.bench import clock, environment
from llx.bench.fidelity import judge
from llx.bench.reference import read_reference
from llx.bench.samples import Workload
from llx.bench.sessions import Engine, Session, engine_named
from llx.bench.speed import measure
from llx.errors import LlxError
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


@dataclass(frozen=True)
class Measured:
    """What the process of an engine found."""

    weights: str
    details: dict[str, Any]
    speed: list[SpeedRow]
    fidelity: Fidelity | None
    memory: MemoryRecord
    load_s: float
    unjudged: str | None = None  # why there is no fidelity
    problem: LlxError | None = None  # what went wrong after speed was measured


def bench(job: Job, progress: Progress = silent) -> Result:
    """Measure one engine. An engine that this machine lacks, or that fails, is a result as well.

    Raises `BadInput` for what no engine could do: an unknown engine, a workload that does not fit.
    """
    artifact = open_artifact(job.folder)
    job.workload.require_fit(artifact.manifest.contract.limits)
    load_before = environment.load()
    try:
        engine = engine_named(job.engine)
        engine.require()
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
    engine_dialect = engine_named(job.engine).dialect if measured else None
    record = None
    if error:
        record = ErrorRecord(message=error.message, remedy=error.remedy, exit_code=error.exit_code)
    threads = measured.details.get("threads") if measured else None
    return Result(
        llx=llx.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=job.command,
        engine=job.engine,
        precision=manifest.precision.name,
        dialect=engine_dialect,
        artifact=ArtifactRecord(
            name=manifest.name,
            sha256=artifact.sha256,
            bytes=artifact.model_bytes,
            params=manifest.spec.parameters,
            source=manifest.source.label,
            weights=measured.weights if measured else "none",
        ),
        environment=environment.read_environment(threads, load_before, environment.load()),
        speed=measured.speed if measured else [],
        fidelity=measured.fidelity if measured else None,
        memory=measured.memory if measured else None,
        time=TimeRecord(load_s=measured.load_s) if measured else None,
        unjudged=measured.unjudged if measured else None,
        error=record,
    )


def _measure(job: Job, progress: Progress) -> Measured:
    artifact = open_artifact(job.folder)
    engine = engine_named(job.engine)
    manifest = artifact.manifest
    start = clock.now_ns()
    first = engine.open(artifact, job.workload.batches[0])
    load_s = (clock.now_ns() - start) / 1e9
    details, weights, cache = first.details(), first.weights, first.memory().cache_bytes
    speed = measure(
        _Reopen(engine, artifact, first), job.workload, manifest.spec, manifest.precision, progress
    )
    memory = MemoryRecord(peak_host_bytes=peak_host_bytes(), cache_bytes=cache)
    measured = Measured(weights, details, speed, None, memory, load_s)
    if not job.fidelity:
        return replace(measured, unjudged="it was not asked for")
    if not artifact.has(REFERENCE):
        return replace(measured, unjudged="there is no reference; see `llx reference`")
    try:
        fidelity = judge(_Reopen(engine, artifact, None), read_reference(artifact), progress)
    except LlxError as error:
        return replace(measured, unjudged=error.message, problem=error)
    return replace(measured, fidelity=fidelity)


class _Reopen:
    """Opens sessions for the rows asked for, and hands out first the one that is open already."""

    def __init__(self, engine: Engine, artifact: Artifact, ready: Session | None) -> None:
        self._engine, self._artifact, self._ready = engine, artifact, ready

    def __call__(self, rows: int) -> Session:
        ready, self._ready = self._ready, None
        if ready is not None and ready.rows == rows:
            return ready
        return self._engine.open(self._artifact, rows)
