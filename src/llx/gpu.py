"""The NVIDIA GPU of this machine, as its driver describes it; no CUDA toolkit and no PyTorch."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from llx.errors import Lacking

DRIVER = "libcuda.so.1"
# CUdevice_attribute of the driver's API.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, its compute capability as one number (8.6 is 86), its memory.

    `pci`: its place on the bus, such as 0000:65:00.0, by which NVML knows it.
    """

    name: str
    sm: int
    memory_bytes: int
    pci: str | None = None


def driver_cuda() -> str | None:
    """The newest CUDA that the driver supports, such as 12.6; None where there is no driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def find_gpu() -> Gpu | None:
    """The first GPU that this process may use, or None where there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    count, device = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    version = [ctypes.c_int(), ctypes.c_int()]
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    )
    for place, attribute in zip(
        version, (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR), strict=True
    ):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(place), attribute, device)
    if failed:
        return None
    major, minor = (place.value for place in version)
    pci = ctypes.create_string_buffer(32)
    known = not driver.cuDeviceGetPCIBusId(pci, len(pci), device)
    return Gpu(
        name.value.decode(errors="replace"),
        10 * major + minor,
        memory.value,
        pci.value.decode(errors="replace") if known else None,
    )


def require_gpu(purpose: str, remedy: str) -> Gpu:
    """The GPU, or `Lacking` with what would work instead."""
    gpu = find_gpu()
    if gpu is None:
        raise Lacking(f"{purpose} needs an NVIDIA GPU and its driver, and none is here", remedy)
    return gpu
