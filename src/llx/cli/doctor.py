"""`llx doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llx.tensorrt import Runtime


def doctor() -> None:
    """Say what this machine has, what it lacks, and what would install it."""
    import platform
    import shutil

    import psutil

    import llx
    from llx.bench.environment import cpu_name, installed_versions
    from llx.bench.sessions import ENGINES
    from llx.errors import LlxError
    from llx.gpu import driver_cuda, find_gpu
    from llx.reports.console import show, simple_table
    from llx.reports.units import binary_bytes
    from llx.tensorrt import RUNTIMES

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
    rows += [(f"runtime {runtime}", _version(runtime)) for runtime in RUNTIMES]
    rows += [(f"package {n}", version) for n, version in installed_versions().items() if n != "llx"]
    for engine in ENGINES.values():
        try:
            engine.require()
            rows.append((f"engine {engine.name}", "ready"))
        except LlxError as error:
            lacks = "no NVIDIA GPU here" if engine.gpu and not gpu else error.remedy
            rows.append((f"engine {engine.name}", f"missing: {lacks}"))
    show(simple_table("", ("part", "state"), rows))


def _version(runtime: Runtime) -> str:
    from llx.errors import LlxError
    from llx.tensorrt import load

    try:
        return str(load(runtime).__version__)
    except LlxError:
        return "not installed"
