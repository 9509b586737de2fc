"""The machine that a number was measured on, and the state that it was in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

import psutil

from llx.gpu import Gpu
from llx.result import EnvironmentRecord

NOT_MEASURED = "not measured"
PACKAGES = (
    *("llx", "torch", "onnxruntime", "onnxruntime-gpu", "numpy"),
    *("tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-rtx", "polygraphy"),
)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a measurement depends on, those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """The processor's model, as the kernel names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def load() -> float | None:
    """The one-minute load average, where the system has one."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _clocks() -> str:
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    parts = [f"{frequency.current:.0f} MHz"] if frequency and frequency.current else []
    if governor.is_file():
        parts.append(f"governor {governor.read_text().strip()}")
    return ", ".join(parts) or NOT_MEASURED


def read_environment(
    threads: int | None,
    load_before: float | None,
    load_after: float | None,
    gpu: Gpu | None = None,
) -> EnvironmentRecord:
    """Describe this machine, and the GPU where an engine ran on it.

    The fingerprint is equal only where wall clocks may be compared.
    """
    device = f"{cpu_name()}, {psutil.cpu_count()} CPUs"
    if gpu:
        device = f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB, SM {gpu.sm}) with {device}"
    memory_gib = round(psutil.virtual_memory().total / 2**30)
    identity = "|".join((device, platform.machine(), platform.system(), str(memory_gib)))
    return EnvironmentRecord(
        device=f"{device}, {memory_gib} GiB",
        device_fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=installed_versions(),
        threads=threads,
        clocks=_clocks(),
        power_mode=NOT_MEASURED,
        load_before=load_before,
        load_after=load_after,
    )
