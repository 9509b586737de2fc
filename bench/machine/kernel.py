"""What this machine is and how it is set, from the kernel's files.

Needs the standard library only: it runs on a device too.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from llx.bench.machine.container import read_container
from llx.bench.machine.sysfs import number, numbered, text
from llx.conditions import MachineRecord
from llx.probe import power_mode as asked_power_mode

CPUS = "sys/devices/system/cpu"
SYSTEM = Path("/")


def read_machine(root: Path = SYSTEM) -> MachineRecord:
    """This machine, or the one whose files lie under a root."""
    cpus, first = numbered(root / CPUS, "cpu"), root / CPUS / "cpu0/cpufreq"
    smt = number(root / CPUS / "smt/active", 1)
    nodes = numbered(root / "sys/devices/system/node", "node")
    return MachineRecord(
        cpu=cpu_name(root),
        board=text(root / "proc/device-tree/model"),
        architecture=platform.machine(),
        system=platform.system(),
        memory_bytes=memory_bytes(root, "MemTotal") or 0,
        cpus=(os.cpu_count() if root == SYSTEM else len(cpus)) or len(cpus) or 1,
        cores=_cores(cpus),
        usable_cpus=_usable_cpus(),
        smt=None if smt is None else bool(smt),
        numa_nodes=len(nodes) or None,
        driver=text(first / "scaling_driver"),
        governor=text(first / "scaling_governor"),
        boost=_boost(root),
        preference=text(first / "energy_performance_preference"),
        power_mode=power_mode(root),
        virtual=is_virtual(root),
        container=read_container(root),
    )


def cpu_name(root: Path = SYSTEM) -> str:
    """The processor's model, as the kernel names it, or what else there is to call it by."""
    found = re.search(r"^model name\s*:\s*(.+)$", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def memory_bytes(root: Path, name: str) -> int | None:
    """An entry of /proc/meminfo, such as MemTotal."""
    said = text(root / "proc/meminfo") or ""
    found = re.search(rf"^{name}:\s+(\d{{1,15}}) kB$", said, re.MULTILINE)
    if found:
        return int(found.group(1)) * 1024
    if name == "MemTotal" and root == SYSTEM and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def power_mode(root: Path = SYSTEM) -> str | None:
    """A Jetson's power mode by name, or the platform profile of other machines."""
    mode = asked_power_mode() if root == SYSTEM else None
    status = re.match(r"pmode:(\d{1,4})", text(root / "var/lib/nvpmodel/status") or "")
    if mode is None and status:
        wanted = int(status.group(1))
        names = re.findall(
            r"^<\s*POWER_MODEL\s+ID=(\d{1,4})\s+NAME=(\S+)\s*>",
            text(root / "etc/nvpmodel.conf") or "",
            re.MULTILINE,
        )
        mode = next((name for at, name in names if int(at) == wanted), f"mode {wanted}")
    profile = text(root / "sys/firmware/acpi/platform_profile")
    return mode or (f"platform profile {profile}" if profile else None)


def _cores(cpus: list[Path]) -> int | None:
    places = {
        (text(cpu / "topology/physical_package_id"), text(cpu / "topology/core_id")) for cpu in cpus
    }
    return len(places) if places and not any(None in place for place in places) else None


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _boost(root: Path) -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    no_turbo = number(root / CPUS / "intel_pstate/no_turbo", 1)
    boost = number(root / CPUS / "cpufreq/boost", 1)
    if no_turbo is not None:
        return not no_turbo
    return None if boost is None else bool(boost)


def _flags(root: Path, names: str) -> set[str] | None:
    """What the first CPU can do, by the kernel: `flags` on x86, `Features` on Arm."""
    found = re.search(rf"^(?:{names})\s*:(.*)$", text(root / "proc/cpuinfo") or "", re.MULTILINE)
    return set(found.group(1).split()) if found else None


def multiplies_halves(root: Path = SYSTEM) -> bool | None:
    """Whether the CPU has instructions for fp16 products; None where its kernel does not say.

    x86: AVX512-FP16 or AMX-FP16; Arm: the half precision of its vectors.
    """
    flags = _flags(root, "flags|Features")
    return None if flags is None else bool({"avx512_fp16", "amx_fp16", "asimdhp"} & flags)


def is_virtual(root: Path = SYSTEM) -> bool | None:
    """By the flag that a hypervisor sets on x86, or by the kernel's own word for it."""
    flags = _flags(root, "flags")
    if flags is not None:
        return "hypervisor" in flags
    return True if text(root / "sys/hypervisor/type") else None
