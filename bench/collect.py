"""Results from raw samples that were taken on another machine: statistics are made here.

What came back is untrusted data: it must be of the recipe's tests, and of the reference's tokens.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

import llx
from llx.artifact import Artifact
from llx.bench.environment import NOT_MEASURED
from llx.bench.fidelity import verdict
from llx.bench.observed import Observed
from llx.bench.reference import Reference, read_reference
from llx.bench.samples import Samples, Workload
from llx.bench.speed import speed_row
from llx.bundle import Problem, Recipe, SampleRecord, clean
from llx.errors import EXIT_BAD_INPUT, EXIT_BUG, EXIT_GATE_FAILED, EXIT_LACKING, BadInput
from llx.probe import Machine
from llx.result import (
    ArtifactRecord,
    EnvironmentRecord,
    ErrorRecord,
    Fidelity,
    MemoryRecord,
    Result,
    SpeedRow,
    TimeRecord,
)

DETAILS = {"gpu", "dialect", "cache", "cuda_graph", "profiles", "capacity"}  # what is kept of them
MOST_NS = 10**15  # of a step: eleven days
REMEDY = "do not trust that machine before you know why"


def collect(
    artifact: Artifact,
    recipe: Recipe,
    machine: Machine,
    samples: SampleRecord,
    observed: bytes | None,
    build_s: float,
    engine_bytes: int,
    command: str,
) -> Result:
    """The result of an engine that was measured elsewhere. Raises `BadInput` for impossible data.

    `observed`: the observations of prefill and decode, a safetensors file.
    """
    problem = samples.problem
    manifest = artifact.manifest
    measured = bool(samples.step_ns)
    fidelity = None if observed is None else _fidelity(read_reference(artifact), observed)
    unjudged = clean(problem.message) if problem else "there was no reference; see `llx reference`"
    return Result(
        llx=llx.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=command,
        engine=recipe.runtime,
        precision=manifest.precision.name,
        dialect=recipe.dialect,
        artifact=ArtifactRecord(
            name=manifest.name,
            sha256=artifact.sha256,
            bytes=artifact.model_bytes,
            params=manifest.spec.parameters,
            source=manifest.source.label,
            weights=artifact.weights_in_words,
            quantization=manifest.quantization.in_words if manifest.quantization else None,
        ),
        environment=_environment(recipe, machine, samples),
        speed=_speed(artifact, recipe, samples),
        fidelity=fidelity,
        memory=MemoryRecord(
            peak_host_bytes=samples.peak_host_bytes,
            peak_device_bytes=samples.device_bytes,
            cache_bytes=samples.cache_bytes,
            engine_bytes=engine_bytes,
        )
        if measured
        else None,
        time=TimeRecord(load_s=samples.load_s or 0.0, build_s=build_s) if measured else None,
        details={
            name: clean(value) if isinstance(value, str) else value
            for name, value in samples.details.items()
            if name in DETAILS and isinstance(value, (str, int, float))
        },
        unjudged=None if fidelity or not measured else unjudged,
        error=_error(problem) if problem else None,
    )


def _error(problem: Problem) -> ErrorRecord:
    """What failed there, by one of our own exit codes: another's word is no success."""
    known = problem.exit_code in (EXIT_GATE_FAILED, EXIT_BAD_INPUT, EXIT_LACKING, EXIT_BUG)
    return ErrorRecord(
        message=clean(problem.message),
        remedy=clean(problem.remedy),
        exit_code=problem.exit_code if known else EXIT_LACKING,
    )


def _speed(artifact: Artifact, recipe: Recipe, samples: SampleRecord) -> list[SpeedRow]:
    """Rows for the tests of the recipe, whose steps must be as many as these tests have."""
    if not samples.step_ns:
        return []
    workload = msgspec.convert(recipe.workload, Workload)
    tests = list(workload.tests())
    if not len(samples.step_ns) == len(samples.faults) == len(tests):
        raise BadInput("samples of other tests than were asked for came back", REMEDY)
    limits, manifest = recipe.contract.limits, artifact.manifest
    rows = []
    for test, step_ns, faults in zip(tests, samples.step_ns, samples.faults, strict=True):
        steps = test.steps(limits)
        if len(step_ns) != workload.repetitions or any(
            len(run) != steps or not 0 < min(run) <= max(run) < MOST_NS for run in step_ns
        ):
            raise BadInput(f"samples of {test.name} that cannot be came back", REMEDY)
        found = Samples(test, step_ns, limits.capacity, [clean(fault) for fault in faults])
        rows.append(speed_row(found, workload, manifest.spec, manifest.precision, manifest.dense))
    return rows


def _fidelity(reference: Reference, observed: bytes) -> Fidelity:
    try:
        tensors = load(observed)
        phases = [
            Observed(**{name: tensors[f"{phase}.{name}"] for name in Observed.__dataclass_fields__})
            for phase in ("prefill", "decode")
        ]
    except (SafetensorError, KeyError, ValueError):
        raise BadInput("observations that cannot be read came back", REMEDY) from None
    wanted = Observed.empty(reference.scores.ids)
    for phase in phases:
        for name, array in vars(phase).items():
            like: np.ndarray[Any, Any] = vars(wanted)[name]
            if array.shape != like.shape or array.dtype != like.dtype:
                raise BadInput(f"observations with a wrong {name} came back", REMEDY)
            if not np.isfinite(array).all():
                raise BadInput(f"observations with a {name} that is not finite came back", REMEDY)
    return verdict(reference, *phases)


def _environment(recipe: Recipe, machine: Machine, samples: SampleRecord) -> EnvironmentRecord:
    gpu = clean(samples.gpu or "no GPU")
    device = f"{machine.model or gpu}, {machine.cpus} CPUs, {machine.memory_bytes / 2**30:.0f} GiB"
    identity = "|".join((device, gpu, machine.architecture, machine.power_mode or ""))
    threads = samples.details.get("threads")
    return EnvironmentRecord(
        device=device,
        device_fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        os=f"{machine.system}, Jetson Linux {machine.l4t}" if machine.l4t else machine.system,
        python=machine.python,
        versions={
            "llx": recipe.llx,
            recipe.runtime: machine.tensorrt or "",
            "numpy": machine.numpy or "",
        },
        threads=threads if isinstance(threads, int) else None,
        clocks=machine.clocks or NOT_MEASURED,
        power_mode=machine.power_mode or NOT_MEASURED,
        load_before=samples.load_before,
        load_after=samples.load_after,
    )
