"""`llx build` for a machine that is not this one: a bundle for it, or a build on it over SSH."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llx.api.results import rescued
from llx.api.watching import watched
from llx.artifact import Artifact
from llx.bench.edge.collect import collect_result
from llx.bench.speed.samples import Workload
from llx.bundle import Recipe
from llx.devices import Device, devices_named
from llx.engine import Engine
from llx.errors import BadInput, Lacking, LlxError
from llx.exporter.engines.build import BuildRequest, engine_contract
from llx.exporter.engines.bundle import Bundle, Place, make_bundle, write_bundle
from llx.exporter.engines.remote import RemoteRequest, build_remotely
from llx.exporter.engines.ssh import remote_named
from llx.files import write_whole
from llx.graphs.contract import Limits
from llx.jetpack import JETPACKS, jetpack_for, reported_not_to_build
from llx.probe import Machine, Needs, unmet
from llx.progress import Progress
from llx.result import Result, encode_results
from llx.scrub import handed_on

DEFAULT_ROOT = Path("bundles")
# What means nothing without another machine, by the names that a user types.
OPTIONS = {
    "jetpack": "--jetpack",
    "output": "--output",
    "python": "--python",
    "prompts": "-p",
    "generated": "-n",
    "requests": "--requests",
    "repetitions": "-r",
}
USUAL_PROMPT, USUAL_GENERATED = 128, 64


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """Where to build, as it was typed, and what to measure there: lengths that fit where None."""

    device: str | None = None
    jetpack: str | None = None
    remote: str | None = None
    python: str = "python3"
    output: Path | None = None
    prompts: tuple[int, ...] | None = None
    generated: tuple[int, ...] | None = None
    requests: tuple[tuple[int, int], ...] = ()
    repetitions: int = 5

    def workload(self, limits: Limits) -> dict[str, Any]:
        """The fields of a `Workload`. Raises `BadInput` where it does not fit."""
        usual = (min(length, limits.capacity) for length in (USUAL_PROMPT, USUAL_GENERATED))
        prompts, generated = (
            (() if self.requests else (length,)) if given is None else given
            for given, length in zip((self.prompts, self.generated), usual, strict=True)
        )
        workload: dict[str, Any] = {
            "prompts": prompts,
            "generated": generated,
            "requests": self.requests,
            "repetitions": self.repetitions,
        }
        Workload(**workload).require_fit(limits)
        return workload

    @property
    def asked(self) -> bool:
        """Whether another machine was named at all. Raises `BadInput` for half a name."""
        if self.device is not None or self.remote is not None:
            return True
        usual = Elsewhere()
        for name, option in OPTIONS.items():
            if getattr(self, name) != getattr(usual, name):
                raise BadInput(
                    f"{option} is of a build for another machine",
                    "name it with --device, such as agx-orin-64",
                )
        return False


@dataclass(frozen=True)
class WrittenBundle:
    """A bundle in its folder, and whether it was written now."""

    folder: Path
    recipe: Recipe
    total_bytes: int
    made: bool


@dataclass(frozen=True)
class BuiltThere:
    """An engine that another machine built, whether it did now, and what was measured there."""

    engine: Engine
    made: bool
    result: Result
    results: Path


def for_card(
    requests: list[BuildRequest], where: Elsewhere
) -> tuple[list[BuildRequest], Elsewhere]:
    """A card of the catalogue as the chip to build for here, where one was named without a machine.

    Raises `BadInput` where TensorRT would have to run on it, or a chip was named as well.
    """
    if where.device is None or where.remote is not None:
        return requests, where
    device = _named(where.device)
    if device.kind == "jetson":
        return requests, where
    if any(request.runtime == "trt" for request in requests):
        raise BadInput(
            f"{device.name} is no Jetson, and TensorRT builds on the GPU itself",
            "run `llx build` on the machine that has it, name that with --remote user@host, or "
            "choose --engine trt-rtx",
        )
    if any(request.sm is not None for request in requests):
        raise BadInput(
            f"--device {device.name} is a chip of SM {device.sm}, and --sm names some as well",
            "leave one of them out",
        )
    return [replace(request, sm=device.sm) for request in requests], replace(where, device=None)


def bundle_for(
    artifact: Artifact,
    request: BuildRequest,
    where: Elsewhere,
    overwrite: bool = False,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> WrittenBundle:
    """Write the bundle that builds on the Jetson which `where` names, and measures there.

    `tell` is called before, with what is reported of such a build.

    Raises `BadInput` where it is none or sizes do not fit, `Lacking` where something to be carried
    is not here.
    """
    device, workload = _checked(artifact, request, where)
    assert device is not None
    release = jetpack_for(device, where.jetpack)
    place = _on_jetpack(device, release.version)
    if reported := reported_not_to_build(device, release, artifact.manifest.precision):
        tell(reported)
    bundle = make_bundle(artifact, request, place, workload)
    name = f"{artifact.folder.resolve().name}-{device.name}-jetpack{place.jetpack}"
    folder = where.output or DEFAULT_ROOT / name
    with watched(progress) as news:
        made = write_bundle(bundle, folder, overwrite, news)
    total = sum(size for size, _ in bundle.contents.values())
    return WrittenBundle(folder, bundle.recipe, total, made)


def build_there(
    artifact: Artifact,
    request: BuildRequest,
    where: Elsewhere,
    overwrite: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BuiltThere:
    """Build and measure on the machine that `where.remote` names, over SSH, and bring both home.

    A measurement that failed there is a part of the result, the engine being kept. `say` is called
    with what the machine there says.
    """
    device, workload = _checked(artifact, request, where)
    assert where.remote is not None
    remote = remote_named(where.remote, where.python)

    def bundle_of(machine: Machine) -> Bundle:
        place = _place(machine, device, request, where.jetpack)
        return make_bundle(artifact, request, place, workload)

    task = RemoteRequest(
        remote=remote,
        runtime=request.runtime,
        bundle_for=bundle_of,
        command=request.command,
        overwrite=overwrite,
    )
    with watched(progress) as news:
        brought = build_remotely(artifact, task, news, say)
    engine = brought.engine
    result = collect_result(
        artifact,
        brought.recipe,
        brought.machine,
        brought.samples,
        brought.observed,
        engine.manifest.build_s,
        engine.plan_bytes,
        request.command,
    )
    results = engine.folder / "results.json"
    try:
        told = replace(result, command=handed_on(request.command, artifact.folder))
        write_whole(results, encode_results([told]))  # in the artifact
    except (OSError, LlxError):
        kept = rescued(encode_results([result]))
        if kept is None:
            raise
        results = kept
    return BuiltThere(engine, brought.made, result, results)


def _checked(
    artifact: Artifact, request: BuildRequest, where: Elsewhere
) -> tuple[Device | None, dict[str, Any]]:
    """The device that was named, and what to measure there; `BadInput` for options at odds."""
    device = _device(where)
    if device and device.kind == "jetson" and request.runtime != "trt":
        raise BadInput("a JetPack brings TensorRT, not TensorRT-RTX", "leave --engine out")
    if request.timing_cache:
        raise BadInput("--timing-cache is a file of this machine", "leave it out")
    limits = engine_contract(artifact.manifest.contract, request).limits
    return device, where.workload(limits)


def _named(name: str) -> Device:
    named = devices_named(name)
    if len(named) != 1:
        raise BadInput("an engine is built for one device", "name one with --device")
    return named[0]


def _device(where: Elsewhere) -> Device | None:
    """The device that was named. Raises `BadInput` where it is several, or can only be reached."""
    if where.device is None:
        if where.jetpack:
            raise BadInput("--jetpack is of a Jetson", "name it with --device, such as agx-orin-64")
        return None
    device = _named(where.device)
    if device.kind != "jetson" and where.remote is None:
        raise BadInput(
            f"{device.name} is no Jetson: a bundle is for machines that llx is not installed on",
            "run `llx build` on the machine that has it, or name that with --remote user@host",
        )
    return device


def _place(
    machine: Machine, device: Device | None, request: BuildRequest, jetpack: str | None
) -> Place:
    """What to build for: the JetPack that was named, else what the machine there has."""
    if device is not None and device.kind == "jetson":
        has = machine.tensorrt or ""
        fitting = [
            release.version
            for release in JETPACKS
            if release.runs_on(device) and has.startswith(f"{release.tensorrt}.")
        ]
        return _on_jetpack(device, jetpack or (fitting[-1] if fitting else None))
    if device is not None and jetpack:
        jetpack_for(device, jetpack)  # says that it is no Jetson
    lacks = unmet(machine, Needs(request.runtime, "", None, None, 0, 0))
    if lacks:
        raise Lacking(*lacks)
    assert machine.tensorrt is not None
    name, sm = (device.title, device.sm) if device else (None, request.sm)
    return Place(tensorrt=machine.tensorrt, device=name, sm=sm)


def _on_jetpack(device: Device, version: str | None) -> Place:

    release = jetpack_for(device, version)
    return Place(
        tensorrt=release.tensorrt,
        device=device.title,
        sm=device.sm,
        jetpack=release.version,
        l4t=release.l4t,
    )
