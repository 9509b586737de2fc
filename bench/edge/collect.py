"""Results from raw samples that were taken on another machine: statistics are made here.

What came back is untrusted data: it must be of the recipe's tests, and of the reference's tokens.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

import llx
from llx.artifact import Artifact
from llx.bench.fidelity.judge import verdict
from llx.bench.fidelity.observed import Observed
from llx.bench.fidelity.reference import Reference, read_reference
from llx.bench.machine.energy import MOST_WATTS
from llx.bench.machine.environment import (
    clocks_in_words,
    fingerprint,
    notes,
    power_mode_in_words,
)
from llx.bench.speed.rows import overall_energy, speed_row
from llx.bench.speed.samples import Samples, SpeedTest, Workload
from llx.bundle import Problem, Recipe, SampleRecord, clean
from llx.conditions import NOT_MEASURED, EnergyRecord, MachineRecord
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
MOST = 1e18  # of any number that describes a machine
MOST_ITEMS = 100
REMEDY = "do not trust that machine before you know why"

T = TypeVar("T")


def collect_result(
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
    speed = _speed(artifact, recipe, samples)
    judged = [] if observed is None else _judged(artifact, recipe, observed)
    unjudged = clean(problem.message) if problem else "there was no reference; see `llx reference`"
    return Result(
        llx=llx.__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        command=command,
        engine=recipe.runtime,
        precision=manifest.precision.name,
        dialect=recipe.dialect,
        artifact=ArtifactRecord.of(artifact, artifact.weights_in_words),
        environment=_environment(recipe, machine, samples),
        speed=speed,
        fidelity=judged[0] if judged else None,
        other_texts=judged[1:],
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
        energy=overall_energy(speed) if measured else None,
        unjudged=None if judged or not measured else unjudged,
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
    if samples.energy and len(samples.energy) != len(tests):
        raise BadInput("energy of other tests than were asked for came back", REMEDY)
    limits, manifest = recipe.contract.limits, artifact.manifest
    rows = []
    unknown = EnergyRecord(reason="that machine said nothing of it")
    energies = samples.energy or [unknown] * len(tests)
    taken = zip(tests, samples.step_ns, samples.faults, energies, strict=True)
    for test, step_ns, faults, energy in taken:
        steps = test.steps(limits)
        if len(step_ns) != workload.repetitions or any(
            len(run) != steps or not 0 < min(run) <= max(run) < MOST_NS for run in step_ns
        ):
            raise BadInput(f"samples of {test.name} that cannot be came back", REMEDY)
        found = Samples(test, step_ns, limits.capacity, [clean(fault) for fault in faults])
        model = (workload, manifest.spec, manifest.precision, manifest.dense)
        rows.append(speed_row(found, *model, _energy(energy, test, step_ns)))
    return rows


def _energy(told: EnergyRecord, test: SpeedTest, step_ns: list[list[int]]) -> EnergyRecord:
    """A test's energy as that machine told it: of a window around these very steps."""
    energy = checked(told)
    if energy.joules is None:
        return replace(energy, mj_per_token=None)
    seconds, window = sum(map(sum, step_ns)) / 1e9, energy.window or 0.0
    if not seconds <= 1.001 * window <= 2 * seconds + 1 or energy.joules > MOST_WATTS * window:
        raise BadInput(f"an energy of {test.name} that cannot be came back", REMEDY)
    tokens = test.tokens(len(step_ns))
    return replace(energy, tokens=tokens, mj_per_token=1e3 * energy.joules / tokens)


def checked(record: T) -> T:
    """A record of another machine as it may be kept: words that may be shown, numbers that can be.

    Raises `BadInput` for a number that is negative, huge or none.
    """
    if isinstance(record, str):
        return clean(record)  # type: ignore[return-value]
    if isinstance(record, (int, float)) and not (math.isfinite(record) and 0 <= record <= MOST):
        raise BadInput(f"a number that cannot be came back: {record}", REMEDY)
    if isinstance(record, (list, tuple)):
        if len(record) > MOST_ITEMS:
            raise BadInput("a description of that machine that is too long came back", REMEDY)
        return type(record)(checked(item) for item in record)
    if is_dataclass(record) and not isinstance(record, type):
        parts = {field.name: checked(getattr(record, field.name)) for field in fields(record)}
        return replace(record, **parts)
    return record


def _judged(artifact: Artifact, recipe: Recipe, observed: bytes) -> list[Fidelity]:
    """What was observed there of each reference that was sent."""
    try:
        tensors = load(observed)
    except (SafetensorError, ValueError):
        raise BadInput("observations that cannot be read came back", REMEDY) from None
    sent = [name for name in artifact.manifest.references if name in recipe.files]
    return [_fidelity(read_reference(artifact, name), name, tensors) for name in sent]


def _fidelity(reference: Reference, of: str, tensors: dict[str, np.ndarray[Any, Any]]) -> Fidelity:
    names = Observed.__dataclass_fields__
    try:
        phases = [
            Observed(**{name: tensors[f"{of}/{phase}.{name}"] for name in names})
            for phase in ("prefill", "decode")
        ]
    except KeyError:
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
    model = clean(machine.model or gpu)
    device = f"{model}, {machine.cpus} CPUs, {machine.memory_bytes / 2**30:.0f} GiB"
    there = checked(samples.machine) or _described(machine)
    card, run = checked(samples.card), checked(samples.run)
    threads = samples.details.get("threads")
    clocks = clocks_in_words(there, run, ())
    mode = power_mode_in_words(there)
    versions = {
        "llx": recipe.llx,
        recipe.runtime: machine.tensorrt or "",
        "numpy": machine.numpy or "",
    }
    if card and card.driver:
        versions["nvidia-driver"] = card.driver
    return EnvironmentRecord(
        device=device,
        device_fingerprint=fingerprint(f"{device}|{gpu}", there, card),
        os=f"{machine.system}, Jetson Linux {machine.l4t}" if machine.l4t else machine.system,
        python=machine.python,
        versions=versions,
        threads=threads if isinstance(threads, int) else None,
        clocks=(machine.clocks or clocks) if clocks == NOT_MEASURED else clocks,
        power_mode=(machine.power_mode or mode) if mode == NOT_MEASURED else mode,
        load_before=samples.load_before,
        load_after=samples.load_after,
        machine=there,
        gpu=card,
        run=run,
        notes=list(notes(there, run, samples.load_before)),
    )


def _described(machine: Machine) -> MachineRecord:
    """What a machine said of itself before it had measured anything."""
    return MachineRecord(
        cpu=clean(machine.model or machine.architecture),
        board=machine.model,
        architecture=machine.architecture,
        system=machine.system,
        memory_bytes=machine.memory_bytes,
        cpus=machine.cpus,
        governor=machine.clocks,
        power_mode=machine.power_mode,
    )
