"""A GPU as NVML describes it: energy, clocks, why they are slow, driver and power limit.

NVML is NVIDIA's own; `nvidia-ml-py` (module pynvml) calls it. Each question is asked by itself: a
GPU may answer some and refuse others, as a Jetson's refuses nearly all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llx.bench.machine.energy import Missing
from llx.gpu import Gpu

INSTALL = "pip install nvidia-ml-py"
STEP_S, PERIOD_S = 0.1, 0.1  # how often the driver counts, and how often to ask where it does not
MOST = 1 << 60
# nvmlClocksEventReasons that mean slower clocks than asked for; idle and set clocks are none.
SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal limit (software)",
    0x40: "thermal limit (hardware)",
    0x80: "power brake",
}
SM, MEMORY = 1, 2  # nvmlClockType_t
POWER, THERMAL = 0, 1  # nvmlPerfPolicyType_t


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment. `slowed_s`: how long power and heat have slowed it since it started."""

    sm_mhz: float | None
    memory_mhz: float | None
    slowdowns: tuple[str, ...]
    slowed_s: float | None


class Nvml:
    """One GPU, asked through pynvml."""

    def __init__(self, module: Any, handle: Any) -> None:
        self._module, self._handle = module, handle

    def _ask(self, name: str, *arguments: Any) -> Any:
        """What a function of NVML answers; None where it refuses or is not there."""
        function: Callable[..., Any] | None = getattr(self._module, name, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._module.NVMLError:
            return None

    def _number(self, name: str, *arguments: Any) -> int | None:
        answer = self._ask(name, *arguments)
        return answer if isinstance(answer, int) and 0 <= answer <= MOST else None

    def energy_mj(self) -> int | None:
        """Millijoules since the driver was loaded."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption")

    def watts(self) -> float | None:
        """The power now."""
        return _thousandth(self._number("nvmlDeviceGetPowerUsage"))

    def power_limit_watts(self) -> float | None:
        """The power that the driver holds it to."""
        return _thousandth(self._number("nvmlDeviceGetEnforcedPowerLimit"))

    def driver(self) -> str | None:
        """The driver's version."""
        try:
            version = self._module.nvmlSystemGetDriverVersion()
        except self._module.NVMLError:
            return None
        return version.decode(errors="replace") if isinstance(version, bytes) else str(version)

    def state(self) -> GpuState:
        """Clocks and slowdowns now."""
        reasons = self._number("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # the name that older drivers and bindings know
            reasons = self._number("nvmlDeviceGetCurrentClocksThrottleReasons")
        slowed = [self._slowed_ns(policy) for policy in (POWER, THERMAL)]
        return GpuState(
            self._number("nvmlDeviceGetClockInfo", SM),
            self._number("nvmlDeviceGetClockInfo", MEMORY),
            tuple(name for bit, name in SLOWDOWNS.items() if (reasons or 0) & bit),
            None if None in slowed else sum(each for each in slowed if each is not None) / 1e9,
        )

    def _slowed_ns(self, policy: int) -> int | None:
        told = getattr(self._ask("nvmlDeviceGetViolationStatus", policy), "violationTime", None)
        return told if isinstance(told, int) and 0 <= told <= MOST else None


def _thousandth(value: int | None) -> float | None:
    return None if value is None else value / 1e3


class NvmlCounter:
    """The energy that the driver counts."""

    source, step_s = "NVML", STEP_S
    rail = "GPU board, counter"

    def __init__(self, gpu: Nvml) -> None:
        self._gpu = gpu

    def read(self) -> int | None:
        """Millijoules since the driver was loaded."""
        return self._gpu.energy_mj()

    def joules(self, before: int, after: int, _: float) -> float | None:
        """Energy between two readings; None where the driver was loaded anew between them."""
        return (after - before) / 1e3 if after >= before else None


class NvmlGauge:
    """The power that the driver tells, for GPUs before Volta, which count no energy."""

    source, period_s = "NVML", PERIOD_S
    rail = "GPU board, sampled power"

    def __init__(self, gpu: Nvml) -> None:
        self._gpu = gpu

    def watts(self) -> float | None:
        """The power now."""
        return self._gpu.watts()

    def close(self) -> None:
        """Nothing is open."""


def open_nvml(gpu: Gpu) -> Nvml | Missing:
    """NVML for a GPU of CUDA's, found by its place on the PCI bus: their numbers may differ."""
    try:
        import pynvml
    except ImportError:
        return Missing("NVML cannot be asked: nvidia-ml-py is not installed", INSTALL)
    try:
        pynvml.nvmlInit()
        if gpu.pci:
            return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(gpu.pci.encode()))
        if pynvml.nvmlDeviceGetCount() == 1:
            return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        return Missing(f"NVML does not answer: {error}", "check that `nvidia-smi` runs")
    return Missing(
        f"which of several GPUs of NVML is {gpu.name} is not known",
        "leave one with CUDA_VISIBLE_DEVICES",
    )


def find_energy(gpu: Nvml | Missing) -> NvmlCounter | NvmlGauge | Missing:
    """What tells a GPU's energy, or why nothing does."""
    if isinstance(gpu, Missing):
        return gpu
    if gpu.energy_mj() is not None:
        return NvmlCounter(gpu)
    if gpu.watts() is not None:
        return NvmlGauge(gpu)
    return Missing(
        "NVML is there, and tells neither energy nor power of this GPU",
        "a Jetson's is on its rails: let /sys/class/hwmon or tegrastats be read",
    )
