"""What this machine has, what it lacks, and what would install it: `llx doctor`."""

from __future__ import annotations

import platform
import shutil

import psutil

import llx
from llx.bench.machine.energy import Missing
from llx.bench.machine.environment import (
    clocks_in_words,
    installed_versions,
    notes,
    power_mode_in_words,
)
from llx.bench.machine.kernel import SYSTEM, cpu_name, read_machine
from llx.bench.machine.nvml import open_nvml
from llx.bench.machine.watch import find_source, meter_for, read_mhz
from llx.bench.sessions import ENGINES
from llx.conditions import NOT_MEASURED
from llx.errors import LlxError
from llx.gpu import Gpu, driver_cuda, find_gpu
from llx.reports.units import binary_bytes
from llx.runtime import RUNTIMES, Runtime
from llx.tensorrt import load


def states() -> list[tuple[str, str]]:
    """Parts of this machine and of its software, and the state of each."""
    gpu, cuda = find_gpu(), driver_cuda()
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    rows = [
        ("llx", llx.__version__),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("CPU", f"{cpu_name()}, {psutil.cpu_count()} CPUs"),
        ("memory", f"{binary_bytes(memory.available)} free of {binary_bytes(memory.total)}"),
        ("disk", f"{binary_bytes(disk.free)} free here"),
        ("GPU", "none found"),
        ("NVIDIA driver", f"for CUDA up to {cuda}" if cuda else "none found"),
    ]
    if gpu:
        rows[-2] = ("GPU", f"{gpu.name}, SM {gpu.sm}, {binary_bytes(gpu.memory_bytes)}")
    rows += _measuring(gpu)
    rows += [(f"runtime {runtime}", _version(runtime)) for runtime in RUNTIMES]
    rows += [(f"package {n}", version) for n, version in installed_versions().items() if n != "llx"]
    return rows + _engines()


def _engines() -> list[tuple[str, str]]:
    """Each engine; what is lacking and what mends it is said once for all that lack the same."""
    rows, said = [], dict[str, str]()
    for engine in ENGINES.values():
        try:
            engine.require()
            state = "ready"
        except LlxError as error:
            # The very words that `llx bench` has for it.
            state = f"missing: {error}"
            alike = str(error).replace(engine.name, "", 1)
            if alike in said:
                state = f"missing: as engine {said[alike]}"
            said.setdefault(alike, engine.name)
        rows.append((f"engine {engine.name}", state))
    return rows


def _measuring(gpu: Gpu | None) -> list[tuple[str, str]]:
    """What a measurement here can tell beside time, and what would let it tell more."""
    machine, mhz = read_machine(), read_mhz()
    container = machine.container
    card = open_nvml(gpu) if gpu else None
    rows = []
    for what, asked in (("CPU", None), ("GPU", card)):
        if what == "CPU" or gpu:
            source = find_source(asked, SYSTEM, shutil.which("tegrastats"))
            told = source if isinstance(source, Missing) else None
            found = f"not measured: {told.reason}; {told.remedy}" if told else ""
            if not isinstance(source, Missing):
                found = f"{source.source}, {source.rail}"
                meter_for(source).close()
            rows.append((f"energy of the {what}", found))
    clocks = clocks_in_words(machine, None, mhz)
    hidden = "; this kernel shows none: measure where cpufreq is" if clocks == NOT_MEASURED else ""
    rows.append(("clocks", clocks + hidden))
    if isinstance(card, Missing):
        rows.append(("clocks of the GPU", f"not measured: {card.reason}; {card.remedy}"))
    rows.append(("power mode", power_mode_in_words(machine)))
    limits = [f"{container.cpus:g} CPUs"] if container.cpus else []
    limits += [binary_bytes(container.memory_bytes)] if container.memory_bytes else []
    if machine.usable_cpus and machine.usable_cpus < machine.cpus:
        limits.append(f"{machine.usable_cpus} of {machine.cpus} CPUs usable")
    rows.append(("limits", ", ".join(limits) or "none"))
    remedy = "sudo cpupower frequency-set -g performance; on a Jetson sudo jetson_clocks"
    rows += [("doubtful", f"{note}; {remedy}") for note in notes(machine, None, None)]
    return rows


def _version(runtime: Runtime) -> str:

    try:
        return str(load(runtime).__version__)
    except LlxError:
        return "not installed"
