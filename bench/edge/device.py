"""The device's side of a bundle: check, build, measure. No statistics: raw samples go home.

Builder, steps, clock and session are the ones that run on any other machine. Needs the standard
library, numpy, TensorRT and the carried Polygraphy.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llx.bench import clock
from llx.bench.fidelity.observed import Observed, observe_decode, observe_prefill
from llx.bench.machine.kernel import read_machine
from llx.bench.machine.watch import Watch
from llx.bench.session import Session
from llx.bench.speed.samples import OpenSession, Samples, Workload, samples
from llx.bundle import (
    BUILD,
    MACHINE,
    OBSERVED,
    PLAN,
    RECIPE,
    SAMPLES,
    TIMING,
    BuildRecord,
    Problem,
    Recipe,
    SampleRecord,
    is_reference,
    read_recipe,
    write_record,
)
from llx.conditions import EnergyRecord
from llx.errors import BadInput, Lacking, LlxError
from llx.files import locked_folder, sha256_of, write_whole
from llx.gpu import find_gpu, require_gpu
from llx.probe import OUT, describe, unmet
from llx.processes import peak_host_bytes
from llx.progress import Progress
from llx.tensorrt import MODULES, build, load

DTYPES = {"I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}  # safetensors → numpy
NO_GPU = "run the bundle on the device that it is for; an engine that was built is kept"


@dataclass(frozen=True)
class Here:
    """A bundle that lies here, and whom to tell how far it is."""

    folder: Path
    recipe: Recipe
    recipe_sha256: str
    progress: Progress
    say: Callable[[str], None]

    def out(self, name: str) -> Path:
        """Where a file that is made here lies."""
        return self.folder / OUT / name


def run(folder: Path, command: str, as_json: bool) -> int:
    """Run a command of a bundle whose bytes were checked; return its exit code."""
    tell = _as_lines if as_json else _as_text()
    here = Here(
        folder,
        read_recipe(folder),
        sha256_of(folder / RECIPE),
        lambda *news: tell("progress", list(news)),
        lambda text: tell("say", text),
    )
    try:
        with locked_folder(folder / OUT, f"another run is at work in {folder}"):
            {"check": check, "build": build_here, "bench": bench_here}[command](here)
    except LlxError as error:
        tell("error", [error.message, error.remedy, error.exit_code])
        return error.exit_code
    return 0


def check(here: Here) -> None:
    """Describe this machine in `device.json`. Raises `Lacking` where the bundle needs another."""
    machine = describe(list(MODULES[here.recipe.runtime]), str(here.folder))
    write_record(here.folder, MACHINE, machine)
    lacks = unmet(machine, replace(here.recipe.needs, disk_bytes=here.recipe.needs.memory_bytes))
    if lacks:
        raise Lacking(*lacks)
    here.say(f"{machine.model or machine.system}: TensorRT {machine.tensorrt}, as it should be")


def build_here(here: Here) -> None:
    """Build the engine, unless this recipe's stands here whole."""
    recipe, plan_path = here.recipe, here.out(PLAN)
    if _built(here) is not None:
        here.say("the engine is there already: nothing to do")
        return
    check(here)
    gpu = find_gpu()
    if recipe.runtime == "trt":
        gpu = require_gpu("a build with TensorRT", NO_GPU)
    graph = here.folder / f"{recipe.dialect}.onnx"
    timing = here.out(TIMING) if recipe.runtime == "trt" else None
    plan = build(
        recipe.runtime,
        graph.read_bytes(),
        graph,
        recipe.contract,
        recipe.options,
        recipe.sm,
        timing,
        here.progress,
    )
    data = memoryview(plan.data)
    write_whole(plan_path, data)
    record = BuildRecord(
        recipe=here.recipe_sha256,
        tensorrt=load(recipe.runtime).__version__,
        gpu=gpu.name if gpu else None,
        sm=gpu.sm if gpu else None,
        plan_bytes=data.nbytes,
        plan_sha256=hashlib.sha256(data).hexdigest(),
        seconds=plan.seconds,
        peak_host_bytes=peak_host_bytes(),
        layers=plan.layers,
    )
    write_record(here.folder, BUILD, record)
    here.say(f"built in {plan.seconds:.1f} s: {data.nbytes} bytes")


def bench_here(here: Here) -> None:
    """Measure the engine. A failure is recorded in `samples.json` as well, and raised."""
    record = SampleRecord(recipe=here.recipe_sha256, load_before=_load())
    failure: LlxError | None = None
    try:
        record = _measure(here, record)
        if references := sorted(filter(is_reference, here.recipe.files)):
            _observe(here, references)
            record = replace(record, judged=True)
    except LlxError as error:  # what was measured before it is kept
        failure = error
        problem = Problem(message=error.message, remedy=error.remedy, exit_code=error.exit_code)
        record = replace(record, problem=problem)
    write_record(here.folder, SAMPLES, replace(record, load_after=_load()))
    if failure:
        raise failure
    here.say("measured")


def _measure(here: Here, record: SampleRecord) -> SampleRecord:
    recipe = here.recipe
    gpu = require_gpu("an engine", NO_GPU)
    opened = _opener(here)
    workload = Workload(**recipe.workload)
    with Watch(gpu) as watch:
        start = clock.now_ns()
        first = opened(workload.batches[0])
        load_s = (clock.now_ns() - start) / 1e9
        memory = first.memory()
        record = replace(
            record,
            gpu=gpu.name,
            weights=first.weights,
            details=first.details(),
            load_s=load_s,
            cache_bytes=memory.cache_bytes,
            device_bytes=memory.device_bytes,
            machine=read_machine(),
            card=watch.gpu(),
        )
        taken, energy = _tests(opened, first, workload, here.progress, watch)
        record = replace(
            record,
            step_ns=[found.step_ns for found in taken],
            faults=[found.faults for found in taken],
            energy=energy,
            run=watch.end(),
        )
    return replace(record, peak_host_bytes=peak_host_bytes())


def _tests(
    opened: OpenSession, first: Session, workload: Workload, progress: Progress, watch: Watch
) -> tuple[list[Samples], list[EnergyRecord]]:
    """Samples and energy of every test; the first session is open already."""
    ready = [first]

    def reopen(rows: int) -> Session:
        if ready and ready[-1].rows == rows:
            return ready.pop()
        return opened(rows)

    taken: list[Samples] = []
    energy: list[EnergyRecord] = []
    for found in samples(reopen, workload, progress, window=watch.window):
        taken.append(found)
        energy.append(watch.test_ended(found.tokens))
    return taken, energy


def _observe(here: Here, references: list[str]) -> None:
    """Run the references' windows through the engine, and keep what fidelity needs of it."""
    opened = _opener(here)
    found: dict[str, NDArray[Any]] = {}
    for of in references:
        reference = read_tensors(here.folder / of)
        tokens, ids = reference["tokens"], reference["ids"]
        for phase, observe in (("prefill", observe_prefill), ("decode", observe_decode)):
            observed: Observed = observe(opened, tokens, ids, here.progress)
            found |= {f"{of}/{phase}.{name}": array for name, array in vars(observed).items()}
    write_whole(here.out(OBSERVED), tensors_bytes(found))


def _opener(here: Here) -> OpenSession:
    """Opens sessions over the engine that was built here by this recipe."""
    recipe, built = here.recipe, _built(here)
    plan = here.out(PLAN).read_bytes() if built else b""
    if built is None or hashlib.sha256(plan).hexdigest() != built.plan_sha256:
        raise BadInput("there is no engine of this recipe here", "run `python3 run.py build`")
    from llx.bench.sessions.trt import TrtSession as session

    return lambda rows: session(recipe.runtime, plan, recipe.contract, recipe.dialect, rows)


def _built(here: Here) -> BuildRecord | None:
    """The record of the engine that this recipe made here, if it is whole."""
    if not here.out(BUILD).is_file() or not here.out(PLAN).is_file():
        return None
    try:
        record = BuildRecord(**json.loads(here.out(BUILD).read_bytes()))
    except (ValueError, TypeError):  # cut short, as by a power cut
        return None
    same = record.recipe == here.recipe_sha256
    return record if same and record.plan_sha256 == sha256_of(here.out(PLAN)) else None


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file: 8 bytes of header length, JSON, then the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: np.frombuffer(
            data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
            DTYPES[entry["dtype"]],
        ).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def tensors_bytes(tensors: dict[str, NDArray[Any]]) -> bytes:
    """The same, written."""
    names = {np.dtype(numpy_name): name for name, numpy_name in DTYPES.items()}
    header, blobs, at = {}, [], 0
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": names[array.dtype],
            "shape": array.shape,
            "data_offsets": (at, at + len(blob)),
        }
        blobs.append(blob)
        at += len(blob)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return b"".join((len(head).to_bytes(8, "little"), head, *blobs))


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _as_lines(kind: str, content: Any) -> None:
    print(json.dumps({kind: content}), flush=True)


def _as_text() -> Callable[[str, Any], None]:
    """Tells a person: each kind of work once, as it begins."""
    begun: set[str] = set()

    def tell(kind: str, content: Any) -> None:
        if kind == "error":
            print(f"run.py: {content[0]}: {content[1]}", file=sys.stderr)
        elif kind == "say":
            print(content, flush=True)
        elif content[0] not in begun:
            begun.add(content[0])
            print(f"  {content[0]} …", flush=True)

    return tell
