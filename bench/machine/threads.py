"""How many threads an engine gets on the CPU: the same for each, so that they can be compared."""

from __future__ import annotations

import os
from pathlib import Path

from llx.bench.machine.container import read_container
from llx.bench.machine.kernel import CPUS, SYSTEM
from llx.bench.machine.sysfs import text


def usable_threads(root: Path = SYSTEM) -> int:
    """`OMP_NUM_THREADS` where it is set, else one for each physical core that may be used.

    That is a core of which the affinity leaves a CPU, and no more of them than the control group
    has CPU time for: threads beyond it would be stopped in the middle of a step.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # "4,2": of nested regions
    if asked.isdecimal() and int(asked):
        return int(asked)
    cores = _cores(root)
    limit = read_container(root).cpus
    return max(1, cores if limit is None else min(cores, int(limit)))


def _cores(root: Path) -> int:
    """Physical cores that have a CPU which this process may run on."""
    count = os.cpu_count() or 1
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(count))
    places = {
        tuple(
            text(root / CPUS / f"cpu{cpu}/topology/{name}")
            for name in ("physical_package_id", "core_id")
        )
        for cpu in usable
    }
    if not any(None in place for place in places):
        return len(places)
    import psutil  # where the kernel has no such files, it asks in another way

    return min(len(usable), psutil.cpu_count(logical=False) or count)
