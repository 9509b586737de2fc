"""`llx doctor`."""

from __future__ import annotations


def doctor() -> None:
    """Say what this machine has, what it lacks, and what would install it."""
    import platform
    import shutil

    import psutil

    import llx
    from llx.bench.environment import cpu_name, installed_versions
    from llx.bench.sessions import ENGINES
    from llx.errors import LlxError
    from llx.reports.console import show, simple_table
    from llx.reports.units import binary_bytes

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    rows = [
        ("llx", llx.__version__),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("CPU", f"{cpu_name()}, {psutil.cpu_count()} CPUs"),
        ("memory", f"{binary_bytes(memory.available)} free of {binary_bytes(memory.total)}"),
        ("disk", f"{binary_bytes(disk.free)} free here"),
        ("NVIDIA driver", "found" if shutil.which("nvidia-smi") else "none found"),
    ]
    rows += [(f"package {n}", version) for n, version in installed_versions().items() if n != "llx"]
    for engine in ENGINES.values():
        try:
            engine.require()
            rows.append((f"engine {engine.name}", "ready"))
        except LlxError as error:
            rows.append((f"engine {engine.name}", f"missing: {error.remedy}"))
    show(simple_table("", ("part", "state"), rows))
