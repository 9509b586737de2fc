"""The limits of the control group that this process is in, of version 1 or 2 of the interface."""

from __future__ import annotations

from pathlib import Path

from llx.bench.machine.sysfs import number, text, whole
from llx.conditions import ContainerRecord

GROUPS, MINE = "sys/fs/cgroup", "proc/self/cgroup"
NO_LIMIT = 1 << 60  # version 1 says that there is none by the largest number of pages


def read_container(root: Path = Path("/")) -> ContainerRecord:
    """The limits that hold: the strictest of the group and of those that it lies in."""
    if _is_v2(root):
        folders = _folders(root, "")
        quotas = [_quota_v2(text(folder / "cpu.max")) for folder in folders]
        limits = [number(folder / "memory.max") for folder in folders]
        version, cpuset = "v2", _first(folders, "cpuset.cpus.effective")
    elif any(folder.is_dir() for folder in _folders(root, "cpu")):
        quotas = [_quota_v1(folder) for folder in _folders(root, "cpu")]
        limits = [number(f / "memory.limit_in_bytes") for f in _folders(root, "memory")]
        version, cpuset = "v1", _first(_folders(root, "cpuset"), "cpuset.cpus")
    else:
        return ContainerRecord()
    return ContainerRecord(
        version=version,
        cpus=min((quota for quota in quotas if quota is not None), default=None),
        memory_bytes=min((m for m in limits if m is not None and m < NO_LIMIT), default=None),
        cpuset=cpuset,
    )


def limited_s(root: Path = Path("/")) -> float | None:
    """How long the limit on CPU time has stopped this group so far; None where that is not told."""
    name, unit_s = ("throttled_usec", 1e-6) if _is_v2(root) else ("throttled_time", 1e-9)
    told = []
    for folder in _folders(root, "" if _is_v2(root) else "cpu"):
        for line in (text(folder / "cpu.stat") or "").splitlines():
            key, _, value = line.partition(" ")
            count = whole(value.strip())
            if key == name and count is not None:
                told.append(count * unit_s)
    return max(told, default=None)


def _is_v2(root: Path) -> bool:
    return (root / GROUPS / "cgroup.controllers").is_file()


def _folders(root: Path, controller: str) -> list[Path]:
    """The group's folder and those above it; a container sees its own as the highest."""
    base = root / GROUPS / controller
    if controller == "cpu" and not base.is_dir():
        base = root / GROUPS / "cpu,cpuacct"
    folder = "/"
    for line in (text(root / MINE) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and ".." not in path.split("/"):
            folder = path
    parts = [part for part in folder.split("/") if part]
    return [base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _first(folders: list[Path], name: str) -> str | None:
    return next((said for folder in folders if (said := text(folder / name))), None)


def _quota_v2(said: str | None) -> float | None:
    """CPUs of `cpu.max`: `150000 100000` is 1.5, `max 100000` no limit."""
    quota, _, period = (said or "").partition(" ")
    return _cpus(whole(quota), whole(period))


def _quota_v1(folder: Path) -> float | None:
    return _cpus(number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us"))


def _cpus(quota: int | None, period: int | None) -> float | None:
    return quota / period if quota and period else None
