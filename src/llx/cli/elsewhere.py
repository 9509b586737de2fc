"""`llx build` for a machine that is not this one: a bundle for it, or a build on it over SSH."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llx.errors import EXIT_DONE, BadInput, Lacking

if TYPE_CHECKING:
    from llx.artifact import Artifact
    from llx.devices import Device
    from llx.exporter.engines.build import BuildRequest
    from llx.exporter.engines.bundle import Bundle, Place
    from llx.graphs.contract import Limits
    from llx.probe import Machine

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
        from llx.bench.speed.samples import Workload

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


def build_elsewhere(
    artifact: Artifact, request: BuildRequest, where: Elsewhere, overwrite: bool
) -> int:
    """Build on the machine that `--remote` names, or write the bundle that builds on a Jetson.

    Returns the exit code: that of a measurement which failed there, its engine being kept.
    """
    from llx.exporter.engines.build import engine_contract

    device = _device(where)
    if device and device.kind == "jetson" and request.runtime != "trt":
        raise BadInput("a JetPack brings TensorRT, not TensorRT-RTX", "leave --engine out")
    if request.timing_cache:
        raise BadInput("--timing-cache is a file of this machine", "leave it out")
    limits = engine_contract(artifact.manifest.contract, request).limits
    workload = where.workload(limits)
    work = _write if where.remote is None else _build_remotely
    return work(artifact, request, where, workload, overwrite)


def _write(
    artifact: Artifact,
    request: BuildRequest,
    where: Elsewhere,
    workload: dict[str, Any],
    overwrite: bool,
) -> int:
    from llx.exporter.engines.bundle import make_bundle, write_bundle
    from llx.jetpack import jetpack_for
    from llx.reports.console import progress_bars, say
    from llx.reports.units import binary_bytes

    device = _device(where)
    assert device is not None
    place = _on_jetpack(device, jetpack_for(device, where.jetpack).version)
    bundle = make_bundle(artifact, request, place, workload)
    name = f"{artifact.folder.resolve().name}-{device.name}-jetpack{place.jetpack}"
    folder = where.output or DEFAULT_ROOT / name
    with progress_bars() as progress:
        made = write_bundle(bundle, folder, overwrite, progress)
    total = sum(size for size, _ in bundle.contents.values())
    say(
        f"{folder}: {binary_bytes(total)}, for TensorRT {place.tensorrt} by dialect "
        f"{bundle.recipe.dialect}" + ("" if made else "; it is there already")
    )
    say(
        "not built: a bundle was written; copy it and run `python3 run.py`, or add --remote "
        "user@host"
    )
    return EXIT_DONE


def _build_remotely(
    artifact: Artifact,
    request: BuildRequest,
    where: Elsewhere,
    workload: dict[str, Any],
    overwrite: bool,
) -> int:
    from llx.bench.edge.collect import collect_result
    from llx.cli.build import summary
    from llx.exporter.engines.bundle import make_bundle
    from llx.exporter.engines.remote import RemoteRequest, build_remotely
    from llx.exporter.engines.ssh import remote_named
    from llx.files import write_whole
    from llx.reports.console import progress_bars, say, show_results, warn
    from llx.result import encode_results

    assert where.remote is not None
    remote = remote_named(where.remote, where.python)
    device = _device(where)

    def bundle_for(machine: Machine) -> Bundle:
        place = _place(machine, device, request, where.jetpack)
        return make_bundle(artifact, request, place, workload)

    task = RemoteRequest(
        remote=remote,
        runtime=request.runtime,
        bundle_for=bundle_for,
        command=request.command,
        overwrite=overwrite,
    )
    with progress_bars() as progress:
        brought = build_remotely(artifact, task, progress, say)
    engine = brought.engine
    say(summary(engine) if brought.made else f"{engine.folder} is there already")
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
    write_whole(engine.folder / "results.json", encode_results([result]))
    show_results([result])
    say(f"results: {engine.folder / 'results.json'}")
    if result.error:
        warn(f"{result.error.message}: {result.error.remedy}")
    return result.error.exit_code if result.error else EXIT_DONE


def _device(where: Elsewhere) -> Device | None:
    """The device that was named. Raises `BadInput` where it is several, or can only be reached."""
    from llx.devices import devices_named

    if where.device is None:
        if where.jetpack:
            raise BadInput("--jetpack is of a Jetson", "name it with --device, such as agx-orin-64")
        return None
    named = devices_named(where.device)
    if len(named) != 1:
        raise BadInput("an engine is built for one device", "name one with --device")
    (device,) = named
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
    from llx.exporter.engines.bundle import Place
    from llx.jetpack import JETPACKS, jetpack_for
    from llx.probe import Needs, unmet

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
    from llx.exporter.engines.bundle import Place
    from llx.jetpack import jetpack_for

    release = jetpack_for(device, version)
    return Place(
        tensorrt=release.tensorrt,
        device=device.title,
        sm=device.sm,
        jetpack=release.version,
        l4t=release.l4t,
    )
