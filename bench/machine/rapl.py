"""Energy of an x86 processor: RAPL, through the kernel's powercap files or AMD's older hwmon ones.

Packages and, where it is counted apart, memory. `psys` (the whole platform), `core` and `uncore`
would count the same joules again. AMD's processors have the same files, called intel-rapl too.
"""

from __future__ import annotations

import os
from pathlib import Path

from llx.bench.machine.energy import Missing
from llx.bench.machine.kernel import is_virtual
from llx.bench.machine.sysfs import number, numbered, text

STEP_S = 1e-3  # how often the processor counts
MOST_WATTS = 500.0  # of one package, to tell whether a counter may have gone round twice
POWERCAP, HWMON = "sys/class/powercap", "sys/class/hwmon"
READABLE = f"sudo chmod a+r /{POWERCAP}/intel-rapl:*/energy_uj, or run as root"


class Rapl:
    """The counters of this machine's packages. A reading is microjoules of each."""

    source = "RAPL"
    step_s = STEP_S

    def __init__(self, domains: list[tuple[str, Path, int | None]]) -> None:
        self._paths = [path for _, path, _ in domains]
        self._ranges = [limit for _, _, limit in domains]
        self.rail = " + ".join(name for name, _, _ in domains)

    def read(self) -> list[int] | None:
        """Microjoules of each domain."""
        values = [number(path) for path in self._paths]
        return [value for value in values if value is not None] if None not in values else None

    def joules(self, before: list[int], after: list[int], seconds: float) -> float | None:
        """Energy between two readings; None where a counter may have gone round twice."""
        total = 0
        for first, last, limit in zip(before, after, self._ranges, strict=True):
            counted = unwrapped(first, last, limit)
            if counted is None or (limit and seconds * MOST_WATTS * 1e6 >= limit):
                return None
            total += counted
        return total / 1e6


def unwrapped(before: int, after: int, limit: int | None) -> int | None:
    """Microjoules from one reading to the next, of a counter that starts anew after `limit`."""
    if after >= before:
        return after - before
    return limit - before + after if limit and before <= limit else None


def find_rapl(root: Path = Path("/")) -> Rapl | Missing:
    """The processor's counters, or why they cannot be read."""
    domains = [*_powercap(root / POWERCAP)] or [*_amd(root / HWMON)]
    if not domains:
        what = "a virtual machine has" if is_virtual(root) else "the kernel shows"
        return Missing(f"{what} no RAPL counters", "measure on the machine itself")
    found = Rapl(domains)
    if found.read() is None:
        denied = [path for _, path, _ in domains if not os.access(path, os.R_OK)]
        if denied:
            return Missing("RAPL is readable by root only", READABLE)
        return Missing("RAPL does not tell a number", "measure on another machine")
    return found


def _powercap(folder: Path) -> list[tuple[str, Path, int | None]]:
    domains = []
    for zone in numbered(folder, "intel-rapl:"):
        if (text(zone / "name") or "").startswith("package"):
            domains.append(_domain(zone, text(zone / "name") or ""))
            for part in numbered(folder, f"{zone.name}:") or numbered(zone, f"{zone.name}:"):
                if text(part / "name") == "dram":
                    domains.append(_domain(part, f"dram-{zone.name.partition(':')[2]}"))
    return domains


def _domain(zone: Path, name: str) -> tuple[str, Path, int | None]:
    return name, zone / "energy_uj", number(zone / "max_energy_range_uj") or None


def _amd(folder: Path) -> list[tuple[str, Path, int | None]]:
    """The sockets of the `amd_energy` driver: 64 bits, which do not go round."""
    return [
        (label, chip / f"energy{at}_input", None)
        for chip in numbered(folder, "hwmon")
        if text(chip / "name") == "amd_energy"
        for at in range(1, 1024)
        if (label := text(chip / f"energy{at}_label") or "").startswith("Esocket")
    ]
