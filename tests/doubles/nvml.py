"""A recording double of pynvml: one GPU, which answers as it is told and refuses the rest.

Names, units and errors are those of `nvidia-ml-py`; the answers are no GPU's.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


class NVMLError(Exception):
    """What NVML refuses with."""


class NvmlDouble(ModuleType):
    """`answers`: function → value, or a list of values one after another."""

    NVMLError = NVMLError

    def __init__(self, count=1, **answers):
        super().__init__("pynvml")
        self.asked, self.count, self.answers = [], count, answers

    def nvmlInit(self):
        self.asked.append(("nvmlInit",))

    def nvmlDeviceGetCount(self):
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"handle {index}"

    def nvmlDeviceGetHandleByPciBusId(self, pci):
        self.asked.append(("pci", pci))
        return f"handle {pci.decode()}"

    def nvmlSystemGetDriverVersion(self):
        return "575.57.08"

    def _answer(self, name, *arguments):
        self.asked.append((name, *arguments))
        told = self.answers.get(name, NVMLError("Not Supported"))
        if isinstance(told, list):
            told = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(told, Exception):
            raise told
        return told

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("energy", handle)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("power", handle)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        return self._answer("limit", handle)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._answer("clock", handle, kind)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("reasons", handle)

    def nvmlDeviceGetViolationStatus(self, handle, policy):
        return SimpleNamespace(referenceTime=1, violationTime=self._answer("violation", policy))
