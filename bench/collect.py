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
from llx.bench.samples import Workload
from llx.bench.speed import speed_row
from llx.bundle import Recipe, SampleRecord
from llx.errors import BadInput
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

REMEDY = "do not trust that machine before you know why"


def collect(
    artifact: Artifact,
    recipe: Recipe,
    machine: Machine,
    samples: SampleRecord,
    observed: bytes | None,
    build_s: float,
    command: str,
) -> Result:
    """The result of an engine that was measured elsewhere. Raises `BadInput` for impossible data.

    `observed`: the observations of prefill and decode, a safetensors file.
    """
    problem = samples.problem
    manifest = artifact.manifest
    measured = bool(samples.step_ns)
    fidelity = None if observed is None else _fidelity(read_reference(artifact), observed)
    unjudged = problem.message if problem else "there was no reference; see `llx reference`"
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
            weights=samples.weights,
        ),
        environment=_environment(recipe, machine, samples),
        speed=_speed(artifact, recipe, samples),
        fidelity=fidelity,
        memory=MemoryRecord(
            peak_host_bytes=samples.peak_host_bytes,
            peak_device_bytes=samples.device_bytes,
            cache_bytes=samples.cache_bytes,
        )
        if measured
        else None,
        time=TimeRecord(load_s=samples.load_s or 0.0, build_s=build_s) if measured else None,
        unjudged=None if fidelity or not measured else unjudged,
        error=ErrorRecord(**msgspec.to_builtins(problem)) if problem else None,
    )


def _speed(artifact: Artifact, recipe: Recipe, samples: SampleRecord) -> list[SpeedRow]:
    """Rows for the tests of the recipe, whose steps must be as many as these tests have."""
    if not samples.step_ns:
        return []
    workload = msgspec.convert(recipe.workload, Workload)
    tests = list(workload.tests())
    if len(samples.step_ns) != len(tests):
        raise BadInput("samples of other tests than were asked for came back", REMEDY)
    limits, manifest = recipe.contract.limits, artifact.manifest
    rows = []
    for test, step_ns in zip(tests, samples.step_ns, strict=True):
        steps = -(-test.length // limits.max_new_tokens) if test.prefill else test.length
        if len(step_ns) != workload.repetitions or any(
            len(run) != steps or min(run) <= 0 for run in step_ns
        ):
            raise BadInput(f"samples of {test.name} that cannot be came back", REMEDY)
        rows.append(speed_row(test, step_ns, manifest.spec, manifest.precision, limits.capacity))
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
    gpu = samples.gpu or "no GPU"
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
