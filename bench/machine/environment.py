"""The machine that a number was measured on, and the state that it was in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator

from llx.bench.machine.kernel import read_machine
from llx.bench.machine.watch import read_mhz
from llx.conditions import NOT_MEASURED, GpuRecord, MachineRecord, RunRecord, Span
from llx.gpu import Gpu, driver_cuda
from llx.result import EnvironmentRecord

PACKAGES = (
    *("llx", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "numpy"),
    *("tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx", "polygraphy"),
)
# Beyond these a wall clock is in doubt: load for each CPU, cores that others use, change of clocks.
MOST_LOAD, MOST_OTHERS, MOST_CHANGE = 0.5, 0.1, 0.1
DYNAMIC = ("intel_pstate", "amd-pstate-epp")  # whose "powersave" governor is no slow one
SLOW_PREFERENCES = ("power", "balance_power")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a measurement depends on, those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def load() -> float | None:
    """The one-minute load average, where the system has one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def read_environment(
    threads: int | None,
    load_before: float | None,
    load_after: float | None,
    gpu: Gpu | None = None,
    card: GpuRecord | None = None,
    run: RunRecord | None = None,
) -> EnvironmentRecord:
    """Describe this machine, the GPU where an engine ran on it, and how the run went."""
    machine = read_machine()
    device = f"{machine.cpu}, {machine.cpus} CPUs"
    versions = installed_versions()
    if gpu:
        device = f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB, SM {gpu.sm}) with {device}"
        cuda, driver = driver_cuda(), card.driver if card else None
        versions |= {"cuda-driver": cuda} if cuda else {}
        versions |= {"nvidia-driver": driver} if driver else {}
    return EnvironmentRecord(
        device=f"{device}, {machine.memory_bytes / 2**30:.0f} GiB",
        device_fingerprint=fingerprint(device, machine, card),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
        threads=threads,
        clocks=clocks_in_words(machine, run, read_mhz()),
        power_mode=power_mode_in_words(machine),
        load_before=load_before,
        load_after=load_after,
        machine=machine,
        gpu=card,
        run=run,
        notes=list(notes(machine, run, load_before)),
    )


def fingerprint(device: str, machine: MachineRecord, card: GpuRecord | None = None) -> str:
    """Equal only where wall clocks may be compared: the machine, its limits and its settings.

    Neither load nor clocks of the moment are in it, nor software: versions are settings that a
    comparison lists.
    """
    container = machine.container
    limit = container.memory_bytes
    parts = (
        device,
        machine.architecture,
        machine.system,
        round(machine.memory_bytes / 2**30),
        machine.board,
        machine.usable_cpus,
        machine.smt,
        machine.numa_nodes,
        machine.virtual,
        machine.governor,
        machine.boost,
        machine.preference,
        machine.power_mode,
        container.cpus,
        None if limit is None or limit >= machine.memory_bytes else limit,
        card.power_limit_watts if card else None,
    )
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def clocks_in_words(machine: MachineRecord, run: RunRecord | None, now: tuple[float, ...]) -> str:
    """The CPU's clocks, under load where that was seen, and what governs them; the GPU's too."""
    parts = []
    if run and run.cpu_mhz_tests:
        parts.append(f"{_mhz(run.cpu_mhz_tests)} MHz as tests ended")
    elif now:
        parts.append(f"{_mhz((min(now), max(now)))} MHz")
    if machine.governor:
        parts.append(f"governor {machine.governor}")
    if machine.boost is not None:
        parts.append(f"boost {'on' if machine.boost else 'off'}")
    if run and run.gpu_mhz_tests:
        parts.append(f"GPU {_mhz(run.gpu_mhz_tests)} MHz")
    return ", ".join(parts) or NOT_MEASURED


def _mhz(span: Span) -> str:
    low, high = (f"{value:.0f}" for value in span)
    return low if low == high else f"{low}…{high}"


def power_mode_in_words(machine: MachineRecord) -> str:
    """A Jetson's power mode, or what an x86 machine prefers."""
    preference = f"energy preference {machine.preference}" if machine.preference else None
    return ", ".join(part for part in (machine.power_mode, preference) if part) or NOT_MEASURED


def notes(
    machine: MachineRecord, run: RunRecord | None, load_before: float | None
) -> Iterator[str]:
    """What makes the wall-clock numbers of a run doubtful.

    The load before holds what ended a minute ago, so it counts only where nobody saw what others
    did during the run itself.
    """
    seen = run is not None and run.others_cpu is not None
    if not seen and load_before is not None and load_before > MOST_LOAD * machine.cpus:
        yield f"the load was {load_before:.1f} before, on {machine.cpus} CPUs"
    if machine.governor == "powersave" and machine.driver not in DYNAMIC:
        yield "the governor is powersave: clocks are held low"
    if machine.preference in SLOW_PREFERENCES:
        yield f"the processor's energy preference is {machine.preference}"
    if run:
        yield from _notes_of_run(run)


def _notes_of_run(run: RunRecord) -> Iterator[str]:
    if run.others_cpu is not None and run.others_cpu > MOST_OTHERS:
        yield f"others used {run.others_cpu:.2f} of a core meanwhile"
    if run.stolen_cpu is not None and run.stolen_cpu > MOST_OTHERS:
        yield f"the hypervisor kept {run.stolen_cpu:.2f} of a core"
    if run.limited_s is not None and run.limited_s > 0.01 * run.seconds:
        yield f"the container's CPU limit stopped threads for {run.limited_s:.1f} s"
    if run.throttles:
        yield f"the processor slowed itself down {run.throttles} times"
    if run.gpu_slowdowns:
        yield f"the GPU was slowed by: {', '.join(run.gpu_slowdowns)}"
    if run.gpu_slowed_s is not None and run.gpu_slowed_s > 0.01 * run.seconds:
        yield f"power or heat slowed the GPU for {run.gpu_slowed_s:.1f} s"
    for what, span in (("CPU", run.fastest_mhz_tests), ("GPU", run.gpu_mhz_tests)):
        if span and span[1] - span[0] > MOST_CHANGE * span[1]:
            yield f"the {what}'s clock changed between tests: {_mhz(span)} MHz"
    if (run.swap_after_bytes or 0) > (run.swap_before_bytes or 0):
        grown = (run.swap_after_bytes or 0) - (run.swap_before_bytes or 0)
        yield f"{grown / 2**20:.1f} MiB were swapped out meanwhile"
