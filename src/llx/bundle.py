"""What a bundle says (`llx.bundle/1`), and what comes back from the machine that ran it.

A bundle is a folder that builds an engine where it is copied to. What comes back is untrusted data:
whoever reads it decodes it against these types.

Like `llx.tensorrt`, this file also runs on the device: the standard library and numpy will do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from llx.conditions import EnergyRecord, GpuRecord, MachineRecord, RunRecord
from llx.files import write_whole
from llx.graphs.contract import GraphContract, Limits
from llx.probe import OUT, Needs
from llx.runtime import Runtime
from llx.tensorrt import BuildOptions

RECIPE = "recipe.json"
SCRIPT = "run.py"
README = "README.md"  # for who copies it; no file that anything reads
LIB = "lib"
WEIGHTS = "weights.safetensors"  # as in the artifact
# Under `out/`, made where the bundle ran.
MACHINE, PLAN, TIMING, BUILD = "device.json", "engine.plan", "timing.cache", "build.json"
SAMPLES, OBSERVED = "samples.json", "fidelity.safetensors"
RECORD_BYTES, SAMPLES_BYTES = 1 << 20, 64 << 20  # the most that is read of what came back

SHOWN_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that a machine must know to build and measure one engine.

    `contract` has the engine's own limits. `workload`: the fields of a `Workload`.
    `files`: name → (bytes, SHA-256) of everything in the bundle but the recipe.
    """

    schema: Literal["llx.bundle/1"] = "llx.bundle/1"
    llx: str
    artifact: str
    artifact_sha256: str
    runtime: Runtime
    sm: int | None
    dialect: str
    contract: GraphContract
    options: BuildOptions
    needs: Needs
    workload: dict[str, Any]
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An `LlxError` of there."""

    message: str
    remedy: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class BuildRecord:
    """What was built. `recipe` is the hash of the recipe that it was built by."""

    recipe: str
    tensorrt: str
    gpu: str | None
    sm: int | None
    plan_bytes: int
    plan_sha256: str
    seconds: float
    peak_host_bytes: int | None
    layers: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """What was measured, raw: `step_ns` of each test of the workload, repetition and step.

    `faults`: what is wrong with each test's samples. `energy` is that of each test.
    """

    recipe: str
    gpu: str | None = None
    weights: str = "none"
    details: dict[str, Any] = field(default_factory=dict)
    step_ns: list[list[list[int]]] = field(default_factory=list)
    faults: list[list[str]] = field(default_factory=list)
    load_s: float | None = None
    peak_host_bytes: int | None = None
    cache_bytes: int | None = None
    device_bytes: int | None = None
    load_before: float | None = None
    load_after: float | None = None
    energy: list[EnergyRecord] = field(default_factory=list)
    machine: MachineRecord | None = None
    card: GpuRecord | None = None
    run: RunRecord | None = None
    judged: bool = False  # the observations of fidelity lie beside
    problem: Problem | None = None


def is_reference(name: str) -> bool:
    """Whether a file is a captured reference, by its name in the artifact."""
    return fnmatchcase(name, "reference*.safetensors")


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a bundle whose bytes were checked."""
    values = json.loads((folder / RECIPE).read_bytes())
    contract = values["contract"] | {"limits": Limits(**values["contract"]["limits"])}
    return Recipe(
        **values
        | {
            "contract": GraphContract(**contract),
            "options": BuildOptions(**values["options"]),
            "needs": Needs(**values["needs"]),
            "workload": {name: _tuple(value) for name, value in values["workload"].items()},
            "files": {name: (size, sha256) for name, (size, sha256) in values["files"].items()},
        }
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def write_record(folder: Path, name: str, record: Any) -> None:
    """Write a record into the bundle's `out/`, whole or not at all."""
    write_whole(folder / OUT / name, (json.dumps(asdict(record), indent=1) + "\n").encode())


def clean(text: object) -> str:
    """Text of another machine as it may be shown: one line, no control characters, not long."""
    kept = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * SHOWN_CHARACTERS])
    return " ".join(kept.split())[:SHOWN_CHARACTERS]
